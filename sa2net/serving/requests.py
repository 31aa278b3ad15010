"""From the body of a request to the scans in it. Nothing is decoded here but JSON.

The forms are those of MLflow's scoring protocol. MLflow's own reader ignores what it does not know and answers some
faults with a traceback; this one knows every key, and each refusal says what to send instead.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from sa2net.data.checks import SPACING_MM
from sa2net.errors import DataError
from sa2net.serving.limits import ROWS, SHOWN

IMAGE = "image"
SPACINGS = ("spacing_x_mm", "spacing_y_mm")
COLUMNS = (IMAGE, *SPACINGS)
FORMS = ("dataframe_records", "dataframe_split", "inputs", "instances")

_SEND = 'Send {"dataframe_records": [{"image": "<8-bit grey PNG in base64>"}]} as application/json.'
_SPACING = f"Give both as numbers of mm, {SPACING_MM[0]:g}-{SPACING_MM[1]:g}, or leave both out."


class RefusedError(DataError):
    """A request that is not answered.

    Args:
        what: What is wrong.
        evidence: What shows it; nothing of a picture.
        action: What to send instead.
        status: HTTP status.
    """

    def __init__(self, what: str, *, evidence: str = "", action: str, status: int = 400) -> None:
        super().__init__(what, evidence=evidence, action=action)
        self.status = status


@dataclass(frozen=True)
class ServedScan:
    """One scan of a request.

    Attributes:
        image: Its PNG in base64, not yet looked at.
        spacing_mm: Size of its pixels (x, y), mm, where known.
    """

    image: str
    spacing_mm: tuple[float, float] | None = None


def read_body(body: bytes) -> list[ServedScan]:
    """The scans of a JSON body.

    Raises:
        RefusedError: Not one of the forms, too many rows, or a row that cannot be one.
    """
    content = _read_json(body)
    if not isinstance(content, dict):
        raise RefusedError("the request is no JSON object", evidence=_kind(content), action=_SEND)
    if len(content) != 1 or next(iter(content)) not in FORMS:
        evidence = ", ".join(shown(key) for key in list(content)[:5]) or "none"
        raise RefusedError(f"the request needs exactly one key of {', '.join(FORMS)}", evidence=evidence, action=_SEND)
    [(form, rows)] = content.items()
    table = _rows_of_split(rows) if form == "dataframe_split" else _rows_of(form, rows)
    _count(len(table))
    return [read_row(number, row) for number, row in enumerate(table, start=1)]


def read_row(number: int, row: Any) -> ServedScan:
    """One row of a table.

    Args:
        number: Which, from 1, for messages.
        row: Column -> value. A spacing that is missing, null or NaN is not known.

    Raises:
        RefusedError: A column that is unknown, missing, or holds something else than it should.
    """
    if not isinstance(row, Mapping):
        raise RefusedError(f"row {number} is no object", evidence=_kind(row), action=_SEND)
    unknown = [key for key in row if key not in COLUMNS]
    if unknown:
        evidence = ", ".join(shown(key) for key in unknown[:5])
        action = f"Leave it out; known are {', '.join(COLUMNS)}."
        raise RefusedError(f"row {number} has an unknown column", evidence=evidence, action=action)
    image = row.get(IMAGE)
    if isinstance(image, bytes):
        image = image.decode("ascii", errors="replace")
    if not isinstance(image, str) or not image:
        evidence = "not there" if image is None else "empty" if image == "" else _kind(image)
        raise RefusedError(f"row {number} has no `{IMAGE}`", evidence=evidence, action=_SEND)
    return ServedScan(image, _read_spacing(number, row))


def shown(value: object) -> str:
    """A value of a request as a message may repeat it: short, in ASCII, on one line."""
    if isinstance(value, (dict, list)):
        return _kind(value)
    text = ascii(value[: SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _read_json(body: bytes) -> Any:
    what = "the request cannot be read as JSON"

    def refuse(text: str) -> NoReturn:
        raise RefusedError(what, evidence=f"{text} is not JSON", action="Leave out what is not known.")

    try:
        return json.loads(body.decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise RefusedError("the request is not UTF-8 text", evidence=f"byte {error.start}", action=_SEND) from error
    except json.JSONDecodeError as error:
        evidence = str(error) if body.strip() else "it is empty"
        raise RefusedError(what, evidence=evidence, action=_SEND) from error
    except RecursionError as error:
        raise RefusedError(what, evidence="nested too deeply", action=_SEND) from error
    except ValueError as error:  # Python reads whole numbers of up to 4300 digits
        raise RefusedError(what, evidence="a number with too many digits", action=_SEND) from error


def _rows_of(form: str, content: Any) -> list[Any]:
    """Rows of a list of objects, or (`inputs`, `instances`) of an object of lists."""
    if isinstance(content, list):
        return content
    if not isinstance(content, dict) or form == "dataframe_records":
        raise RefusedError(f"`{form}` is no list", evidence=_kind(content), action=_SEND)
    columns = {key: value if isinstance(value, list) else [value] for key, value in content.items()}
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        evidence = f"{len(lengths)} different lengths" if lengths else "no column"
        raise RefusedError(f"the columns of `{form}` do not make rows", evidence=evidence, action=_SEND)
    _count(max(lengths))
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _rows_of_split(content: Any) -> list[Any]:
    """Rows of `columns` and `data`; an `index` is not used."""
    if not isinstance(content, dict) or not {"columns", "data"} <= set(content) <= {"columns", "data", "index"}:
        evidence = ", ".join(shown(key) for key in list(content)[:5]) if isinstance(content, dict) else _kind(content)
        raise RefusedError("`dataframe_split` needs the keys columns and data", evidence=evidence, action=_SEND)
    columns, data = content["columns"], content["data"]
    if not isinstance(columns, list) or not isinstance(data, list):
        evidence = f"{_kind(columns)} and {_kind(data)}"
        raise RefusedError("columns and data of `dataframe_split` are no lists", evidence=evidence, action=_SEND)
    if not all(isinstance(name, str) for name in columns) or len(set(columns)) != len(columns):
        raise RefusedError("the columns of `dataframe_split` are not different names", action=_SEND)
    _count(len(data))
    for number, row in enumerate(data, start=1):
        if not isinstance(row, list) or len(row) != len(columns):
            evidence = f"{len(row)} values" if isinstance(row, list) else _kind(row)
            raise RefusedError(f"row {number} has not {len(columns)} values", evidence=evidence, action=_SEND)
    return [dict(zip(columns, row, strict=True)) for row in data]


def _count(rows: int) -> None:
    if not 1 <= rows <= ROWS:
        action = f"Send 1 to {ROWS} at once; `sa2net predict` takes any number."
        raise RefusedError("the request has too many or no rows", evidence=f"{rows}", action=action)


def _read_spacing(number: int, row: Mapping[Any, Any]) -> tuple[float, float] | None:
    """Pixel spacing (x, y), mm; None where the row has none."""
    values = [row.get(key) for key in SPACINGS]
    known = [value for value in values if not _is_missing(value)]
    if not known:
        return None
    numbers = [value for value in known if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) != 2 or not all(SPACING_MM[0] <= value <= SPACING_MM[1] for value in numbers):
        evidence = " x ".join("not there" if _is_missing(value) else shown(value) for value in values)
        raise RefusedError(f"row {number}: the pixel spacing cannot be right", evidence=evidence, action=_SPACING)
    return float(numbers[0]), float(numbers[1])


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    names = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")
