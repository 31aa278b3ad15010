"""Where Kubeflow Pipelines is, and what opens its door: a section of the settings, and variables for what is secret.

A secret is never repeated, in no message and no representation.
"""

import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH

from pipelines.environments import Environment
from pipelines.refusals import clean
from sa2net.errors import ConfigError

ENDPOINT = "KF_PIPELINES_ENDPOINT"
UI_ENDPOINT = "KF_PIPELINES_UI_ENDPOINT"
TOKEN = "KF_PIPELINES_TOKEN"  # noqa: S105 - the name of a variable
COOKIES = "KF_PIPELINES_COOKIES"
CA_FILE = "KF_PIPELINES_SSL_CA_CERT"
GOOGLE_SIGN_IN = "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID"


@dataclass(frozen=True)
class Login:
    """What opens the door; at most one of the three.

    Attributes:
        token: Bearer token; empty for none.
        cookies: Session, as `name=value; name=value`; empty for none.
        token_file: File of a token that Kubernetes renews, inside a cluster.
        said_as: Where it came from, for messages; empty without any.
    """

    token: str = field(default="", repr=False)
    cookies: str = field(default="", repr=False)
    token_file: Path | None = None
    said_as: str = ""


def login() -> Login:
    """The login that the environment variables or the pod hold.

    Raises:
        ConfigError: A value that no HTTP header can carry, which is not repeated.
    """
    token, cookies = (os.environ.get(name, "").strip() for name in (TOKEN, COOKIES))
    for name, value, allowed in ((TOKEN, token, r"[\x21-\x7e]*"), (COOKIES, cookies, r"[\x20-\x7e]*")):
        if not re.fullmatch(allowed, value):
            raise ConfigError(
                f"{name} holds characters that cannot be sent",
                evidence="a blank, a line break or a letter beyond ASCII inside",
                action="Copy it again, the value alone.",
            )
    if token:
        return Login(token=token.removeprefix("Bearer "), said_as=f"the token in {TOKEN}")
    if cookies:
        return Login(cookies=cookies, said_as=f"the session in {COOKIES}")
    file = Path(os.environ.get(KF_PIPELINES_SA_TOKEN_ENV) or KF_PIPELINES_SA_TOKEN_PATH)
    return Login(token_file=file, said_as=f"the service account's token in {file}") if file.is_file() else Login()


def endpoint_of(environment: Environment) -> str:
    """Address of the API.

    Raises:
        ConfigError: There is none, or it cannot be used.
    """
    url = (environment.endpoint or os.environ.get(ENDPOINT, "")).strip().rstrip("/")
    if not url:
        raise ConfigError(
            "no Kubeflow Pipelines endpoint is configured",
            action=f"Set `endpoint` in the environment's section, or {ENDPOINT}.",
        )
    for name, address in (("the endpoint", url), (UI_ENDPOINT, os.environ.get(UI_ENDPOINT, ""))):
        if address and "@" in address:
            raise ConfigError(
                f"{name} holds a user name or password",
                action=f"Take them out of the address; use {TOKEN} or {COOKIES}.",
            )
    try:
        split = urlsplit(url)
        usable = split.scheme in ("http", "https") and bool(split.hostname) and (split.port is None or split.port > 0)
    except ValueError:
        usable = False
    if not usable or split.query or split.fragment or re.search(r"\s", url):
        raise ConfigError(
            f"the endpoint {clean(url)} is no address", action="Write it as http://HOST:PORT or https://HOST/pipeline."
        )
    return url


def authority(file: Path | None) -> str:
    """File of the authorities that may sign the server's certificate; empty for the usual ones.

    Raises:
        ConfigError: It cannot be read as one.
    """
    named = str(file or os.environ.get(CA_FILE, ""))
    if named:
        try:
            ssl.create_default_context(cafile=named)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the certificate authority {named} cannot be used",
                evidence=str(error),
                action="Name a PEM file with --ca.",
            ) from error
    return named


def in_the_clear(url: str, opened: Login) -> bool:
    """Whether a login from outside would cross a network that others can read."""
    split = urlsplit(url)
    host = split.hostname or ""
    inside = host in ("localhost", "127.0.0.1", "::1") or "." not in host or host.endswith((".svc", ".local"))
    return split.scheme == "http" and bool(opened.token or opened.cookies) and not inside
