"""A model folder as an MLflow model: the folder itself, this package's code, and a description of input and output.

No file of it is pickled: weights are safetensors, everything else is JSON, YAML or source text. No path of this machine
is left in it.
"""

import base64
import importlib.metadata
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow import pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array
from PIL import Image

import sa2net
from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import folder_sha256
from sa2net.config import EvaluateConfig

FOLDER_IN_PACKAGE = "artifacts/model"
"""Where the model folder lies inside the MLflow model."""

_PACKAGE = Path(sa2net.__file__).resolve().parent
_SETTINGS = ("mode", "scales", "flip", "device", "precision", "threads")
_REQUIREMENTS = (
    "mlflow",
    "monai",
    "numpy",
    "pandas",
    "pillow",
    "psutil",
    "pydantic",
    "pyyaml",
    "safetensors",
    "scipy",
    "timm",
    "torch",
    "torchvision",
)


def write_package(model: Path, destination: Path, *, model_id: str | None = None, run_id: str | None = None) -> None:
    """Write the MLflow model of a model folder.

    Args:
        model: Model folder.
        destination: Folder that does not exist yet.
        model_id: Identity that MLflow gave the model; None where it is not registered.
        run_id: Run that registers it.
    """
    description = Model(run_id=run_id, model_id=model_id, model_uuid=model_id)
    with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
        copy = Path(scratch) / "model"  # the folder's name becomes a name inside the package
        shutil.copytree(model, copy)
        pyfunc.save_model(
            path=destination,
            mlflow_model=description,
            python_model=str(_PACKAGE / "serving" / "pyfunc.py"),
            artifacts={"model": str(copy)},
            code_paths=[str(_PACKAGE)],
            signature=signature(),
            input_example=example(),
            pip_requirements=requirements(),
            model_config=settings(),
            metadata={"model_sha256": folder_sha256(copy)},  # the served model checks itself against it
        )
    flavour = description.flavors["python_function"]
    flavour["artifacts"]["model"]["uri"] = FOLDER_IN_PACKAGE
    flavour["model_code_path"] = "pyfunc.py"
    description.save(destination / "MLmodel")
    for cache in destination.rglob("__pycache__"):
        shutil.rmtree(cache)


def settings() -> dict[str, Any]:
    """How a scan is predicted unless MLflow is told otherwise when it loads the model: as by `sa2net predict`."""
    return EvaluateConfig().model_dump(mode="json", include=set(_SETTINGS))


def requirements() -> list[str]:
    """The packages that a prediction needs, in the installed versions (a build tag such as `+cpu` is left out)."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in _REQUIREMENTS]


def signature() -> ModelSignature:
    """Columns of input and output, as `sa2net/serving/` reads and writes them."""
    inputs = [
        ColSpec(DataType.string, "image"),
        ColSpec(DataType.double, "spacing_x_mm", required=False),
        ColSpec(DataType.double, "spacing_y_mm", required=False),
    ]
    outputs = [
        ColSpec(DataType.string, "mask"),
        ColSpec(DataType.long, "width"),
        ColSpec(DataType.long, "height"),
        *(ColSpec(DataType.long, f"{item.name}_px") for item in FOREGROUND),
        *(ColSpec(DataType.double, f"{item.name}_mm2", required=False) for item in FOREGROUND),
        ColSpec(DataType.string, "scaled_by"),
        ColSpec(Array(DataType.string), "warnings"),
        ColSpec(DataType.string, "version"),
        ColSpec(DataType.string, "model_sha256"),
        ColSpec(DataType.string, "intended_use"),
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def example() -> pd.DataFrame:
    """One row of input: a drawn band of grey in the black, so that no patient's picture travels with a model."""
    picture = np.zeros((96, 48), dtype=np.uint8)
    picture[4:-4, 8:-8] = np.linspace(60, 200, 32, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    return pd.DataFrame({"image": [text], "spacing_x_mm": [0.4], "spacing_y_mm": [0.4]})
