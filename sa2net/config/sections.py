"""Every setting of the project, with its default, its unit and its limits: one section per step.

`params.yaml` is the complete rendering of these defaults. A section travels whole to its step (on a
cluster as one dict parameter), is frozen from then on, refuses unknown keys, and holds no None.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sa2net.anatomy import NUM_CLASSES
from sa2net.config.base import Section
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


class PredictorConfig(Section):
    """The transformer predictor inside the structure-affinity module."""

    embed_dim: int = Field(64, ge=4, description="width of tokens and queries")
    depth: int = Field(2, ge=1, description="decoder layers")
    num_heads: int = Field(4, ge=1, description="attention heads; divides embed_dim")
    mask_dim: int = Field(32, ge=1, description="channels of one class's mask embedding")
    dropout: float = Field(0.1, description="dropout and stochastic depth", ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        return self


class ModelConfig(Section):
    """The network. `normalised` / `valid` are the mended defaults, `released` is the published behaviour."""

    backbone: str = Field(
        "resnet10t",
        min_length=1,
        description="any timm model with feature maps at strides 4, 8, 16, 32, or released_swin_tiny / _large",
    )
    pretrained: bool = Field(False, description="start the backbone from timm's weights (needs a network)")
    channels: int = Field(48, ge=8, description="width of the decode head")
    num_classes: int = Field(4, ge=2, description="channels of the logits; a training takes the classes of a mask")
    affinity: Literal["normalised", "released"] = Field(
        "normalised", description="scaling of structure affinity and channel attention"
    )
    logits: Literal["aligned", "released"] = Field(
        "aligned", description="released: last 3x3 convolution pads 2, logits are 2 px too large"
    )
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="channel dropout before each classifier")
    auxiliary: bool = Field(True, description="FCN head on the stride-16 map while training")
    predictor: PredictorConfig = PredictorConfig()


class LossConfig(Section):
    """How the logit maps are compared with the mask."""

    kind: Literal["released", "mixing"] = Field(
        "released", description="released: weighted cross entropies; mixing: CE + Dice over all sums of maps"
    )
    ignored: Literal["valid", "released"] = Field(
        "valid", description="mean of the cross entropy over valid pixels, or over all as released"
    )
    main: float = Field(1.0, ge=0.0, description="weight of the final logits (released)")
    coarse: float = Field(0.4, ge=0.0, description="weight of the structure-affinity's coarse logits (released)")
    channel: float = Field(0.5, ge=0.0, description="weight of the channel branch (released)")
    position: float = Field(0.5, ge=0.0, description="weight of the criss-cross branch (released)")
    auxiliary: float = Field(0.4, ge=0.0, description="weight of the auxiliary head (both kinds)")
    dice: float = Field(0.7, ge=0.0, description="weight of the Dice term in each subset (mixing)")
    cross_entropy: float = Field(0.3, ge=0.0, description="weight of the cross entropy in each subset (mixing)")


class AugmentConfig(Section):
    """Random changes of the training crops; scan and mask move together."""

    crop_height: int = Field(320, ge=32, description="px at working scale; multiple of 32")
    crop_width: int = Field(192, ge=32, description="px at working scale; multiple of 32")
    scale_low: float = Field(0.85, gt=0.0, description="smallest random scale")
    scale_high: float = Field(1.2, gt=0.0, description="largest random scale")
    rotation: float = Field(5.0, ge=0.0, le=45.0, description="largest rotation, degrees either way")
    flip: float = Field(0.5, ge=0.0, le=1.0, description="probability of a left-right flip")
    brightness: float = Field(0.15, ge=0.0, le=1.0, description="largest change of brightness, share")
    contrast: float = Field(0.15, ge=0.0, le=1.0, description="largest change of contrast, share")
    gamma: float = Field(0.15, ge=0.0, lt=1.0, description="largest change of the grey curve's exponent, share")
    noise: float = Field(
        0.02, ge=0.0, le=1.0, description="largest standard deviation of added noise, share of full scale"
    )
    blur: float = Field(0.2, ge=0.0, le=1.0, description="probability of a slight blur")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.crop_height % 32 or self.crop_width % 32:
            raise ValueError(f"crop {self.crop_height} x {self.crop_width} is not a multiple of 32 on both sides")
        if self.scale_low > self.scale_high:
            raise ValueError(f"scale_low {self.scale_low} is larger than scale_high {self.scale_high}")
        return self


Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


class TrainConfig(Section):
    """One training."""

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    sweep_width: int = Field(112, ge=16, description="width of the sweep as the network sees it, px (working scale)")
    epochs: int = Field(54, ge=1, le=1_000_000, description="passes over the train scans")
    crops_per_scan: int = Field(2, ge=1, description="crops drawn from each scan in one epoch")
    batch_size: int = Field(2, ge=1, description="crops in one step, of all processes together")
    learning_rate: float = Field(2e-3, gt=0.0, description="peak learning rate of AdamW")
    weight_decay: float = Field(1e-2, ge=0.0, description="not applied to norms and biases")
    schedule: Literal["cosine", "poly", "constant"] = Field("cosine", description="decay after the warm-up")
    warmup_epochs: float = Field(1.0, ge=0.0, description="linear warm-up; may be a fraction")
    clip_norm: float = Field(5.0, ge=0.0, description="largest gradient norm; 0 = no clipping")
    validate_every: int = Field(6, ge=1, description="epochs between two validations")
    patience: int = Field(0, ge=0, description="stop after so many validations without a better Dice; 0 = never")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of weights, crops and augmentation")
    device: Device = Field("auto", description="cuda is a demand: without a GPU the run ends")
    precision: Precision = Field("auto", description="auto: bfloat16 on a GPU that has it, else float32")
    threads: int = Field(2, ge=1, le=1024, description="CPU threads of torch; part of what makes a run bit-equal")
    workers: int = Field(0, ge=0, description="processes that prepare crops; 0 = in the trainer itself")
    init_from: str = Field("", description="model folder or models:/NAME@ALIAS to fine-tune; empty = from scratch")
    log_pictures: Literal["local", "always", "never"] = Field(
        "local", description="log validation overlays: only to a store on this machine, always, never"
    )

    @model_validator(mode="after")
    def _fits_the_masks(self) -> Self:
        if self.model.num_classes != NUM_CLASSES:
            raise ValueError(f"model.num_classes is {self.model.num_classes}, a mask has {NUM_CLASSES} classes")
        return self

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.warmup_epochs >= self.epochs > 1:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} leaves nothing of {self.epochs} epochs")
        return self


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
