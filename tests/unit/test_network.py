"""The network: shapes, gradients, batches of one, and what the mended defaults mend."""

import math
import socket

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sa2net.config import LossConfig, ModelConfig, PredictorConfig
from sa2net.errors import ConfigError, DataError
from sa2net.model.affinity import StructureAffinity, TransformerPredictor
from sa2net.model.attention import ChannelAttention, CrissCrossAttention
from sa2net.model.layers import BatchNorm2d, ScaleFreeEnergies, build_energies, tolerate_single_values
from sa2net.model.logits import TrainingLogits
from sa2net.model.losses import build_loss
from sa2net.model.migrate import from_released, to_released
from sa2net.model.network import DecodeHead, build
from sa2net.model.pyramid import PyramidPooling
from sa2net.model.swin import shift_mask
from sa2net.model.unet import UNet

SMALL = ModelConfig(channels=16, predictor=PredictorConfig(embed_dim=16, depth=2, num_heads=2, mask_dim=8))


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def evaluated():
    torch.manual_seed(0)
    return build(SMALL).eval()


def _entropy(attention: torch.Tensor) -> float:
    """Mean entropy of the rows, 1 = flat, 0 = one-hot."""
    terms = attention * attention.clamp_min(1e-30).log()
    return float(-terms.sum(-1).mean()) / math.log(attention.shape[-1])


# Shapes


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (45, 77), (33, 130)])
def test_evaluation_gives_logits_of_the_input_size(evaluated, size):
    with torch.no_grad():
        assert evaluated(torch.randn(2, 1, *size)).shape == (2, 4, *size)


@pytest.mark.parametrize(("size", "cells"), [((64, 96), (16, 24)), ((45, 77), (12, 20))])
@pytest.mark.parametrize(("logits", "more"), [("aligned", 0), ("released", 2)])
def test_training_gives_all_maps_at_stride_4(size, cells, logits, more):
    maps = build(SMALL.model_copy(update={"logits": logits}))(torch.randn(2, 1, *size))
    assert isinstance(maps, TrainingLogits)
    assert maps.final.shape == (2, 4, cells[0] + more, cells[1] + more)
    assert maps.coarse.shape == maps.channel.shape == maps.position.shape == (2, 4, *cells)
    assert maps.auxiliary.shape == (2, 4, -(-size[0] // 16), -(-size[1] // 16))


def test_without_the_auxiliary_head_its_map_is_none():
    network = build(SMALL.model_copy(update={"auxiliary": False}))
    assert network(torch.randn(2, 1, 64, 64)).auxiliary is None
    assert not any(name.startswith("auxiliary") for name in network.state_dict())


def test_a_size_that_does_not_fit_is_continued_and_not_stretched(evaluated):
    x = torch.randn(1, 1, 50, 70)
    continued = nn.functional.pad(x, (0, 26, 0, 14), mode="replicate")
    with torch.no_grad():
        assert torch.equal(evaluated(x), evaluated(continued)[..., :50, :70])


def test_evaluation_treats_each_scan_of_a_batch_alone(evaluated):
    x = torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        together, alone = evaluated(x), torch.cat([evaluated(scan[None]) for scan in x])
    assert (together - alone).abs().max() < 1e-4 * alone.abs().max()


def test_evaluation_gives_the_final_map_of_training_resized(evaluated):
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        final = evaluated.head(evaluated.backbone(x)).final
        resized = nn.functional.interpolate(final, (64, 64), mode="bilinear", align_corners=False)
        assert torch.equal(evaluated(x), resized)


# Training


def test_every_parameter_is_used_and_learns():
    """No unused parameter: those break distributed training. Two exceptions are zero by their mathematics."""
    cfg = SMALL.model_copy(update={"dropout": 0.0, "predictor": SMALL.predictor.model_copy(update={"dropout": 0.0})})
    network, loss = build(cfg), build_loss(LossConfig())
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    x, mask = torch.randn(2, 1, 64, 64), torch.randint(0, 4, (2, 64, 64))
    for _ in range(3):  # the attentions' own weights follow once their scales have left 0
        optimiser.zero_grad()
        loss(network(x), mask)["total"].backward()
        optimiser.step()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    silent = {name for name, gradient in gradients.items() if gradient.abs().max() < 1e-12}
    assert silent <= {"head.criss_cross.key.bias"}  # adds one constant to all energies of a position


@pytest.mark.parametrize("affinity", ["normalised", "mean", "cosine", "released"])
def test_a_batch_of_one_trains_on_the_smallest_crop(affinity):
    network = build(SMALL.model_copy(update={"affinity": affinity}))
    parts = build_loss(LossConfig())(network(torch.randn(1, 1, 32, 32)), torch.randint(0, 4, (1, 32, 32)))
    parts["total"].backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_batch_norm_of_a_single_value_uses_and_keeps_the_running_statistics():
    norm = BatchNorm2d(3).train()
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.running_var.copy_(torch.tensor([4.0, 1.0, 0.25]))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    got = norm(torch.tensor([3.0, 2.0, 4.0]).reshape(1, 3, 1, 1))
    torch.testing.assert_close(got.flatten(), torch.tensor([1.0, 0.0, 2.0]), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_batch_norm_of_more_values_is_torchs():
    ours, torchs = BatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(1, 3, 1, 2)
    assert torch.equal(ours(x), torchs(x))
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    assert torch.equal(ours.running_var, torchs.running_var)


def test_replaced_batch_norms_keep_weights_and_names():
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2, eps=1e-3)))
    nn.init.uniform_(module[1][0].weight)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    tolerate_single_values(module)
    assert isinstance(module[1][0], BatchNorm2d)
    assert module[1][0].eps == 1e-3
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_one_seed_gives_one_network_and_dropout_differs_between_steps():
    torch.manual_seed(3)
    first = build(SMALL)
    torch.manual_seed(3)
    second = build(SMALL)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    with torch.no_grad():
        for parameter in first.head.classifier.parameters():
            parameter.fill_(1.0)
    x = torch.randn(2, 1, 64, 64)
    assert not torch.equal(first(x).final, first(x).final)


