"""How a request to Kubeflow Pipelines travels, and what is said when it does not arrive.

The generated client waits without end, takes a login page for an empty answer, and prints headers in its errors. So all
its requests pass through here: bounded in time, answered by a JSON object or by an error that says what to do, and never
with a token in the text. The same seam lets a dry run show the very requests, and send none.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import urllib3
from kfp_server_api.exceptions import ApiException
from urllib3.exceptions import HTTPError

from pipelines.refusals import (
    API,
    Address,
    RefusedError,
    ServerAwayError,
    clean,
    hidden,
    page_title,
    refusal,
    secrets_in,
    unreachable,
)
from sa2net.errors import ClusterError

CONNECT_SECONDS = 10.0

RETRIES = urllib3.Retry(
    total=2,
    redirect=0,  # a login page lies behind a redirect, and the token is not for other hosts
    other=0,
    status_forcelist=(502, 503, 504),
    allowed_methods=("GET",),  # a request that makes something is sent once
    backoff_factor=0.5,
    raise_on_redirect=False,
    raise_on_status=False,
    respect_retry_after_header=False,  # could be an hour
)


@dataclass
class Transport:
    """Sends the requests of a generated client.

    Attributes:
        send: The client's own way to send; raises what it raises.
        address: For messages.
        seconds: Longest wait for an answer.
    """

    send: Callable[..., Any]
    address: Address
    seconds: float

    def __call__(self, method: str, url: str, **request: Any) -> Any:
        """Send one request.

        Returns:
            The response, a JSON object.

        Raises:
            ServerAwayError: No usable answer; may work later.
            RefusedError: The server said no.
            ClusterError: It cannot be reached like this.
        """
        request["_request_timeout"] = (min(CONNECT_SECONDS, self.seconds), self.seconds)
        secrets = secrets_in(request.get("headers") or {})
        try:
            response = self.send(method, url, **request)
        except ApiException as error:
            raise refusal(self.address, error.status, error.headers or {}, error.body, secrets) from None
        except HTTPError as error:
            raise unreachable(self.address, error, method, self.seconds) from None
        except ValueError:  # a header that HTTP cannot carry; the error would quote it
            raise ClusterError(
                f"the request to {self.address.url} cannot be made",
                action=f"Look for stray characters in {self.address.login}.",
            ) from None
        self._check(response)
        return response

    def _check(self, response: Any) -> None:
        kind = str(response.getheader("content-type") or "")
        text = bytes(response.data).decode(errors="replace")
        if "html" in kind or text.lstrip()[:1] == "<":
            raise RefusedError(
                0,
                f"{self.address.url} answers with a web page, not as a Kubeflow Pipelines API",
                evidence=page_title(text),
                action="If it is a login page, log in and hand the session over in KF_PIPELINES_COOKIES, or a token in "
                "KF_PIPELINES_TOKEN; otherwise correct the endpoint (often https://HOST/pipeline).",
            )
        try:
            whole = isinstance(json.loads(text or "{}"), dict)
        except ValueError:
            whole = False
        if not whole:
            raise ServerAwayError(
                f"{self.address.url} sent an answer that is no JSON object",
                evidence=clean(text)[:80],
                action="Check the endpoint and what stands between, such as a proxy.",
            )


@dataclass
class Recorder:
    """Stands in for a transport in a dry run: keeps each request, sends none, answers as an empty server would.

    Attributes:
        requests: What would have been sent, in order.
    """

    requests: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, method: str, url: str, **request: Any) -> Any:
        """Keep one request."""
        split = urlsplit(url)
        query = urlencode(request.get("query_params") or [])
        headers = {
            name: hidden(name, str(value)) for name, value in sorted((request.get("headers") or {}).items()) if value
        }
        body = request.get("body")
        if request.get("post_params"):
            body = {name: _described(value) for name, value in request["post_params"]}
        self.requests.append(
            {"method": method, "path": split.path + (f"?{query}" if query else ""), "headers": headers, "body": body}
        )
        return _Answer(json.dumps(_empty_answer(method, split.path.partition(API)[2])).encode())


@dataclass
class _Answer:
    """What the generated client reads of a response."""

    data: Any
    status: int = 200

    def getheader(self, name: str, default: str | None = None) -> str | None:
        """One header."""
        return "application/json" if name.lower() == "content-type" else default

    def getheaders(self) -> dict[str, str]:
        """All headers."""
        return {"content-type": "application/json"}


def _empty_answer(method: str, route: str) -> dict[str, Any]:
    """Nothing is there yet, and everything is taken."""
    if method == "GET":
        return {"run_id": route.rpartition("/")[2], "state": "RUNNING"} if route.startswith("/runs/") else {}
    kind = {"/experiments": "experiment", "/runs": "run", "/recurringruns": "recurring_run"}.get(route, "pipeline")
    return {f"{kind}_id": f"<id of the {kind.replace('_', ' ')}>"}


def _described(part: Any) -> Any:
    """A file of a form by name, size and digest; other parts as they are."""
    if not isinstance(part, tuple):
        return part
    name, content, kind = part
    return {"file": name, "type": kind, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
