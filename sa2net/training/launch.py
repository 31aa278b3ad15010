"""Starts the processes of one training with torchrun's launcher, and says in one error why they ended."""

import logging
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from sa2net.errors import ConfigError, DeviceError
from sa2net.training.ranks import KINDS, REASON, LostRankError, restore

logger = logging.getLogger(__name__)
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_VARIABLES = ("OMP_NUM_THREADS", "TORCHELASTIC_SIGNALS_TO_HANDLE", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
_AGAIN = "Start the training again: it goes on from its last checkpoint."


def launch(arguments: Sequence[str], processes: int) -> None:
    """Run `python ARGUMENTS` in several processes of this machine, as `torchrun --standalone` does; wait for all.

    If one fails, the others are ended. SIGTERM and SIGINT reach all of them.

    Args:
        arguments: What the running interpreter is given, `-m sa2net train ...`.
        processes: How many.

    Raises:
        Sa2NetError: Why the first that failed did so, of the class that it had there.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError(
            "a process of a training cannot start more of them",
            evidence=f"{processes} processes were asked for under torchrun",
            action="Leave --processes away, or start without torchrun.",
        )
    logger.info("training in %d processes", processes)
    with tempfile.TemporaryDirectory() as folder, _surroundings_kept():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,  # the checkpoint is the restart, and whoever retries the step retries all
            # Holds the error files. What the processes print goes to our own streams.
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except ChildFailedError as error:
            raise _reason(error.failures, processes) from None
        except SignalException as stopped:
            if stopped.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + stopped.sigval) from None


def _reason(failures: dict[int, ProcessFailure], processes: int) -> Exception:
    """Why the processes ended: what one of them said, else what became of the first that ended."""
    told = {
        rank: restore(failure.error_file_data[REASON])
        for rank, failure in failures.items()
        if REASON in failure.error_file_data
    }
    known = [error for error in told.values() if not isinstance(error, LostRankError)]
    if known:
        return known[0]
    # In the order in which they ended; those that torchrun ended come last, those that lost another one are no cause.
    rank, failure = next((item for item in failures.items() if item[0] not in told), next(iter(failures.items())))
    which = f"process {rank} of {processes} (numbered from 0)"
    killer = _killed_by(failure.exitcode)
    if killer:
        return DeviceError(
            "a process of the training was killed",
            evidence=f"{which} ended by {killer}",
            action=f"If the memory was too small (dmesg, or OOMKilled in the pod's status), lower train.batch_size. {_AGAIN}",
        )
    if rank in told:
        return told[rank]
    kinds = {kind.exit_code: kind for kind in KINDS}
    evidence = f"{which} ended with exit code {failure.exitcode}"
    if failure.exitcode not in kinds:
        return RuntimeError(f"{evidence}; what it said is above")
    return kinds[failure.exitcode](
        "a process of the training failed", evidence=evidence, action="What it said is above."
    )


def _killed_by(exit_code: int) -> str:
    """Name of the signal that ended a process; empty if it ended by itself."""
    number = -exit_code if exit_code < 0 else exit_code - 128
    return signal.Signals(number).name if number in set(signal.Signals) else ""


@contextmanager
def _surroundings_kept() -> Iterator[None]:
    """Put back what torchrun's launcher changes in this process, and keep its own story of the end to ourselves."""
    in_main_thread = threading.current_thread() is threading.main_thread()  # elsewhere it changes no handler
    handlers = {number: signal.getsignal(number) for number in _HANDLED} if in_main_thread else {}
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch takes train.threads, everything else one
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "60")  # seconds for closing the MLflow run
    story = logging.getLogger("torch.distributed.elastic")
    level = story.level
    story.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        story.setLevel(level)
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