@pytest.mark.parametrize("affinity", ["normalised", "released"])
def test_mixed_precision_trains(affinity):
    network = build(SMALL.model_copy(update={"affinity": affinity}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = network(torch.randn(2, 1, 64, 64))
    total = build_loss(LossConfig())(maps, torch.randint(0, 4, (2, 64, 64)))["total"]
    total.backward()
    assert total.dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("affinity", ["normalised", "mean", "cosine", "released"])
def test_sums_over_positions_do_not_overflow_in_mixed_precision(affinity):
    attention = ChannelAttention(16, affinity)
    module = StructureAffinity(16, 4, SMALL.predictor, affinity=affinity, padding=1).eval()
    x = 20 * torch.rand(1, 16, 96, 96)
    with torch.no_grad():
        for convolution in (attention.query, attention.key, module.position_query):
            nn.init.constant_(convolution.weight, 0.5)
        energy = (attention.query(x).flatten(2) @ attention.key(x).flatten(2).transpose(1, 2)).max()
        assert energy > torch.finfo(torch.float16).max
        with torch.autocast("cpu", dtype=torch.float16):
            assert attention.attention(x).isfinite().all()
            assert module.affinity(x, module.coarse(x).float().flatten(2).softmax(1)).isfinite().all()


# Saturation of the two softmaxes


def _saturation(affinity: str, side: int) -> tuple[float, float, float]:
    """Entropy of the affinity, of the channel attention, and RMS gradient of the predictor, at fresh weights."""
    torch.manual_seed(0)
    predictor = PredictorConfig(dropout=0.0)
    head = DecodeHead((16, 16, 16, 16), ModelConfig(affinity=affinity, dropout=0.0, predictor=predictor))
    seen: dict[str, torch.Tensor] = {}
    head.structure_affinity.register_forward_pre_hook(lambda _, inputs: seen.update(features=inputs[0].detach()))
    head.channel_attention.register_forward_pre_hook(lambda _, inputs: seen.update(fused=inputs[0].detach()))
    levels = [torch.randn(1, 16, side // 2**i, side // 2**i) for i in range(4)]
    mask = torch.randint(0, 4, (1, side, side))
    build_loss(LossConfig(auxiliary=0.0))(head(levels), mask)["total"].backward()
    gradient = torch.cat([p.grad.flatten() for p in head.structure_affinity.predictor.parameters()])
    with torch.no_grad():
        module = head.structure_affinity
        probabilities = module.coarse(seen["features"]).flatten(2).softmax(1)
        affinities = module.affinity(seen["features"], probabilities)
        channels = head.channel_attention.attention(seen["fused"])
    return _entropy(affinities), _entropy(channels), float(gradient.square().mean().sqrt())


def test_the_default_affinity_does_not_saturate_where_the_released_one_does():
    """Maps of a 512 x 512 scan at fresh weights."""
    released, normalised = _saturation("released", 128), _saturation("normalised", 128)
    assert max(released[:2]) < 0.1
    assert 0.4 < normalised[0] < 0.95
    assert 0.4 < normalised[1] < 0.95
    assert normalised[2] > 1e-6
    assert normalised[2] > 1e3 * released[2]


@pytest.mark.parametrize("affinity", ["mean", "cosine"])
def test_the_alternatives_do_not_saturate_either(affinity):
    entropies = _saturation(affinity, 128)
    assert min(entropies[:2]) > 0.4
    assert entropies[2] > 1e-8


@pytest.mark.parametrize(
    "missing",
    [("channel_branch",), ("position_branch",), ("structure",), ("channel_branch", "position_branch", "structure")],
)
def test_a_part_that_is_switched_off_is_gone(missing):
    network = build(SMALL.model_copy(update=dict.fromkeys(missing, False)))
    maps = network(torch.randn(2, 1, 64, 96))
    heads = {"channel_branch": maps.channel, "position_branch": maps.position, "structure": maps.coarse}
    assert all((heads[part] is None) == (part in missing) for part in heads)
    build_loss(LossConfig())(maps, torch.randint(0, 4, (2, 64, 96)))["total"].backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    names = {"channel_branch": "channel_", "position_branch": "criss_cross", "structure": "structure_affinity"}
    for part in missing:
        assert not any(name.startswith(f"head.{names[part]}") for name in network.state_dict())
    assert network.eval()(torch.randn(1, 1, 45, 77)).shape == (1, 4, 45, 77)


def test_released_sizes_stretch_and_mended_ones_do_not():
    """A width of 48 becomes 64: stretched pixels move, padded ones stay."""
    torch.manual_seed(0)
    stretching = build(SMALL.model_copy(update={"sizes": "released"})).eval()
    x = torch.randn(1, 1, 64, 48)
    wide = nn.functional.interpolate(x, (64, 64), mode="bilinear", align_corners=False)
    with torch.no_grad():
        small = stretching.head.final(stretching.backbone(wide))
        expected = nn.functional.interpolate(small, (64, 48), mode="bilinear", align_corners=False)
        assert torch.equal(stretching(x), expected)
        whole = torch.randn(1, 1, 64, 64)
        got = stretching(whole)
        stretching.stretches = False
        assert torch.equal(stretching(whole), got)
        assert not torch.equal(stretching(x), expected)


def test_the_default_affinity_does_not_depend_on_the_size_of_the_picture():
    """A picture repeated side by side has the same statistics, hence the same affinity."""
    x = torch.randn(1, 32, 12, 10).relu()
    tiled = x.repeat(1, 1, 3, 2)
    changes = {}
    for affinity in ("normalised", "released"):
        torch.manual_seed(1)
        module = StructureAffinity(32, 4, SMALL.predictor, affinity=affinity, padding=1).eval()
        attention = ChannelAttention(32, affinity)
        with torch.no_grad():
            small, large = (
                torch.cat(
                    [
                        module.affinity(y, module.coarse(y).flatten(2).softmax(1)).flatten(),
                        attention.attention(y).flatten(),
                    ]
                )
                for y in (x, tiled)
            )
        changes[affinity] = float((small - large).abs().max())
    assert changes["normalised"] < 1e-5
    assert changes["released"] > 0.1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), exponent=st.integers(-1, 12), shift=st.floats(-100, 100))
def test_scale_free_energies_have_a_set_spread(seed, exponent, shift):
    energies = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    energies = energies * 10.0**exponent + shift
    unit = 4 * torch.eye(4, dtype=torch.float64).expand(2, 4, 4)  # the mean over 4 positions is the matrix itself
    scaled = ScaleFreeEnergies(spread=0.5).double()(energies, unit)
    assert scaled.mean(-1).abs().max() < 1e-6
    torch.testing.assert_close(
        scaled.square().mean((1, 2)).sqrt(), torch.full((2,), 0.5, dtype=torch.float64), rtol=1e-3, atol=0
    )


@pytest.mark.parametrize("kind", ["normalised", "mean", "cosine", "released"])
def test_equal_energies_have_a_flat_softmax_and_a_finite_gradient(kind):
    query = torch.zeros(1, 3, 6, requires_grad=True)
    flat = build_energies(kind)(query, torch.ones(1, 6, 4)).softmax(-1)
    flat[0, 0, 0].backward()
    assert torch.equal(flat, torch.full_like(flat, 0.25))
    assert query.grad.isfinite().all()


def test_energies_by_hand():
    query, key = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[3.0, 0.0], [4.0, 2.0]]])  # (1, 1, 2), (1, 2, 2)
    torch.testing.assert_close(build_energies("released")(query, key), torch.tensor([[[25.0, 8.0]]]))
    torch.testing.assert_close(build_energies("mean")(query, key), torch.tensor([[[12.5, 4.0]]]))
    torch.testing.assert_close(build_energies("cosine")(query, key), 5 * torch.tensor([[[1.0, 0.8]]]))
    torch.testing.assert_close(build_energies("normalised")(query, key), torch.tensor([[[1.0, -1.0]]]))


