"""Objects below an S3 prefix, and what an S3 client's errors mean. One home of boto3, with `bucket`.

The client's own retries are off, since `objects.Retry` does them for all stores alike, and every wait has an end.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sa2net.data.store.objects import CHUNK, MissingObjectError, ObjectStore, Retry, StoredObject, TransientError
from sa2net.errors import ConfigError, Sa2NetError, StorageError

CONNECT_SECONDS = 10
ANSWER_SECONDS = 60
"""Longest wait for a connection, and for the next bytes of an answer."""

_KEYS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN with temporary keys)."
_RIGHTS = "Check the keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do there."
_REGION = "Name the bucket's region, with the setting `region` or AWS_DEFAULT_REGION."
_SERVER = "Check the address of the S3 server (endpoint_url, or AWS_ENDPOINT_URL), and that it runs."

_REFUSED = {
    "ExpiredToken": "The temporary keys have expired: get new ones.",
    "InvalidToken": "AWS_SESSION_TOKEN does not belong to these keys: unset it, or get new ones.",
    "RequestTimeTooSkewed": "The clock of this machine is wrong: set it.",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID: set both anew.",
    "InvalidAccessKeyId": "The server does not know AWS_ACCESS_KEY_ID: set a key of this server.",
}
_OTHER_REGION = ("301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_IN_PASSING = ("SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "RequestTimeoutException")
_MISSING = ("NoSuchKey", "404", "NotFound", "NoSuchVersion")


def connect(endpoint_url: str = "", region: str = "", *, connections: int = 16) -> Any:
    """An S3 client with bounded waits and without retries of its own.

    Against a server other than Amazon's, checksums are sent only where an operation demands them, since several of
    those servers refuse the trailers that the client adds otherwise; `AWS_REQUEST_CHECKSUM_CALCULATION` overrides it.

    Args:
        endpoint_url: Address of the server; empty = that of the AWS settings.
        region: Region; empty = that of the AWS settings.
        connections: Connections, at most.

    Raises:
        ConfigError: A setting that cannot be used.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, PartialCredentialsError

    address = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    _check_endpoint(address)
    settings: dict[str, Any] = {}
    if address:
        for option, variable in (
            ("request_checksum_calculation", "AWS_REQUEST_CHECKSUM_CALCULATION"),
            ("response_checksum_validation", "AWS_RESPONSE_CHECKSUM_VALIDATION"),
        ):
            if not os.environ.get(variable):
                settings[option] = "when_required"
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=connections,
        **settings,
    )
    try:
        session = boto3.session.Session()
        return session.client("s3", endpoint_url=address or None, region_name=region or None, config=config)
    except PartialCredentialsError as error:
        raise StorageError("the keys for S3 are not complete", evidence=_plain(str(error)), action=_KEYS) from error
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(
            "the settings of the S3 client cannot be used",
            evidence=_plain(str(error)),
            action="Check endpoint_url, region and the AWS_* variables.",
        ) from error


def _check_endpoint(address: str) -> None:
    if not address:
        return
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise ConfigError("the address of the S3 server holds a user or password", action=_KEYS)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"{address!a} is no address of a server", action="Write http(s)://HOST:PORT.")


class S3Store(ObjectStore):
    """Objects of a bucket whose keys start with a prefix."""

    def __init__(self, address: str, retry: Retry, client: Any, bucket: str, prefix: str) -> None:
        super().__init__(address, retry)
        self._client, self._bucket, self._prefix = client, bucket, f"{prefix}/" if prefix else ""

    def chunks(self, name: str) -> Iterator[bytes]:
        """See `ObjectStore.chunks`."""
        with storage_errors(self.address_of(name), self._client):
            body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"]
            with contextlib.closing(body):
                yield from body.iter_chunks(CHUNK)

    def _list(self, prefix: str) -> Iterator[StoredObject]:
        with storage_errors(self.address_of(prefix), self._client):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", []):
                    name = item["Key"][len(self._prefix) :]
                    if name and not name.endswith("/"):  # the markers that consoles make for empty folders
                        yield StoredObject(name, int(item["Size"]), str(item["ETag"]).strip('"'))

    def _find(self, name: str) -> StoredObject | None:
        try:
            with storage_errors(self.address_of(name), self._client):
                found = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
        except MissingObjectError:
            return None
        return StoredObject(name, int(found["ContentLength"]), str(found["ETag"]).strip('"'))

    def _put(self, file: Path, name: str) -> None:
        from boto3.s3.transfer import TransferConfig

        settings = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=64 << 20, use_threads=False)
        with storage_errors(self.address_of(name), self._client), file.open("rb") as stream:
            self._client.upload_fileobj(stream, self._bucket, self._prefix + name, Config=settings)

    def _write(self, name: str, content: bytes) -> None:
        with storage_errors(self.address_of(name), self._client):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content)

    def _delete(self, name: str) -> None:
        with storage_errors(self.address_of(name), self._client), contextlib.suppress(MissingObjectError):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)


