"""Settings of a training: crops and their augmentation, optimiser, schedule, machine."""

from typing import Literal, Self

from pydantic import Field, model_validator

from sa2net.anatomy import NUM_CLASSES
from sa2net.config.base import Device, Precision, Section, refuse_changed
from sa2net.config.network import LossConfig, ModelConfig


class AugmentConfig(Section):
    """Random changes of the training crops; scan and mask move together."""

    crop_height: int = Field(320, ge=32, description="px at working scale; multiple of 32")
    crop_width: int = Field(192, ge=32, description="px at working scale; multiple of 32")
    scale_low: float = Field(0.85, ge=1 / 16, description="smallest random scale")
    scale_high: float = Field(1.2, gt=0.0, le=16.0, description="largest random scale")
    rotation: float = Field(5.0, ge=0.0, le=45.0, description="largest rotation, degrees either way")
    flip: float = Field(0.5, ge=0.0, le=1.0, description="probability of a left-right flip")
    brightness: float = Field(0.15, ge=0.0, le=1.0, description="largest change of brightness, share")
    contrast: float = Field(0.15, ge=0.0, le=1.0, description="largest change of contrast, share")
    gamma: float = Field(0.15, ge=0.0, lt=1.0, description="largest change of the grey curve's exponent, share")
    noise: float = Field(
        0.02, ge=0.0, le=1.0, description="largest standard deviation of added noise, share of full scale"
    )
    blur: float = Field(0.2, ge=0.0, le=1.0, description="probability of a slight blur")
    max_class_share: float = Field(
        1.0, gt=0.0, le=1.0, description="a crop with more of one class is drawn again, up to 10 times; 1 = never"
    )
    fill: Literal["black", "released"] = Field(
        "black", description="grey of what is turned or padded in: black, or mean grey as released"
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.crop_height % 32 or self.crop_width % 32:
            raise ValueError(f"crop {self.crop_height} x {self.crop_width} is not a multiple of 32 on both sides")
        if self.scale_low > self.scale_high:
            raise ValueError(f"scale_low {self.scale_low} is larger than scale_high {self.scale_high}")
        return self


class StreamConfig(Section):
    """Phantoms that are drawn while the training goes on, each seen in one epoch; they take the train scans' place."""

    scans: int = Field(0, ge=0, description="phantoms of each epoch; 0 = learn from the train scans")
    held_out: tuple[str, ...] = Field((), description="artefact families that never show")
    max_angle: float = Field(60.0, ge=0.0, le=80.0, description="largest curve, degrees")
    workers: int = Field(1, ge=0, description="processes that draw; 0 = the trainer itself, which then waits")

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        changed = self.model_dump(exclude_defaults=True)
        if not self.scans and changed:
            raise ValueError(f"{', '.join(changed)} would have no effect while scans is 0")
        return self


RATE, FINE_TUNING_RATE = 2e-3, 5e-4
"""Peak learning rates of a training from scratch and of one that starts from weights, where the settings name none."""


class TrainConfig(Section):
    """One training."""

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    augment: AugmentConfig = AugmentConfig()
    stream: StreamConfig = StreamConfig()
    sweep_width: int = Field(112, ge=16, description="width of the sweep as the network sees it, px (working scale)")
    epochs: int = Field(54, ge=1, le=1_000_000, description="passes over the train scans")
    iterations: int = Field(
        0,
        ge=0,
        description="updates of the weights in the whole training, rounded up to whole epochs; 0 = as epochs says",
    )
    crops_per_scan: int = Field(2, ge=1, description="crops drawn from each scan in one epoch")
    batch_size: int = Field(
        2, ge=0, description="crops in one step, of all processes together; 0 = what one GPU can hold"
    )
    accumulate: int = Field(
        1, ge=1, le=1_000_000, description="steps whose gradients are averaged before the weights change"
    )
    learning_rate: float = Field(
        0.0,
        ge=0.0,
        le=1e30,  # float32 ends at 3e38
        description=f"peak learning rate of AdamW; 0 = {RATE:g} from scratch, {FINE_TUNING_RATE:g} from weights",
    )
    weight_decay: float = Field(1e-2, ge=0.0, description="of AdamW")
    decayed: Literal["weights", "released"] = Field(
        "weights", description="what decays: weights, but no norms and biases; released: all"
    )
    average_decay: float = Field(
        0.0, ge=0.0, lt=1.0, description="decay of averaged (EMA) weights, which are then scored and kept; 0 = off"
    )
    schedule: Literal["cosine", "poly", "constant"] = Field("cosine", description="decay after the warm-up")
    warmup_epochs: float = Field(1.0, ge=0.0, description="linear warm-up; may be a fraction")
    clip_norm: float = Field(5.0, ge=0.0, description="largest gradient norm; 0 = no clipping")
    validate_every: int = Field(6, ge=1, description="epochs between two validations")
    patience: int = Field(0, ge=0, description="stop after so many validations without a better Dice; 0 = never")
    folds: int = Field(
        1, ge=1, le=20, description="networks, each validated on its own share of the subjects; their mean is the model"
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of weights, crops and augmentation")
    device: Device = Field("auto", description="cuda is a demand: without a GPU the run ends")
    precision: Precision = Field("auto", description="auto: bfloat16 on a GPU that has it, else float32")
    threads: int = Field(2, ge=1, le=1024, description="CPU threads of torch; part of what makes a run bit-equal")
    compile: bool = Field(False, description="compile the network (torch.compile; needs a C++ compiler, or Triton)")
    recompute: bool = Field(
        False, description="recompute activations in the backward pass: less memory, about a third more arithmetic"
    )
    workers: int = Field(0, ge=0, description="processes that prepare crops; 0 = in the trainer itself")
    prefetch: int = Field(2, ge=1, description="batches that each of them prepares in advance")
    init_from: str = Field(
        "ready",
        description="model folder or models:/NAME@ALIAS to fine-tune; ready: the shipped weights, where they are of this "
        "network; empty: from scratch",
    )
    log_pictures: Literal["local", "always", "never"] = Field(
        "local", description="log validation overlays: only to a store on this machine, always, never"
    )

    @property
    def peak_rate(self) -> float:
        """The peak learning rate, of the settings or of what the training starts from."""
        return self.learning_rate or (FINE_TUNING_RATE if self.init_from else RATE)

    @model_validator(mode="after")
    def _fits_the_masks(self) -> Self:
        if self.model.num_classes != NUM_CLASSES:
            raise ValueError(f"model.num_classes is {self.model.num_classes}, a mask has {NUM_CLASSES} classes")
        if len(self.loss.class_weights) != NUM_CLASSES:
            raise ValueError(f"loss.class_weights has {len(self.loss.class_weights)} values for {NUM_CLASSES} classes")
        return self

    @model_validator(mode="after")
    def _weighed_maps_exist(self) -> Self:
        ours = self.model.architecture == "sa2net"
        maps = {
            "coarse": ours and self.model.structure,
            "channel": ours and self.model.channel_branch,
            "position": ours and self.model.position_branch,
            "auxiliary": self.model.auxiliary,
        }
        refuse_changed(
            self.loss, tuple(name for name in maps if not maps[name]), "with this model, which has no such map"
        )
        return self

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if not self.workers and self.prefetch != type(self).model_fields["prefetch"].default:
            raise ValueError("prefetch would have no effect while workers is 0")
        if self.stream.scans and self.folds > 1:
            raise ValueError("folds divide the scans of a data set, but stream.scans draws phantoms instead")
        if self.iterations and self.epochs != type(self).model_fields["epochs"].default:
            raise ValueError("epochs would have no effect while iterations is set")
        if not self.batch_size and self.device == "cpu":
            raise ValueError("batch_size 0 asks what a GPU can hold, but device is cpu")
        return self

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if not self.iterations and self.warmup_epochs >= self.epochs > 1:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} leaves nothing of {self.epochs} epochs")
        return self
