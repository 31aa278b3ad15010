"""Make a bucket fit for scans of patients: nothing is lost by a slip, nothing is public, nothing lies there for ever.

Every setting is read first and only changed where it falls short, so that a second run changes nothing. What is stricter
already stays: a stronger encryption than asked for; old versions that are kept longer (what is deleted does not come
back); incomplete uploads that are dropped sooner. (A bucket without any rule for old versions gets one: scans of patients may
not be kept for ever by accident.) Rules and statements of others are never changed or taken away; where
one of them stands against what was asked for, that is said.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sa2net.data.store.lifecycle import abort_uploads, keep_versions
from sa2net.data.store.objects import Retry
from sa2net.data.store.s3 import status_of, storage_errors
from sa2net.errors import ConfigError, StorageError

Verdict = Literal["ok", "changed", "would change", "differs", "not supported"]

_ABSENT = 404
_UNKNOWN = frozenset({"NotImplemented", "XNotImplemented", "MethodNotAllowed"})
_MISTAKEN = frozenset({"BucketAlreadyExists", "BucketAlreadyOwnedByYou"})
"""Answers to a changed setting by servers that take it for the making of a bucket."""

_LOOKS, _LOOK_SECONDS = 4, 0.7
"""How often, and how far apart, a change is looked for before a server is said not to keep it."""

_STRENGTH = {"AES256": 1, "aws:kms": 2, "aws:kms:dsse": 3}
_ACCESS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_SID = "Sa2netRefusePlainHttp"


@dataclass(frozen=True)
class Wanted:
    """What a bucket should be like.

    Attributes:
        keep_days: Days for which a replaced or deleted version of an object is kept, at least.
        abort_days: Days after which an upload that was never finished is dropped, at most.
        kms_key: Key of the key management service that encrypts; empty = keys of the store itself (SSE-S3).
        https_only: Refuse requests over plain HTTP.
    """

    keep_days: int = 90
    abort_days: int = 7
    kms_key: str = ""
    https_only: bool = False


@dataclass(frozen=True)
class Outcome:
    """What was found of a setting, or done.

    Attributes:
        setting: Its name.
        verdict: `ok`: as wanted or stricter; `changed`; `would change` (dry run); `differs`: a rule of somebody else
            stands against it; `not supported` by this server.
        detail: In words.
    """

    setting: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Setting:
    """One setting of a bucket.

    Attributes:
        name: For people.
        detail: What it should be, in words.
        read: Gives what is there; None where nothing is.
        needed: What has to be put there, from what is there; None where nothing has to.
        put: Puts it.
        hindrance: What stands against it, from what is there; empty where nothing does.
    """

    name: str
    detail: str
    read: Callable[[], Any]
    needed: Callable[[Any], Any]
    put: Callable[[Any], object]
    hindrance: Callable[[Any], str] = lambda _: ""


class _NotSupportedError(Exception):
    """The server does not know a setting."""


def prepare(client: Any, bucket: str, wanted: Wanted, *, dry_run: bool = False) -> Iterator[Outcome]:
    """Bring a bucket to what is wanted, setting by setting.

    Args:
        client: See `sa2net.data.store.s3.connect`.
        bucket: Its name; it is made if there is none.
        wanted: What it should be like.
        dry_run: Read alone. Whether a server supports what it does not have yet is only known by trying.

    Yields:
        One outcome a setting, as soon as it is known.

    Raises:
        StorageError: The server refuses us or does not answer, or the bucket is somebody else's.
        ConfigError: A name or setting that cannot be used.
    """
    if wanted.https_only and str(client.meta.endpoint_url).startswith("http://"):
        raise ConfigError(
            "plain HTTP cannot be refused over plain HTTP",
            evidence=f"the server's address is {client.meta.endpoint_url}",
            action="Leave --https-only out, or name the https:// address of the server.",
        )
    made = _make(client, bucket, dry_run=dry_run)
    yield made
    for setting in _settings(client, bucket, wanted):
        if made.verdict == "would change":
            yield Outcome(setting.name, "would change", setting.detail)
        else:
            yield _settle(setting, bucket, client, dry_run=dry_run)


def _make(client: Any, bucket: str, *, dry_run: bool) -> Outcome:
    """Make the bucket if there is none."""
    from botocore.exceptions import ClientError

    try:
        _asked(client, bucket, lambda: client.head_bucket(Bucket=bucket))
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, ClientError) or status_of(cause)[1] != _ABSENT:
            raise
    else:
        return Outcome("bucket", "ok", f"{bucket} is there")
    if dry_run:
        return Outcome("bucket", "would change", f"{bucket} would be made")
    region = client.meta.region_name
    place = {} if region in (None, "", "us-east-1", "aws-global") else {"LocationConstraint": region}
    more = {"CreateBucketConfiguration": place} if place else {}
    try:
        _asked(client, bucket, lambda: client.create_bucket(Bucket=bucket, **more))
    except StorageError as error:
        code = status_of(error.__cause__)[0] if isinstance(error.__cause__, ClientError) else ""
        if code == "BucketAlreadyExists":
            raise StorageError(
                f"the bucket {bucket} belongs to somebody else", evidence=code, action="Choose another name."
            ) from error
        if code != "BucketAlreadyOwnedByYou":  # made by another process of ours just now
            raise
    return Outcome("bucket", "changed", f"{bucket} was made")


def _settle(setting: Setting, bucket: str, client: Any, *, dry_run: bool) -> Outcome:
    try:
        found = _read(setting, bucket, client)
        hindrance = setting.hindrance(found)
        if hindrance:
            return Outcome(setting.name, "differs", hindrance)
        needed = setting.needed(found)
        if needed is None:
            return Outcome(setting.name, "ok", setting.detail)
        if dry_run:
            return Outcome(setting.name, "would change", setting.detail)
        _asked(client, bucket, lambda: setting.put(needed), changing=True)
        for look in range(_LOOKS):
            time.sleep(_LOOK_SECONDS if look else 0)  # a large store needs a moment
            if setting.needed(_read(setting, bucket, client)) is None:
                return Outcome(setting.name, "changed", setting.detail)
    except _NotSupportedError:
        return Outcome(setting.name, "not supported", "by this server")
    return Outcome(setting.name, "not supported", "by this server: it took the setting and did not keep it")


def _read(setting: Setting, bucket: str, client: Any) -> Any:
    from botocore.exceptions import ClientError

    try:
        return _asked(client, bucket, setting.read)
    except StorageError as error:
        cause = error.__cause__
        # Every setting has its own code for "there is none"; they share the status.
        if isinstance(cause, ClientError) and status_of(cause)[1] == _ABSENT and status_of(cause)[0] != "NoSuchBucket":
            return None
        raise


def _asked(client: Any, bucket: str, call: Callable[[], Any], *, changing: bool = False) -> Any:
    """Ask the server, again where that may help.

    Args:
        client: Who is asked.
        bucket: For messages.
        call: The question.
        changing: Whether it changes a setting of a bucket that is there.
    """
    from botocore.exceptions import ClientError

    def attempt() -> Any:
        with storage_errors(f"s3://{bucket}", client):
            return call()

    try:
        return Retry()(attempt)
    except StorageError as error:
        code, status = status_of(error.__cause__) if isinstance(error.__cause__, ClientError) else ("", 0)
        if code in _UNKNOWN or status in (405, 501) or (changing and code in _MISTAKEN):
            raise _NotSupportedError from error
        raise


def _settings(client: Any, bucket: str, wanted: Wanted) -> Iterator[Setting]:
    whose = {"Bucket": bucket}
    yield Setting(
        "versioning",
        "on: what is replaced or deleted can be brought back",
        read=lambda: client.get_bucket_versioning(**whose),
        needed=lambda found: None if (found or {}).get("Status") == "Enabled" else {"Status": "Enabled"},
        put=lambda needed: client.put_bucket_versioning(**whose, VersioningConfiguration=needed),
    )
    yield Setting(
        "encryption",
        f"with the key {wanted.kms_key}" if wanted.kms_key else "at least with keys of the store (SSE-S3)",
        read=lambda: client.get_bucket_encryption(**whose).get("ServerSideEncryptionConfiguration", {}).get("Rules"),
        needed=lambda found: needed_encryption(found or [], wanted.kms_key),
        put=lambda needed: client.put_bucket_encryption(**whose, ServerSideEncryptionConfiguration={"Rules": [needed]}),
    )
    yield Setting(
        "public access",
        "blocked, whatever a policy or an access list says",
        read=lambda: client.get_public_access_block(**whose).get("PublicAccessBlockConfiguration"),
        needed=lambda found: None if all((found or {}).get(key) for key in _ACCESS) else dict.fromkeys(_ACCESS, True),
        put=lambda needed: client.put_public_access_block(**whose, PublicAccessBlockConfiguration=needed),
    )
    for rule in (keep_versions(wanted.keep_days), abort_uploads(wanted.abort_days)):
        yield Setting(
            rule.name,
            rule.detail,
            read=lambda: client.get_bucket_lifecycle_configuration(**whose),
            needed=rule.needed,
            put=lambda needed: client.put_bucket_lifecycle_configuration(**whose, **needed),
            hindrance=rule.hindrance,
        )
    if wanted.https_only:
        yield Setting(
            "plain http",
            "refused by the bucket's policy",
            read=lambda: _policy(client.get_bucket_policy(**whose)["Policy"]),
            needed=lambda found: needed_policy(found, bucket, client.meta.partition),
            put=lambda needed: client.put_bucket_policy(**whose, Policy=json.dumps(needed)),
        )


def needed_encryption(rules: list[dict[str, Any]], kms_key: str) -> dict[str, Any] | None:
    """The rule that a bucket lacks; None where it encrypts as strongly as asked for, or more.

    Args:
        rules: What is there.
        kms_key: Key that is asked for; empty = any.
    """
    rule = rules[0] if rules else {}
    default = rule.get("ApplyServerSideEncryptionByDefault", {})
    algorithm, key = default.get("SSEAlgorithm", ""), str(default.get("KMSMasterKeyID", ""))
    lowest = "aws:kms" if kms_key else "AES256"
    strong = _STRENGTH.get(algorithm, 0) >= _STRENGTH[lowest]
    if strong and (not kms_key or key == kms_key or key.endswith(f"/{kms_key}")):
        return None
    chosen: dict[str, Any] = {"SSEAlgorithm": algorithm if strong else lowest}
    if kms_key:
        chosen["KMSMasterKeyID"] = kms_key
        if not strong:
            rule = {**rule, "BucketKeyEnabled": True}  # one request to the key service for many objects
    return {**rule, "ApplyServerSideEncryptionByDefault": chosen}


def needed_policy(policy: dict[str, Any] | None, bucket: str, partition: str) -> dict[str, Any] | None:
    """The policy with a statement that refuses plain HTTP; None where one does already.

    Args:
        policy: What is there; its statements stay.
        bucket: Whose policy it is.
        partition: First part of the names of resources: `aws`, `aws-cn`.
    """
    whole = [f"arn:{partition}:s3:::{bucket}", f"arn:{partition}:s3:::{bucket}/*"]
    found = (policy or {}).get("Statement", [])
    statements = found if isinstance(found, list) else [found]
    if any(_refuses_http(statement, whole) for statement in statements):
        return None
    ours = {
        "Sid": _SID,
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": whole,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    kept = [statement for statement in statements if statement.get("Sid") != _SID]
    return {**(policy or {"Version": "2012-10-17"}), "Statement": [*kept, ours]}


def _refuses_http(statement: dict[str, Any], whole: list[str]) -> bool:
    def listed(value: Any) -> list[Any]:
        return value if isinstance(value, list) else [value]

    condition = statement.get("Condition", {})
    return (
        statement.get("Effect") == "Deny"
        and statement.get("Principal") in ("*", {"AWS": "*"}, {"AWS": ["*"]})
        and bool({"*", "s3:*"} & set(listed(statement.get("Action"))))
        and (set(whole) <= set(listed(statement.get("Resource"))) or "*" in listed(statement.get("Resource")))
        and len(condition) == 1
        and any(
            {
                key.lower(): [str(item).lower() for item in listed(value)]
                for key, value in condition.get(kind, {}).items()
            }
            == {"aws:securetransport": ["false"]}
            for kind in ("Bool", "BoolIfExists")
        )
    )


def _policy(text: str) -> dict[str, Any]:
    try:
        policy = json.loads(text)
    except ValueError as error:  # a server that does not know policies and lists the bucket instead
        raise _NotSupportedError from error
    if not isinstance(policy, dict):
        raise _NotSupportedError
    return policy
