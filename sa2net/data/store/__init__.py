"""Where a data set is kept: its identity, its DVC pointer and remotes, and the objects behind them.

`identity` and `dvc` are what every step leans on. `objects`, `pull` and `bucket` talk to stores, and are imported by
their users alone, so that a change there makes no stage of the line run again.
"""

from sa2net.data.store.dvc import clear_dead_locks, dvc_cache_dir, outside_remotes, repository
from sa2net.data.store.identity import (
    data_md5,
    pointer_md5,
    pointer_path,
    pointer_remote,
    pointer_warning,
    tracked_folder,
)

__all__ = [
    "clear_dead_locks",
    "data_md5",
    "dvc_cache_dir",
    "outside_remotes",
    "pointer_md5",
    "pointer_path",
    "pointer_remote",
    "pointer_warning",
    "repository",
    "tracked_folder",
]
