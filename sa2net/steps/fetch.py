"""The step that comes first where there is no checkout: the data set that a pointer names, verified object by object."""

from dataclasses import dataclass
from pathlib import Path

from sa2net.config import FetchConfig
from sa2net.data.store.objects import open_store
from sa2net.data.store.pull import parse_pointer, pull, read_pointer
from sa2net.registry import tracking
from sa2net.registry.environment import write_run_json


@dataclass(frozen=True)
class FetchResult:
    """What the step wrote.

    Attributes:
        out: The folder: pointer, data and `run.json`.
        data: The data in it; `sa2net.data.layout.data_root` finds the scans below.
        data_md5: Identity of the data set.
        files: Number of files.
        size: Bytes of all files.
        pulled: Objects that came from the remote this time; the others were here.
    """

    out: Path
    data: Path
    data_md5: str
    files: int
    size: int
    pulled: int


def run(cfg: FetchConfig, *, pointer: str, out: Path, progress: bool = True) -> FetchResult:
    """Pull a data set from a DVC remote. It appears in `out` whole or not at all.

    Args:
        cfg: The section `fetch`.
        pointer: Text of a `data.dvc`, or its address: a path, file:///PATH or s3://BUCKET/KEY.
        out: New folder, or one that an earlier fetch wrote and nobody changed.
        progress: Show a progress bar.

    Raises:
        DataError: The pointer or its list of files is refused, or `out` holds other files.
        StorageError: The remote lacks an object, gives other bytes, refuses us or does not answer.
        ConfigError: An address that cannot be used.
    """
    with tracking.step_run("fetch", params={"fetch": cfg.model_dump(mode="json")}) as tracker:
        named = parse_pointer(read_pointer(pointer, endpoint_url=cfg.endpoint_url, region=cfg.region))
        tracker.set_tags({"data_md5": named.md5})
        remote = open_store(
            cfg.remote,
            endpoint_url=cfg.endpoint_url,
            region=cfg.region,
            retries=cfg.retries,
            backoff_seconds=cfg.backoff_seconds,
            connections=cfg.jobs,
        )
        cache = Path(cfg.cache) if cfg.cache else None
        done = pull(named, remote, out, cache=cache, jobs=cfg.jobs, progress=progress)
        tracker.log_metrics({"files": done.files, "bytes": done.size, "objects_pulled": done.pulled})
        write_run_json(out, tracker)
    return FetchResult(out, done.tree, named.md5, done.files, done.size, done.pulled)
