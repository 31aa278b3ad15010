"""Who may ask the review page: only the browser that opened the printed link, on this machine.

The link holds a random token; it is exchanged for a cookie, so that it stands in no further address. The `Host` header is
checked, since a page elsewhere may let its own name lead here. Cookies are shared by all ports of a machine: the cookie's
name is of this run.
"""

import hashlib
import secrets
from collections.abc import Iterable
from urllib.parse import parse_qs

from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 1_000_000
"""Bytes of a request: sixty levels and a long comment take 20 kB."""
OPEN = "/open"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """Stands before the application; every request passes here."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Iterable[str]) -> None:
        """Take what is needed.

        Args:
            app: The application.
            token: Secret of this run.
            hosts: Values of `Host` that are this server's.
        """
        self._app, self._token, self._hosts = app, token, frozenset(hosts)
        self.cookie = f"sa2net_review_{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks over web sockets
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, with_headers)
        elif scope["path"] == OPEN:
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(self.cookie, self._token, httponly=True, samesite="strict", path="/")
            await answer(scope, receive, with_headers)
        else:
            await self._app(scope, receive, with_headers)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> PlainTextResponse | None:
        if headers.get("host", "") not in self._hosts:
            return PlainTextResponse("This server answers under 127.0.0.1 only.\n", 421)
        if scope["path"] == OPEN:
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        else:
            given = cookie_parser(headers.get("cookie", "")).get(self.cookie, "")
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            return PlainTextResponse("Open the link that `sa2net review` printed.\n", 403)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return PlainTextResponse("No such method.\n", 405)
        if scope["method"] == "POST":
            return _body_refusal(headers)
        return None


def _body_refusal(headers: dict[str, str]) -> PlainTextResponse | None:
    length = headers.get("content-length", "")
    if not length.isdecimal():
        return PlainTextResponse("A length is needed.\n", 411)
    if int(length) > LARGEST_BODY:
        return PlainTextResponse(f"At most {LARGEST_BODY} bytes.\n", 413)
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return PlainTextResponse("JSON is needed.\n", 415)  # no form of another page can send that
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return PlainTextResponse("Only this page may save.\n", 403)
    return None
