"""The clock: S3 and many logins refuse a caller whose clock is wrong, and do not say so plainly."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

from sa2net.errors import Sa2NetError
from sa2net.steps.doctor.cluster import kfp_address
from sa2net.steps.doctor.findings import Finding, Options, fail, note, ok
from sa2net.steps.doctor.web import NoAnswerError, ask, without_user

REFUSED_BEYOND = 900.0
"""Seconds: where S3 refuses a signature."""
NOTED_BEYOND = 60.0
_CURE = "timedatectl set-ntp true (in a virtual machine: let it follow its host)"


def check_clock(options: Options) -> Finding:
    """How far this clock is from those of the servers in use."""
    servers = servers_in_use(options)
    if not servers:
        return note("no server to compare with", "It is compared where MLflow, S3 or Kubeflow are on a server.")
    with ThreadPoolExecutor(len(servers)) as pool:
        found = list(pool.map(lambda url: seconds_ahead(url, options.patience), servers.values()))
    offsets = {name: offset for name, offset in zip(servers, found, strict=True) if offset is not None}
    if not offsets:
        return note(f"none of {', '.join(servers)} told the time", "Mend the checks of these servers first.")
    return judge(offsets)


def judge(offsets: dict[str, float]) -> Finding:
    """What the offsets (server -> seconds that this clock is ahead) mean."""
    worst = max(abs(offset) for offset in offsets.values())
    evidence = ", ".join(
        f"{abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} {name}" for name, offset in offsets.items()
    )
    if worst > REFUSED_BEYOND:
        return fail(f"{evidence}: S3 refuses signatures beyond 15 minutes", _CURE)
    if worst > NOTED_BEYOND:
        return note(evidence, _CURE)
    return ok(f"within {max(worst, 1):.0f} s of {', '.join(offsets)}")


def servers_in_use(options: Options) -> dict[str, str]:
    """Name -> web address of every configured server."""
    from sa2net.registry.store import tracking_uri

    servers = {}
    try:
        uri = tracking_uri()
    except Sa2NetError:
        uri = ""
    if uri.startswith(("http://", "https://")):
        servers["mlflow"] = f"{without_user(uri)}/health"
    named = options.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if named or options.s3:
        servers["s3"] = without_user(named or "https://s3.amazonaws.com") + "/"
    if options.kfp_endpoint:
        servers["kfp"] = kfp_address(options.kfp_endpoint).partition("#")[0].rstrip("/") + "/"
    return servers


def seconds_ahead(url: str, patience: float) -> float | None:
    """Seconds that this clock is ahead of a server's; None where it does not tell the time."""
    started = time.time()
    try:
        answer = ask(url, patience=patience)
    except NoAnswerError:
        return None
    middle = (started + time.time()) / 2
    try:
        told = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        age = float(answer.headers.get("Age", "0"))  # a cache tells the time of then
    except (TypeError, ValueError):
        return None
    offset = middle - told - age
    return 0.0 if 0.0 <= offset < 1.0 else offset  # the header has whole seconds
