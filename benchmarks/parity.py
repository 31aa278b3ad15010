"""How far this network is from the published one: every fixture file in a folder, one line a file.

    python benchmarks/parity.py DIR [--strict] [--float64]

A fixture is an `.npz` with inputs, weights in released names and the reference's outputs; `meta_json` in it names its
kind and its sizes. The error of a tensor is max |got - want| / max |want|, of a scalar or a gradient norm |got - want|
/ |want|; what is zero in the reference (or analytically) is compared absolutely. Exit code 1 above 2e-5 for values,
5e-5 for gradients and gradient norms. `--strict`: also where a file has a kind that is not known here, or holds a key
that was neither used as an input nor compared.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sa2net.config import LossConfig, ModelConfig, PredictorConfig
from sa2net.errors import Sa2NetError
from sa2net.evaluation.pooled import confusion_matrix, pooled_scores, released_pixel_accuracy
from sa2net.model.affinity import StructureAffinity, TransformerPredictor
from sa2net.model.attention import ChannelAttention, CrissCrossAttention
from sa2net.model.backbone import TimmBackbone
from sa2net.model.layers import BatchNorm2d, resize
from sa2net.model.logits import AuxiliaryHead, TrainingLogits
from sa2net.model.losses import build_loss
from sa2net.model.migrate import Part, from_released, released_name
from sa2net.model.network import DecodeHead
from sa2net.model.pyramid import PyramidPooling
from sa2net.model.swin import SwinSizes, SwinTransformer
from sa2net.model.unet import UNet

VALUE_TOLERANCE = 2e-5
GRADIENT_TOLERANCE = 5e-5
LOGITS = {"seg": "final", "seg_lo": "coarse", "cam": "channel", "pam": "position", "aux": "auxiliary"}
LOSS_WEIGHTS = {"seg": "main", "seg_lo": "coarse", "cam": "channel", "pam": "position", "aux": "auxiliary"}


@dataclass
class Fixture:
    """One file: its arrays, its settings, and how far the results compared so far are from it."""

    path: Path
    dtype: torch.dtype = torch.float32
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    unknown_kind: bool = False
    error: str = ""

    def __post_init__(self) -> None:
        with np.load(self.path, allow_pickle=False) as file:
            self.arrays = {key: file[key] for key in file.files}
        self.meta = json.loads(self.arrays.pop("meta_json").tobytes().decode())

    def tensor(self, key: str, *, gradient: bool = False) -> Tensor:
        """An input as a tensor; labels stay integers."""
        self.seen.add(key)
        array = torch.from_numpy(self.arrays[key])
        return array.to(self.dtype).requires_grad_(gradient) if array.is_floating_point() else array

    def array(self, key: str) -> np.ndarray[Any, Any]:
        """An input as it is stored."""
        self.seen.add(key)
        return self.arrays[key]

    def cases(self) -> list[str]:
        """Prefixes of the cases, `a/` and so on."""
        names = {key.split("/")[0] for key in self.arrays if "/" in key} - {"w", "after", "grad_w"}
        return [f"{name}/" for name in sorted(names)]

    def weights(self, prefix: str = "w/") -> dict[str, Tensor]:
        """The state dict, released names."""
        keys = [key for key in self.arrays if key.startswith(prefix)]
        return {key.removeprefix(prefix): self.tensor(key) for key in keys}

    def load(self, module: nn.Module, part: Part) -> nn.Module:
        """Give `module` the weights of the file, all of them, and switch it to evaluation."""
        module.to(self.dtype).load_state_dict(from_released(self.weights(), part))
        return module.eval()

    def compare(self, key: str, got: Tensor | np.ndarray[Any, Any] | float) -> None:
        """Note how far `got` is from the stored tensor; a wrong shape or a misplaced NaN is infinitely far."""
        want = self.array(key).astype(np.float64)
        array = got.detach().double().numpy() if isinstance(got, Tensor) else np.asarray(got, dtype=np.float64)
        target = self.gradients if any(part.startswith("grad_") for part in key.split("/")) else self.values
        target[key] = relative_error(array, want)

    def compare_gradient(self, key: str, got: Tensor | None) -> None:
        """Note how far a gradient is; none where the reference has one is infinitely far."""
        if got is None:
            self.seen.add(key)
            self.gradients[key] = float("inf")
        else:
            self.compare(key, got.reshape(self.arrays[key].shape))

    def unchecked(self) -> list[str]:
        """Keys that were neither an input nor compared."""
        return sorted(set(self.arrays) - self.seen)


def relative_error(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> float:
    """Max |got - want| / max |want|; absolute where all of `want` is 0."""
    if got.shape != want.shape or not np.array_equal(np.isnan(got), np.isnan(want)):
        return float("inf")
    known = ~np.isnan(want)
    if not known.any():
        return 0.0
    scale = float(np.abs(want[known]).max()) or 1.0
    return float(np.abs(got[known] - want[known]).max()) / scale


@contextmanager
def recorded(**modules: nn.Module) -> Iterator[dict[str, list[Any]]]:
    """Collect the outputs of modules by name, in the order of their calls."""
    outputs: dict[str, list[Any]] = {name: [] for name in modules}
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: outputs[name].append(output))
        for name, module in modules.items()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _predictor_config(meta: dict[str, Any], dropout: float = 0.0) -> PredictorConfig:
    sizes = {name: meta[name] for name in ("embed_dim", "depth", "num_heads", "mask_dim")}
    return PredictorConfig(**sizes, dropout=dropout)


def _released_head(fixture: Fixture) -> DecodeHead:
    meta = fixture.meta
    cfg = ModelConfig(
        channels=meta["channels"],
        num_classes=meta["num_classes"],
        affinity="released",
        logits="released",
        dropout=0.0,
        predictor=_predictor_config(meta["predictor"]),
    )
    head = DecodeHead(meta["in_channels"], cfg)
    fixture.load(head, "head")
    return head


def check_decode_head(fixture: Fixture) -> None:
    """The head's four outputs and every map on the way."""
    head = _released_head(fixture)
    for case in fixture.cases():
        if f"{case}pred_in" in fixture.arrays:
            fixture.compare(f"{case}pred_mask", head.structure_affinity.predictor(fixture.tensor(f"{case}pred_in")))
            continue
        levels = [fixture.tensor(f"{case}in{i}") for i in range(len(fixture.meta["in_channels"]))]
        with recorded(
            ppm_bottleneck=head.pyramid.bottleneck,
            fused=head.pyramid.fusion,
            cam=head.channel_attention,
            cam_feat=head.channel_smooth,
            cca=head.criss_cross,
            pam_feat=head.position_smooth,
        ) as outputs:
            logits = head(levels)
        for name in ("ppm_bottleneck", "fused", "cam", "cam_feat", "pam_feat"):
            fixture.compare(f"{case}{name}", outputs[name][0])
        fixture.compare(f"{case}cam_attention", head.channel_attention.attention(outputs["fused"][0]))
        for i, crossed in enumerate(outputs["cca"]):
            fixture.compare(f"{case}cca{i + 1}", crossed)
        _compare_affinity(
            fixture, head.structure_affinity, outputs["pam_feat"][0] + outputs["cam_feat"][0], f"{case}sa_"
        )
        for name in ("seg", "seg_lo", "cam", "pam"):
            fixture.compare(f"{case}out_{name}", getattr(logits, LOGITS[name]))
        final = relative_error(head.final(levels).double().numpy(), fixture.array(f"{case}out_seg").astype(np.float64))
        fixture.values[f"{case}out_seg (evaluation path)"] = final