# Attention


def test_criss_cross_attention_equals_a_loop_over_positions():
    module = CrissCrossAttention(16)
    nn.init.constant_(module.gamma, 0.7)
    x = torch.randn(1, 16, 4, 3)
    with torch.no_grad():
        got = module(x)
        query, key, value = module.query(x)[0], module.key(x)[0], module.value(x)[0]
        for i in range(4):
            for j in range(3):
                places = [(h, j) for h in range(4) if h != i] + [(i, w) for w in range(3)]
                energies = torch.stack([query[:, i, j] @ key[:, h, w] for h, w in places])
                mixed = sum(weight * value[:, h, w] for weight, (h, w) in zip(energies.softmax(0), places, strict=True))
                torch.testing.assert_close(got[0, :, i, j], 0.7 * mixed + x[0, :, i, j], rtol=1e-4, atol=1e-5)


def test_criss_cross_attention_counts_the_position_itself_once():
    module = CrissCrossAttention(8)
    assert module.attention(torch.randn(1, 8, 1, 1)).tolist() == [[[[0.0, 1.0]]]]
    attention = module.attention(torch.randn(2, 8, 5, 3))
    assert attention.shape == (2, 5, 3, 8)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 5, 3))
    assert all(attention[:, i, :, i].abs().max() == 0 for i in range(5))


