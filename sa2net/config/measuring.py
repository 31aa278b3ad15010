"""What a measurement of angles may be told: limits of refusal, and words for severity where a source is named."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from sa2net.config.base import Section

WordBelow = Annotated[str, Field(pattern=r"^[0-9]{1,3}(\.[0-9]{1,2})?:[^:\s][^:]{0,60}$")]


class MeasureConfig(Section):
    """How curve angles are measured, when the answer is a refusal, and what severity words mean."""

    smallest_curve_deg: float = Field(
        5.0, ge=1.0, le=45.0, description="curves below this angle are not listed; the largest always is, degrees"
    )
    min_levels: int = Field(9, ge=5, le=17, description="refuse with fewer levels whose line is known")
    max_lone_share: float = Field(
        0.35, ge=0.0, le=1.0, description="refuse where more of the thoracic levels show one side only, share"
    )
    max_gap_levels: int = Field(3, ge=0, le=17, description="refuse where more levels in a row are missing")
    max_levels_above: float = Field(
        2.0, gt=0.0, description="usual is 0.5: refuse where the sweep goes on further above the first level, levels"
    )
    max_levels_below: float = Field(
        2.8, gt=0.0, description="usual is 1.1-1.7: refuse where it goes on further below the last level, levels"
    )
    max_standard_error_deg: float = Field(
        6.0, gt=0.0, description="refuse where the largest curve is less sure than this, degrees"
    )
    max_disagreement: float = Field(
        3.5, gt=0.0, description="refuse where lines and midline are further apart than this, standard errors"
    )
    min_confidence: float = Field(
        0.5, ge=0.0, le=1.0, description="refuse where the mean confidence of the levels is lower"
    )
    max_unlike: int = Field(
        1, ge=0, description="refuse where more signals than this lie outside what the network learnt from"
    )
    severity: tuple[WordBelow, ...] = Field(
        (), description="words for the largest angle, each as LIMIT:WORD for angles below LIMIT; empty = no words"
    )
    severity_source: str = Field("", description="where these words come from; printed beside them")

    @model_validator(mode="after")
    def _severity_is_sourced(self) -> Self:
        limits = [limit for limit, _ in self.severity_words]
        if limits != sorted(set(limits)):
            raise ValueError(f"severity limits {limits} do not rise")
        if self.severity and not self.severity_source.strip():
            raise ValueError("severity words need severity_source: bands differ between sources")
        if self.severity_source and not self.severity:
            raise ValueError("severity_source would have no effect without severity words")
        return self

    @property
    def severity_words(self) -> tuple[tuple[float, str], ...]:
        """The table: upper limit in degrees, word."""
        parted = (text.partition(":") for text in self.severity)
        return tuple((float(limit), word.strip()) for limit, _, word in parted)
