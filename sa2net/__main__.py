"""Entry point of `sa2net` and `python -m sa2net`: runs the command line and turns errors into exit codes."""

import logging
import os
import sys

import click

from sa2net.cli import cli
from sa2net.errors import Sa2NetError

INTERNAL_ERROR = 70
INTERRUPTED = 130

# Nothing leaves the machine unasked: dependencies read these when they are imported.
NO_TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with the exit code that the result has."""
    os.environ.update(NO_TELEMETRY)
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
    except Exception:
        logging.getLogger("sa2net").exception("internal error: please report it with these lines")
        sys.exit(INTERNAL_ERROR)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