def _compare_affinity(fixture: Fixture, module: StructureAffinity, x: Tensor, prefix: str) -> None:
    with recorded(mask=module.predictor, spread=module.spread) as outputs:
        features, coarse = module(x)
    probabilities = torch.softmax(coarse.flatten(2), dim=1)
    affinity = module.affinity(x, probabilities)
    fixture.compare(f"{prefix}mask", outputs["mask"][0])
    fixture.compare(f"{prefix}k_logits", coarse)
    fixture.compare(f"{prefix}s", affinity)
    fixture.compare(f"{prefix}f", (affinity @ probabilities).view(*affinity.shape[:2], *x.shape[-2:]))
    fixture.compare(f"{prefix}x_", outputs["spread"][0])
    fixture.compare(f"{prefix}y", features)
    if f"{prefix}lo" in fixture.arrays:
        fixture.compare(f"{prefix}lo", coarse)


def check_channel_attention(fixture: Fixture) -> None:
    """Channel attention alone."""
    module = ChannelAttention(fixture.meta["in_channels"], "released")
    fixture.load(module, "channel_attention")
    for case in fixture.cases():
        x = fixture.tensor(f"{case}x")
        fixture.compare(f"{case}attention", module.attention(x))
        fixture.compare(f"{case}out", module(x))


