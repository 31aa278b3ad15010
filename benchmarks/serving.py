"""The served model under load: many hostile requests, then many clients at once, and what its memory does.

A model with random weights is registered in a store of its own and served by `mlflow models serve`, as a user does it.
Hostile requests are one of each kind that the tests know, again and again, and random changes of a good request. The
program fails if an answer is no 4xx, if a good answer differs from that of the network asked directly, or if the
server is another process afterwards.

    python -m benchmarks.serving [--hostile 1000] [--clients 64] [--network tiny|default]
"""

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np

from sa2net.artifacts import read_model_info, write_model
from sa2net.config import EvaluateConfig, ModelConfig
from sa2net.inference.predictor import Predictor
from sa2net.model.network import build
from sa2net.registry import store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from factories import draw_case
from registry_cases import write_model_folder
from serving_cases import (
    ModelServer,
    base64_of,
    hostile_requests,
    mask_of,
    model_server,
    picture,
    register_champion,
    request_of,
)

SENDERS = 8
EACH = 4
"""Requests that each client sends, one after the other."""

Timed = tuple[int, str, float]


def write_network(folder: Path, kind: str) -> Path:
    """A model folder with random weights: of the tests' small network, or of the default one."""
    write_model_folder(folder)
    if kind == "default":
        cfg = ModelConfig(pretrained=False)
        info = read_model_info(folder).model_copy(update={"model": cfg, "sweep_width": 112})
        write_model(folder, info, build(cfg).state_dict())
    return folder


def changed(body: bytes, generator: random.Random) -> bytes:
    """A good request with a few bytes changed, cut out or put in."""
    content = bytearray(body)
    for _ in range(generator.randint(1, 20)):
        place = generator.randrange(len(content))
        length = generator.choice((0, 1, 1, 1, 40))
        content[place : place + length] = generator.randbytes(generator.choice((0, 1, 1, 3)))
    return bytes(content)


def timed(server: ModelServer, body: bytes, headers: dict[str, str] | None = None) -> Timed:
    """Status, answer and seconds of a request."""
    started = time.perf_counter()
    status, text = server.post(body, headers, seconds=600)
    return status, text, time.perf_counter() - started


def row(name: str, answers: Sequence[Timed], memory: tuple[float, float]) -> str:
    """A line of the table."""
    seconds = sorted(item[2] for item in answers)
    statuses = ", ".join(
        f"{count} x {status}" for status, count in sorted(Counter(item[0] for item in answers).items())
    )
    late = seconds[int(0.95 * (len(seconds) - 1))]
    times = f"{1000 * median(seconds):.0f} ms | {1000 * late:.0f} ms"
    return f"| {name} | {len(answers)} | {statuses} | {times} | {memory[0]:.0f} MB | {memory[1]:.0f} MB |"


def measure(server: ModelServer, name: str, work: Callable[[], Iterable[Timed]]) -> list[Timed]:
    """Do something, print its line of the table."""
    before = server.megabytes()
    answers = list(work())
    print(row(name, answers, (before, server.megabytes())), flush=True)
    return answers


def hostile(server: ModelServer, scan: np.ndarray, count: int) -> list[Timed]:
    """Send so many hostile requests, half of them one of each kind, half random changes of a good one."""
    generator = random.Random(0)
    good = request_of({"image": base64_of(picture(scan)), "spacing_x_mm": 0.4, "spacing_y_mm": 0.4})
    kinds = itertools.islice(itertools.cycle(hostile_requests(scan)), count - count // 2)
    requests = [(item.body, item.headers) for item in kinds]
    requests += [(changed(good, generator), {"Content-Type": "application/json"}) for _ in range(count // 2)]
    generator.shuffle(requests)
    with ThreadPoolExecutor(SENDERS) as pool:
        return list(pool.map(lambda item: timed(server, *item), requests))


def clients(server: ModelServer, bodies: Sequence[bytes], count: int) -> list[tuple[int, Timed]]:
    """So many clients at once, each its requests one after the other; number of the body and answer."""

    def one(client: int) -> list[tuple[int, Timed]]:
        numbers = [(client + index) % len(bodies) for index in range(EACH)]
        return [(number, timed(server, bodies[number])) for number in numbers]

    with ThreadPoolExecutor(count) as pool:
        return [answer for answers in pool.map(one, range(count)) for answer in answers]


def check_masks(answers: Sequence[tuple[int, Timed]], expected: Sequence[np.ndarray]) -> None:
    """Every answer is the mask of its own scan."""
    for number, (status, text, _) in answers:
        if status != 200:
            raise SystemExit(f"a good request was answered with {status}: {text[:300]}")
        [answer] = json.loads(text)["predictions"]
        np.testing.assert_array_equal(mask_of(answer), expected[number])


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """Serve, ask, print."""
    os.environ["SA2NET_VAR"] = str(folder / "var")
    client = store.connect()
    model = write_network(folder / "model", arguments.network)
    register_champion(client, model, "benchmark")
    predictor = Predictor.for_settings(model, EvaluateConfig(device="cpu"))
    scans = [draw_case(seed, arguments.width, arguments.height)[0] for seed in range(4)]
    bodies = [request_of({"image": base64_of(picture(scan))}) for scan in scans]
    expected = [predictor(scan) for scan in scans]
    with model_server(
        "models:/benchmark@champion", folder / "server", "--timeout", "600", MLFLOW_TRACKING_URI=client.tracking_uri
    ) as server:
        processes = [item.pid for item in server.workers()]
        print(
            "| Requests | Number | Answers | Median | 95 % within | Memory before | after |\n|---|---|---|---|---|---|---|"
        )
        measure(server, "one client, good", lambda: [timed(server, body) for body in bodies])
        refused = measure(server, f"hostile, {SENDERS} senders", lambda: hostile(server, scans[0], arguments.hostile))
        wrong = [(status, text[:300]) for status, text, _ in refused if status not in (200, *range(400, 500))]
        if wrong or any("Traceback" in text for _, text, _ in refused):
            raise SystemExit(f"not refused as it should be: {wrong[:3]}")
        found: list[tuple[int, Timed]] = []

        def work() -> list[Timed]:
            found.extend(clients(server, bodies, arguments.clients))
            return [answer for _, answer in found]

        measure(server, f"{arguments.clients} clients at once, good", work)
        check_masks(found, expected)
        measure(server, "one client, good", lambda: [timed(server, body) for body in bodies])
        if [item.pid for item in server.workers()] != processes or "Traceback" in server.log.read_text():
            raise SystemExit("the server is not the one that was started, or said something went wrong inside")


def main() -> None:
    """Read the words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hostile", type=int, default=1000, help="hostile requests")
    parser.add_argument("--clients", type=int, default=64, help="clients at once")
    parser.add_argument("--network", choices=("tiny", "default"), default="tiny")
    parser.add_argument("--width", type=int, default=640, help="of the good scans, px")
    parser.add_argument("--height", type=int, default=2574)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sa2net-serving-") as scratch:
        run(Path(scratch), arguments)


if __name__ == "__main__":
    main()
