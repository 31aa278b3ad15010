"""`python -m sa2net.serving MODEL FOLDER`: write a version, checked, as a folder for `mlflow models serve`."""

import argparse
import logging
import sys
from pathlib import Path

from sa2net import telemetry
from sa2net.errors import Sa2NetError

logger = logging.getLogger("sa2net.serving")
_ABOUT = "Fetch a version, check its sha256, and wrap it with the code installed here; no code of the store is run."


def main(arguments: list[str] | None = None) -> int:
    """Write the folder; return the exit code, which is that of the error's class."""
    telemetry.switch_off()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    parser = argparse.ArgumentParser(prog="python -m sa2net.serving", description=_ABOUT)
    parser.add_argument("model", help="models:/NAME@ALIAS, models:/NAME/NUMBER or a model folder")
    parser.add_argument("folder", type=Path, help="folder to write; new or empty")
    chosen = parser.parse_args(arguments)
    from sa2net.serving.package import write_checked

    try:
        written = write_checked(chosen.model, chosen.folder)
    except Sa2NetError as error:
        logger.error("%s", error)
        return error.exit_code
    logger.info("now: mlflow models serve -m %s --env-manager local", written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
