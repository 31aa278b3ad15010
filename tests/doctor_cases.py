"""Checks that misbehave, for the tests of the doctor: its processes must be able to import them."""

import os
import sys
import time
from pathlib import Path

from sa2net.errors import DataError
from sa2net.steps.doctor.findings import Finding, Options, note, ok


def fine(options: Options) -> Finding:
    print("this must not come between the lines")
    print("nor this", file=sys.stderr)
    return ok(f"all is well at {options.kfp_endpoint} in {os.environ.get('DOCTOR_WORD', '')}")


def remark(_: Options) -> Finding:
    return note("there is none", "make one")


def says_too_much(options: Options) -> Finding:
    raise RuntimeError(f"cannot open {options.s3}\nwith {os.environ['SOME_TOKEN']}")


def our_error(_: Options) -> Finding:
    raise DataError("the data are bad", evidence="row 7", action="Mend row 7.")


def vanishes(_: Options) -> Finding:
    os._exit(3)


def hangs(options: Options) -> Finding:
    """Takes its probe away when it is told to end."""
    probe = Path(options.s3)
    probe.touch()
    try:
        time.sleep(120)
    finally:
        probe.unlink()
    return ok("never")


def hangs_for_good(options: Options) -> Finding:
    """Does not listen to being told to end."""
    Path(options.s3).write_text(str(os.getpid()))
    while True:
        try:
            time.sleep(120)
        except SystemExit:
            continue
