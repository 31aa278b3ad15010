"""What is said when Kubeflow Pipelines cannot be reached, or says no: the cause, what shows it, what to do.

Texts of a server are shown on one line, without control characters and without what we sent to be let in.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from sa2net.errors import ClusterError, Sa2NetError

API = "/apis/v2beta1"
HIDDEN = "***"
SECRET_HEADERS = ("authorization", "cookie")
LONGEST_EVIDENCE = 400


class ServerAwayError(ClusterError):
    """The server gives no usable answer at the moment; the same request may work later."""


class RefusedError(ClusterError):
    """The server answered, and the answer is no.

    Args:
        status: HTTP status, or 0 where the answer was no answer of this API.
    """

    def __init__(self, status: int, what: str, *, evidence: str = "", action: str) -> None:
        super().__init__(what, evidence=evidence, action=action)
        self.status = status


@dataclass(frozen=True)
class Address:
    """Whom we talk to, and as whom: words for messages.

    Attributes:
        url: Address of the API, without user name or password.
        namespace: Kubernetes namespace; empty on a single-user installation.
        login: What we show to be let in, such as `the token in KF_PIPELINES_TOKEN`; never the thing itself.
    """

    url: str
    namespace: str
    login: str


def unreachable(address: Address, error: HTTPError, method: str, seconds: float) -> Sa2NetError:
    """The error for a request without an answer."""
    url = address.url
    reason: Any = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    if isinstance(reason, SSLError):
        return untrusted(address, reason)
    if isinstance(reason, NameResolutionError):
        return ServerAwayError(
            f"the host of {url} is not known",
            evidence="its name does not resolve",
            action="Correct the endpoint; an address inside the cluster needs `kubectl port-forward` or a pod there.",
        )
    if isinstance(reason, ConnectTimeoutError | NewConnectionError):
        refused = "refused" in str(reason)
        return ServerAwayError(
            f"nothing listens at {url}",
            evidence="connection refused" if refused else "no route, or no connection within the time-out",
            action="Check the endpoint, the port-forward or the VPN, then try again.",
        )
    lost = "" if method == "GET" else " The request may have arrived: look for it there before you repeat it."
    if isinstance(reason, ReadTimeoutError):
        return ServerAwayError(
            f"{url} did not answer within {seconds:g} s",
            action=f"Try again later, or wait longer with --timeout.{lost}",
        )
    return ServerAwayError(
        f"the connection to {url} broke before the answer was whole",
        evidence=type(reason).__name__,
        action=f"Try again.{lost}",
    )


def refusal(
    address: Address, status: int, headers: Mapping[str, str], body: str | bytes | None, secrets: Sequence[str]
) -> Sa2NetError:
    """The error for an answer other than 2xx."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    message, ours = server_message(text)
    evidence = scrubbed(": ".join(part for part in (f"HTTP {status}", message) if part), secrets)
    url, namespace = address.url, address.namespace or "(none)"
    if status >= 500 or status == 429:
        return ServerAwayError(
            f"{url} cannot answer at the moment", evidence=evidence, action="Try again later, or look at its log."
        )
    if 300 <= status < 400:
        where = urlsplit(str(headers.get("Location") or headers.get("location") or ""))
        return RefusedError(
            status,
            f"{url} sends us elsewhere",
            evidence=f"HTTP {status} to {where.scheme}://{where.hostname}{where.path}" if where.hostname else evidence,
            action="If that is a login page, hand a session over in KF_PIPELINES_COOKIES or a token in KF_PIPELINES_TOKEN; "
            "otherwise make it the endpoint.",
        )
    if status == 401:
        what = f"{url} does not let us in with {address.login}" if address.login else f"{url} wants a login"
        action = "Set a valid token in KF_PIPELINES_TOKEN (a session: KF_PIPELINES_COOKIES); tokens expire."
        return RefusedError(status, what, evidence=evidence, action=action)
    if status == 403:
        return RefusedError(
            status,
            f"{url} does not allow this in the namespace {namespace}",
            evidence=evidence,
            action="Ask for the right to edit runs there, or correct `namespace` in the environment.",
        )
    if status == 404 and not ours:
        return RefusedError(
            status,
            f"there is no Kubeflow Pipelines API at {url}",
            evidence=f"HTTP 404 for {API}",
            action="Correct the endpoint: it is the address in front of /apis/v2beta1, often https://HOST/pipeline.",
        )
    if status == 404:
        return RefusedError(status, f"{url} does not know it", evidence=evidence, action="Check the id or the name.")
    if status == 409:
        return RefusedError(
            status, f"{url} has one already", evidence=evidence, action="Choose another name, or try again."
        )
    return RefusedError(
        status, f"{url} refuses the request", evidence=evidence, action="Mend what it names, then try again."
    )


def untrusted(address: Address, error: SSLError) -> ClusterError:
    """The error for TLS that does not come about."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        evidence = re.sub(r".*certificate verify failed: ", "", clean(text)).partition(" (_ssl")[0][:150]
        action = "Name the authority that signed it: --ca FILE, or KF_PIPELINES_SSL_CA_CERT."
        return ClusterError(f"the certificate of {address.url} is not trusted", evidence=evidence, action=action)
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return ClusterError(f"{address.url} does not speak TLS", action="Write the endpoint with http://.")
    return ClusterError(
        f"no safe connection to {address.url}", evidence=clean(text)[:150], action="Check the endpoint and its TLS."
    )


def server_message(text: str) -> tuple[str, bool]:
    """What an error body says, and whether it is one of this API."""
    try:
        content = json.loads(text)
    except ValueError:
        return page_title(text), False
    if not isinstance(content, dict):
        return "", False
    said = content.get("message") or content.get("error") or ""
    return clean(str(said))[:LONGEST_EVIDENCE], "code" in content and bool(said)


def page_title(text: str) -> str:
    """The title of a web page, else the beginning of its words."""
    found = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    words = found.group(1) if found else re.sub(r"<[^>]*>", " ", text)
    return clean(words)[:80]


def clean(text: str) -> str:
    """On one line, without control characters: a server must not steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in " ".join(text.split()))


def secrets_in(headers: Mapping[str, Any]) -> list[str]:
    """Everything in the headers of a request that must not be repeated, the longest first."""
    found: set[str] = set()
    for name, value in headers.items():
        if value and name.lower() in SECRET_HEADERS:
            text = str(value)
            found |= {text, text.removeprefix("Bearer ").strip()}
            found |= {part.partition("=")[2].strip() for part in text.split(";")}
    return sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True)


def scrubbed(text: str, secrets: Sequence[str]) -> str:
    """Text of a server, in case it repeats what we sent."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def hidden(name: str, value: str) -> str:
    """A header as it may be shown."""
    if name.lower() not in SECRET_HEADERS:
        return value
    return f"Bearer {HIDDEN}" if value.startswith("Bearer ") else HIDDEN
