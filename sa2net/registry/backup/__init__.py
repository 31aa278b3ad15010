"""Backups of a registered model: versions, files, runs, aliases and audit log in one file, and back into an empty registry."""

from sa2net.registry.backup.export import Exported, export
from sa2net.registry.backup.origin import current_run
from sa2net.registry.backup.restore import Imported, restore

__all__ = ["Exported", "Imported", "current_run", "export", "restore"]
