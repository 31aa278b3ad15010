"""Make a model folder of a checkpoint of the published code (mmcv), so that everything here can use those weights.

The file is a pickle, and is only ever read by torch's restricted reader: tensors and plain values, and the numpy
numbers that trainers note beside them. A file that asks for anything else is refused, whatever it is.
"""

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from pydantic import ValidationError
from torch import Tensor

from sa2net.anatomy import CLASS_NAMES, NUM_CLASSES
from sa2net.artifacts import (
    MODEL_FILES,
    DataBounds,
    ModelInfo,
    Range,
    check_replaceable,
    file_sha256,
    write_model,
)
from sa2net.config import AugmentConfig, TrainConfig
from sa2net.data.checks import check_spacing
from sa2net.data.framing import LARGEST_SIDE
from sa2net.errors import ConfigError, DataError
from sa2net.model.released import HEADS, MEAN, STD, convert

SWEEP_WIDTH = 310
"""Width of the sweep in the pictures that the published code shows its network, px.

It brings a scan of 640 x 2574 px, whose sweep is 390 px wide, into 2048 x 512 px without stretching: 0.796 of its size.
"""
CROP = 512
"""Side of the published crops, px; the windows of a sliding prediction."""

# Both names: numpy 2 moved the module, and reads the old name in old files.
_NUMBERS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    *((multiarray.scalar, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
]
_WHERE_TRUSTED = (
    "Where you trust the file and have the packages that wrote it, save its weights alone: "
    "torch.save({'state_dict': torch.load(FILE, weights_only=False)['state_dict']}, NEW)."
)


@dataclass(frozen=True)
class Imported:
    """A model folder made of a released checkpoint.

    Attributes:
        out: The folder.
        network: What the network is called: our name of its backbone, or `unet`.
        notes: What a person should know, as sentences.
    """

    out: Path
    network: str
    notes: tuple[str, ...]


def run(
    checkpoint: Path,
    out: Path,
    *,
    sweep_width: int = SWEEP_WIDTH,
    spacing_mm: tuple[float, float] | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    heads: int = HEADS,
) -> Imported:
    """Read a checkpoint and write a model folder.

    Args:
        checkpoint: File of mmcv (`meta`, `state_dict`, `optimizer`), or a state dict alone.
        out: Model folder to write; an old model folder is replaced.
        sweep_width: Width of the sweep at the scale the network was trained for, px.
        spacing_mm: Size of a pixel at that scale (x, y), mm; None where nobody knows it.
        mean: What was subtracted from the grey values, 0-255; one number, or one a colour.
        std: What they were then divided by.
        heads: Attention heads of the transformer predictor.

    Raises:
        DataError: The file is damaged, holds more than plain values, or another network.
        ConfigError: An option cannot be right.
    """
    check_replaceable(out, MODEL_FILES)
    check_spacing(spacing_mm)
    state = read_state(checkpoint)
    found = convert(state, mean=mean, std=std, heads=heads)
    if found.cfg.num_classes != NUM_CLASSES:
        raise DataError(
            f"the network has {found.cfg.num_classes} classes",
            evidence=f"masks here have {NUM_CLASSES}: {', '.join(CLASS_NAMES)}",
            action="Take a checkpoint that was trained on these classes.",
        )
    try:
        train = TrainConfig(model=found.cfg, augment=AugmentConfig(crop_height=CROP, crop_width=CROP))
    except ValidationError as error:
        raise ConfigError("the settings of the network cannot be", evidence=str(error), action="See above.") from error
    info = ModelInfo(
        model=found.cfg,
        class_names=CLASS_NAMES,
        normalisation=found.normalisation,
        sweep_width=sweep_width,
        spacing_mm=spacing_mm or (),
        bounds=DataBounds(sweep_width=Range(low=0.0, high=float(LARGEST_SIDE)), area={}, grey={}),
        data_md5="unknown",
        params={"train": train.model_dump(mode="json"), "import_checkpoint": {"sha256": file_sha256(checkpoint)}},
    )
    write_model(out, info, found.weights)
    return Imported(out, found.name, found.notes)


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint file; nothing in the file is run.

    Raises:
        DataError: No such file, damaged, or it asks for more than tensors and plain values; what it asks for is named.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        evidence = str(error.strerror or error)
        raise DataError(f"{path} cannot be read", evidence=evidence, action="Name a file that you may read.") from error
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if spoiled := archive.testzip():  # torch does not look at checksums
                    raise zipfile.BadZipFile(f"the checksum of {spoiled} is wrong")
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if asked := _asked_for(path, error):
            raise DataError(
                f"{path} holds more than tensors and plain values, and was not read",
                evidence=f"it asks for {', '.join(asked)}",
                action=_WHERE_TRUSTED,
            ) from None
        raise _damaged(path, error) from None
    except Exception as error:  # a damaged file may bring about anything
        raise _damaged(path, error) from None
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise DataError(
            f"{path} holds no state dict", evidence=type(content).__name__, action="Name a checkpoint file."
        )
    odd = [str(name) for name, value in state.items() if not (isinstance(name, str) and _is_plain(value))]
    if odd:
        raise DataError(
            f"{path} holds something else than plain tensors of real numbers in its state dict",
            evidence=", ".join(odd[:8]),
            action="Name a checkpoint file of the released code.",
        )
    return {str(name): value for name, value in state.items()}


def _is_plain(value: object) -> bool:
    """Whether this is a tensor with a real number in each place."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_quantized or value.is_complex())
        and all(value.shape)
    )


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} is damaged, truncated or no checkpoint",
        evidence=str(error) if isinstance(error, zipfile.BadZipFile) else type(error).__name__,
        action="Copy it again, and compare its size or checksum with the source.",
    )


def _asked_for(path: Path, error: UnpicklingError) -> list[str]:
    """What a refused file asks for, beyond what is harmless; empty where that cannot be told."""
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            found: list[Any] = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        found = re.findall(r"GLOBAL ([\w.]+)", str(error))  # files of old kinds are not looked through: the first one
    return sorted(name if name.isprintable() else ascii(name) for name in map(str, found))[:8]
