"""Many promoters at once, a third of them killed: one champion, a whole log, no stuck lock.

Each promoter is a process with files of its own, so that all that they share is the registry: it promotes a version (an
override, so that every one may win) or goes back, once; all begin at the same moment. At random moments one that is still
at work is killed with SIGKILL. Afterwards a fresh process reads the registry. Wrong is: a log with a fault; an alias that is
not as the log says; an entry that a promoter was told of and that is not there; an entry `adopt`, which means that somebody
met an alias that a late writer had set back; a next command that waits for longer than the lease and the slowest request.
Entries, void ones and finished ones count from the first round on.

    python -m benchmarks.promoters [--rounds 20] [--promoters 32] [--store sqlite --store postgres]
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sa2net.artifacts import write_json
from sa2net.config import RegisterConfig
from sa2net.errors import NegativeAnswerError
from sa2net.registry import audit, ledger, release, store
from sa2net.steps import register

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from database import postgres_server, what_is_missing
from registry_cases import write_evaluation, write_model_folder

VERSIONS = 4
QUIET = RegisterConfig(promote=False, bootstrap_samples=100)


@dataclass
class Round:
    """What one round came to.

    Attributes:
        promoters: Processes started.
        killed: Of these killed at work.
        entries: Entries that stand.
        void: Entries that lost a race.
        finished: Entries that finished what a dead one had begun.
        told: Promoters that were told that their entry stands.
        seconds: Until the last one had ended.
        next_seconds: That the next command took.
        wrong: What must not be, as sentences.
    """

    promoters: int
    killed: int = 0
    entries: int = 0
    void: int = 0
    finished: int = 0
    told: int = 0
    seconds: float = 0.0
    next_seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def prepare(folder: Path, uri: str, name: str) -> None:
    """Register the versions that the promoters fight about."""
    use(uri, folder / "prepare")
    quiet = QUIET.model_copy(update={"name": name})
    for seed in range(VERSIONS):
        model = write_model_folder(folder / f"network-{seed}", seed=seed)
        dice = np.clip(np.random.default_rng(seed).normal(0.85, 0.03, (10, 3)), 0.0, 1.0)
        scored = write_evaluation(folder / f"evaluation-{seed}", model, dice)
        register.run(quiet, model=model, evaluation=scored, out=folder / f"out-{seed}")


def use(uri: str, folder: Path) -> None:
    """Let this process use a store, with files of its own."""
    os.environ.update(MLFLOW_TRACKING_URI=uri, SA2NET_VAR=str(folder))


def promoter(uri: str, folder: Path, name: str, seed: int, lease: float) -> None:
    """One process: promote a version or go back, and write down what it was told."""
    use(uri, folder)
    ledger.LEASE = lease
    store.connect()  # takes the longest; then all begin at once
    (folder / "ready").touch()
    while not (folder.parent / "start").exists():
        time.sleep(0.01)
    generator = random.Random(seed)
    cfg = QUIET.model_copy(update={"name": name})
    outcome: dict[str, object] = {"entry": 0}
    try:
        if generator.random() < 0.2:
            done = release.rollback(cfg, reason=f"promoter {seed}")
        else:
            number = generator.randint(1, VERSIONS)
            done = release.promote(cfg, number, rescore=never, reason=f"promoter {seed}", against=True)
        outcome["nonce"] = done.entry.nonce
    except NegativeAnswerError as error:
        outcome["no"] = str(error)
    except BaseException as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
    write_json(folder / "outcome.json", outcome)


def never(champion: Path, fresh: Path, wanted: object) -> None:
    """All versions were scored on the same data."""
    raise AssertionError(champion, fresh, wanted)


def fight(folder: Path, uri: str, name: str, *, count: int, kill: float, seed: int, lease: float, span: float) -> Round:
    """One round.

    Args:
        folder: For the files of the promoters.
        uri: The store.
        name: A registered model with its versions.
        count: Promoters.
        kill: Share of them that is killed.
        seed: Of versions and moments.
        lease: Seconds.
        span: Promoters are killed within so many seconds of the start.
    """
    generator = random.Random(seed)
    moments = sorted(generator.uniform(0.0, span) for _ in range(round(count * kill)))
    context = multiprocessing.get_context(
        "forkserver"
    )  # everything heavy is imported once, in a process without threads
    running = []
    for index in range(count):
        place = folder / f"promoter-{index}"
        place.mkdir(parents=True)
        running.append(context.Process(target=promoter, args=(uri, place, name, seed * 1000 + index, lease)))
        running[-1].start()
    while len(list(folder.glob("promoter-*/ready"))) < count:
        time.sleep(0.05)
    (folder / "start").touch()
    result, started = Round(count), time.monotonic()
    for moment in moments:
        time.sleep(max(0.0, started + moment - time.monotonic()))
        alive = [process for process in running if process.is_alive() and process.pid is not None]
        if alive:
            os.kill(int(generator.choice(alive).pid or 0), signal.SIGKILL)
            result.killed += 1
    for process in running:
        process.join()
    result.seconds = time.monotonic() - started
    judge(result, folder, uri, name, lease)
    return result


def judge(result: Round, folder: Path, uri: str, name: str, lease: float) -> None:
    """Look at the registry with the eyes of a fresh process."""
    command = [sys.executable, "-m", "benchmarks.promoters", "--look", name, "--lease", str(lease)]
    variables = {"MLFLOW_TRACKING_URI": uri, "SA2NET_VAR": str(folder / "judge")}
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    if done.returncode:
        result.wrong.append(f"the next command failed: {done.stderr[-500:]}")
        return
    seen = json.loads(done.stdout)
    outcomes = [json.loads(path.read_text()) for path in folder.glob("promoter-*/outcome.json")]
    nonces = Counter(seen["nonces"])
    result.entries, result.void, result.finished = len(seen["nonces"]), seen["void"], seen["actions"].count("finish")
    result.told, result.next_seconds = sum("nonce" in outcome for outcome in outcomes), seen["seconds"]
    result.wrong += seen["wrong"]
    result.wrong += [f"a promoter failed: {outcome['error']}" for outcome in outcomes if "error" in outcome]
    result.wrong += [f"lost: {item['nonce']}" for item in outcomes if "nonce" in item and nonces[item["nonce"]] != 1]
    result.wrong += [f"{nonce} stands twice" for nonce, times in nonces.items() if times > 1]
    if len(outcomes) < result.promoters - result.killed:  # one may be killed right after it had written
        result.wrong.append(f"{len(outcomes)} of {result.promoters - result.killed} promoters ended by themselves")
    if result.next_seconds > lease + 30.0:
        result.wrong.append(f"the next command took {result.next_seconds:.0f} s")


def look(name: str, lease: float) -> None:
    """Print what a fresh process sees, after one more entry that moves nothing."""
    client = store.connect()
    own = ledger.Ledger(client, name, lease=lease)
    started = time.monotonic()
    own.append(lambda found: ledger.Proposal("decide", 0, found.state, {"verdict": "look"}))
    seconds = time.monotonic() - started
    found = own.read()
    wrong = [] if audit.aliases(client, name) == found.state else ["the aliases are not as the log says"]
    wrong += [f"entry {entry.count} adopts" for entry in found.entries[1:] if entry.action == "adopt"]
    wrong += [] if found.state.champion else ["there is no champion"]
    content = {
        "nonces": [entry.nonce for entry in found.entries],
        "actions": [entry.action for entry in found.entries],
        "void": found.void,
        "seconds": seconds,
        "wrong": wrong,
    }
    print(json.dumps(content))


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[str]:
    """A fresh store."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'mlflow.db'}"
        return
    with postgres_server(folder / "postgres", user="mlflow", password="only-here") as server:
        yield f"postgresql+psycopg://mlflow:only-here@127.0.0.1:{server.port}/mlflow"


