"""Checkpoints of the published code become model folders: the same numbers, and nothing of the file is run."""

import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import draw_case
from hypothesis import given, settings
from hypothesis import strategies as st
from released_cases import SIZES, released, save, three_colours
from torch import Tensor
from torch.nn import functional

from sa2net.artifacts import read_model_info
from sa2net.config import ModelConfig
from sa2net.errors import ConfigError, DataError
from sa2net.inference.predictor import Predictor
from sa2net.model.backbone import RELEASED_SWIN, TimmBackbone
from sa2net.model.migrate import Part, from_released, to_released
from sa2net.model.network import SA2Net
from sa2net.model.released import convert, to_grey
from sa2net.model.swin import SwinSizes, SwinTransformer
from sa2net.model.unet import UNet, UNetSegmenter
from sa2net.steps import import_checkpoint as step

IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


@pytest.fixture(scope="module")
def resnet() -> SA2Net:
    return three_colours("resnet50c")


@pytest.fixture(scope="module")
def swin() -> SA2Net:
    return three_colours("released_swin_tiny")


@pytest.fixture(scope="module")
def unet() -> UNetSegmenter:
    return three_colours("unet")


@pytest.fixture(scope="module")
def state(resnet: SA2Net) -> OrderedDict[str, Tensor]:
    return released(resnet, "resnet")


