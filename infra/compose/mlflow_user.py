"""Make a user of the MLflow server, or give one a new password; in the server's image it is the command `mlflow-user`.

MLflow has a page for this and no command. The password is read from standard input, so that it is in no command line,
and the administrator's is the one that the server itself was given.

    docker compose exec -T mlflow mlflow-user NAME < FILE_WITH_THE_PASSWORD
"""

import argparse
import base64
import json
import os
import sys
import urllib.error
import urllib.request

TIMEOUT = 30
"""Seconds that the server has to answer."""


class RefusedError(Exception):
    """The server answered, and not with yes; the text is its status and what it said."""


def main() -> None:
    """Command line.

    Raises:
        SystemExit: With 2 where a setting is missing, with 5 where the server does not do what it is asked.
    """
    parser = argparse.ArgumentParser(prog="mlflow-user", description="Make an MLflow user, or change a password.")
    parser.add_argument("name", help="name of the user; `admin` changes the administrator's password")
    parser.add_argument("--server", default="http://127.0.0.1:5000", help="address of the server")
    arguments = parser.parse_args()
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        parser.error("no password on standard input; write it there, e.g. mlflow-user NAME < FILE")
    try:
        done = give_password(arguments.server, arguments.name, password)
    except KeyError as error:
        parser.error(f"{error.args[0]} is not set; run this where the server runs")
    except RefusedError as error:
        _fail(f"the server refuses it: {error}")
    except OSError as error:
        _fail(f"{arguments.server} does not answer: {error}")
    sys.stdout.write(f"{arguments.name}: {done}\n")


def give_password(server: str, name: str, password: str) -> str:
    """Make a user with this password, or give it to the one there is.

    Returns:
        What was done.

    Raises:
        KeyError: The administrator's name or password is not in the environment.
        RefusedError: The server refuses.
        OSError: It does not answer.
    """
    try:
        _ask(server, "POST", "users/create", {"username": name, "password": password})
    except RefusedError as error:
        if "RESOURCE_ALREADY_EXISTS" not in str(error):
            raise
        change = {"username": name, "password": password}
        if name == os.environ["MLFLOW_AUTH_ADMIN_USERNAME"]:
            change["current_password"] = os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"]
        _ask(server, "PATCH", "users/update-password", change)
        return "password changed"
    return "made"


def _ask(server: str, method: str, route: str, body: dict[str, str]) -> None:
    admin = f"{os.environ['MLFLOW_AUTH_ADMIN_USERNAME']}:{os.environ['MLFLOW_AUTH_ADMIN_PASSWORD']}"
    headers = {
        "Content-Type": "application/json",
        "Authorization": "Basic " + base64.b64encode(admin.encode()).decode(),
    }
    request = urllib.request.Request(  # noqa: S310 - the address of the server, from its administrator
        f"{server}/api/2.0/mlflow/{route}", json.dumps(body).encode(), headers, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        raise RefusedError(f"{error.code} {error.read(1000).decode(errors='replace')}") from error


def _fail(text: str) -> None:
    sys.stderr.write(f"mlflow-user: {text}\n")
    raise SystemExit(5)


if __name__ == "__main__":
    main()
