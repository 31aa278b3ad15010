"""The processes that train one network together, under torchrun or `sa2net train --processes N`.

Each is told its rank by torchrun's environment. The main one (rank 0) alone locks, tracks, validates and writes; the
others learn from it what they cannot know. Whoever fails first leaves its reason where the others look when they are
torn out of their work, so that all of them, MLflow and the user hear the same one.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from sa2net.artifacts import write_json
from sa2net.config import Device
from sa2net.errors import (
    ClusterError,
    ConfigError,
    DataError,
    DeviceError,
    NegativeAnswerError,
    Sa2NetError,
    StorageError,
)
from sa2net.model.logits import TrainingLogits

logger = logging.getLogger(__name__)
PATIENCE = timedelta(days=7)
"""A rank waits so long for the others: the main one may wait for a lock, or validate for hours. A rank that died is
noticed by torchrun, not by this limit."""
REASON = "sa2net"
"""Key of the error in the file that torchrun reads."""
KINDS = (NegativeAnswerError, ConfigError, DataError, DeviceError, StorageError, ClusterError)
_LOST_PEER = ("connection closed by peer", "connection reset by peer", "gloo", "nccl", "socket", "broken pipe")
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PR_SET_PDEATHSIG = 1


class LostRankError(DeviceError):
    """Another process of this training is gone, and has not said why."""


_KINDS = {kind.__name__: kind for kind in (*KINDS, LostRankError)}


class Ranks:
    """This process among those of its training; on its own where there are no others.

    Args:
        index: Rank of this process.
        count: How many there are.
        store: What all can read while one of them dies; None where there is one process.
    """

    def __init__(self, index: int = 0, count: int = 1, store: Store | None = None) -> None:
        self.index, self.count, self.store = index, count, store
        self.main = index == 0

    def share(self, whole: int) -> tuple[int, int]:
        """First and end index of this rank's part of a batch of `whole` crops; every rank's is equally long.

        A batch that cannot be divided is filled up: indices from `whole` on stand for crops that count nothing.
        """
        part = -(-whole // self.count)
        return self.index * part, (self.index + 1) * part

    def gather(self, logits: TrainingLogits, mask: Tensor, whole: int) -> tuple[TrainingLogits, Tensor]:
        """The logit maps and masks of the whole batch, in its order, on every rank; gradients reach one's own part.

        Any loss of these is the loss that one process has: means over valid pixels, Dice over the batch. What was
        filled up is cut off.

        Args:
            logits: Maps of this rank's part, (B / ranks, K, h, w) each.
            mask: Its masks, (B / ranks, H, W).
            whole: Crops of the whole batch, B.
        """
        if self.count == 1:
            return logits, mask
        maps = (None if map_ is None else self._concatenated(map_)[:whole] for map_ in logits)
        return TrainingLogits(*maps), self._concatenated(mask)[:whole]  # type: ignore[arg-type]

    def broadcast(self, content: bytes) -> bytes:
        """What the main process holds, on every rank."""
        if self.count == 1:
            return content
        size = torch.tensor(len(content))
        distributed.broadcast(size, 0)
        buffer = bytearray(content) if self.main else bytearray(int(size))
        if buffer:
            distributed.broadcast(torch.frombuffer(buffer, dtype=torch.uint8), 0)
        return bytes(buffer)

    def numbers_of_main(self, numbers: dict[str, float]) -> dict[str, float]:
        """Named numbers that the main process holds, on every rank, to the last bit."""
        shared: dict[str, float] = json.loads(self.broadcast(json.dumps(numbers).encode()))
        return shared

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Raise, instead of an error here, the one that ended the training first, wherever that was."""
        try:
            yield
        except (Exception, SystemExit) as error:
            if self.store is not None:
                # This process ends now. A SIGTERM that another's end brings must not tear it out of closing its run.
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            first = self._first_reason(error)
            if first is None or str(first) == str(error):
                raise
            raise first from error

    def _first_reason(self, error: BaseException) -> Sa2NetError | None:
        """Claim to be the first that failed, or learn who was."""
        if self.store is None or isinstance(error, LostRankError):
            return None
        claim = json.dumps(describe(error)) if isinstance(error, Sa2NetError) else ""
        try:
            if claim:
                return restore(json.loads(self.store.compare_set("reason", "", claim)))
            if self.store.check(["reason"]):
                return restore(json.loads(self.store.get("reason")))
        except RuntimeError:  # torchrun is gone too
            return None
        if isinstance(error, RuntimeError) and _is_lost_peer(error):
            return LostRankError(
                "another process of this training is gone",
                evidence=f"rank {self.index} of {self.count} says: {str(error).splitlines()[0]}",
                action="Start the training again: it goes on from its last checkpoint.",
            )
        return None

    def _concatenated(self, mine: Tensor) -> Tensor:
        content = mine.detach().contiguous()
        parts = [torch.empty_like(content) for _ in range(self.count)]
        distributed.all_gather(parts, content)
        parts[self.index] = mine  # the one that has a gradient
        return torch.cat(parts)


