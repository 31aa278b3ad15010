"""A copy of the project with a small data set, for tests that run its commands as a user would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from factories import write_data_set

from sa2net.artifacts import folder_sha256
from sa2net.config import Config

ROOT = Path(__file__).parents[1]

SETTINGS = [
    "train.epochs=6",
    "train.validate_every=2",
    "train.sweep_width=48",
    "train.crops_per_scan=4",
    "train.augment.crop_height=128",
    "train.augment.crop_width=64",
    "train.model.channels=16",
    "train.warmup_epochs=1",
    "train.threads=1",
    "train.init_from=",  # the ready weights are of another network; runs keep what was meant
    "evaluate.threads=1",
    "evaluate.bootstrap_samples=200",
    "register.bootstrap_samples=500",
    "register.max_calibration_error=1",
    *(f"register.floors.{name}=0" for name in ("mean", "rib", "thoracic_process", "lumbar_lump")),
]


class Project:
    """A copy of this project in a folder of its own, with a small data set under DVC."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "SA2NET"))
        }
        self.environment |= {"OMP_NUM_THREADS": "1", "GIT_CONFIG_GLOBAL": os.devnull} | {
            f"GIT_{role}_{key}": value
            for role in ("AUTHOR", "COMMITTER")
            for key, value in (("NAME", "test"), ("EMAIL", "test@example.invalid"))
        }

    def copy(self) -> None:
        """Copy what git knows or would take, and commit it."""
        listed = subprocess.run(
            ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file() and not name.startswith("starter/"):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        (self.folder / ".venv").symlink_to(Path(sys.prefix))
        (self.folder / "starter").symlink_to(ROOT / "starter")  # the ready weights come from there
        (self.folder / "params.yaml").write_text(Config.load(None, SETTINGS).render(), encoding="utf-8")
        for pointer in ("data.dvc", "dvc.lock"):
            (self.folder / pointer).unlink(missing_ok=True)
        write_data_set(self.folder / "data" / "scoliosis3classes", train=6, val=2, test=3)
        self.call("git", "init", "-q")
        self.call("dvc", "add", "-q", "data")
        self.call("git", "add", "-A")
        self.call("git", "commit", "-qm", "copy")

    def call(self, *command: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.folder / '.venv' / 'bin'}:{self.environment['PATH']}"
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | {"PATH": path} | variables,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{command} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            )
        return done

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        path = f"{self.folder / '.venv' / 'bin'}:{self.environment['PATH']}"
        with (self.folder / "background.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment | {"PATH": path},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def make_run(self) -> str:
        # The environment is that of the tests: the stamp counts as fresh.
        return self.call("make", "-o", ".venv/.installed", "run").stdout

    @property
    def model(self) -> str:
        return folder_sha256(self.folder / "build/train/model")

    def champion_loads(self) -> bool:
        code = "from sa2net.registry.versions import resolve; from sa2net.inference.predictor import Predictor; Predictor.load(resolve('models:/sa2net@champion'))"
        return self.call("python", "-c", code, check=False).returncode == 0
