"""Settings of the network and its loss. Where a published behaviour was mended, `released` selects the published one."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sa2net.anatomy import NUM_CLASSES
from sa2net.config.base import Section, refuse_changed

Affinity = Literal["normalised", "mean", "cosine", "released"]
Architecture = Literal[
    "sa2net",
    "unet",
    "smp/unet",
    "smp/unetplusplus",
    "smp/fpn",
    "smp/upernet",
    "smp/pspnet",
    "smp/deeplabv3",
    "smp/deeplabv3plus",
    "smp/segformer",
]


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
    """The network. `normalised`, `aligned`, `pad` are the mended defaults, `released` is the published behaviour."""

    architecture: Architecture = Field(
        "sa2net",
        description="sa2net; its rivals smp/unet, unetplusplus, fpn, upernet, pspnet, deeplabv3, deeplabv3plus, segformer; unet as released",
    )
    backbone: str = Field(
        "resnet10t",
        min_length=1,
        description="any timm model with feature maps at strides 4, 8, 16, 32, a plain ViT, or released_swin_tiny / _large",
    )
    pretrained: bool = Field(False, description="start the backbone from timm's weights (needs a network or a file)")
    pretrained_file: str = Field("", description="those weights as a .safetensors file; empty = fetched by timm")
    channels: int = Field(48, ge=8, description="width of the decode head at stride 4 (unet: of its first stage)")
    num_classes: int = Field(4, ge=2, description="channels of the logits; a training takes the classes of a mask")
    affinity: Affinity = Field(
        "normalised", description="scaling of structure affinity and channel attention; mean, cosine: alternatives"
    )
    logits: Literal["aligned", "released"] = Field(
        "aligned", description="released: last 3x3 convolution pads 2, logits are 2 px too large"
    )
    sizes: Literal["pad", "released"] = Field(
        "pad", description="a scan whose sides are no multiples of 32 is padded; released: stretched"
    )
    channel_branch: bool = Field(True, description="channel attention on the fused map")
    position_branch: bool = Field(True, description="criss-cross attention on the fused map")
    structure: bool = Field(True, description="structure affinity behind the branches; false: a 3x3 convolution")
    dropout: float = Field(0.1, ge=0.0, lt=1.0, description="channel dropout before each classifier")
    auxiliary: bool = Field(True, description="FCN head on the stride-16 map while training")
    predictor: PredictorConfig = PredictorConfig()

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        of_the_head = ("affinity", "logits", "sizes", "channel_branch", "position_branch", "structure", "predictor")
        of_a_backbone = ("backbone", "pretrained", "pretrained_file")
        without_effect = {"sa2net": (), "unet": (*of_the_head, *of_a_backbone)}.get(self.architecture, of_the_head)
        refuse_changed(self, without_effect, f"with architecture {self.architecture}")
        if not self.structure:
            refuse_changed(self, ("predictor",), "without structure")
            if not self.channel_branch:
                refuse_changed(self, ("affinity",), "without channel_branch and structure")
        if self.pretrained_file and not self.pretrained:
            raise ValueError("pretrained_file is set but pretrained is false")
        return self


ClassWeight = Annotated[float, Field(ge=0.0)]


class LossConfig(Section):
    """How the logit maps are compared with the mask."""

    kind: Literal["released", "sum", "mixing"] = Field(
        "sum",
        description="released: cross entropies of all maps; sum: the terms below of all maps; mixing: of all sums of maps",
    )
    ignored: Literal["valid", "released"] = Field(
        "valid", description="mean of the cross entropy (and focal term) over valid pixels, or over all as released"
    )
    main: float = Field(1.0, ge=0.0, description="weight of the final logits (released, sum)")
    coarse: float = Field(0.4, ge=0.0, description="weight of the structure-affinity's coarse logits (released, sum)")
    channel: float = Field(0.5, ge=0.0, description="weight of the channel branch (released, sum)")
    position: float = Field(0.5, ge=0.0, description="weight of the criss-cross branch (released, sum)")
    auxiliary: float = Field(0.4, ge=0.0, description="weight of the auxiliary head (all kinds)")
    dice: float = Field(0.7, ge=0.0, description="weight of the Dice term (sum, mixing)")
    cross_entropy: float = Field(0.3, ge=0.0, description="weight of the cross entropy (sum, mixing)")
    focal: float = Field(0.0, ge=0.0, description="weight of the focal term (sum, mixing)")
    focal_gamma: float = Field(2.0, ge=0.0, description="how far the focal term spares pixels that are right already")
    tversky: float = Field(0.0, ge=0.0, description="weight of the Tversky term (sum, mixing)")
    tversky_alpha: float = Field(0.3, ge=0.0, description="cost of what is drawn too much, beside 0.5 of Dice")
    tversky_beta: float = Field(0.7, ge=0.0, description="cost of what is missed, beside 0.5 of Dice")
    lovasz: float = Field(0.0, ge=0.0, description="weight of the Lovasz-softmax term (sum, mixing)")
    class_weights: tuple[ClassWeight, ...] = Field(
        (1.0,) * NUM_CLASSES,
        min_length=2,
        description="of background, rib, thoracic process, lumbar lump (not in lovasz)",
    )

    @model_validator(mode="after")
    def _terms_have_an_effect(self) -> Self:
        terms = ("dice", "cross_entropy", "focal", "tversky", "lovasz")
        maps = ("main", "coarse", "channel", "position")
        if self.kind == "released":
            refuse_changed(self, terms, "with kind released, which is cross entropies alone: set kind to sum")
        elif not any(getattr(self, term) for term in terms):
            raise ValueError(f"all of {', '.join(terms)} are 0: nothing would be learnt")
        if self.kind != "mixing" and not any(getattr(self, name) for name in (*maps, "auxiliary")):
            raise ValueError(f"all of {', '.join(maps)}, auxiliary are 0: nothing would be learnt")
        if self.tversky and not (self.tversky_alpha or self.tversky_beta):
            raise ValueError("tversky_alpha and tversky_beta are 0: nothing would cost anything")
        if self.kind == "mixing":
            refuse_changed(self, maps, "with kind mixing, which weighs all maps the same")
        if self.kind != "released" and not (self.cross_entropy or self.focal):
            refuse_changed(self, ("ignored",), "while cross_entropy and focal are 0")
        if not self.focal:
            refuse_changed(self, ("focal_gamma",), "while focal is 0")
        if not self.tversky:
            refuse_changed(self, ("tversky_alpha", "tversky_beta"), "while tversky is 0")
        if not any(self.class_weights):
            raise ValueError("all class_weights are 0: nothing would be learnt")
        if self.lovasz:
            refuse_changed(self, ("class_weights",), "on lovasz, which weighs all classes the same")
        return self