def check_criss_cross(fixture: Fixture) -> None:
    """Criss-cross attention alone, once and twice."""
    module = CrissCrossAttention(fixture.meta["in_channels"])
    fixture.load(module, "criss_cross")
    for case in fixture.cases():
        x = fixture.tensor(f"{case}x")
        fixture.compare(f"{case}attention", module.attention(x))
        fixture.compare(f"{case}out", module(x))
        fixture.compare(f"{case}out_twice", module(module(x)))


def check_predictor(fixture: Fixture) -> None:
    """The transformer predictor, layer by layer."""
    meta = fixture.meta
    module = TransformerPredictor(meta["in_channels"], meta["num_classes"], _predictor_config(meta))
    fixture.load(module, "predictor")
    for case in fixture.cases():
        layers = {f"block{i}": layer for i, layer in enumerate(module.layers)}
        with recorded(proj=module.memory, **layers) as outputs:
            fixture.compare(f"{case}mask", module(fixture.tensor(f"{case}x")))
        fixture.compare(f"{case}proj", outputs.pop("proj")[0].transpose(1, 2))
        for name, (output,) in outputs.items():
            fixture.compare(f"{case}{name}", output)


def check_structure_affinity(fixture: Fixture) -> None:
    """The structure-affinity module alone."""
    meta = fixture.meta
    predictor = _predictor_config(meta["predictor"])
    module = StructureAffinity(meta["in_channels"], meta["basis"], predictor, affinity="released", padding=2)
    fixture.load(module, "structure_affinity")
    for case in fixture.cases():
        _compare_affinity(fixture, module, fixture.tensor(f"{case}x"), case)


def check_pyramid_pooling(fixture: Fixture) -> None:
    """Pyramid pooling alone."""
    meta = fixture.meta
    module = PyramidPooling(meta["in_channels"], meta["channels"], meta["pool_scales"])
    fixture.load(module, "pyramid_pooling")
    for case in fixture.cases():
        for i, pooled in enumerate(module(fixture.tensor(f"{case}x"))):
            fixture.compare(f"{case}out{i}", pooled)


def check_auxiliary_head(fixture: Fixture) -> None:
    """The auxiliary head with its loss and accuracy."""
    meta = fixture.meta
    module = AuxiliaryHead(meta["in_channels"], meta["channels"], meta["num_classes"], dropout=0.0)
    fixture.load(module, "auxiliary")
    loss = build_loss(LossConfig(kind="released", ignored="released", auxiliary=meta["loss_weight"]))
    for case in fixture.cases():
        logits, mask = module(fixture.tensor(f"{case}x")), fixture.tensor(f"{case}label")
        fixture.compare(f"{case}out", logits)
        part = loss(TrainingLogits(logits, logits, logits, logits, logits), mask)["auxiliary"]
        fixture.compare(f"{case}loss", meta["loss_weight"] * part)
        fixture.compare(f"{case}acc", _accuracy(logits, mask, ignored_are_wrong=False))


def _accuracy(logits: Tensor, mask: Tensor, *, ignored_are_wrong: bool) -> float:
    labels = resize(logits.detach(), (mask.shape[-2], mask.shape[-1])).argmax(1)
    return released_pixel_accuracy(labels.numpy(), mask.numpy(), ignored_are_wrong=ignored_are_wrong)


def check_loss(fixture: Fixture) -> None:
    """The released loss, its parts, its gradients, and the accuracies logged with it."""
    weights = {LOSS_WEIGHTS[name]: weight for name, weight in fixture.meta["weights"].items()}
    loss = build_loss(LossConfig(kind="released", ignored="released", **weights))
    for case in fixture.cases():
        mask = fixture.tensor(f"{case}label")
        maps = {name: fixture.tensor(f"{case}logit_{name}", gradient=True) for name in LOGITS}
        with torch.enable_grad():
            parts = loss(TrainingLogits(**{LOGITS[name]: map_ for name, map_ in maps.items()}), mask)
            parts["total"].backward()
        auxiliary = weights["auxiliary"] * parts["auxiliary"]
        for name in ("seg", "seg_lo", "cam", "pam"):
            fixture.compare(f"{case}ce_{name}_f64", parts[LOSS_WEIGHTS[name]])
        fixture.compare(f"{case}loss_seg_f64", parts["total"] - auxiliary)
        fixture.compare(f"{case}loss_aux_f64", auxiliary)
        fixture.compare(f"{case}loss_total_f64", parts["total"])
        for name, map_ in maps.items():
            fixture.compare_gradient(f"{case}grad_{name}", map_.grad)
        fixture.compare(f"{case}acc_seg_f64", _accuracy(maps["seg"], mask, ignored_are_wrong=True))
        fixture.compare(f"{case}acc_aux_f64", _accuracy(maps["aux"], mask, ignored_are_wrong=False))