ALONE = Ranks()


def is_main() -> bool:
    """Whether this process is the one that speaks to the user."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def joined(device: Device) -> Iterator[Ranks]:
    """Meet the other processes, if torchrun says that there are any; leave them at the end.

    An error is told to the others and to torchrun, and ends this process with its exit code and without a second
    message: whoever started the processes prints it once.

    Args:
        device: The setting of the training; decides how the processes talk, and which GPU is whose.

    Raises:
        ConfigError: The environment says only half of it.
        DeviceError: More processes than GPUs.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        yield ALONE
        return
    try:
        ranks = _join(device)
        with ranks.failing_together():
            yield ranks
    except Sa2NetError as error:
        if not _told_torchrun(error):
            raise
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt as error:
        raise SystemExit(128 + signal.SIGINT) from error
    distributed.destroy_process_group()


def check_batch(batch_size: int, processes: int) -> None:
    """Refuse a batch that the processes cannot share equally.

    Args:
        batch_size: Crops in one step of all of them.
        processes: How many.

    Raises:
        ConfigError: The batch cannot be divided, or there is no process.
    """
    if processes < 1:
        raise ConfigError("no process to train in", evidence=f"processes is {processes}", action="Give 1 or more.")
    if batch_size % processes:
        raise ConfigError(
            "the batch cannot be shared equally",
            evidence=f"train.batch_size is {batch_size}, for {processes} processes",
            action=f"Set train.batch_size to a multiple of {processes}: it counts the crops of all processes together.",
        )


def check_gpus(device: Device, processes: int) -> None:
    """Refuse more processes on this machine than it has GPUs, unless they train on its CPU.

    Raises:
        DeviceError: Some process would have no GPU of its own.
    """
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if processes <= max(gpus, 1) or (device != "cuda" and not gpus):
        return
    raise DeviceError(
        "each process needs a GPU of its own",
        evidence=f"{processes} processes, {gpus} GPUs, train.device is {device}",
        action=f"Start at most {gpus} processes, or set train.device to cpu."
        if gpus
        else "Check `nvidia-smi` and the driver, or set train.device to auto or cpu.",
    )


def describe(error: Sa2NetError) -> dict[str, str]:
    """An error as plain text, for another process."""
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS)
    return {"kind": kind, "what": error.what, "evidence": error.evidence, "action": error.action}


def restore(content: dict[str, str]) -> Sa2NetError:
    """The error that `describe` was given."""
    return _KINDS[content["kind"]](content["what"], evidence=content["evidence"], action=content["action"])


def _join(device: Device) -> Ranks:
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if missing:
        raise ConfigError(
            "the environment says that this is one of several processes, but not where the others are",
            evidence=f"{', '.join(missing)} not set",
            action="Start with `sa2net train --processes N` or torchrun, or unset RANK and WORLD_SIZE.",
        )
    # Started in sessions of their own, the processes of a launcher that is killed would go on training.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # Accelerate would choose a number of threads where this is missing; `train.threads` does.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    check_gpus(device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, index, count = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, store=store, rank=index, world_size=count, timeout=PATIENCE)
    if index:
        logging.getLogger("sa2net").setLevel(logging.ERROR)
    return Ranks(index, count, PrefixStore("sa2net", store))


def _told_torchrun(error: Sa2NetError) -> bool:
    """Write the error where torchrun looks for it."""
    place = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not place:
        return False
    more = {"py_callstack": str(error), "timestamp": str(int(time.time()))}
    content = {"message": {"message": str(error), "extraInfo": more}, REASON: describe(error)}
    write_json(Path(place), content)  # whole or not there: torchrun reads it when this process is dead
    return True


def _is_lost_peer(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, distributed.DistError) or any(word in text for word in _LOST_PEER)
