"""Ed25519 keys: of the machine or person that writes the audit log, and of the second person that approves.

A private key comes from the environment (PEM text, or the path of a PEM file); for the audit log a machine without one
makes its own in `var/keys/`. A public key is written as the base64 of its SubjectPublicKeyInfo (RFC 8410), which is what
`openssl pkey -pubout` prints between its first and last line.
"""

import base64
import binascii
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from filelock import FileLock

from sa2net.errors import ConfigError
from sa2net.registry import store

AUDIT_KEY = "SA2NET_AUDIT_KEY"
APPROVAL_KEY = "SA2NET_APPROVAL_KEY"
_MAKE = "openssl genpkey -algorithm ed25519 -out KEY.pem"

log = logging.getLogger(__name__)


def audit_key() -> Ed25519PrivateKey:
    """The key that signs this machine's entries of the audit log: `$SA2NET_AUDIT_KEY`, else one of its own.

    Raises:
        ConfigError: The variable or the file holds no such key.
    """
    if os.environ.get(AUDIT_KEY, "").strip():
        return _from_environment(AUDIT_KEY)
    path = store.var_folder() / "keys" / "audit.pem"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            _make(path)
            log.info("a key for the audit log was made in %s; keep it, or name one with %s", path, AUDIT_KEY)
    return _read(path.read_bytes(), str(path))


def approval_key() -> Ed25519PrivateKey:
    """The key of the person who approves: `$SA2NET_APPROVAL_KEY`.

    Raises:
        ConfigError: It is not set, or holds no such key.
    """
    if not os.environ.get(APPROVAL_KEY, "").strip():
        raise ConfigError(
            f"{APPROVAL_KEY} is not set",
            action=f"Set it to your private key (`{_MAKE}`): the path of the PEM file, or its text.",
        )
    return _from_environment(APPROVAL_KEY)


def public_text(key: Ed25519PrivateKey) -> str:
    """The public half of a key, as one line of base64."""
    content = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(content).decode("ascii")


def sign(key: Ed25519PrivateKey, text: str) -> str:
    """The signature of a text, in base64."""
    return base64.b64encode(key.sign(text.encode())).decode("ascii")


def verify(public: str, signature: str, text: str) -> bool:
    """Whether a signature of a text was made with the private half of a key; False also for what is no key at all."""
    try:
        key = serialization.load_der_public_key(base64.b64decode(public, validate=True))
        if not isinstance(key, Ed25519PublicKey):
            return False
        key.verify(base64.b64decode(signature, validate=True), text.encode())
    except (ValueError, TypeError, binascii.Error, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def owner(public: str, listed: Sequence[str]) -> str:
    """The name under which a key stands in a list of NAME:KEY; empty if it does not."""
    return next((name for name, _, key in (item.partition(":") for item in listed) if key == public), "")


def _make(path: Path) -> None:
    content = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    fresh = path.with_suffix(".fresh")
    fresh.unlink(missing_ok=True)  # of a process that was killed here
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
    fresh.replace(path)


def _from_environment(variable: str) -> Ed25519PrivateKey:
    value = os.environ[variable].strip()
    if value.startswith("-----BEGIN"):
        return _read(value.encode(), variable)
    try:
        return _read(Path(value).expanduser().read_bytes(), variable)
    except OSError as error:  # the value is not shown: it may be a key without its frame
        raise ConfigError(
            f"{variable} names no file that can be read",
            evidence=error.strerror or type(error).__name__,
            action="Set it to the path of a PEM file, or to its whole text.",
        ) from error


def _read(content: bytes, place: str) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{place} holds no private key that can be read", action=f"Make one without a password: `{_MAKE}`."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{place} holds a key of another kind", action=f"Make an Ed25519 key: `{_MAKE}`.")
    return key