def check_train_step(fixture: Fixture) -> None:
    """One training step of the head: outputs, loss, all gradients, batch-norm statistics."""
    head = _released_head(fixture).train()
    for module in head.modules():
        if isinstance(module, BatchNorm2d):
            module.momentum = fixture.meta["bn_momentum"]
    levels = [fixture.tensor(f"in{i}", gradient=True) for i in range(len(fixture.meta["in_channels"]))]
    with torch.enable_grad():
        logits = head(levels)
        loss = build_loss(LossConfig(kind="released", ignored="released"))(logits, fixture.tensor("label"))["total"]
        loss.backward()
    for name in ("seg", "seg_lo", "cam", "pam"):
        fixture.compare(f"out_{name}", getattr(logits, LOGITS[name]))
    fixture.compare("loss_seg_f64", loss)
    for i, level in enumerate(levels):
        fixture.compare_gradient(f"grad_in{i}", level.grad)
    gradients = {released_name(name, "head"): parameter.grad for name, parameter in head.named_parameters()}
    for key in [key for key in fixture.arrays if key.startswith("grad_w/")]:
        fixture.compare_gradient(key, gradients.get(key.removeprefix("grad_w/")))
    _compare_norms(fixture, gradients)
    after = {released_name(name, "head"): buffer for name, buffer in head.named_buffers()}
    for key in [key for key in fixture.arrays if key.startswith("after/")]:
        fixture.compare(key, after[key.removeprefix("after/")])


def _compare_norms(fixture: Fixture, gradients: dict[str | None, Tensor | None]) -> None:
    """Each norm relative to itself; the analytically zero ones, and a missing gradient, as such."""
    want = fixture.array("grad_norms_f64")
    for name, norm in zip(fixture.meta["grad_norm_names"], want, strict=True):
        gradient = gradients.get(name)
        key = f"grad_norms_f64[{name}]"
        if gradient is None or np.isnan(norm):
            fixture.gradients[key] = 0.0 if gradient is None and np.isnan(norm) else float("inf")
            continue
        scale = 1.0 if name in fixture.meta["analytically_zero_grads"] or norm == 0 else norm
        fixture.gradients[key] = float(abs(float(gradient.detach().double().norm()) - norm) / scale)


def _check_maps(fixture: Fixture, module: nn.Module) -> None:
    for case in fixture.cases():
        for i, map_ in enumerate(module(fixture.tensor(f"{case}x"))):
            fixture.compare(f"{case}out{i}", map_)


def check_resnet(fixture: Fixture) -> None:
    """The ResNet of timm with the deep stem (v1c), narrowed."""
    meta = fixture.meta
    options = {
        "stem_width": meta["stem_channels"] // 2,
        "channels": tuple(meta["base_channels"] * 2**i for i in range(4)),
    }
    module = TimmBackbone(f"resnet{meta['depth']}c", in_channels=3, options=options)
    fixture.load(module, "resnet")
    _check_maps(fixture, module)


def check_swin(fixture: Fixture) -> None:
    """Our Swin transformer."""
    meta = fixture.meta
    sizes = SwinSizes(meta["embed_dims"], tuple(meta["depths"]), tuple(meta["num_heads"]), meta["window_size"])
    module = SwinTransformer(sizes, in_channels=3)
    fixture.load(module, "swin")
    _check_maps(fixture, module)


def check_unet(fixture: Fixture) -> None:
    """Our U-Net."""
    module = UNet(in_channels=3, base_channels=fixture.meta["base_channels"])
    fixture.load(module, "unet")
    _check_maps(fixture, module)