def test_fresh_attentions_change_nothing_and_their_scales_learn():
    x = torch.randn(1, 16, 5, 4)
    for module in (ChannelAttention(16, "normalised"), ChannelAttention(16, "released"), CrissCrossAttention(16)):
        got = module(x)
        assert torch.equal(got, x)
        got.square().sum().backward()
        assert module.gamma.grad.abs() > 0


def test_channel_attention_prefers_the_least_similar_channel():
    module = ChannelAttention(16, "released")
    with torch.no_grad():
        for convolution in (module.query, module.key):
            convolution.weight.zero_()
            convolution.bias.zero_()
            convolution.weight[0, 0] = convolution.weight[1, 1] = 1.0
    x = torch.zeros(1, 16, 1, 2)
    x[0, 0, 0, 0] = x[0, 1, 0, 1] = 2.0  # two channels that never overlap: energies 4 with themselves, 0 across
    other = math.exp(0) / (math.exp(0) + math.exp(-4))
    torch.testing.assert_close(module.attention(x)[0], torch.tensor([[1 - other, other], [other, 1 - other]]))


def test_the_predictor_does_not_see_where_a_position_lies():
    predictor = TransformerPredictor(6, 3, SMALL.predictor).eval()
    x = torch.randn(2, 6, 4, 5)
    shuffled = x.flatten(2)[..., torch.randperm(20)].reshape(2, 6, 5, 4)
    torch.testing.assert_close(predictor(x), predictor(shuffled), rtol=1e-4, atol=1e-5)