@contextlib.contextmanager
def storage_errors(address: str, client: Any) -> Iterator[None]:
    """Turn what the S3 client raises into errors that say what to do.

    Args:
        address: What was asked for.
        client: Who was asked.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    host = urlsplit(client.meta.endpoint_url).netloc
    try:
        yield
    except ClientError as error:
        raise _answered(address, error) from error
    except BotoCoreError as error:
        raise _unanswered(address, host, error) from error
    except HTTPError as error:  # in the middle of a body the client lets some of them through
        raise TransientError(
            f"the S3 server does not answer for {address}",
            evidence=f"the connection to {host} broke off",
            action=_SERVER,
        ) from error
    except ResponseParserError as error:
        raise StorageError(f"{host} does not speak S3", evidence=f"asked for {address}", action=_SERVER) from error


def status_of(error: Any) -> tuple[str, int]:
    """Code and HTTP status of an S3 server's error."""
    details = error.response.get("Error", {})
    return str(details.get("Code", "")), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _answered(address: str, error: Any) -> Sa2NetError:
    """What an error answer of the server means."""
    code, status = status_of(error)
    evidence = f"HTTP {status}" if code == str(status) else f"HTTP {status} {code}"
    message = _plain(str(error.response.get("Error", {}).get("Message", "")))
    if message and message != code:
        evidence += f", {message}"
    if code == "NoSuchBucket":
        bucket = address.removeprefix("s3://").partition("/")[0]
        return StorageError(
            f"there is no bucket {bucket}", evidence=evidence, action="Correct the address, or make the bucket."
        )
    if code in _MISSING:
        return MissingObjectError(f"{address} does not exist", evidence=evidence, action="Check the address.")
    if code == "InvalidBucketName":
        return ConfigError(f"{address} names no bucket", evidence=evidence, action="Correct the name of the bucket.")
    if code in _OTHER_REGION:
        return StorageError(f"{address} is in another region", evidence=evidence, action=_REGION)
    if status in (401, 403) or code in _REFUSED:
        action = _REFUSED.get(code, _RIGHTS)
        return StorageError(f"the S3 server refuses {address}", evidence=evidence, action=action)
    if (status >= 500 and status != 501) or status == 429 or code in _IN_PASSING:
        return TransientError(f"the S3 server fails with {address}", evidence=evidence, action="Try again later.")
    return StorageError(f"the S3 server does not do {address}", evidence=evidence, action=_SERVER)


def _unanswered(address: str, host: str, error: Exception) -> Sa2NetError:
    """What an error of the client without an answer of the server means."""
    from botocore import exceptions

    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return StorageError("there are no keys for S3", evidence=f"asked for {address}", action=_KEYS)
    if isinstance(error, exceptions.CredentialRetrievalError | exceptions.UnauthorizedSSOTokenError):
        return StorageError("the keys for S3 cannot be had", evidence=type(error).__name__, action=_KEYS)
    if isinstance(error, exceptions.SSLError):
        return StorageError(
            f"the certificate of {host} is not trusted",
            evidence=_plain(str(error)),
            action="Set AWS_CA_BUNDLE to the file of its authority.",
        )
    reasons = (
        (exceptions.ConnectTimeoutError, f"no connection to {host} within {CONNECT_SECONDS} s"),
        (exceptions.ReadTimeoutError, f"no answer from {host} within {ANSWER_SECONDS} s"),
        (exceptions.ConnectionError, f"no connection to {host}"),
        (exceptions.HTTPClientError, f"the connection to {host} broke off"),
        (exceptions.IncompleteReadError, f"the answer of {host} is not whole"),
        (exceptions.FlexibleChecksumError, f"the answer of {host} does not fit its checksum"),
    )
    for kind, evidence in reasons:
        if isinstance(error, kind):
            return TransientError(f"the S3 server does not answer for {address}", evidence=evidence, action=_SERVER)
    return ConfigError(
        f"{address} cannot be asked for with these settings",
        evidence=_plain(str(error)),
        action="Check the address, region and AWS_* variables.",
    )


def _plain(text: str) -> str:
    """A text from outside, fit for one line of a message."""
    return "".join(character if character.isprintable() else " " for character in text)[:300].strip()