def main() -> None:
    """Fight and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--promoters", type=int, default=32)
    parser.add_argument("--kill", type=float, default=1 / 3, help="share that is killed")
    parser.add_argument("--span", type=float, default=10.0, help="they are killed within so many seconds of the start")
    parser.add_argument("--lease", type=float, default=ledger.LEASE, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", action="append", choices=["sqlite", "postgres"])
    parser.add_argument("--look", default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.look:
        look(chosen.look, chosen.lease)
        return
    if "postgres" in (chosen.store or ["postgres"]) and what_is_missing():
        raise SystemExit(what_is_missing())
    os.environ["SA2NET_REVISION"] = "0" * 40  # so that not every promoter asks git
    multiprocessing.get_context("forkserver").set_forkserver_preload(["__main__"])
    print(f"{chosen.promoters} promoters a round, {chosen.kill:.0%} to be killed, lease {chosen.lease:g} s", flush=True)
    print("store      round killed entries  void finished  told seconds  next wrong", flush=True)
    bad = False
    for kind in chosen.store or ["sqlite", "postgres"]:
        bad |= fights(kind, chosen)
    raise SystemExit(bad)


def fights(kind: str, chosen: argparse.Namespace) -> bool:
    """All rounds on one kind of store; True if anything was wrong."""
    with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch, opened(kind, Path(scratch)) as uri:
        Path(scratch).chmod(0o755)
        process = multiprocessing.get_context("forkserver").Process(target=prepare, args=(Path(scratch), uri, "sa2net"))
        process.start()
        process.join()
        rounds = []
        for number in range(chosen.rounds):
            found = fight(
                Path(scratch) / f"round-{number}", uri, "sa2net", count=chosen.promoters, kill=chosen.kill,
                seed=chosen.seed + number, lease=chosen.lease, span=chosen.span,
            )  # fmt: skip
            rounds.append(found)
            print(
                f"{kind:10} {number + 1:5} {found.killed:6} {found.entries:7} {found.void:5} {found.finished:8} "
                f"{found.told:5} {found.seconds:7.1f} {found.next_seconds:5.1f} {len(found.wrong)}",
                *found.wrong, sep="\n  ", flush=True,
            )  # fmt: skip
        print(
            f"{kind:10} {'all':>5} {sum(item.killed for item in rounds):6} {rounds[-1].entries:7} {rounds[-1].void:5} "
            f"{rounds[-1].finished:8} {sum(item.told for item in rounds):5} "
            f"{statistics.median(item.seconds for item in rounds):7.1f} "
            f"{max(item.next_seconds for item in rounds):5.1f} {sum(len(item.wrong) for item in rounds)}",
            flush=True,
        )
    return any(item.wrong for item in rounds)


if __name__ == "__main__":
    main()
