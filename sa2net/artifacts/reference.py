"""`reference.json` of a model folder: what the scans that the model was made with look like, to hold later scans against.

Of each device and signal the values are kept in order of size: no name of a scan, nobody who was scanned, and no way to
put the values of one scan together again.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from sa2net.artifacts.files import read_json, write_json
from sa2net.artifacts.names import REFERENCE
from sa2net.errors import DataError


class DeviceReference(BaseModel):
    """The scans of one device.

    Attributes:
        device: Scanner; empty where it is not known.
        scans: How many scans there are.
        signals: Signal -> its known values, ascending (`sa2net.evaluation.drift.SIGNALS`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    device: str = ""
    scans: int
    signals: dict[str, tuple[float, ...]]

    @field_validator("signals")
    @classmethod
    def _ascending(cls, signals: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        return {name: tuple(sorted(values)) for name, values in signals.items()}


class Reference(BaseModel):
    """What later scans are compared with.

    Attributes:
        settings: How the network was used, named as in the section `evaluate`; later scans are to be seen the same way.
        devices: By name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal[1] = 1
    settings: dict[str, Any]
    devices: tuple[DeviceReference, ...]


def write_reference(folder: Path, reference: Reference) -> None:
    """Write `reference.json` into a model folder."""
    write_json(folder / REFERENCE, reference.model_dump(mode="json"))


def read_reference(folder: Path) -> Reference | None:
    """Read `reference.json` of a model folder; None in one that holds none, as all did once.

    Raises:
        DataError: It is there and cannot be used.
    """
    path = folder / REFERENCE
    if not path.exists():
        return None
    try:
        return Reference.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(
            f"{path} cannot be used",
            evidence=str(error),
            action="Use the version that wrote it, or restore the model folder from the registry.",
        ) from error
