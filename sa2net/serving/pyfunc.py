"""The registered model as MLflow serves it: a picture in, a mask out.

MLflow runs this file when it loads a version ("models from code"), so that nothing is ever unpickled; the weights lie
beside it as safetensors in the model folder. It is an entry point: nothing imports it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

if TYPE_CHECKING:
    from sa2net.serving.answers import Answering


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Predicts the scans of a table, one row each, with the model folder of the version."""

    answering: "Answering"

    def load_context(self, context: Any) -> None:
        """Load the weights; called once by MLflow. In its scoring server, put the limits in front of it."""
        from sa2net.serving.answers import Answering
        from sa2net.serving.front import stand_in_front

        folder = Path(context.artifacts["model"])
        package = folder.parents[1]  # PACKAGE/artifacts/model
        self.answering = Answering.load(folder, package, context.model_config or {})
        stand_in_front(self.answering)

    def predict(
        self,
        context: Any,  # noqa: ARG002 - MLflow's signature
        model_input: pd.DataFrame,
        params: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """Predict every row; for programs that load the model themselves.

        Args:
            context: Not used; everything was loaded before.
            model_input: A table with the column `image` (8-bit grey PNG in base64) and, where known, `spacing_x_mm` and
                `spacing_y_mm`; or a list of such pictures or rows.
            params: Not used.

        Returns:
            One row a scan, as `sa2net.serving.answers.Answering.answer` has it.

        Raises:
            MlflowException: A row that cannot be predicted (INVALID_PARAMETER_VALUE, HTTP 400), named by its number.
        """
        from sa2net.serving.requests import RefusedError, read_row

        try:
            scans = [read_row(number, row) for number, row in enumerate(_rows(model_input), start=1)]
            return pd.DataFrame([self.answering.answer(number, scan) for number, scan in enumerate(scans, start=1)])
        except RefusedError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def _rows(model_input: Any) -> Iterable[Any]:
    if isinstance(model_input, pd.DataFrame):
        return list(model_input.to_dict(orient="records"))
    if isinstance(model_input, (str, bytes, Mapping)):
        model_input = [model_input]
    if not isinstance(model_input, Iterable):
        message = f"a table or a list of pictures is needed, not a {type(model_input).__name__}"
        raise MlflowException.invalid_parameter_value(message)
    return [row if isinstance(row, Mapping) else {"image": row} for row in model_input]


mlflow.models.set_model(ServedModel())
