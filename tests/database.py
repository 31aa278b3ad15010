"""A real Postgres on the loopback address for tests, from the machine's own package."""

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers import end, free_port, started, wait_for_port


@dataclass(frozen=True)
class Postgres:
    """A server and how a client of libpq reaches it.

    Attributes:
        port: On 127.0.0.1.
        user: Its only user, who owns the database of the same name.
        password: Of the user.
    """

    port: int
    user: str
    password: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a client that names user and database itself."""
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGPASSWORD": self.password}


def program(name: str) -> Path | None:
    """A program of Postgres, also where it is not on the path, as on Debian."""
    found = shutil.which(name)
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return Path(found) if found else (debian[-1] if debian else None)


def what_is_missing() -> str:
    """Why there can be no server here; empty if there can."""
    for name in ("initdb", "postgres"):
        if program(name) is None:
            return f"there is no {name} here (Debian: postgresql)"
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        return "Postgres does not run as root, and there is no setpriv to run it as somebody else"
    return ""


@contextmanager
def postgres_server(folder: Path, *, user: str, password: str) -> Iterator[Postgres]:
    """A fresh server with one user and one database, which asks for the password.

    Args:
        folder: Where it may make its data; must not be there yet.
        user: Name of the user and of the database.
        password: Of the user.
    """
    folder.mkdir(parents=True)
    secret = folder / "password"
    secret.write_text(password, encoding="utf-8")
    prefix = _as_somebody_else(folder)
    data, port = folder / "data", free_port()
    # The arguments that infra/compose hands to the image's initdb.
    options = ["--auth-local=scram-sha-256", "--auth-host=scram-sha-256", "--data-checksums"]
    initdb = [str(program("initdb")), f"--pgdata={data}", f"--username={user}", f"--pwfile={secret}", *options]
    subprocess.run([*prefix, *initdb, "--encoding=UTF8", "--no-sync"], check=True, capture_output=True, cwd=folder)
    secret.unlink()
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "port": str(port)}
    arguments = [item for name, value in settings.items() for item in ("-c", f"{name}={value}")]
    process = started([*prefix, str(program("postgres")), "-D", str(data), *arguments], cwd=folder)
    try:
        wait_for_port(port, process)
        server = Postgres(port, user, password)
        _create_database(server)
        yield server
    finally:
        end(process)


def _as_somebody_else(folder: Path) -> list[str]:
    """What makes a command run as a user that is not root, who then owns the folder."""
    if os.geteuid() != 0:
        return []
    nobody = pwd.getpwnam("nobody")
    for path in (folder, *folder.iterdir()):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    for parent in folder.parents:  # pytest's folders are for their owner alone
        if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o001)
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]


def _create_database(server: Postgres) -> None:
    import psycopg
    from psycopg import sql

    where = f"host=127.0.0.1 port={server.port} user={server.user} dbname=postgres"
    for attempt in range(100):
        try:
            with psycopg.connect(where, password=server.password, autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(server.user)))
            return
        except psycopg.OperationalError:  # it listens a moment before it answers
            if attempt == 99:
                raise
            time.sleep(0.1)
