"""What `sa2net doctor` looks at: whether everything a run needs is there, before a run finds out.

A check is a function from `Options` to a `Finding`; it prints nothing, changes nothing that stays, and may take as
long or break as badly as it likes: `running` gives each a process of its own and a time limit.
"""

from sa2net.steps.doctor.findings import Finding, Options, Verdict
from sa2net.steps.doctor.running import CHECKS, Check, examine

__all__ = ["CHECKS", "Check", "Finding", "Options", "Verdict", "examine"]
