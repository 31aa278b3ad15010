"""Entry point of `sa2net` and `python -m sa2net`: runs the command line and turns errors into exit codes."""

import logging
import signal
import sys

import click

from sa2net import telemetry
from sa2net.cli import cli
from sa2net.errors import Sa2NetError, StorageError
from sa2net.termination import leave

INTERNAL_ERROR = 70
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with the exit code that the result has."""
    telemetry.switch_off()
    signal.signal(signal.SIGTERM, leave)
    try:
        code = cli.main(args=arguments, prog_name="sa2net", standalone_mode=False)
    except Sa2NetError as error:
        click.echo(f"sa2net: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("sa2net: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        action = "Check that the place exists, can be written and has room, or name another one."
        click.echo(f"sa2net: a file or folder cannot be used: {place}{error.strerror or error}. {action}", err=True)
        sys.exit(StorageError.exit_code)
    except Exception:
        logging.getLogger("sa2net").exception("internal error: please report it with these lines")
        sys.exit(INTERNAL_ERROR)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
