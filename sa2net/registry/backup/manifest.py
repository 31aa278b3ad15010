"""What a backup says of itself: a zip whose manifest names every file in it with size and sha256.

Files lie in it under readable names, so that any unzip gives a model back. A content that comes twice (the weights lie
with the training and with the version) is stored once. The same content gives the same bytes: no times, a fixed order.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MANIFEST = "manifest.json"
KIND: Literal["sa2net registry backup"] = "sa2net registry backup"
SCHEMA_VERSION: Literal[1] = 1
LARGEST_DOCUMENT = 1 << 28
"""Bytes of a JSON document, which is read whole."""


class Item(BaseModel):
    """A file of a backup.

    Attributes:
        sha256: Of its content.
        size: Bytes.
        member: Name under which the same content is stored; empty = its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    member: str = ""


class Manifest(BaseModel):
    """What is in a backup.

    Attributes:
        kind: Says that it is one.
        schema_version: Of its form.
        name: Registered model.
        made_with: Package -> version.
        faults: What was wrong with the registry when it was made, as sentences.
        files: Name -> file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["sa2net registry backup"] = KIND
    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(pattern=r"^[A-Za-z0-9_\-]+$")
    made_with: dict[str, str]
    faults: tuple[str, ...] = ()
    files: dict[str, Item]


def is_safe(name: str) -> bool:
    """Whether a name stays below the folder that it is put into, on every system."""
    parts = name.split("/")
    return (
        0 < len(name) <= 1000
        and name.isprintable()
        and "\\" not in name
        and ":" not in parts[0]
        and not any(part in ("", ".", "..") for part in parts)
    )
