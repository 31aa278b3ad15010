"""Runs checks side by side, each in a process of its own: one that hangs is ended, one that breaks is only a line.

A thread could not be ended, and packages as large as these must not be imported by several threads at once. The
processes are forked from one that has loaded MLflow already, so that it is paid for once.
"""

import importlib
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from types import FrameType

from sa2net.errors import ClusterError, ConfigError, DataError, DeviceError, Sa2NetError, StorageError
from sa2net.steps.doctor import bucket, clock, cluster, dataset, gpu, machine, remote, tracking
from sa2net.steps.doctor.findings import Finding, Options, fail, secrets_of, shortened

LIMIT = 10.0
"""Seconds that a check may take once its packages are loaded."""
_LOADING_LIMIT = 60.0
_GRACE = 4.0
"""Seconds for a check that was told to end: it takes away what it has written."""
_INTERRUPTED = 128 + signal.SIGINT
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "4", "AWS_MAX_ATTEMPTS": "1"}
_MLFLOW = "sa2net.registry.store"


@dataclass(frozen=True)
class Check:
    """One line of the doctor.

    Attributes:
        look: The check.
        exit_code: Of the command line, where this is the first line that fails.
        packages: What is loaded before the clock starts.
    """

    look: Callable[[Options], Finding]
    exit_code: int
    packages: tuple[str, ...] = ()


CHECKS: dict[str, Check] = {
    "python": Check(machine.check_python, ConfigError.exit_code),
    "settings": Check(machine.check_settings, ConfigError.exit_code),
    "disk": Check(machine.check_disk, StorageError.exit_code, (_MLFLOW,)),
    "shm": Check(machine.check_shared_memory, StorageError.exit_code),
    "gpu": Check(gpu.check_gpu, DeviceError.exit_code, ("torch",)),
    "data": Check(dataset.check_data, DataError.exit_code),
    "dvc": Check(remote.check_dvc, StorageError.exit_code, ("dvc.config", "boto3")),
    "mlflow": Check(tracking.check_mlflow, StorageError.exit_code, (_MLFLOW,)),
    "s3": Check(bucket.check_s3, StorageError.exit_code, ("boto3",)),
    "kfp": Check(cluster.check_kfp, ClusterError.exit_code),
    "clock": Check(clock.check_clock, ConfigError.exit_code, (_MLFLOW,)),
}


def examine(
    names: Sequence[str],
    options: Options,
    *,
    required: Sequence[str] = (),
    limit: float = LIMIT,
    checks: Mapping[str, Check] = CHECKS,
) -> Iterator[Finding]:
    """Run checks side by side, and give their findings in the order of `names`, each as soon as it can be.

    Args:
        names: Keys of `checks`.
        options: What they look at.
        required: Checks whose note is a failure.
        limit: Seconds for each, once its packages are loaded.
        checks: All that there are.
    """
    secrets = secrets_of(options)
    context = multiprocessing.get_context("forkserver")
    if any(_MLFLOW in checks[name].packages for name in names):
        context.set_forkserver_preload([_MLFLOW, "sa2net.steps.doctor"])
    running: list[_Running] = []
    try:
        running.extend(_Running(name, checks[name], options, context) for name in names)
        for check in running:
            finding = check.finding(limit).without(secrets)
            if finding.verdict == "note" and check.name in required:
                finding = replace(finding, verdict="fail")
            yield finding
    finally:
        for check in running:
            check.tell_to_end()
        for check in running:
            check.end()


class _Running:
    """A check in its process."""

    def __init__(
        self, name: str, check: Check, options: Options, context: multiprocessing.context.ForkServerContext
    ) -> None:
        self.name = name
        self.receiver, sender = context.Pipe(duplex=False)
        verbose = logging.getLogger("sa2net").isEnabledFor(logging.DEBUG)
        # The server that forks keeps the environment of its own start.
        arguments = (check, options, dict(os.environ), sender, verbose)
        self.process = context.Process(target=_work, args=arguments, daemon=True, name=f"doctor {name}")
        self.process.start()
        sender.close()
        self.started = time.monotonic()

    def finding(self, limit: float) -> Finding:
        """What the check found, or how it ended without finding anything."""
        try:
            if not self._ready_by(self.started + _LOADING_LIMIT):
                return self._too_slow(f"loading its packages took more than {_LOADING_LIMIT:g} s")
            began = float(self.receiver.recv())
            if not self._ready_by(began + limit):
                return self._too_slow(f"no result within {limit:g} s")
            finding: Finding = self.receiver.recv()
            return replace(finding, name=self.name)
        except (EOFError, OSError):
            self.process.join(_GRACE)
            if self.process.exitcode in (_INTERRUPTED, -signal.SIGINT):  # Ctrl-C reaches all; the check was quicker
                raise KeyboardInterrupt from None
            evidence = f"the check's process broke off (exit code {self.process.exitcode})"
            return replace(
                fail(evidence, f"sa2net -v doctor --only {self.name} shows what it printed."), name=self.name
            )

    def _ready_by(self, moment: float) -> bool:
        return self.receiver.poll(max(0.0, moment - time.monotonic()))

    def _too_slow(self, evidence: str) -> Finding:
        self.tell_to_end()
        cure = f"A server or disk that hangs, or a busy machine: --only {self.name} --timeout SECONDS"
        return replace(fail(evidence, cure), name=self.name, seconds=time.monotonic() - self.started)

    def tell_to_end(self) -> None:
        """Ask it to end; it may still take away what it has written."""
        if self.process.is_alive():
            self.process.terminate()

    def end(self) -> None:
        """End it for good."""
        self.process.join(_GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(_GRACE)
        self.receiver.close()


def _leave(number: int, _: FrameType | None) -> None:
    """End by an exception; once, since a second one would come in the middle of the clearing away."""
    for other in (signal.SIGTERM, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _work(check: Check, options: Options, environment: dict[str, str], sender: Connection, verbose: bool) -> None:
    """Body of the process: load, say when the clock starts, look, hand over."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    os.environ.clear()
    os.environ.update(environment | _IMPATIENT)
    if not verbose:
        _be_quiet()
    for package in check.packages:
        with suppress(Exception):  # the check itself says what its absence means
            importlib.import_module(package)
    began = time.monotonic()
    sender.send(began)
    finding = _looked(check, options)
    sender.send(replace(finding, seconds=time.monotonic() - began))


def _looked(check: Check, options: Options) -> Finding:
    try:
        return check.look(options)
    except Sa2NetError as error:
        return fail(f"{error.what}: {error.evidence}" if error.evidence else error.what, error.action)
    except Exception as error:
        logging.getLogger("sa2net").debug("the check broke", exc_info=True)
        evidence = f"the check itself broke: {type(error).__name__}: {shortened(error)}"
        return fail(evidence, "Report it with this line; `sa2net -v doctor` shows more.")


def _be_quiet() -> None:
    """Nothing that a package prints may come between the lines."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
