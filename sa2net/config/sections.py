"""The sections of the steps but train: every setting with its default, its unit and its limits.

`params.yaml` is the complete rendering of these defaults. A section travels whole to its step (on a
cluster as one dict parameter), is frozen from then on, refuses unknown keys, and holds no None.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sa2net.config.base import Device, Precision, Section
from sa2net.config.measuring import MeasureConfig


class ValidateConfig(Section):
    """What a data set must fulfil before anything is trained on it."""

    labels: tuple[Literal[0, 1, 2, 3, 255], ...] = Field(
        (0, 1, 2, 3, 255), min_length=2, description="values allowed in a mask; 255 = ignored"
    )
    required_classes: tuple[Literal[1, 2, 3], ...] = Field((1, 2, 3), description="classes that every mask must hold")
    val_fraction: float = Field(
        0.2, gt=0.0, lt=1.0, description="share of the train subjects held out where there is no val list"
    )
    split_seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of that split")
    bounds_margin: float = Field(
        0.5, ge=0.0, description="learnt area and grey bounds are widened by this share of their range"
    )
    min_side: int = Field(32, ge=1, description="smallest width or height of a scan, px")
    max_pixels: int = Field(100_000_000, ge=1, description="largest picture that is decoded, px (decompression bombs)")
    near_duplicate_distance: int = Field(
        24, ge=0, description="perceptual hashes that differ in at most so many of 256 bits are near duplicates"
    )
    require_spacing: bool = Field(False, description="refuse scans without a pixel spacing in scans.csv")
    workers: int = Field(0, ge=0, description="processes that read scans; 0 = all cores")


class EvaluateConfig(Section):
    """How a model is scored."""

    split: Literal["train", "val", "test"] = Field("test", description="which split is scored")
    mode: Literal["whole", "sliding"] = Field("whole", description="whole scan at once, or overlapping windows")
    scales: tuple[Annotated[float, Field(ge=0.1, le=4.0)], ...] = Field(
        (1.0,), min_length=1, description="test-time scales whose probabilities are averaged"
    )
    flip: bool = Field(True, description="average with the mirrored scan")
    nsd_tolerance_mm: float = Field(
        1.0, gt=0.0, description="tolerance of the normalised surface distance where the spacing is known"
    )
    nsd_tolerance_px: float = Field(3.0, gt=0.0, description="the same in px, where it is not")
    bootstrap_samples: int = Field(2000, ge=100, description="resamples of the subjects behind each interval")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the intervals")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of the resamples")
    overlays: int = Field(3, ge=0, le=1000, description="worst, median and best scans drawn, each so many")
    device: Device = Field("auto", description="cuda is a demand")
    precision: Precision = Field("auto", description="auto: bfloat16 on a GPU that has it, else float32")
    threads: int = Field(2, ge=1, le=1024, description="CPU threads of torch")
    log_pictures: Literal["local", "always", "never"] = Field(
        "local", description="log the report with its overlays: only to a store on this machine, always, never"
    )
    measure: MeasureConfig = MeasureConfig()


class FloorsConfig(Section):
    """Mean Dice that a version must reach, per class, before it may become champion."""

    mean: float = Field(0.70, ge=0.0, le=1.0, description="mean over the foreground classes")
    rib: float = Field(0.55, ge=0.0, le=1.0, description="rib")
    thoracic_process: float = Field(0.60, ge=0.0, le=1.0, description="thoracic process")
    lumbar_lump: float = Field(0.65, ge=0.0, le=1.0, description="lumbar lump")


PublicKeyOfName = Annotated[str, Field(pattern=r"^[^:]{1,100}:[A-Za-z0-9+/=]{40,200}$")]


class RegisterConfig(Section):
    """What becomes of a scored model."""

    name: str = Field("sa2net", pattern=r"^[A-Za-z0-9_\-]+$", description="registered model")
    promote: bool = Field(True, description="move the champion alias when the gate says so")
    floors: FloorsConfig = FloorsConfig()
    margin: float = Field(
        0.02, ge=0.0, le=1.0, description="largest loss of Dice per class that counts as non-inferior"
    )
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="level of the one-sided paired bootstrap")
    bootstrap_samples: int = Field(5000, ge=100, description="resamples of the subjects")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of the resamples")
    max_calibration_error: float = Field(
        0.1, ge=0.0, le=1.0, description="largest expected calibration error that a champion may have"
    )
    max_seconds_per_scan: float = Field(
        0.0, ge=0.0, description="longest median time of a prediction, s; depends on the machine; 0 = no limit"
    )
    max_angle_mad: float = Field(
        0.0,
        ge=0.0,
        le=180.0,
        description="largest mean absolute difference of measured and true angle, degrees; 0 = no limit",
    )
    min_angle_icc: float = Field(
        0.0, ge=0.0, le=1.0, description="smallest ICC(2,1) of measured and true angle; 0 = no limit"
    )
    max_angle_refused: float = Field(
        1.0, ge=0.0, le=1.0, description="largest share of scans with a curve that are refused an angle; 1 = no limit"
    )
    require_approval: bool = Field(False, description="a second person must sign before the champion moves")
    approvers: tuple[PublicKeyOfName, ...] = Field(
        (),
        description="who may sign: NAME:KEY, the key as `openssl pkey -pubout` prints it, without its first and last line",
    )
    signers: tuple[PublicKeyOfName, ...] = Field(
        (), description="who may write the audit log, in the same form; empty = the keys that this machine saw first"
    )


class FetchConfig(Section):
    """Where the objects of a data set are pulled from: a DVC remote. Keys come from the environment alone."""

    remote: str = Field(min_length=1, description="address of the DVC remote: s3://BUCKET/PREFIX, or a folder")
    endpoint_url: str = Field("", description="address of the S3 server; empty = that of the AWS settings")
    region: str = Field("", description="region of the bucket; empty = that of the AWS settings")
    cache: str = Field("", description="folder that keeps pulled objects between attempts; empty = none")
    jobs: int = Field(4, ge=1, le=256, description="objects pulled at once")
    retries: int = Field(5, ge=0, le=100, description="further attempts after a failed one")
    backoff_seconds: float = Field(1.0, ge=0.0, le=600.0, description="wait before the second attempt; doubles")

    @model_validator(mode="after")
    def _addresses_can_be_read(self) -> Self:
        kind, has_kind, _ = self.remote.partition("://")
        if has_kind and kind not in ("s3", "file"):
            raise ValueError(f"remote is of the kind {kind}://, known are s3://BUCKET/PREFIX and folders")
        if any("@" in address.partition("://")[2].partition("/")[0] for address in (self.remote, self.endpoint_url)):
            raise ValueError("an address holds keys or a password: they come from the environment alone")
        return self


class BatchConfig(Section):
    """How a batch of scans without masks is segmented. Keys of the bucket come from the environment alone."""

    shard_size: int = Field(50, ge=1, le=10_000, description="scans that one task segments")
    overlays: bool = Field(True, description="write a picture of each scan with its mask")
    spacing_mm: tuple[float, float] = Field(
        (0.0, 0.0), description="size of the pixels (x, y) of every scan, mm; 0 0 = not known"
    )
    max_pixels: int = Field(25_000_000, ge=1, description="larger scans are refused, px: they could exhaust the memory")
    endpoint_url: str = Field("", description="address of the S3 server; empty = that of the AWS settings")
    region: str = Field("", description="region of the bucket; empty = that of the AWS settings")
    mode: Literal["whole", "sliding"] = Field("whole", description="whole scan at once, or overlapping windows")
    scales: tuple[Annotated[float, Field(ge=0.1, le=4.0)], ...] = Field(
        (1.0,), min_length=1, description="test-time scales whose probabilities are averaged"
    )
    flip: bool = Field(True, description="average with the mirrored scan")
    device: Device = Field("auto", description="cuda is a demand")
    precision: Precision = Field("auto", description="auto: bfloat16 on a GPU that has it, else float32")
    threads: int = Field(2, ge=1, le=1024, description="CPU threads of torch")

    @model_validator(mode="after")
    def _spacing_is_possible(self) -> Self:
        if any(self.spacing_mm) and not all(0.01 <= size <= 5.0 for size in self.spacing_mm):
            x_mm, y_mm = self.spacing_mm
            raise ValueError(f"spacing_mm is {x_mm:g} x {y_mm:g}: each lies within 0.01-5, or both are 0 (not known)")
        return self

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Size of the pixels (x, y), mm; None where it is not known."""
        return self.spacing_mm if any(self.spacing_mm) else None
