"""What a check is told, what it answers, and what must never stand in an answer: a secret."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

Verdict = Literal["ok", "note", "fail"]

_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL|PRIVATE|COOKIE", re.IGNORECASE)
_PATH_NAME = re.compile(r"(_FILE|_PATH)$", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/\s'\"@]*@")
_SIGNED = re.compile(r"([?&](?:X-Amz-[A-Za-z]+|AWSAccessKeyId|Signature|token|access_token)=)[^&\s'\"]+", re.IGNORECASE)
_GREEDY_USER_INFO = re.compile(r"://(\S*)@")  # a password that was not quoted may hold `/` or `@`
_SHORTEST_SECRET = 4
HIDDEN = "***"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        verdict: `ok`; `note`: something is absent that a run may not need; `fail`: a run that needs it will fail.
        evidence: What was seen.
        cure: What to do; empty where there is nothing to do.
        name: Of the check; `examine` fills it in.
        seconds: What the check took, without loading its packages; `examine` fills it in.
    """

    verdict: Verdict
    evidence: str
    cure: str = ""
    name: str = ""
    seconds: float = 0.0

    def without(self, secrets: Iterable[str]) -> "Finding":
        """The same in one line each, and without these texts or the user of any address."""
        return replace(self, evidence=redacted(self.evidence, secrets), cure=redacted(self.cure, secrets))


@dataclass(frozen=True)
class Options:
    """What the checks look at. Empty texts mean: not configured.

    Attributes:
        build: Folder that the steps write.
        params: Settings file; read where it exists.
        pointer: DVC's pointer of the data set.
        dvc_remote: Name or address of the DVC remote; empty: the one that the pointer names.
        s3: `s3://BUCKET/PREFIX` below which a probe is written.
        endpoint_url: S3 server; empty: that of the AWS settings.
        region: Region of the bucket; empty: that of the AWS settings.
        kfp_endpoint: Address of Kubeflow Pipelines.
        kfp_namespace: Kubernetes namespace that runs are looked for in.
        free_gb: What must be free for `build/` and `var/`, GB (10^9 bytes).
        free_temp_gb: The same for temporary files.
        free_shm_gb: The same for shared memory.
        patience: Seconds to connect to a server, and again for each answer.
    """

    build: Path = Path("build")
    params: Path = Path("params.yaml")
    pointer: Path = Path("data.dvc")
    dvc_remote: str = ""
    s3: str = ""
    endpoint_url: str = ""
    region: str = ""
    kfp_endpoint: str = ""
    kfp_namespace: str = ""
    free_gb: float = 5.0
    free_temp_gb: float = 1.0
    free_shm_gb: float = 1.0
    patience: float = 3.0


def ok(evidence: str) -> Finding:
    """All is well."""
    return Finding("ok", evidence)


def note(evidence: str, cure: str = "") -> Finding:
    """Something is absent or unusual that a run may not need."""
    return Finding("note", evidence, cure)


def fail(evidence: str, cure: str) -> Finding:
    """A run that needs this will fail."""
    return Finding("fail", evidence, cure)


def secrets_of(options: Options, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Every text of the environment and the options that must not be shown, longest first."""
    found: set[str] = set()
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and not _PATH_NAME.search(name):
            found.update((value, value.strip()))
        found.update(_user_secrets(value))
    for field in fields(options):
        found.update(_user_secrets(str(getattr(options, field.name))))
    found |= {form for secret in found for form in (quote(secret, safe=""), unquote(secret))}
    return tuple(sorted((secret for secret in found if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True))


def _user_secrets(text: str) -> Iterator[str]:
    """The `user:password` of an address, and the password alone."""
    for match in _GREEDY_USER_INFO.finditer(text):
        user_info = match.group(1)
        yield user_info
        yield user_info.partition(":")[2]


def redacted(text: str, secrets: Iterable[str]) -> str:
    """A text as one line, without secrets and without the user of any address."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = _SIGNED.sub(rf"\1{HIDDEN}", _USER_INFO.sub("", text))
    return " ".join(text.split())


def shortened(error: BaseException | str, length: int = 160) -> str:
    """The first words of a message that another program wrote."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else text[: length - 3].rstrip() + "..."


def as_document(findings: Iterable[Finding], *, exit_code: int, version: str) -> dict[str, Any]:
    """The findings for machines."""
    return {
        "schema_version": 1,
        "sa2net_version": version,
        "exit_code": exit_code,
        "findings": [
            {
                "name": finding.name,
                "verdict": finding.verdict,
                "evidence": finding.evidence,
                "cure": finding.cure,
                "seconds": round(finding.seconds, 2),
            }
            for finding in findings
        ],
    }
