"""Kubeflow Pipelines, asked by plain HTTP: the library needs no kfp to say whether the cluster will take a run.

`healthz` answers without a login on many clusters, so a listing is asked for as well: that shows a bad token.
"""

import contextlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from sa2net.steps.doctor.findings import Finding, Options, fail, note, ok, shortened
from sa2net.steps.doctor.web import Answer, NoAnswerError, ask, without_user

_HEALTH = "/apis/v2beta1/healthz"
_EXPERIMENTS = "/apis/v2beta1/experiments"
_MOUNTED_TOKEN = "/var/run/secrets/kubeflow/pipelines/token"  # noqa: S105 - where the kfp client looks
_TAGS = ("tag_name", "apiServerTagName", "api_server_tag_name")
_NEW_TOKEN = "export KF_PIPELINES_TOKEN=$(kubectl create token ACCOUNT --audience pipelines.kubeflow.org)"  # noqa: S105


def kfp_address(endpoint: str) -> str:
    """The address as the kfp client reads it: https where no scheme is given; without the user."""
    return without_user(endpoint if "://" in endpoint else f"https://{endpoint}")


def check_kfp(options: Options) -> Finding:
    """Whether the Kubeflow Pipelines API answers, to us."""
    if not options.kfp_endpoint:
        return note(
            "no endpoint: runs stay on this machine",
            "export KF_PIPELINES_ENDPOINT=https://HOST/pipeline, or --kfp-endpoint",
        )
    address = kfp_address(options.kfp_endpoint)
    if "#" in address:
        return fail(f"{address} is a page of the UI", f"Use {address.partition('#')[0].rstrip('/')}")
    headers = login()
    authority = os.environ.get("KF_PIPELINES_SSL_CA_CERT", "")

    def question(path: str) -> Answer:
        return ask(address + path, patience=options.patience, headers=headers, proxies=False, authority=authority)

    try:
        answer = question(_HEALTH)
        fault = explain(address, answer, has_token=bool(headers))
        if fault:
            return fault
        query = {"page_size": "1"} | ({"namespace": options.kfp_namespace} if options.kfp_namespace else {})
        listing = question(f"{_EXPERIMENTS}?{urlencode(query)}")
    except NoAnswerError as error:
        return fail(error.evidence, error.cure.replace("SSL_CERT_FILE", "KF_PIPELINES_SSL_CA_CERT"))
    # 400 is how a server for several users asks for the namespace: it has accepted the caller.
    if listing.status != 400 and (fault := explain(address, listing, has_token=bool(headers))):
        return fault
    return ok(f"{address}{_described(answer.document)}")


def explain(address: str, answer: Answer, *, has_token: bool) -> Finding | None:
    """What is wrong with an answer of the API; None where it is one."""
    if answer.status in (401, 403):
        if has_token:
            return fail(
                f"{address} refuses the login ({answer.status})",
                f"It may have expired, or may not see the namespace: {_NEW_TOKEN}",
            )
        return fail(f"{address} wants a login ({answer.status})", _NEW_TOKEN)
    if answer.redirect:
        return _explain_redirect(address, answer, has_token=has_token)
    if answer.status in (502, 503, 504):
        return fail(
            f"{address}: the gateway is up, the API is not ({answer.status})",
            "kubectl --namespace kubeflow get pods: is ml-pipeline ready?",
        )
    if answer.status == 404:
        return fail(
            f"{address} has no {_HEALTH} (404)", "On a full Kubeflow the API is HOST/pipeline; KFP 2 is needed."
        )
    if answer.is_page:
        return fail(
            f"{address} answers with a web page, not with the API",
            "A login page or the UI: try HOST/pipeline, a token in KF_PIPELINES_TOKEN, or a port-forward to ml-pipeline.",
        )
    if answer.status != 200:
        return fail(
            f"{address} answers {answer.status}: {shortened(answer.body.decode(errors='replace'), 80)}",
            "Look at the log of ml-pipeline.",
        )
    if not isinstance(answer.document, dict):
        return fail(
            f"{address} answers, but not in JSON", "Check that the address is that of the Kubeflow Pipelines API."
        )
    return None


def _explain_redirect(address: str, answer: Answer, *, has_token: bool) -> Finding:
    here, there = urlsplit(address), urlsplit(answer.redirect)
    if there.scheme == "https" and here.scheme == "http" and there.hostname == here.hostname and not answer.wants_login:
        return fail(f"{address} redirects to https", "Write https:// in the endpoint.")
    target = f"{there.netloc.rpartition('@')[2]}{there.path}"
    if answer.wants_login:
        what = "does not take the login and sends" if has_token else "sends"
        return fail(f"{address} {what} us to a login ({target})", f"{_NEW_TOKEN}; or a port-forward to ml-pipeline")
    return fail(f"{address} redirects to {target}", "Write that address in the endpoint, up to /apis.")


def _described(document: Any) -> str:
    words = [str(document[key]) for key in _TAGS if document.get(key)][:1]
    words += ["for several users"] if document.get("multi_user") is True else []
    return f" ({', '.join(words)})" if words else ""


def login() -> dict[str, str]:
    """The header that opens the door: a token, a session, or the token that a cluster mounts; empty without any."""
    token = os.environ.get("KF_PIPELINES_TOKEN", "").strip().removeprefix("Bearer ")
    session = os.environ.get("KF_PIPELINES_COOKIES", "").strip()
    if session and not token:
        return {"Cookie": session}
    file = Path(os.environ.get("KF_PIPELINES_SA_TOKEN_PATH") or _MOUNTED_TOKEN)
    if not token and file.is_file():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            token = file.read_text(encoding="utf-8").strip()
    return {"Authorization": f"Bearer {token}"} if token else {}