def colours(grey: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """What the published code shows its network of a grey picture. (1, 1, H, W) -> (1, 3, H, W)."""
    shaped = (torch.tensor(values * (3 // len(values))).view(1, 3, 1, 1) for values in (mean, std))
    centre, spread = shaped
    return (grey.repeat(1, 3, 1, 1) - centre) / spread


def error(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max())


def picture(height: int = 96, width: int = 64) -> Tensor:
    return torch.from_numpy(draw_case(2, width, height)[0])[None, None].float()


@pytest.mark.parametrize("name", ["resnet", *(pytest.param(name, marks=pytest.mark.long) for name in ("swin", "unet"))])
def test_the_imported_network_computes_what_the_checkpoint_does(
    name: Part, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    network = request.getfixturevalue(name)
    path = save(tmp_path / "iter_160000.pth", released(network, name))
    done = step.run(path, tmp_path / "model", sweep_width=48, heads=4)
    info = read_model_info(tmp_path / "model")
    assert (info.normalisation.mean, info.normalisation.std) == (75.99, 84.15)
    assert (info.sweep_width, info.spacing_mm, info.model.auxiliary, done.notes) == (48, (), True, ())
    predictor = Predictor.load(tmp_path / "model", device="cpu")
    grey = picture(90, 70)  # no multiples of 32: stretched, or for the U-Net continued, as published
    with torch.no_grad():
        got = predictor.network.eval()((grey - 75.99) / 84.15)
        want = network(colours(grey, (75.99,), (84.15,)))
    assert got.shape == (1, 4, 90, 70)
    assert error(got, want) < 2e-5
    assert predictor(draw_case(3)[0]).shape == (256, 96)


def test_colours_that_were_normalised_differently_are_exact_in_a_swin(swin: SA2Net) -> None:
    found = convert(released(swin, "swin"), heads=4, **IMAGENET)
    grey = picture()
    with torch.no_grad():
        got = _built(found)((grey - found.normalisation.mean) / found.normalisation.std)
        want = swin(colours(grey, **IMAGENET))
    assert found.notes == ()
    assert error(got, want) < 2e-5


@pytest.mark.parametrize("name", [pytest.param("resnet", marks=pytest.mark.long), "unet"])
def test_colours_that_were_normalised_differently_are_exact_elsewhere_but_at_the_edge(
    name: Part, request: pytest.FixtureRequest
) -> None:
    """The first layer, after its norm: inside equal; at the edge no more than the note says."""
    network = request.getfixturevalue(name)
    found = convert(released(network, name), heads=4, **IMAGENET)
    grey = picture()
    ours = _built(found)
    with torch.no_grad():
        seen = (grey - found.normalisation.mean) / found.normalisation.std
        got, want = _first(ours, seen), _first(network, colours(grey, **IMAGENET))
        whole = error(ours(seen), network(colours(grey, **IMAGENET)))
    apart = (got - want).abs()
    assert float(apart[..., 1:-1, 1:-1].max()) < 2e-5 * float(want.abs().max())
    (note,) = found.notes
    said = float(note.split("by up to ")[1].split(" ")[0])
    assert 0.9 * said < float(apart.max()) < 1.1 * said
    assert said < 0.5
    assert whole < 0.05


def _first(network: Any, x: Tensor) -> Tensor:
    """The first layer, in standard deviations of what follows it."""
    body = network.backbone
    layer, norm = (
        body.features.conv1[:2] if hasattr(body, "features") else (body.encoder[0][0].conv, body.encoder[0][0].norm)
    )
    return functional.batch_norm(layer(x), norm.running_mean, norm.running_var, eps=0.0)


def _built(found: Any) -> Any:
    from sa2net.model.network import build

    network = build(found.cfg)
    network.load_state_dict(found.weights)
    return network.eval()


@pytest.mark.long
def test_the_sizes_of_a_large_swin_are_seen() -> None:
    """Shapes alone: one stored number stands for each tensor."""
    with torch.device("meta"):
        network = SA2Net(
            SwinTransformer(RELEASED_SWIN["released_swin_large"], in_channels=3),
            ModelConfig(backbone="released_swin_large", **{**SIZES, "channels": 512}),
        )
    named = {"backbone": ("swin", network.backbone), "decode_head": ("head", network.head)}
    state = {
        f"{prefix}.{name}": torch.ones((), dtype=tensor.dtype).expand(tensor.shape)
        for prefix, (part, module) in named.items()
        for name, tensor in to_released(module.state_dict(), part).items()
    }
    cfg = convert(state, heads=4).cfg
    assert (cfg.backbone, cfg.channels, cfg.auxiliary) == ("released_swin_large", 512, False)
    assert (cfg.predictor.embed_dim, cfg.predictor.depth, cfg.predictor.mask_dim) == (32, 2, 24)


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("place", ["meta", "state_dict"])
def test_a_hostile_file_is_refused_and_not_run(tmp_path: Path, modern: bool, place: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "bad.pth"
    content = {"meta": {}, "state_dict": {"backbone.stem.0.weight": torch.ones(1)}}
    content[place]["extra"] = Hostile(marker)
    torch.save(content, path, _use_new_zipfile_serialization=modern)
    with pytest.raises(DataError, match=r"it asks for posix\.system\. Where you trust the file"):
        step.run(path, tmp_path / "model")
    assert not marker.exists()
    assert not (tmp_path / "model").exists()
    pickle.dump(Hostile(marker), path.open("wb"))
    with pytest.raises(DataError):
        step.read_state(path)
    assert not marker.exists()


def test_objects_that_are_no_plain_values_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"meta": {"where": Path("/x"), "table": np.arange(3)}, "state_dict": {}}, path)
    with pytest.raises(DataError, match=r"numpy.*_reconstruct.*pathlib\.PosixPath"):
        step.read_state(path)


def test_a_file_of_the_old_kind_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"backbone.x": torch.ones(2)}, _use_new_zipfile_serialization=False)
    assert step.read_state(path)["backbone.x"].tolist() == [1.0, 1.0]


def test_damaged_files_are_named(tmp_path: Path, state: OrderedDict[str, Tensor]) -> None:
    path = save(tmp_path / "a.pth", {name: state[name] for name in list(state)[:20]})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-10], whole[:4], b"", b"no checkpoint", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged, truncated or no checkpoint"):
            step.run(path, tmp_path / "model")
    with pytest.raises(DataError, match=r"none\.pth cannot be read: No such file"):
        step.run(tmp_path / "none.pth", tmp_path / "model")
    torch.save([1, 2], path)
    with pytest.raises(DataError, match="holds no state dict"):
        step.read_state(path)
    torch.save({"state_dict": {"a": 1}}, path)
    with pytest.raises(DataError, match="something else than plain tensors"):
        step.read_state(path)
    for odd in (torch.ones(1, device="meta"), torch.ones(2, 2).to_sparse(), torch.ones(1, dtype=torch.complex64)):
        torch.save({"state_dict": {"a": odd}}, path)
        with pytest.raises(DataError, match="something else than plain tensors"):
            step.read_state(path)
    assert not (tmp_path / "model").exists()


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {"weight": torch.arange(1000.0)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(1000.0).numpy().tobytes()) + 2002] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged.*the checksum of .*data/0 is wrong"):
        step.read_state(path)


