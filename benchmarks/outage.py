"""What MLflow holds after its server was stopped in the middle of a training, and of a registration, again and again.

Every round trains the same tiny network with the real command, and registers it under a name of its own; in each of the two
the server is killed at a random moment, and started again after a while. The moments are drawn over the time that the
run took undisturbed; where the run has ended by then, the step runs again. An execution ends with its registration, which
follows the training that was disturbed. At the end one more step runs, as on any machine, and then MLflow is read:

- the metrics of each run are held against those of the undisturbed run: the same names, steps and values, each once
  (of those that measure time, names and steps);
- each name has one version;
- no run is RUNNING.

A command that gives up is repeated once, as its message says; its exit codes stand in the table.

    python -m benchmarks.outage [--rounds 10] [--down 60] [--epochs 60] [--seed 0]
"""

import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from sa2net.registry import store
from sa2net.registry.tags import EXECUTION_OF_STEP_TAG, STEP_TAG

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from factories import write_data_set
from stoppable_server import StoppableServer

TINY = (
    "train.validate_every=1", "train.warmup_epochs=1", "train.sweep_width=48", "train.crops_per_scan=1",
    "train.batch_size=3", "train.augment.crop_height=64", "train.augment.crop_width=64", "train.model.channels=16",
    "train.device=cpu", "train.threads=1", "evaluate.device=cpu", "evaluate.threads=1", "register.bootstrap_samples=200",
)  # fmt: skip
TIMES = ("crops_per_second", "share_waited", "seconds_per_scan")
"""Metrics whose values are another each time."""
SAMPLED = "system/"
"""Metrics whose number depends on how long a run took."""
REFERENCE = "undisturbed"
PATIENCE = 900.0
"""Seconds for a command, the server's absence not counted."""

History = Counter[tuple[str, int, float]]
"""How often each (name, step, value) is there."""


@dataclass
class Outage:
    """One outage, and what came of it.

    Attributes:
        round: Counted from 1.
        step: In the middle of which step.
        name: Of the execution, and of the registered model.
        after: Seconds of the run until the server was killed.
        down: Seconds until it answered again.
        codes: Exit codes of the command; a second one if it had to be repeated.
        expected: Metric values of the undisturbed run.
        found: Of these found in the run that finished.
        extra: Values that should not be there, or are there twice.
        versions: Versions of the name.
        still_open: Runs of the execution that are RUNNING.
    """

    round: int
    step: str
    name: str
    after: float
    down: float = 0.0
    codes: list[int] = field(default_factory=list)
    expected: int = 0
    found: int = 0
    extra: int = 0
    versions: int = 0
    still_open: int = 0

    @property
    def good(self) -> bool:
        """Whether all is there once, and nothing is left open."""
        whole = self.expected == self.found > 0 and self.extra == 0
        return whole and self.versions == 1 and self.still_open == 0 and self.codes[-1] == 0


class Line:
    """The commands of the line in a folder, against one server."""

    def __init__(self, folder: Path, server: StoppableServer, epochs: int) -> None:
        self.folder, self.server, self.epochs = folder, server, epochs
        self.client = MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)
        self.data = write_data_set(folder / "data", train=6, val=2, test=6)

    def start(self, step: str, execution: str) -> subprocess.Popen[bytes]:
        """Start the command of a step."""
        out, made = self.folder / execution, self.folder / REFERENCE
        words = {
            "validate": ["--data", self.data],
            "train": ["--data", self.data, "--validation", made / "validate", "--checkpoints", out / "checkpoints"],
            "evaluate": ["--data", self.data, "--model", made / "train" / "model"],
            "register": ["--model", made / "train" / "model", "--evaluation", made / "evaluate"],
        }[step]
        settings = [*TINY, f"train.epochs={self.epochs}", f"register.name={execution}"]
        command = [sys.executable, "-m", "sa2net", step, "--quiet", "--out", out / step, *words]
        command += [word for setting in settings for word in ("--set", setting)]
        own = {
            "MLFLOW_TRACKING_URI": self.server.uri,
            "SA2NET_VAR": str(self.folder / "var"),
            "SA2NET_EXECUTION": execution,
        }
        with (self.folder / "commands.log").open("ab") as log:
            return subprocess.Popen([str(word) for word in command], env={**os.environ, **own}, stdout=log, stderr=log)

    def run(self, step: str, execution: str) -> int:
        """Run the command of a step to its end."""
        return self.start(step, execution).wait(PATIENCE)

    def runs(self, execution: str, step: str = "") -> list[Run]:
        """The runs of an execution's step, or of all its steps with their parent."""
        query = f"tags.`{EXECUTION_OF_STEP_TAG}` = '{execution}'" + (
            f" and tags.`{STEP_TAG}` = '{step}'" if step else ""
        )
        experiment = self.client.get_experiment_by_name(store.DEFAULT_EXPERIMENT)
        found = list(self.client.search_runs([experiment.experiment_id], query)) if experiment else []
        parents = set() if step else {run.data.tags["mlflow.parentRunId"] for run in found}
        return found + [self.client.get_run(parent) for parent in parents]

    def history(self, run: Run) -> History:
        """Every value of every metric of a run; those that measure time without the value."""
        found: History = Counter()
        for name in run.data.metrics:
            for item in self.client.get_metric_history(run.info.run_id, name):
                timed = name in TIMES or name.startswith(SAMPLED)
                found[name, item.step, 0.0 if timed else item.value] += 1
        return found


