"""Checkpoints: one file an epoch, whole or not there, that only the same training may continue.

They live outside the folders that DVC manages, since DVC empties those before a run. A file is safetensors with
the rest of the state as JSON in its header: nothing is ever unpickled.
"""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from sa2net.artifacts import write_json

logger = logging.getLogger(__name__)
KEPT = 2
"""Newest checkpoints kept: the last may be damaged by a power failure, the one before it not."""
Tensors = dict[str, torch.Tensor]
_GROUPS = ("network", "optimiser", "best", "average")


@dataclass
class TrainingState:
    """Everything that the rest of a training depends on, after `epoch` finished epochs.

    Random states are not part of it: every draw is seeded by (seed, epoch, index).

    Attributes:
        epoch: Finished epochs.
        network: Weights and buffers.
        optimiser: `INDEX/NAME` -> state tensor of the parameter with that index.
        best: Weights and buffers of the best validation so far; empty before the first.
        history: One row an epoch.
        best_dice: Mean foreground Dice of that validation; -1 before the first.
        best_epoch: Its epoch.
        stale: Validations since then.
        scaler: State of the float16 loss scaler.
        stopped: Early stopping has ended the training.
        average: The averaged weights and the number of steps in them; empty without an average.
        start_dice: Mean foreground Dice of the weights that it started from; None from scratch.
    """

    epoch: int = 0
    network: Tensors = field(default_factory=dict)
    optimiser: Tensors = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    best_dice: float = -1.0
    best_epoch: int = 0
    stale: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False
    average: Tensors = field(default_factory=dict)
    start_dice: float | None = None


class CheckpointStore:
    """The checkpoints of one training.

    Args:
        root: Folder of all trainings' checkpoints.
        key: Hash of all that determines the training; another key never resumes.
    """

    def __init__(self, root: Path, key: str) -> None:
        self.folder = root / key

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only trainer of this key on this machine; wait for a living one, ignore a dead one's lock."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock, owner = filelock.FileLock(self.folder / "lock"), self.folder / "owner.json"
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            named = owner.read_text(encoding="utf-8").strip() if owner.exists() else "unknown"
            logger.warning(
                "another process is at the same training (%s); waiting until it ends, then going on from its checkpoint",
                " ".join(named.split()),
            )
            lock.acquire()
        try:
            write_json(
                owner,
                {"pid": os.getpid(), "host": socket.gethostname(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")},
            )
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def save(self, state: TrainingState) -> Path:
        """Write the state after an epoch, atomically, and drop what is older than the last two."""
        path = self.folder / f"epoch-{state.epoch:06d}.safetensors"
        partial = path.with_suffix(".partial")
        partial.write_bytes(encode(state))
        partial.replace(path)
        for old in self._files()[:-KEPT]:
            old.unlink()
        return path

    def newest(self) -> bytes:
        """The content of the newest checkpoint that can be read; empty where there is none."""
        for path in reversed(self._files()):
            try:
                content = path.read_bytes()
                decode(content)
                return content
            except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
                logger.warning("checkpoint %s cannot be read (%s); trying the one before it", path.name, error)
        return b""

    def clear(self) -> None:
        """Forget all checkpoints of this key."""
        for path in self._files():
            path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.safetensors"))


def encode(state: TrainingState) -> bytes:
    """A state as the content of a file, or of a message to another process."""
    groups: dict[str, Tensors] = {name: getattr(state, name) for name in _GROUPS}
    # Tensors that share memory (a best state just taken from the network) are written twice.
    tensors = {
        f"{group}/{name}": value.detach().cpu().contiguous().clone()
        for group, content in groups.items()
        for name, value in content.items()
    }
    rest = {name: value for name, value in vars(state).items() if name not in groups}
    content: bytes = save(tensors, metadata={"state": json.dumps(rest)})
    return content


def decode(content: bytes) -> TrainingState:
    """The state that `encode` was given.

    Raises:
        SafetensorError: The tensors are damaged.
        KeyError, TypeError, ValueError: The rest is.
    """
    tensors = load(content)
    # Safetensors: 8 bytes of length, a JSON header whose __metadata__ is ours, the tensors.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    rest = json.loads(header["__metadata__"]["state"])
    return TrainingState(**(rest | {group: _take(tensors, group) for group in _GROUPS}))


def _take(tensors: Mapping[str, torch.Tensor], group: str) -> Tensors:
    prefix = f"{group}/"
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> Tensors:
    """An optimiser's state as named tensors."""
    state = optimiser.state_dict()["state"]
    return {f"{index}/{name}": value for index, entry in state.items() for name, value in entry.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put named tensors back; the parameter groups are those of the settings."""
    state: dict[int, Tensors] = {}
    for key, value in tensors.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
