"""The story of a champion, told with the real commands: `make story`, and a test of the same name.

Models are small networks with random weights, their Dice tables are drawn: what is shown is what the registry does with
scores, not that a training reaches them. All of it happens in a folder of its own, on a store of its own.
"""

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent))
from registry_cases import write_evaluation, write_model_folder

from sa2net.registry import keys

BASE = np.clip(np.random.default_rng(0).normal(0.85, 0.03, (30, 3)), 0.0, 1.0)
NOISE = np.random.default_rng(1).normal(0.0, 0.01, (30, 3))


@dataclass
class Story:
    """One telling.

    Attributes:
        folder: Holds everything.
        echo: Gets each line for the listener.
    """

    folder: Path
    echo: Callable[[str], None]
    environment: dict[str, str] = field(default_factory=dict)

    def chapter(self, text: str) -> None:
        """Say what comes."""
        self.echo(f"\n== {text}")

    def run(self, *words: str, code: int = 0, **variables: str) -> str:
        """Run a command of `sa2net`; its exit code must be as expected."""
        self.echo(f"$ sa2net {' '.join(words)}")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SA2NET_"))}
        own = {"SA2NET_VAR": str(self.folder / "var"), "SA2NET_USER": "anna", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "sa2net", *words],
            env=clean | own | variables, cwd=self.folder, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        said = [line for line in done.stderr.splitlines() if line.startswith("sa2net: ")]
        for line in (*done.stdout.splitlines(), *said, f"[exit code {done.returncode}]"):
            self.echo(f"  {line}")
        if done.returncode != code:
            raise AssertionError(
                f"{words} ended with {done.returncode}, not {code}\n{done.stdout}\n{done.stderr[-3000:]}"
            )
        return done.stdout + "\n".join(said)

    def register(self, name: str, dice: np.ndarray, *, weights: int) -> str:
        """Register a network with drawn scores."""
        model = self.folder / f"network-{weights}"
        if not model.exists():
            write_model_folder(model, seed=weights)
        scored = write_evaluation(self.folder / f"evaluation-{name}", model, np.clip(dice, 0.0, 1.0))
        return self.run("register", "--model", model.name, "--evaluation", scored.name, "--out", f"register-{name}")

    def key(self, name: str) -> tuple[str, str]:
        """A key pair: the file of the private half, and NAME:PUBLIC."""
        pair = Ed25519PrivateKey.generate()
        path = self.folder / f"{name}.pem"
        plain = serialization.NoEncryption()
        path.write_bytes(pair.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
        return str(path), f"{name}:{keys.public_text(pair)}"

    def tamper(self, statement: str) -> None:
        """Change the registry behind everybody's back."""
        self.echo(f"# in the registry's database: {statement}")
        with sqlite3.connect(self.folder / "var" / "mlflow.db") as connection:
            assert connection.execute(statement).rowcount == 1, statement
        connection.close()


def expect(text: str, *words: str) -> None:
    """Each of the words must be there."""
    for word in words:
        assert word in text, (word, text)


def tell(folder: Path, echo: Callable[[str], None]) -> None:
    """Tell the story; an AssertionError says where it went otherwise."""
    story = Story(folder, echo)
    gate_at_work(story)
    second_thoughts(story)
    approval(story)
    tampering(story)


def gate_at_work(story: Story) -> None:
    """Versions 1 to 4: first, worse, better, equal."""
    story.chapter("The first version becomes champion: the floors alone decide")
    expect(story.register("first", BASE, weights=1), "sa2net 1 (champion, candidate)", "decision: promote")
    story.chapter("A worse one is refused, with reasons")
    expect(story.register("worse", BASE - 0.05, weights=2), "sa2net 2 (candidate)", "decision: refuse", "worse")
    expect(story.run("promote", "sa2net", "2", code=1), "the gate says: refuse", "--override")
    story.chapter("A better one is promoted")
    expect(story.register("better", BASE + 0.03, weights=3), "sa2net 3 (champion, candidate)", "decision: promote")
    story.chapter("A tie is 'cannot tell': the champion stays")
    expect(story.register("tie", BASE + 0.03 + NOISE, weights=4), "sa2net 4 (challenger, candidate)", "cannot tell")
    expect(story.register("itself", BASE + 0.03, weights=3), "sa2net 3 (champion)", "already registered")
    expect(
        story.register("itself again", BASE + 0.031, weights=3), "sa2net 3 (champion)", "cannot tell", "very weights"
    )


def second_thoughts(story: Story) -> None:
    """Back, and back again against the gate."""
    story.chapter("Second thoughts: the champion before comes back")
    expect(story.run("rollback", "sa2net", "--reason", "misses ribs"), "sa2net 1 is champion again")
    expect(story.run("rollback", "sa2net", code=1), "no champion to go back to")
    story.chapter("What was rolled back is not promoted by itself")
    expect(story.register("once more", BASE + 0.032, weights=3), "decision: refuse", "rolled back")
    story.chapter("An override needs a reason, and is recorded as one")
    story.run("promote", "sa2net", "2", "--override", code=2)
    words = ("promote", "sa2net", "2", "--override", "--reason", "needed for the probe study")
    expect(story.run(*words), "sa2net 2 is champion, against the gate")
    expect(story.run("audit", "sa2net"), "against the gate (refuse): needed for the probe study", "whole: ")


def approval(story: Story) -> None:
    """Two persons for one promotion."""
    story.chapter("Where approval is required, a second person signs")
    berta, listed = story.key("berta")
    needs = ("--set", "register.require_approval=true", "--set", f'register.approvers=["{listed}"]')
    expect(story.run("promote", "sa2net", "3", *needs), "sa2net 3 waits for approval")
    carl, _ = story.key("carl")
    expect(
        story.run("promote", "sa2net", "3", "--approve", *needs, code=2, SA2NET_APPROVAL_KEY=carl), "may not approve"
    )
    done = story.run("promote", "sa2net", "3", "--approve", *needs, SA2NET_APPROVAL_KEY=berta, SA2NET_USER="berta")
    expect(done, "sa2net 3 is champion")
    table = story.run("registry", "sa2net", *needs[2:])
    expect(table, "champion", "promoted", "anna", "berta")


def tampering(story: Story) -> None:
    """One byte, the tail, all of it."""
    story.chapter("One changed byte in the log is found, and nothing is promoted any more")
    verified = story.run("audit", "sa2net")
    expect(verified, "whole: ")
    change = "UPDATE model_version_tags SET value = replace(value, '{}', '{}') WHERE name = 'sa2net.audit' AND version = {} AND key = '{}'"
    story.tamper(change.format("misses ribs", "misses rips", 7, "entry"))
    expect(story.run("audit", "sa2net", code=1), "entry 7 was changed")
    story.run("promote", "sa2net", "1", code=5)
    story.tamper(change.format("misses rips", "misses ribs", 7, "entry"))
    expect(story.run("audit", "sa2net"), verified.splitlines()[-1])
    story.chapter("A log that was cut is found by who has seen it before")
    cut = "UPDATE model_versions SET current_stage = '{}' WHERE name = 'sa2net.audit' AND version = (SELECT max(version) FROM model_versions WHERE name = 'sa2net.audit')"
    story.tamper(cut.format("Deleted_Internal"))
    expect(story.run("audit", "sa2net", code=1), "the log was cut", "aliases were changed by other means")
    story.tamper(cut.format("None"))
    expect(story.run("audit", "sa2net"), verified.splitlines()[-1])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="sa2net-story-") as scratch:
        tell(Path(scratch), print)
        print("\nThe story went as it should.")