def stop_in_the_middle(line: Line, outage: Outage, down: float) -> bool:
    """Run a step, kill the server in its middle, and start it again.

    Returns:
        Whether the run had not ended before; a run takes longer at one time than at another.
    """
    process = line.start(outage.step, outage.name)
    deadline = time.monotonic() + PATIENCE
    while not line.runs(outage.name, outage.step):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{outage.step} did not begin: {(line.folder / 'commands.log').read_text()[-2000:]}")
        time.sleep(0.05)
    time.sleep(outage.after)
    if not any(run.info.status == "RUNNING" for run in line.runs(outage.name, outage.step)):
        process.wait(PATIENCE)
        return False
    stopped = time.monotonic()
    line.server.stop()
    time.sleep(down)
    line.server.start()
    outage.down = time.monotonic() - stopped
    outage.codes.append(process.wait(PATIENCE))
    if outage.codes[-1]:
        outage.codes.append(line.run(outage.step, outage.name))
    return True


def judge(line: Line, outage: Outage, wanted: History) -> None:
    """Read from MLflow what came of an outage."""
    runs = line.runs(outage.name)
    outage.still_open = sum(run.info.status == "RUNNING" for run in runs)
    done = [run for run in line.runs(outage.name, outage.step) if run.info.status == "FINISHED"]
    outage.versions = len(line.client.search_model_versions(f"name = '{outage.name}'"))
    found = line.history(done[0]) if len(done) == 1 else Counter()
    sampled = {key for key in (*wanted, *found) if key[0].startswith(SAMPLED)}
    expected = {key: count for key, count in wanted.items() if key not in sampled}
    outage.expected = sum(expected.values())
    outage.found = sum(min(count, found[key]) for key, count in expected.items())
    outage.extra = sum(max(0, count - expected.get(key, 0)) for key, count in found.items() if key not in sampled)
    outage.extra += sum(found[key] - 1 for key in sampled if found[key] > 1) + max(0, len(done) - 1)


def undisturbed(line: Line) -> dict[str, tuple[History, float]]:
    """The whole line without an outage: step -> what MLflow holds, and the seconds of its run."""
    for step in ("validate", "train", "evaluate", "register"):
        if line.run(step, REFERENCE):
            raise RuntimeError(f"{step}: {(line.folder / 'commands.log').read_text()[-2000:]}")
    found = {}
    for step in ("train", "register"):
        [run] = line.runs(REFERENCE, step)
        found[step] = line.history(run), (run.info.end_time - run.info.start_time) / 1000
    return found


def measure(folder: Path, *, rounds: int, down: float, epochs: int, seed: int) -> list[Outage]:
    """All rounds.

    Args:
        folder: Takes all files.
        rounds: Each has two outages.
        down: Seconds from the kill to the start.
        epochs: Length of a training.
        seed: Of the moments.
    """
    random_moment = random.Random(seed)
    server = StoppableServer(folder / "server")
    server.start()
    try:
        line = Line(folder, server, epochs)
        references = undisturbed(line)
        outages = []
        for number in range(1, rounds + 1):
            for step, (_, seconds) in references.items():
                for attempt in itertools.count(1):
                    name = f"{step}-{number}-{attempt}"
                    outage = Outage(number, step, name, random_moment.uniform(0.0, seconds))
                    if stop_in_the_middle(line, outage, down):
                        break
                if step != "register" and outage.codes[-1] == 0:
                    outage.codes[-1] = line.run("register", name)
                said = f"{name}: killed after {outage.after:.1f} s, exit codes {outage.codes}"
                print(said, file=sys.stderr, flush=True)
                outages.append(outage)
        if line.run("validate", "afterwards"):  # the next step on this machine sends what is left
            raise RuntimeError("validate failed")
        for outage in outages:
            judge(line, outage, references[outage.step][0])
    finally:
        server.stop()
    return outages


def table(outages: Sequence[Outage]) -> str:
    """The outages as a table in Markdown."""
    head = "| round | in the middle of | killed after, s | down, s | exit code | metrics expected | found | more than once or foreign | versions | runs left open | verdict |"
    lines = [head, "|" + "---|" * 11]
    for item in outages:
        codes = ", then ".join(map(str, item.codes))
        lines.append(
            f"| {item.round} | {item.step} | {item.after:.1f} | {item.down:.0f} | {codes} | {item.expected} | {item.found} "
            f"| {item.extra} | {item.versions} | {item.still_open} | {'good' if item.good else 'BAD'} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--down", type=float, default=60.0, help="seconds")
    parser.add_argument("--epochs", type=int, default=60, help="length of a training")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sa2net-outage-") as folder:
        outages = measure(Path(folder), rounds=args.rounds, down=args.down, epochs=args.epochs, seed=args.seed)
    print(table(outages))
    return 0 if all(outage.good for outage in outages) else 1


if __name__ == "__main__":
    sys.exit(main())
