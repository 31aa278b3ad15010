"""The model folder: weights, and everything that a later step needs to use them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, ValidationError

from sa2net.artifacts.files import read_json, replaced_folder, write_json
from sa2net.artifacts.names import MODEL_FILES, MODEL_JSON, WEIGHTS
from sa2net.artifacts.reference import Reference, write_reference
from sa2net.config import ModelConfig
from sa2net.errors import DataError

if TYPE_CHECKING:
    import torch

Spacing = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Normalisation(BaseModel):
    """Grey statistics inside the sweep of the train scans, 0-255; the network sees (grey - mean) / std."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mean: FiniteFloat
    std: FiniteFloat = Field(gt=0.0)


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
        members: Networks whose mean the model is; weights of several are named `members.NUMBER.NAME`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    schema_version: Literal[1] = 1
    model: ModelConfig
    class_names: tuple[str, ...]
    normalisation: Normalisation
    sweep_width: PositiveInt
    spacing_mm: tuple[()] | tuple[Spacing, Spacing] = ()
    bounds: DataBounds
    data_md5: str
    params: dict[str, Any]
    members: PositiveInt = 1


def write_model(
    folder: Path, info: ModelInfo, weights: "Mapping[str, torch.Tensor]", reference: Reference | None = None
) -> None:
    """Write a model folder, atomically: it is there whole or not at all. Without a reference no scan is held against it."""
    from safetensors.torch import save_file

    with replaced_folder(folder, MODEL_FILES) as fresh:
        save_file({name: value.detach().cpu().contiguous() for name, value in sorted(weights.items())}, fresh / WEIGHTS)
        write_json(fresh / MODEL_JSON, info.model_dump(mode="json"))
        if reference is not None:
            write_reference(fresh, reference)


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
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{folder / WEIGHTS} cannot be read",
            evidence=str(error),
            action="Restore the model folder from the registry or train again.",
        ) from error
    spoiled = [name for name, value in weights.items() if not value.isfinite().all()]
    if spoiled:
        raise DataError(
            f"{folder / WEIGHTS} holds numbers that are not finite",
            evidence=", ".join(spoiled[:3]) + (f" and {len(spoiled) - 3} more" if len(spoiled) > 3 else ""),
            action="Restore the model folder from the registry or train again.",
        )
    return weights
