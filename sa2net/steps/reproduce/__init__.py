"""Make a version again: its code, its data, its settings, on this machine, and every number beside the stored one."""

from sa2net.steps.reproduce.outcome import DOCUMENT, Outcome, summary
from sa2net.steps.reproduce.step import What, run

__all__ = ["DOCUMENT", "Outcome", "What", "run", "summary"]
