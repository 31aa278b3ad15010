"""The folders that cross steps: their file names, and how they are read and written.

A step writes a folder, later steps read it through this module and nothing else. What is written here is
the same bytes for the same content: keys sorted, no times, no paths. Times and run ids go to `run.json` and
`timing.json`, on which no step depends.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sa2net.config import ModelConfig
from sa2net.errors import DataError

if TYPE_CHECKING:
    import torch

MODEL_JSON = "model.json"
WEIGHTS = "weights.safetensors"
VALIDATION_REPORT = "report.json"
VALIDATION_PAGE = "report.html"
MANIFEST = "manifest.csv"
SCORES = "scores.json"
PER_SCAN = "per_scan.csv"
EVALUATION_REPORT = "report.html"
CONFUSION = "confusion.csv"
OVERLAYS = "overlays"
HISTORY = "history.csv"
DECISION = "decision.json"
RUN_JSON = "run.json"
TIMING_JSON = "timing.json"


class Normalisation(BaseModel):
    """Grey statistics inside the sweep of the train scans, 0-255; the network sees (grey - mean) / std."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mean: float
    std: float


class Range(BaseModel):
    """Closed interval that a value should lie in."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: float
    high: float


class DataBounds(BaseModel):
    """What was learnt from the train split, so that later scans can be held against it.

    Attributes:
        sweep_width: Width of the sweep, px at the scans' own scale.
        area: Class name -> share of the sweep's area.
        grey: Class name -> mean grey of its pixels, 0-255.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    sweep_width: Range
    area: dict[str, Range]
    grey: dict[str, Range]


class ModelInfo(BaseModel):
    """`model.json`: everything a later step needs to use the weights.

    Attributes:
        sweep_width: Width of the sweep at working scale, px.
        spacing_mm: Size of a working-scale pixel (x, y), mm; empty where the train scans had none.
        params: The whole configuration of the run that made the weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    schema_version: int = 1
    model: ModelConfig
    class_names: tuple[str, ...]
    normalisation: Normalisation
    sweep_width: int
    spacing_mm: tuple[float, ...] = ()
    bounds: DataBounds
    data_md5: str
    params: dict[str, Any]


def write_model(folder: Path, info: ModelInfo, weights: "Mapping[str, torch.Tensor]") -> None:
    """Write a model folder, atomically: it is there whole or not at all."""
    from safetensors.torch import save_file

    with replaced_folder(folder) as fresh:
        save_file({name: value.detach().cpu().contiguous() for name, value in sorted(weights.items())}, fresh / WEIGHTS)
        write_json(fresh / MODEL_JSON, info.model_dump(mode="json"))


def read_model_info(folder: Path) -> ModelInfo:
    """Read `model.json` of a model folder.

    Raises:
        DataError: The folder is not a model folder, or was written by another version.
    """
    try:
        return ModelInfo.model_validate(read_json(folder / MODEL_JSON))
    except ValidationError as error:
        raise DataError(
            f"{folder / MODEL_JSON} cannot be used",
            evidence=str(error),
            action="Train again with this version, or use the version that wrote it.",
        ) from error


def read_weights(folder: Path) -> "dict[str, torch.Tensor]":
    """Read the weights of a model folder; nothing is unpickled."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{folder / WEIGHTS} cannot be read",
            evidence=str(error),
            action="Restore the model folder from the registry or train again.",
        ) from error


def folder_sha256(folder: Path) -> str:
    """Identity of a folder's content: sha256 over the sorted relative names and contents of its files."""
    digest = hashlib.sha256()
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically: sorted keys, no NaN, a last newline."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: No such file, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read",
            evidence=str(error),
            action="Run the step that writes it, or name the right folder.",
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a JSON object", action="Run the step that writes it again.")
    return content


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Fill a fresh folder beside `folder`, then put it in its place; on an error the old one stays."""
    import shutil

    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    fresh.chmod(0o755)
    try:
        yield fresh
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
