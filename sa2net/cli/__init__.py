"""The command line: one verb per step, and what people do with the result.

Only parsing and printing live here. Heavy modules are imported inside the verbs, so that `--help` stays quick.
"""

from sa2net.cli import batch, data, doctor, line, registry, use
from sa2net.cli.options import cli

__all__ = ["batch", "cli", "data", "doctor", "line", "registry", "use"]
