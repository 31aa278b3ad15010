"""A step as a process of its own, which never outlives whoever waits for it."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sa2net.errors import ConfigError, DataError, DeviceError, StorageError

_ENDING = 60.0
"""Seconds that a step has to end after it was asked to."""


def run_to_end(command: Sequence[str], home: Path, variables: Mapping[str, str]) -> None:
    """Run a step to its end; if this process is ended, the step is too.

    Raises:
        Sa2NetError: The step failed, of the class that its exit code says.
    """
    process = subprocess.Popen(command, cwd=home, env=dict(variables), stdout=subprocess.DEVNULL)  # noqa: S603 - ours
    try:
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_ENDING)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if code:
        kinds = {kind.exit_code: kind for kind in (ConfigError, DataError, DeviceError, StorageError)}
        step = command[3]
        raise kinds.get(code, DataError)(
            f"{step} failed when it was run again", evidence=f"exit code {code}", action="What it said is above."
        )
