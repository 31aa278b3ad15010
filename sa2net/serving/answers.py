"""From a scan of a request to its answer: mask, areas, warnings, and which version says so.

Scans are predicted one at a time, whoever asks: the network is not made for several threads, and one scan alone may
take gigabytes for a moment.
"""

import base64
import binascii
import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image
from pydantic import ValidationError

from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import Reference, folder_sha256, read_reference
from sa2net.config import EvaluateConfig
from sa2net.data.framing import find_frame
from sa2net.data.pictures import PICTURE_FAULTS, PictureError, decode
from sa2net.errors import ConfigError, DataError, StorageError
from sa2net.evaluation.reference import PictureRanges
from sa2net.inference.description import INTENDED_USE, class_areas, find_warnings
from sa2net.inference.predictor import Predictor
from sa2net.serving.limits import LARGEST_BODY, LARGEST_PIXELS, LARGEST_WORKING_PIXELS, SMALLEST_SIDE
from sa2net.serving.requests import RefusedError, ServedScan

VERSION_FILE = "registered_model_meta"
"""MLflow writes it beside a model that it fetches from the registry: `model_name` and `model_version`."""

_BASE64 = "Send the file's bytes in base64, without line breaks and without a `data:` prefix (base64 -w 0 scan.png)."
_SIZE = f"Send a scan of {SMALLEST_SIDE} px a side to {LARGEST_PIXELS} px in all; `sa2net predict` takes larger ones."


class Answering:
    """A network and its identity, ready to answer.

    Args:
        predictor: The network.
        model_sha256: Identity of its model folder.
        version: `NAME/NUMBER` in the registry, empty where it is not known.
        reference: Of the model folder, where it holds one.
    """

    def __init__(
        self, predictor: Predictor, *, model_sha256: str, version: str, reference: Reference | None = None
    ) -> None:
        self.predictor, self.model_sha256, self.version = predictor, model_sha256, version
        self._usual = PictureRanges(reference)
        self._one_at_a_time = threading.Lock()

    @classmethod
    def load(cls, folder: Path, package: Path, settings: Mapping[str, Any]) -> Self:
        """Load the model folder of an MLflow model.

        Args:
            folder: Model folder.
            package: The MLflow model around it, which says which version it is and which content it had.
            settings: Of inference, named as in the section `evaluate`; what is left out has its default.

        Raises:
            ConfigError: Settings that cannot be used.
            DataError: Not a model folder, or its reference cannot be used.
            DeviceError: The device cannot be used.
            StorageError: The folder was changed since the package was made.
        """
        sha256, recorded = folder_sha256(folder), recorded_sha256(package)
        if recorded and sha256 != recorded:
            raise StorageError(
                "the model folder is not the one that was registered",
                evidence=f"sha256 {sha256[:12]}, registered {recorded[:12]}",
                action="Find out who changed the artifact store; train and register again, or use another version.",
            )
        try:
            cfg = EvaluateConfig(**settings)
        except ValidationError as error:
            raise ConfigError(
                "the model cannot be loaded with these settings",
                evidence="; ".join(f"{item['loc'][0]}: {item['msg']}" for item in error.errors()),
                action="Correct MLFLOW_PYFUNC_INFERENCE_CONFIG, or unset it.",
            ) from error
        return cls(
            Predictor.for_settings(folder, cfg),
            model_sha256=sha256,
            version=registered_as(package),
            reference=read_reference(folder),
        )

    def answer(self, number: int, scan: ServedScan) -> dict[str, Any]:
        """Predict one scan.

        Args:
            number: Its row, from 1, for messages.
            scan: The scan.

        Returns:
            `mask` (PNG in base64, class ids, the scan's own size), `width`, `height`, each class's `<class>_px` and
            `<class>_mm2` (None without spacing), `scaled_by`, `warnings`, `version`, `model_sha256`, `intended_use`.

        Raises:
            RefusedError: It is no scan that can be predicted.
        """
        with self._one_at_a_time:
            grey = _decode(number, scan.image)
            mask, scale, scaled_by = self._predict(number, grey, scan.spacing_mm)
        areas = class_areas(mask, scan.spacing_mm)
        warnings = find_warnings(grey, mask, self.predictor.info, scale=scale, scaled_by=scaled_by)
        return {
            "mask": _encode(mask),
            "width": int(mask.shape[1]),
            "height": int(mask.shape[0]),
            **{f"{item.name}_px": int(areas[item.name]["pixels"]) for item in FOREGROUND},
            **{f"{item.name}_mm2": areas[item.name].get("area_mm2") for item in FOREGROUND},
            "scaled_by": scaled_by,
            "warnings": warnings + self._usual.warnings(grey),
            "version": self.version,
            "model_sha256": self.model_sha256,
            "intended_use": INTENDED_USE,
        }

    def _predict(
        self, number: int, grey: npt.NDArray[np.uint8], spacing_mm: tuple[float, float] | None
    ) -> tuple[npt.NDArray[np.uint8], float, str]:
        """Mask (H, W), and how the scan was scaled."""
        try:
            frame = find_frame(grey, self.predictor.working, spacing_mm)
            working = frame.working_height * frame.working_width
            if working > LARGEST_WORKING_PIXELS:
                raise RefusedError(
                    f"row {number} would be seen too large",
                    evidence=f"{frame.working_width} x {frame.working_height} px by {frame.scaled_by}, at most {LARGEST_WORKING_PIXELS} px",
                    action="Check the pixel spacing (mm per pixel), or leave it out.",
                )
            prediction = self.predictor.probabilities(grey, spacing_mm)
        except RefusedError:
            raise
        except DataError as error:
            raise RefusedError(f"row {number}: {error.what}", evidence=error.evidence, action=error.action) from error
        return prediction.mask, prediction.scale, prediction.scaled_by


def registered_as(package: Path) -> str:
    """`NAME/NUMBER` of an MLflow model that came from the registry; empty where nothing says so."""
    meta = _read_yaml(package / VERSION_FILE)
    name, number = meta.get("model_name"), meta.get("model_version")
    return f"{name}/{number}" if name and number else ""


def recorded_sha256(package: Path) -> str:
    """Identity that the model folder had when the MLflow model was made; empty where nothing says so."""
    metadata = _read_yaml(package / "MLmodel").get("metadata") or {}
    return str(metadata.get("model_sha256", ""))


def _read_yaml(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _decode(number: int, text: str) -> npt.NDArray[np.uint8]:
    """The picture of a row as grey values. # (H, W)."""
    what = f"row {number}: `image` cannot be used"
    if len(text) > LARGEST_BODY:
        raise RefusedError(what, evidence=f"{len(text)} characters, at most {LARGEST_BODY}", action=_SIZE)
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(what, evidence=f"it is not base64 ({error})", action=_BASE64) from error
    try:
        grey = decode(Path("image"), content, max_pixels=LARGEST_PIXELS)
    except PictureError as error:
        action = _SIZE if error.kind == "size" else PICTURE_FAULTS[error.kind]
        raise RefusedError(what, evidence=error.reason, action=action) from error
    if min(grey.shape) < SMALLEST_SIDE:
        raise RefusedError(what, evidence=f"{grey.shape[1]} x {grey.shape[0]} px", action=_SIZE)
    return grey


def _encode(mask: npt.NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