def test_pyramid_pooling_of_one_cell_is_the_mean():
    pooling = PyramidPooling(4, 2, grids=(1, 2)).eval()
    with torch.no_grad():
        x = torch.randn(1, 4, 6, 8)
        whole, quarters = pooling(x)
        expected = pooling.stages[0](x.mean((2, 3), keepdim=True)).expand(1, 2, 6, 8)
    torch.testing.assert_close(whole, expected)
    assert quarters.shape == (1, 2, 6, 8)


# Backbones


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "swin_tiny_patch4_window7_224", "released_swin_tiny"])
def test_backbones_without_pretrained_weights_open_no_connection(name, monkeypatch):
    def refuse(*_):
        raise AssertionError("a network without pretrained weights must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    build(SMALL.model_copy(update={"backbone": name}))


@pytest.mark.parametrize(
    ("name", "pretrained", "words"),
    [
        ("resnet81", False, "nearest: resnet"),
        ("levit_128", False, "strides 4, 8, 16 and 32"),
        ("released_swin_large", True, "no weights to fetch"),
    ],
)
def test_a_backbone_that_cannot_serve_is_refused_with_a_reason(name, pretrained, words):
    with pytest.raises(ConfigError, match=words):
        build(SMALL.model_copy(update={"backbone": name, "pretrained": pretrained}))


def test_swin_forbids_attention_between_regions_that_only_the_shift_joined():
    mask = shift_mask(4, 2, window=2, shift=1, device=torch.device("cpu"))
    assert mask.shape == (2, 1, 4, 4)
    # Columns of the only window column lie in two regions; rows of the upper window in one, of the lower in two.
    upper = torch.tensor([[0.0, -100, 0, -100], [-100, 0, -100, 0]] * 2)
    assert torch.equal(mask[0, 0], upper)
    assert torch.equal(mask[1, 0], -100 * (1 - torch.eye(4)))


def test_the_unet_refuses_sides_it_would_have_to_cut():
    network = UNet(base_channels=2).eval()
    assert [tuple(level.shape[-2:]) for level in network(torch.randn(1, 1, 32, 16))] == [
        (2, 1),
        (4, 2),
        (8, 4),
        (16, 8),
        (32, 16),
    ]
    with pytest.raises(ValueError, match="multiples of 16, not 40 x 16"):
        network(torch.randn(1, 1, 40, 16))


# Released names


def test_released_names_and_ours_translate_both_ways():
    cfg = SMALL.model_copy(update={"affinity": "released", "logits": "released"})
    ours = DecodeHead((4, 5, 6, 7), cfg).state_dict()
    released = to_released(ours, "head")
    assert len(released) == len(ours)
    assert released["semantic_aug.maskformer.proj_2d.weight"].shape == (16, 16, 1)
    assert released["lateral_convs.2.bn.running_var"] is ours["pyramid.lateral.2.norm.running_var"]
    back = from_released(released, "head")
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], value) for name, value in ours.items())


def test_the_unused_scalar_of_a_released_checkpoint_is_dropped():
    state = {"semantic_aug.gamma.scale": torch.zeros(()), "conv_seg.bias": torch.ones(4)}
    assert list(from_released(state, "head")) == ["classifier.conv.bias"]


def test_unknown_names_are_refused_by_name():
    state = {"conv_seg.bias": torch.ones(4), "decode_head.conv_seg.weight": torch.ones(1), "epoch": torch.ones(1)}
    with pytest.raises(
        DataError, match=r"2 tensors are unknown to the released head: decode_head\.conv_seg\.weight, epoch"
    ):
        from_released(state, "head")


def test_a_mended_network_has_no_released_names():
    with pytest.raises(DataError, match=r"channel_attention\.energies\.log_temperature"):
        to_released(DecodeHead((4, 5, 6, 7), SMALL).state_dict(), "head")
