"""An S3 bucket: can we write, read, list and delete there? And why an S3 server says no, in words that help.

The probe has a random name below `PREFIX/.sa2net-doctor/`, and is taken away whatever happens on the way.
"""

import os
import secrets as randomness
from dataclasses import dataclass

from sa2net.data.store.objects import ObjectStore, open_store, split_s3
from sa2net.errors import Sa2NetError
from sa2net.steps.doctor.findings import Finding, Options, fail, note, ok, shortened
from sa2net.steps.doctor.web import NoAnswerError, ask, host_of, without_user

PROBES = ".sa2net-doctor"
_SIZE = 256
"""Bytes of the probe."""

_DENIED = frozenset({"AccessDenied", "Forbidden", "403", "AllAccessDisabled", "UnauthorizedAccess"})
_RIGHTS = {"write": "s3:PutObject", "read": "s3:GetObject", "list": "s3:ListBucket", "delete": "s3:DeleteObject"}


def check_s3(options: Options) -> Finding:
    """Whether a bucket can be written, read, listed and cleared; a probe is left nowhere."""
    if not options.s3:
        return note(
            "no bucket named", "--s3 s3://BUCKET/PREFIX or SA2NET_S3, with --endpoint-url for a server of your own"
        )
    split_s3(options.s3)
    if fault := server_fault(options.endpoint_url or endpoint_of_environment(), options.patience):
        return fault
    place = f"{options.s3.rstrip('/')}/{PROBES}"
    return probe(options.s3, open_store(place, endpoint_url=options.endpoint_url, region=options.region, retries=0))


def endpoint_of_environment() -> str:
    """The S3 server that the AWS settings of the environment name."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def server_fault(endpoint: str, patience: float) -> Finding | None:
    """Why an S3 server cannot be talked to at all, found out sooner than the S3 client would; None where it can."""
    if not endpoint:
        return None
    try:
        answer = ask(f"{without_user(endpoint)}/", patience=patience)
    except NoAnswerError as error:
        cure = error.cure.replace("SSL_CERT_FILE", "AWS_CA_BUNDLE and SSL_CERT_FILE")
        return fail(f"S3: {error.evidence}", cure)
    if answer.is_page:
        return fail(
            f"{host_of(endpoint)} shows a web page, not S3", "Use the port of the S3 API, not that of the console."
        )
    return None


def probe(address: str, store: ObjectStore) -> Finding:
    """Write, read, list and delete one small object.

    Args:
        address: `s3://BUCKET/PREFIX`, to be shown.
        store: The folder of the probes there, opened.
    """
    name = randomness.token_hex(8)
    step = _Step()
    try:
        finding = _exercise(address, store, name, step)
    except Sa2NetError as error:
        finding = explain(address, step.name, error)
        if step.name == "write" and code_of(error):
            step.written = False  # refused: nothing is there
    finally:  # also if this process is told to end
        left = step.written and not _cleared(store, name)
    if not left:
        return finding
    return fail(
        finding.evidence, f"{finding.cure} Then delete {address.rstrip('/')}/{PROBES}/{name}, which may be left."
    )


@dataclass
class _Step:
    """How far the probe has come.

    Attributes:
        name: What is being done.
        written: Whether the probe may be there: also where it was taken and the answer was lost.
    """

    name: str = "write"
    written: bool = False


def _exercise(address: str, store: ObjectStore, name: str, step: _Step) -> Finding:
    content = randomness.token_bytes(_SIZE)
    step.written = True
    store.write(name, content)
    step.name = "read"
    if store.read(name) != content:
        return fail(f"{address} gave back other bytes than were written", "Do not use this store: look at its disk.")
    step.name = "list"
    if name not in {item.name for item in store.list()}:
        return fail(f"{address} does not list what it has just taken", "Use a store that is consistent after a write.")
    step.name = "delete"
    store.delete(name)
    if store.exists(name):
        return fail(f"{address} still holds what was deleted", "Look for a policy that forbids to delete.")
    step.written = False
    return ok(f"{address}: wrote, read, listed and deleted a probe")


def _cleared(store: ObjectStore, name: str) -> bool:
    """Whether the probe is gone, after another try to delete it."""
    try:
        store.delete(name)
        return not store.exists(name)
    except Sa2NetError:
        return False


def explain(address: str, step: str, error: Sa2NetError) -> Finding:
    """Why a store did not do a step (a verb).

    Args:
        address: To be shown.
        step: What was tried: write, read, list, delete.
        error: What came of it; the client's own error may stand behind ours.
    """
    code = code_of(error)
    if code in _DENIED:
        return fail(f"{address}: these keys may not {step} ({code})", f"Give them {_RIGHTS[step]}, or use other keys.")
    return fail(f"{address}: cannot {step}: {error.what} ({shortened(error.evidence)})", error.action)


def code_of(error: BaseException) -> str:
    """The code with which an S3 server refused; empty where it did not."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict) and response.get("Error", {}).get("Code"):
            return str(response["Error"]["Code"])
        cause = cause.__cause__
    return ""
