"""What a measurement says, as it is written to `NAME.measure.json`: validated when written and when read."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

INTENDED_USE = "research only"
ANGLE_KIND = "ultrasound curve angle, not a radiographic Cobb angle"

RefusalCode = Literal[
    "nothing_found",
    "upside_down",
    "implausible_anatomy",
    "too_few_levels",
    "one_side_missing",
    "levels_missing",
    "sweep_cut",
    "low_confidence",
    "unlike_training",
    "uncertain",
    "estimators_disagree",
]
Point = tuple[float, float]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Refusal(_Record):
    """Why no angle is given."""

    code: RefusalCode
    reason: str = Field(min_length=1, description="what is wrong and what shows it, for a person")


class LevelResult(_Record):
    """One level; points (x, y) in px of the scan, pixel centres are whole numbers."""

    label: str = Field(description="T1 to L5 where that is certain, else the number from the top")
    kind: Literal["process", "lump"]
    middle: Point = Field(description="point on the spine")
    left: Point | None = Field(description="left end of the line, null where that side is missing")
    right: Point | None = Field(description="right end of the line, null where that side is missing")
    tilt_deg: float | None = Field(description="right end lower is positive; with the pixel spacing taken in")
    confidence: float = Field(ge=0.0, le=1.0)
    outlying: bool = Field(description="the line lies far off the smooth spine")


class Estimates(_Record):
    """The angle of one curve by each estimator, degrees; null where it cannot be formed."""

    combined: float
    tilts: float = Field(description="smooth spine from the lines alone")
    midline: float = Field(description="smooth spine from the middles alone")
    lines: float | None = Field(description="two most opposed lines: the published definition, too large on average")


class CurveResult(_Record):
    """One curve."""

    angle_deg: float = Field(ge=0.0, le=180.0, description="angle of the combined estimator")
    standard_error_deg: float = Field(ge=0.0)
    interval_90_deg: tuple[float, float]
    estimates: Estimates
    spread_deg: float = Field(ge=0.0, description="largest difference between combined, tilts and midline")
    disagreement: float = Field(
        ge=0.0, description="difference of tilts and midline in standard errors of that difference"
    )
    influence_deg: float = Field(ge=0.0, description="largest change of the angle when one level is left out")
    region: Literal["thoracic", "thoracolumbar", "lumbar"]
    region_certain: bool
    convex: Literal["left", "right"] = Field(description="side of the picture to which it bulges")
    upper_end: str = Field(description="label of the level nearest to the upper end")
    apex: str
    lower_end: str
    upper_row: float = Field(description="row of the upper end, px")
    apex_row: float
    lower_row: float
    open_above: bool = Field(description="ends with the visible spine: the curve may go on, the angle may be larger")
    open_below: bool


class Severity(_Record):
    """A word from the configured table."""

    word: str
    source: str
    note: str = f"{ANGLE_KIND}; the word comes from the configured table"


class Spacing(_Record):
    """Size of a pixel behind the angles."""

    x_mm: float | None
    y_mm: float | None
    source: Literal["given", "header", "assumed square"]


class ModelIdentity(_Record):
    """Which network made the label map; all empty where it was given."""

    name: str = ""
    sha256: str = ""
    data_md5: str = ""


class Measurement(_Record):
    """Everything that is said of one scan."""

    schema_version: Literal[1] = 1
    scan: str
    width: int
    height: int
    status: Literal["measured", "refused"]
    angle_kind: str = ANGLE_KIND
    refusals: tuple[Refusal, ...]
    warnings: tuple[str, ...]
    orientation: str = (
        "top and bottom are checked by the lumps; a picture mirrored left to right cannot be told: "
        "it gives the same angles on the other side"
    )
    spacing: Spacing
    mask_source: Literal["network", "given"]
    model: ModelIdentity
    levels: tuple[LevelResult, ...] = Field(description="from top to bottom; shown for a refused scan too")
    levels_named: bool
    curves: tuple[CurveResult, ...] = Field(description="from top to bottom; empty for a refused scan")
    largest_angle_deg: float | None
    severity: Severity | None
    spine: tuple[Point, ...] = Field(description="the smooth spine, px; empty for a refused scan")
    intended_use: str = INTENDED_USE

    @model_validator(mode="after")
    def _refused_or_measured(self) -> Self:
        if self.status == "refused" and (self.curves or self.largest_angle_deg is not None or not self.refusals):
            raise ValueError("a refused scan holds a reason and no angle")
        if self.status == "measured" and (not self.curves or self.largest_angle_deg is None or self.refusals):
            raise ValueError("a measured scan holds an angle and no refusal")
        return self

    @property
    def largest(self) -> CurveResult | None:
        """The curve of the largest angle; None for a refused scan."""
        return max(self.curves, key=lambda curve: curve.angle_deg) if self.curves else None