def test_a_spacing_that_cannot_be_is_refused(tmp_path: Path, state: OrderedDict[str, Tensor]) -> None:
    path = save(tmp_path / "a.pth", state)
    for spacing in ((float("nan"), 1.0), (float("inf"), 1.0), (-1.0, 0.0)):
        with pytest.raises(ConfigError, match="spacing cannot be right"):
            step.run(path, tmp_path / "model", heads=4, spacing_mm=spacing)
    assert not (tmp_path / "model").exists()


def changed(state: Mapping[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    """The state dict with tensors replaced, added, or (None) taken out; `__` stands for a point."""
    new = dict(state)
    for key, tensor in changes.items():
        name = key.replace("__", ".")
        if tensor is None:
            del new[name]
        else:
            new[name] = tensor
    return new


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"decode_head__pam__gamma__scale": torch.ones(2)},
            r"1 of another shape: decode_head\.pam\.gamma\.scale is 2, not one number",
        ),
        ({"backbone__layer1__0__conv1__weight": None}, r"1 missing: backbone\.layer1\.0\.conv1\.weight"),
        (
            {"backbone__stem__0__weight": torch.ones(8, 3, 3, 3)},
            r"backbone\.stem\.0\.weight is 8 x 3 x 3 x 3, not 32 x 3 x",
        ),
        ({"backbone__stem__1__running_mean": None}, r"1 missing: backbone\.stem\.1\.running_mean"),
        ({"backbone__layer9__0__conv1__weight": torch.ones(2)}, r"1 not used: backbone\.layer9\.0\.conv1\.weight"),
        ({"decode_head__own__weight": torch.ones(2)}, r"1 tensors are unknown to the released head: own\.weight"),
        ({"neck__weight": torch.ones(2)}, r"not one of the released code: unknown: neck\.weight"),
        ({"backbone__stem__0__weight": torch.full((32, 3, 3, 3), torch.nan)}, "not finite"),
        ({"decode_head__bottleneck__conv__weight": None}, r"lacks what shows its sizes: decode_head\.bottleneck"),
    ],
)
def test_what_does_not_fit_is_named_as_in_the_checkpoint(
    state: OrderedDict[str, Tensor], changes: dict[str, Tensor | None], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        convert(changed(state, **changes), heads=4, **IMAGENET)


def test_other_networks_are_named(state: OrderedDict[str, Tensor]) -> None:
    head = {name: tensor for name, tensor in state.items() if name.startswith("decode_head.")}
    with pytest.raises(DataError, match="tensors are unknown to the released auxiliary"):
        convert({**head, "backbone.encoder.0.0.convs.0.conv.weight": torch.ones(16, 3, 3, 3)})
    narrow = {"backbone.stem.0.weight": torch.ones(4, 3, 3, 3), "backbone.layer1.0.conv1.weight": torch.ones(1)}
    with pytest.raises(DataError, match="a ResNet v1c of 1 x 0 x 0 x 0 blocks"):
        convert({**head, **narrow})
    with pytest.raises(DataError, match="not that of SA2Net"):
        convert({"backbone.stem.0.weight": torch.ones(1), "decode_head.conv_seg.weight": torch.ones(1)})


def test_options_that_cannot_be_are_refused(state: OrderedDict[str, Tensor]) -> None:
    for options, words in (
        ({"heads": 5}, "5 heads do not divide a width of 32"),
        ({"mean": (1.0, 2.0)}, "2 numbers for 3 colours"),
        ({"std": (0.0,)}, "not positive"),
        ({"std": (1e-320,)}, "no means and standard deviations of grey levels"),
        ({"mean": (1e200, -1e200, 1e308)}, "no means and standard deviations of grey levels"),
        ({"mean": (float("nan"),)}, "no means and standard deviations of grey levels"),
    ):
        with pytest.raises(ConfigError, match=words):
            convert(state, **{"heads": 4, **options})


def test_an_auxiliary_head_of_another_width_is_left_out(state: OrderedDict[str, Tensor]) -> None:
    found = convert(changed(state, auxiliary_head__convs__0__conv__weight=torch.ones(8, 1024, 3, 3)), heads=4)
    assert not found.cfg.auxiliary
    assert not [name for name in found.weights if name.startswith("auxiliary")]
    assert found.notes == ("The auxiliary head, which only trains, is of another width: left out.",)


def test_the_u_net_baseline_is_seen(unet: UNetSegmenter) -> None:
    found = convert(released(unet, "unet"))
    assert (found.name, found.cfg.channels, found.cfg.auxiliary) == ("unet", 16, True)


def test_another_number_of_classes_is_refused(tmp_path: Path, resnet: SA2Net) -> None:
    torch.manual_seed(2)
    other = SA2Net(resnet.backbone, ModelConfig(backbone="resnet50c", num_classes=3, **SIZES))
    path = save(tmp_path / "a.pth", released(other, "resnet"))
    with pytest.raises(DataError, match="the network has 3 classes"):
        step.run(path, tmp_path / "model", heads=4)
    assert not (tmp_path / "model").exists()


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path, state: OrderedDict[str, Tensor]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").touch()
    with pytest.raises(DataError, match="precious"):
        step.run(tmp_path / "a.pth", tmp_path / "model")


@pytest.mark.skipif("SA2NET_FIXTURES" not in os.environ, reason="SA2NET_FIXTURES names no folder of fixtures")
@pytest.mark.parametrize("part", ["resnet", "swin", "unet"])
@pytest.mark.parametrize("normalised", [{}, IMAGENET])
def test_grey_weights_of_the_reference_backbones(part: Part, normalised: dict[str, tuple[float, ...]]) -> None:
    """The published backbones, narrowed: their weights on three equal colours, and folded on one."""
    name = {"resnet": "backbone_resnet50v1c", "swin": "backbone_swin", "unet": "backbone_unet"}[part]
    with np.load(Path(os.environ["SA2NET_FIXTURES"]) / f"{name}.npz") as file:
        state = {key.removeprefix("w/"): torch.from_numpy(file[key]) for key in file.files if key.startswith("w/")}
    weights = from_released(state, part)
    folded = dict(weights)
    normalisation, _ = to_grey(folded, part, **normalised)
    full, grey = _narrow(part, 3), _narrow(part, 1)
    full.load_state_dict(weights)
    grey.load_state_dict(folded)
    seen = picture()
    with torch.no_grad():
        wanted = full(colours(seen, **normalised) if normalised else colours(seen, (75.99,), (84.15,)))
        maps = grey((seen - normalisation.mean) / normalisation.std)
    limit = 2e-5 if part == "swin" or not normalised else 0.2  # the edge of the others
    for got, want in zip(maps, wanted, strict=True):
        assert error(got, want) < limit


def _narrow(part: Part, colours: int) -> Any:
    if part == "swin":
        return SwinTransformer(SwinSizes(8, (2, 2, 2, 2), (1, 2, 2, 4), 4), in_channels=colours).eval()
    if part == "unet":
        return UNet(in_channels=colours, base_channels=4).eval()
    options = {"stem_width": 4, "channels": (4, 8, 16, 32)}
    return TimmBackbone("resnet50c", in_channels=colours, options=options).eval()


def small(modern: bool) -> bytes:
    stream = io.BytesIO()
    content = {"meta": {"score": np.float64(0.5)}, "state_dict": OrderedDict({"backbone.a": torch.arange(6.0)})}
    torch.save(content, stream, _use_new_zipfile_serialization=modern)
    return stream.getvalue()


WHOLE = (small(True), small(False))


@settings(deadline=None, max_examples=150)
@given(
    which=st.sampled_from(WHOLE),
    end=st.one_of(st.just(100_000), st.integers(0, 2000)),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=5),
)
def test_a_spoilt_file_is_a_state_dict_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, which: bytes, end: int, changes: list[tuple[int, int]]
) -> None:
    spoilt = bytearray(which)
    for place, value in changes:
        spoilt[place % len(spoilt)] = value
    path = tmp_path_factory.mktemp("spoilt") / "a.pth"
    path.write_bytes(spoilt[:end])
    try:
        assert all(isinstance(tensor, Tensor) for tensor in step.read_state(path).values())
    except DataError as error:
        assert str(path) in str(error)
