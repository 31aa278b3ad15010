"""One saved decision of a reader, as it is written to `reviews/NAME/NNNN.json`: validated when written and when read."""

from datetime import datetime
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from sa2net.review.reading import HandCurve, HandLevel
from sa2net.scoliosis.result import INTENDED_USE, ModelIdentity


class ReviewedCurve(BaseModel):
    """One curve as the reader saw it; degrees, rows in px."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    angle_deg: float = Field(ge=0.0, le=180.0)
    interval_90_deg: tuple[float, float]
    lines_deg: float | None = Field(description="angle between the two lines, null where it cannot be formed")
    convex: Literal["left", "right"]
    upper_row: float
    lower_row: float
    ends: Literal["automatic", "by hand"]


class Review(BaseModel):
    """Who decided what, when, and on which measurement."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1, 2] = 2
    version: int = Field(ge=1, le=9999)
    based_on: int | None = Field(
        default=None,
        ge=0,
        le=9998,
        description="version that was on the page: accepted as it is, or corrected; 0 = the measurement as it came; "
        "null in files of schema version 1",
    )
    decision: Literal["accepted", "corrected", "refused"]
    reader: str = Field(min_length=1, max_length=200)
    saved_at: AwareDatetime = Field(description="UTC")
    comment: str = Field(max_length=4000)
    measure_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the measurement that was looked at")
    mask_source: Literal["network", "given"]
    model: ModelIdentity
    levels: tuple[HandLevel, ...] = Field(max_length=60)
    chosen: tuple[HandCurve, ...] = Field(max_length=20, description="end levels chosen by hand; empty = automatic")
    curves: tuple[ReviewedCurve, ...] = Field(max_length=20)
    intended_use: str = INTENDED_USE

    @model_validator(mode="after")
    def _angles_fit_the_decision(self) -> Self:
        offset = datetime.utcoffset(self.saved_at)
        if offset is None or offset.total_seconds():
            raise ValueError("the time is not in UTC")
        if not self.reader.strip():
            raise ValueError("the reader has no name")
        if (self.based_on is None) is not (self.schema_version == 1):
            raise ValueError("schema version 2 says what a review is based on, schema version 1 does not")
        if self.based_on is not None and self.based_on >= self.version:
            raise ValueError(f"version {self.version} cannot be based on version {self.based_on}")
        if self.decision == "refused" and self.curves:
            raise ValueError("a refused scan holds no angle")
        if self.decision != "refused" and not self.curves:
            raise ValueError("a scan without an angle can be refused only")
        return self