def check_metrics(fixture: Fixture) -> None:
    """The pooled scores."""
    classes, ignored = fixture.meta["num_classes"], fixture.meta["ignore_index"]
    names = sorted(key for key in fixture.arrays if key.startswith("pred"))
    matrices = [
        confusion_matrix(fixture.array(name), fixture.array(name.replace("pred", "gt")), classes, ignored)
        for name in names
    ]
    for name, score in pooled_scores(np.sum(matrices, axis=0)).items():
        fixture.compare(f"{name}_f64", score)


CHECKS: dict[str, Callable[[Fixture], None]] = {
    "decode_head": check_decode_head,
    "channel_attention": check_channel_attention,
    "criss_cross": check_criss_cross,
    "transformer_predictor": check_predictor,
    "structure_affinity": check_structure_affinity,
    "ppm": check_pyramid_pooling,
    "aux_head": check_auxiliary_head,
    "loss": check_loss,
    "train_parity": check_train_step,
    "backbone_resnet": check_resnet,
    "backbone_swin": check_swin,
    "backbone_unet": check_unet,
    "metrics": check_metrics,
}


def check(path: Path, dtype: torch.dtype = torch.float32) -> Fixture:
    """Run everything one fixture file holds."""
    fixture = Fixture(path, dtype)
    function = CHECKS.get(fixture.meta.get("kind", ""))
    if function is None:
        fixture.unknown_kind = True
        return fixture
    try:
        with torch.no_grad():
            function(fixture)
    except (KeyError, ValueError, RuntimeError, Sa2NetError) as error:  # one odd file must not hide the others
        fixture.error = f"{type(error).__name__}: {error}"
    return fixture


def faults(fixture: Fixture, *, strict: bool) -> list[str]:
    """Why a file fails; empty where it passes."""
    found = [f"{key} {error:.1e}" for key, error in fixture.values.items() if not error <= VALUE_TOLERANCE]
    found += [f"{key} {error:.1e}" for key, error in fixture.gradients.items() if not error <= GRADIENT_TOLERANCE]
    if fixture.error:
        found.append(fixture.error)
    elif strict and fixture.unknown_kind:
        found.append(f"unknown kind {fixture.meta.get('kind')}")
    elif strict and fixture.unchecked():
        found.append(f"not checked: {', '.join(fixture.unchecked())}")
    return found


def line(fixture: Fixture, *, strict: bool) -> str:
    """One line of the table."""
    if fixture.unknown_kind:
        return f"{fixture.path.name:<30} unknown kind {fixture.meta.get('kind')}: {'FAIL' if strict else 'skipped'}"

    def worst(errors: dict[str, float]) -> str:
        if not errors:
            return f"{'-':>8} {'':<36}"
        key = max(errors, key=lambda name: errors[name])
        return f"{errors[key]:8.1e} {key:<36}"

    found = faults(fixture, strict=strict)
    verdict = "ok" if not found else f"FAIL ({'; '.join(found[:5])})"
    compared = len(fixture.values) + len(fixture.gradients)
    return f"{fixture.path.name:<30} {compared:>5}  {worst(fixture.values)} {worst(fixture.gradients)} {verdict}"


def main() -> int:
    """Print the table; 1 if a file fails or there is none."""
    parser = argparse.ArgumentParser(description="Compare the network with reference numbers.")
    parser.add_argument("folder", type=Path, help="folder of .npz fixtures")
    parser.add_argument("--strict", action="store_true", help="unknown kinds and unchecked keys fail")
    parser.add_argument("--float64", action="store_true", help="compute in double precision")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(arguments.folder.glob("*.npz"))
    if not paths:
        print(f"{arguments.folder} holds no .npz file", file=sys.stderr)
        return 1
    dtype = torch.float64 if arguments.float64 else torch.float32
    print(f"max|got - want| / max|want| in {dtype}; limits: values {VALUE_TOLERANCE:.0e}, gradients and their norms")
    print(f"{GRADIENT_TOLERANCE:.0e}; absolute where the reference is zero. inf = wrong shape or misplaced NaN.")
    print(f"{'file':<30} {'keys':>5}  {'worst value':<45} {'worst gradient':<45} verdict")
    failed = 0
    for path in paths:
        fixture = check(path, dtype)
        print(line(fixture, strict=arguments.strict))
        failed += bool(faults(fixture, strict=arguments.strict))
    print(f"{len(paths) - failed} of {len(paths)} files within the limits{' (strict)' if arguments.strict else ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
