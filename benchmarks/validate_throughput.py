"""Speed and memory of `validate` over many scans: one streaming pass, all cores.

Each size runs in a process of its own; memory a scan is the growth of the main process's peak between the smallest and
the largest size. The scans are tiny (96 x 256 px), so that the time is that of the checks and not of the decoder.

    python -m benchmarks.validate_throughput [--sizes 1000 10000]
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from sa2net.config import ValidateConfig
from sa2net.data.layout import list_path, mask_path, scan_path
from sa2net.data.pictures import write_png
from sa2net.steps.validate import check

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from factories import draw_case

SPLITS = {"train": 0.7, "val": 0.1, "test": 0.2}


def draw(job: tuple[str, str, int, str]) -> None:
    """Draw one case of the data set."""
    root, split, seed, name = job
    scan, mask = draw_case(seed)
    write_png(scan_path(Path(root), split, name), scan)
    write_png(mask_path(Path(root), split, name), mask)


def make(root: Path, count: int) -> None:
    """A data set of so many distinct scans."""
    jobs, seed = [], 0
    for split, share in SPLITS.items():
        names = [f"{split}_{index:05d}" for index in range(round(count * share))]
        list_path(root, split).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        for name in names:
            jobs.append((str(root), split, seed, name))
            seed += 1
    with ProcessPoolExecutor() as pool:
        list(pool.map(draw, jobs, chunksize=50))


def measure(root: Path, out: Path) -> dict[str, float]:
    """Validate one data set in this process: seconds and peak memory in kB."""
    logging.disable(logging.WARNING)
    # The scans are alike by construction: near copies are not what is measured here.
    cfg = ValidateConfig(near_duplicate_distance=0)
    started = time.perf_counter()
    result = check(cfg, data=root, out=out, data_docs=None, progress=True)
    seconds = time.perf_counter() - started
    return {"scans": result.scans, "seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--measure", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    rows = []
    for size in sorted(args.sizes):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "data"
            root.mkdir()
            make(root, size)
            command = [sys.executable, "-m", "benchmarks.validate_throughput", "--measure", str(root), f"{folder}/out"]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(printed.splitlines()[-1]))
    print(f"{'scans':>7}{'seconds':>10}{'scans/s':>10}{'peak MB':>10}{'kB a scan beyond the smallest':>32}")
    for row in rows:
        beyond = row["scans"] - rows[0]["scans"]
        growth = f"{(row['peak'] - rows[0]['peak']) / beyond:.1f}" if beyond else "-"
        print(
            f"{row['scans']:7.0f}{row['seconds']:10.1f}{row['scans'] / row['seconds']:10.1f}{row['peak'] / 1024:10.0f}{growth:>32}"
        )


if __name__ == "__main__":
    main()
