"""What stands in front of MLflow's scoring server: limits, refusals that say what to do, and one scan at a time.

MLflow's server reads a body of any size, answers some faults with 500 or with a traceback, and knows no setting for
either. `Front` takes the address /invocations over; /ping, /health and /version stay MLflow's. `stand_in_front` puts
it there: `mlflow models serve` loads the model before it makes its application, so the model can see to it that the
application is made with the front. It does so in that process alone, never where a program loads the model by itself.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT

from sa2net.serving.answers import Answering
from sa2net.serving.limits import LARGEST_BODY, LARGEST_DISCARDED, REQUESTS_AT_ONCE
from sa2net.serving.requests import RefusedError, ServedScan, read_body

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

ADDRESS = "/invocations"
_SCORING_SERVER = "mlflow.pyfunc.scoring_server.app"
_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    413: "REQUEST_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}
_TOO_LARGE = f"Send at most {LARGEST_BODY} bytes: fewer scans at once, or `sa2net predict` for larger ones."


class GoneError(Exception):
    """The client left before it was answered."""


class Front:
    """An ASGI application in front of another one.

    Args:
        behind: The application that answers everything but predictions.
        answering: Predicts.
        seconds: Time that a request may take, waiting included.
    """

    def __init__(self, behind: Application, answering: Answering, *, seconds: float) -> None:
        self.behind, self.answering, self.seconds = behind, answering, seconds
        self.at_once = 0
        # One thread each: what a request takes at its worst is taken once, and refusals do not wait for predictions.
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._predicting = ThreadPoolExecutor(1, thread_name_prefix="predict")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("POST", ADDRESS):
            await self.behind(scope, receive, send)
            return
        try:
            status, content = await self._answer(_headers(scope), receive)
        except GoneError:
            return
        await _send_json(send, status, content)

    async def _answer(self, headers: dict[str, str], receive: Receive) -> tuple[int, dict[str, Any]]:
        """Status and content of the answer."""
        try:
            if self.at_once >= REQUESTS_AT_ONCE:
                raise _busy(f"{self.at_once} requests at once", status=429)
            self.at_once += 1
            try:
                async with asyncio.timeout(self.seconds):
                    return 200, {"predictions": await self._serve(headers, receive)}
            except TimeoutError as error:
                raise _busy(f"not answered within {self.seconds:g} s", status=503) from error
            finally:
                self.at_once -= 1
        except RefusedError as error:
            return error.status, _refusal(error)
        except GoneError:
            raise
        except Exception:
            logger.exception("a request could not be answered")
            action = "Tell who runs the server: its log says more."
            return 500, _refusal(RefusedError("the server failed", action=action, status=500))

    async def _serve(self, headers: dict[str, str], receive: Receive) -> list[dict[str, Any]]:
        _check_headers(headers)
        body = await _read(headers, receive)
        loop = asyncio.get_running_loop()
        scans = await loop.run_in_executor(self._reading, read_body, body)
        del body
        working = asyncio.ensure_future(self._predict(scans))
        leaving = asyncio.ensure_future(receive())  # after the body nothing comes but the end of the connection
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise GoneError
            return working.result()
        finally:
            working.cancel()
            leaving.cancel()

    async def _predict(self, scans: list[ServedScan]) -> list[dict[str, Any]]:
        """Scan by scan, so that a request that is given up ends with the scan in hand."""
        loop = asyncio.get_running_loop()
        return [
            await loop.run_in_executor(self._predicting, self.answering.answer, number, scan)
            for number, scan in enumerate(scans, start=1)
        ]


def stand_in_front(answering: Answering) -> None:
    """Have MLflow's scoring server made with the front, if it is about to be made in this process.

    Args:
        answering: Predicts.
    """
    if _SCORING_SERVER not in sys.modules:
        return
    import fastapi

    original = fastapi.FastAPI

    class Fronted(original):  # type: ignore[misc,valid-type]
        """The application of the scoring server, without pages that load scripts from elsewhere."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            fastapi.FastAPI = original  # type: ignore[misc]
            super().__init__(*arguments, **settings, docs_url=None, redoc_url=None, openapi_url=None)
            self.front = Front(super().__call__, answering, seconds=MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())
            logger.info("%s takes at most %d bytes", ADDRESS, LARGEST_BODY)

        async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
            await self.front(scope, receive, send)

    fastapi.FastAPI = Fronted  # type: ignore[misc]


def _headers(scope: Message) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _check_headers(headers: dict[str, str]) -> None:
    """Refuse what is not plain JSON.

    Raises:
        RefusedError: Another type, character set or encoding.
    """
    kind, *parameters = (part.strip().lower() for part in headers.get("content-type", "").split(";"))
    plain = headers.get("content-encoding", "identity").strip().lower() in ("", "identity")
    if kind != "application/json" or not set(parameters) <= {"", "charset=utf-8", 'charset="utf-8"'} or not plain:
        raise RefusedError(
            "the request is not plain JSON",
            evidence="its headers name no content type" if not kind else "its headers name another type or encoding",
            action="Send JSON in UTF-8, uncompressed, with the header Content-Type: application/json.",
            status=415,
        )


async def _read(headers: dict[str, str], receive: Receive) -> bytes:
    """The body, as far as it is within the limit.

    Raises:
        RefusedError: It is larger; the rest was thrown away, as far as that is worth it.
        GoneError: The client left.
    """
    declared = headers.get("content-length", "0")
    parts: list[bytes] = []
    size, more = 0, not declared.isdecimal() or int(declared) <= LARGEST_DISCARDED
    over = not more
    while more and size <= LARGEST_DISCARDED:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > LARGEST_BODY:
            over, parts = True, []
        else:
            parts.append(part)
    if over:
        evidence = f"{max(size, int(declared) if declared.isdecimal() else 0)} bytes or more"
        raise RefusedError("the request is too large", evidence=evidence, action=_TOO_LARGE, status=413)
    return b"".join(parts)


def _busy(evidence: str, *, status: int) -> RefusedError:
    return RefusedError("the server is busy", evidence=evidence, action="Try again in a while.", status=status)


def _refusal(error: RefusedError) -> dict[str, str]:
    """A refusal as content: `error_code` and `message` as MLflow has them, and the parts of the message."""
    parts = {"what": error.what, "evidence": error.evidence, "action": error.action}
    return {"error_code": _CODES[error.status], "message": str(error), **parts}


async def _send_json(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode("ascii")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode("ascii"))]
    if status in (429, 503):
        headers.append((b"retry-after", b"5"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
