"""The command line: one verb per step, and what people do with the result.

Only parsing and printing live here. Heavy modules are imported inside the verbs, so that `--help` stays quick.
"""

from sa2net.cli import (
    backup,
    batch,
    checkpoint,
    compare,
    data,
    doctor,
    exchange,
    line,
    lineage,
    measure,
    monitor,
    registry,
    review,
    use,
)
from sa2net.cli.options import cli

__all__ = [
    "backup",
    "batch",
    "checkpoint",
    "cli",
    "compare",
    "data",
    "doctor",
    "exchange",
    "line",
    "lineage",
    "measure",
    "monitor",
    "registry",
    "review",
    "use",
]
