"""The review page on a port of this machine: nothing else can reach it."""

import logging
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from sa2net.config import MeasureConfig
from sa2net.errors import ConfigError
from sa2net.review.app import make_app
from sa2net.review.guard import OPEN
from sa2net.review.results import Results

logger = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ReviewServer:
    """A server that is bound and not yet running.

    Attributes:
        link: What the reader opens; holds the secret of this run.
        server: To be run.
        listener: Its socket.
    """

    link: str
    server: uvicorn.Server
    listener: socket.socket

    def run(self) -> None:
        """Answer until Ctrl-C."""
        self.server.run(sockets=[self.listener])


@contextmanager
def review_server(
    results: Results, cfg: MeasureConfig, *, port: int = 0, subjects: Path | None = None
) -> Iterator[ReviewServer]:
    """Bind a server to the loopback address.

    Args:
        results: What is reviewed.
        cfg: Limits of refusal for levels that were moved.
        port: 0 = a free one.
        subjects: Table that names the subject of each scan, for the data set.

    Raises:
        ConfigError: The port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen()  # who opens the link at once waits, and is not refused
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"port {port} cannot be used", evidence=str(error), action="Leave --port out, or name another."
        ) from error
    with listener:
        address = f"{LOOPBACK}:{listener.getsockname()[1]}"
        token = secrets.token_urlsafe(24)
        app = make_app(results, token=token, hosts=(address,), cfg=cfg, subjects=subjects)
        # No access log: the link holds the token. One process, so that saves are ordered by the file system alone.
        settings = uvicorn.Config(app, access_log=False, log_level="warning", server_header=False, ws="none")
        yield ReviewServer(f"http://{address}{OPEN}?token={token}", uvicorn.Server(settings), listener)
