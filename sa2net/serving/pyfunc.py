"""The registered model as MLflow serves it: a picture in, a mask out.

MLflow runs this file when it loads a version ("models from code"), so that nothing is ever unpickled; the weights lie
beside it as safetensors in the model folder. It is an entry point: nothing imports it.
"""

import base64
import binascii
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from PIL import Image

from sa2net.anatomy import FOREGROUND

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sa2net.inference.predictor import Predictor

LARGEST_TEXT = 200_000_000
"""Characters of one encoded picture that are looked at."""


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Predicts the scans of a table, one row each, with the model folder of the version."""

    predictor: "Predictor"
    model_sha256: str

    def load_context(self, context: Any) -> None:
        """Load the weights; called once by MLflow."""
        from sa2net.artifacts import folder_sha256
        from sa2net.inference.predictor import Predictor

        folder = Path(context.artifacts["model"])
        self.predictor = Predictor.load(folder)
        self.model_sha256 = folder_sha256(folder)

    def predict(
        self,
        context: Any,  # noqa: ARG002 - MLflow's signature
        model_input: pd.DataFrame,
        params: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """Predict every row.

        Args:
            context: Not used; everything was loaded before.
            model_input: A table with the column `image` (8-bit grey PNG in base64) and, where known, `spacing_x_mm` and
                `spacing_y_mm`; or a list of such pictures or rows.
            params: Not used.

        Returns:
            One row a scan: `mask` (PNG in base64, class ids, the scan's own size), `width`, `height`, the pixels of
            each class as `<class>_px`, `scaled_by`, `warnings` and `model_sha256`.

        Raises:
            MlflowException: A row that cannot be predicted (INVALID_PARAMETER_VALUE, HTTP 400), named by its number.
        """
        return pd.DataFrame([self._row(number, row) for number, row in enumerate(_rows(model_input), start=1)])

    def _row(self, number: int, row: Mapping[Any, Any]) -> dict[str, Any]:
        from sa2net.errors import DataError

        try:
            scan = _decode(row.get("image"))
            prediction = self.predictor.probabilities(scan, _spacing(row))
        except (DataError, ValueError) as error:
            raise MlflowException.invalid_parameter_value(f"row {number}: {error}") from error
        mask = prediction.mask
        return {
            "mask": _encode(mask),
            "width": int(mask.shape[1]),
            "height": int(mask.shape[0]),
            **{f"{item.name}_px": int((mask == item.id).sum()) for item in FOREGROUND},
            "scaled_by": prediction.scaled_by,
            "warnings": [f"no {item.label} was found" for item in FOREGROUND if not (mask == item.id).any()],
            "model_sha256": self.model_sha256,
        }


def _rows(model_input: Any) -> list[Mapping[Any, Any]]:
    if isinstance(model_input, pd.DataFrame):
        return [dict(row) for row in model_input.to_dict(orient="records")]
    if isinstance(model_input, (str, bytes, Mapping)):
        model_input = [model_input]
    try:
        return [row if isinstance(row, Mapping) else {"image": row} for row in model_input]
    except TypeError as error:
        message = f"a table or a list of pictures is needed, not a {type(model_input).__name__}"
        raise MlflowException.invalid_parameter_value(message) from error


def _decode(text: Any) -> "npt.NDArray[np.uint8]":
    """An encoded picture as grey values. # (H, W)."""
    from sa2net.data.layout import decode

    if isinstance(text, bytes):
        text = text.decode("ascii", errors="replace")
    if not isinstance(text, str) or not text:
        raise ValueError("`image` is missing; it holds an 8-bit grey PNG in base64")
    if len(text) > LARGEST_TEXT:
        raise ValueError(f"`image` has {len(text)} characters, at most {LARGEST_TEXT} are read")
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"`image` is not base64 ({error})") from error
    return decode(Path("image"), content)


def _encode(mask: "npt.NDArray[np.uint8]") -> str:
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _spacing(row: Mapping[Any, Any]) -> tuple[float, float] | None:
    """Pixel spacing (x, y), mm; None where the row has none."""
    values = [row.get(key) for key in ("spacing_x_mm", "spacing_y_mm")]
    known = [float(value) for value in values if value is not None and not math.isnan(float(value))]
    if not known:
        return None
    if len(known) != 2 or any(not (value > 0.0 and math.isfinite(value)) for value in known):
        raise ValueError(f"the spacing {values[0]} x {values[1]} mm is not two positive numbers")
    return known[0], known[1]


mlflow.models.set_model(ServedModel())
