"""One question to a web server, and why it went wrong: each kind of silence has its own cure.

Redirects are not followed: an API that redirects sends people to a login page, and a token must not travel with it.
"""

import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, InvalidURL
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

_LARGEST_ANSWER = 64 * 1024
_LOGIN = ("login", "signin", "sign-in", "oauth", "dex", "auth", "sso", "saml")


class NoAnswerError(Exception):
    """A server gave no answer.

    Args:
        evidence: What was seen.
        cure: What to do.
    """

    def __init__(self, evidence: str, cure: str) -> None:
        super().__init__(evidence)
        self.evidence, self.cure = evidence, cure


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        status: HTTP status.
        headers: Its headers.
        body: The first 64 KiB.
    """

    status: int
    headers: Message
    body: bytes

    @property
    def document(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def is_page(self) -> bool:
        """Whether this is a page for people."""
        start = self.body[:1000].lstrip().lower()
        named = "html" in self.headers.get("Content-Type", "").lower() and b"<" in start
        return named or start.startswith((b"<!doctype html", b"<html"))

    @property
    def redirect(self) -> str:
        """Where it sends us; empty where it does not."""
        return str(self.headers.get("Location", "")) if 300 <= self.status < 400 else ""

    @property
    def wants_login(self) -> bool:
        """Whether it redirects to what looks like a login."""
        parts = urlsplit(self.redirect)
        return any(word in f"{parts.hostname or ''}{parts.path}".lower() for word in _LOGIN)


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Give the redirect itself back, as an answer."""


def host_of(url: str) -> str:
    """Host and port of an address, without the user."""
    return urlsplit(url).netloc.rpartition("@")[2]


def without_user(url: str) -> str:
    """An address without user and password, however badly they are quoted."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}".rstrip("/")


def ask(
    url: str, *, patience: float, headers: Mapping[str, str] | None = None, proxies: bool = True, authority: str = ""
) -> Answer:
    """GET an address; an answer with an error status is an answer too.

    Args:
        url: http or https, without a user.
        patience: Seconds to connect, and again to answer.
        headers: To send.
        proxies: Whether the proxies of the environment are used.
        authority: File of who may sign the certificate; empty for the usual ones.

    Raises:
        NoAnswerError: Nothing came back.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise NoAnswerError(f"{url} is no web address", "Write http://HOST or https://HOST.")
    try:
        context = ssl.create_default_context(cafile=authority or None)
    except (OSError, ValueError) as error:
        raise NoAnswerError(f"{authority} cannot be used as an authority ({error})", "Name a PEM file.") from error
    handlers = [_Stay(), HTTPSHandler(context=context)]
    opener = build_opener(*handlers, *([] if proxies else [ProxyHandler({})]))
    try:
        with opener.open(Request(url, headers=dict(headers or {})), timeout=patience) as response:  # noqa: S310 - checked above
            return Answer(response.status, response.headers, response.read(_LARGEST_ANSWER))
    except HTTPError as error:
        with error:
            return Answer(error.code, error.headers, _body(error))
    except (OSError, HTTPException, ValueError) as error:
        raise _explained(url, error, patience) from error


def _body(error: HTTPError) -> bytes:
    try:
        return error.read(_LARGEST_ANSWER)
    except (OSError, HTTPException):
        return b""


def _explained(url: str, error: Exception, patience: float) -> NoAnswerError:
    host = host_of(url)
    reason = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return NoAnswerError(
            f"{host}: its certificate is not trusted ({reason.verify_message})",
            "Set SSL_CERT_FILE to the CA's file, or use the name that the certificate was made for.",
        )
    if isinstance(reason, ssl.SSLError):
        return NoAnswerError(
            f"{host}: no TLS could be agreed ({reason.reason or reason})",
            "Check https:// against http://, and the port.",
        )
    if isinstance(reason, TimeoutError):
        return NoAnswerError(
            f"{host} did not answer within {patience:g} s",
            "Check the address, the firewall and whether it is overloaded.",
        )
    if isinstance(reason, socket.gaierror):
        return NoAnswerError(f"{host}: there is no such host", "Check the spelling, the DNS and the VPN.")
    if isinstance(reason, ConnectionRefusedError):
        return NoAnswerError(
            f"{host} refuses connections", "Start the server or its port-forward, or correct the port."
        )
    if isinstance(reason, ValueError | InvalidURL):  # its text would repeat a token
        return NoAnswerError(
            f"{host}: the address or the login cannot be sent", "Look for blanks and line breaks in them."
        )
    if isinstance(reason, HTTPException):
        return NoAnswerError(
            f"{host} does not speak HTTP there ({reason!r})", "Check https:// against http://, and the port."
        )
    return NoAnswerError(f"{host} cannot be reached ({reason})", "Check the address and the network.")
