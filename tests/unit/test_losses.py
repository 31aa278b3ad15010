"""The losses: hand-worked values, the mean over valid pixels, all subsets of the mixing loss, and masks with nothing in them."""

import math
from itertools import chain, combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sa2net.config import LossConfig
from sa2net.model.losses import build_loss, soft_dice_loss
from sa2net.model.network import TrainingLogits

CLASSES = 4


def _maps(seed: int = 0, *, batch: int = 2, auxiliary: bool = True) -> TrainingLogits:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(6, 5)] * 4 + [(2, 2)]
    maps = [torch.randn(batch, CLASSES, *size, generator=generator, requires_grad=True) for size in sizes]
    return TrainingLogits(*maps) if auxiliary else TrainingLogits(*maps[:4])


def _mask(seed: int = 0, *, batch: int = 2, ignored: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, CLASSES, (batch, 24, 20), generator=generator)
    return mask.masked_fill(torch.rand(mask.shape, generator=generator) < ignored, 255)


def test_flat_logits_cost_the_logarithm_of_the_number_of_classes():
    maps = TrainingLogits(*(torch.zeros(1, CLASSES, 3, 3) for _ in range(5)))
    parts = build_loss(LossConfig())(maps, _mask(batch=1))
    for name in ("main", "coarse", "channel", "position", "auxiliary"):
        assert parts[name].item() == pytest.approx(math.log(CLASSES), rel=1e-6)
    assert parts["total"].item() == pytest.approx((1 + 0.4 + 0.5 + 0.5 + 0.4) * math.log(CLASSES), rel=1e-6)


def test_each_weight_acts_on_its_own_part():
    maps, mask = _maps(), _mask()
    parts = build_loss(LossConfig())(maps, mask)
    for name in ("main", "coarse", "channel", "position", "auxiliary"):
        weights = dict.fromkeys(("main", "coarse", "channel", "position", "auxiliary"), 0.0) | {name: 3.0}
        total = build_loss(LossConfig(**weights))(maps, mask)["total"]
        assert total.item() == pytest.approx(3 * parts[name].item(), rel=1e-6)


def test_valid_and_released_means_differ_by_the_share_of_valid_pixels():
    maps, mask = _maps(), _mask(ignored=0.3)
    share = (mask != 255).double().mean().item()
    assert 0.5 < share < 0.9
    valid = build_loss(LossConfig(ignored="valid"))(maps, mask)
    released = build_loss(LossConfig(ignored="released"))(maps, mask)
    for name in ("total", "main", "coarse", "channel", "position", "auxiliary"):
        assert released[name].item() == pytest.approx(share * valid[name].item(), rel=1e-5)


def test_ignored_pixels_get_no_gradient():
    maps, mask = _maps(), _mask()
    mask[:, :12] = 255  # the upper half; row 0 of 6 is interpolated into rows 0..5 of 24 only
    for kind in ("released", "mixing"):
        final = maps.final.detach().clone().requires_grad_()
        build_loss(LossConfig(kind=kind))(maps._replace(final=final), mask)["total"].backward()
        assert final.grad is not None
        assert final.grad[:, :, 0].abs().max() == 0
        assert final.grad[:, :, 5].abs().max() > 0


@pytest.mark.parametrize("kind", ["released", "mixing"])
@pytest.mark.parametrize("ignored", ["valid", "released"])
@pytest.mark.parametrize("auxiliary", [True, False])
def test_a_mask_that_is_ignored_altogether_costs_nothing(kind, ignored, auxiliary):
    maps = _maps(auxiliary=auxiliary)
    parts = build_loss(LossConfig(kind=kind, ignored=ignored))(maps, torch.full((2, 24, 20), 255, dtype=torch.uint8))
    parts["total"].backward()
    assert all(part.item() == 0 for part in parts.values())
    assert all((map_.grad == 0).all() for map_ in maps if map_ is not None)


@pytest.mark.parametrize("kind", ["released", "mixing"])
def test_without_an_auxiliary_map_its_part_is_absent(kind):
    with_it = build_loss(LossConfig(kind=kind))(_maps(), _mask())
    without = build_loss(LossConfig(kind=kind))(_maps(auxiliary=False), _mask())
    assert set(with_it) - set(without) == {"auxiliary"}
    difference = with_it["total"] - without["total"]
    assert difference.item() == pytest.approx(0.4 * with_it["auxiliary"].item(), rel=1e-4)


def test_byte_masks_and_long_masks_cost_the_same():
    for kind in ("released", "mixing"):
        loss = build_loss(LossConfig(kind=kind))
        mask = _mask(ignored=0.2)
        assert torch.equal(loss(_maps(), mask)["total"], loss(_maps(), mask.to(torch.uint8))["total"])


def test_mixing_is_the_sum_over_all_fifteen_subsets():
    """Set against a slow, separate computation with torch's own cross entropy and one Dice a class."""
    maps, mask = _maps(3, auxiliary=False), _mask(3, ignored=0.2)
    parts = build_loss(LossConfig(kind="mixing"))(maps, mask)
    large = [functional.interpolate(map_, (24, 20), mode="bilinear", align_corners=False) for map_ in maps[:4]]
    subsets = list(chain.from_iterable(combinations(range(4), size) for size in (1, 2, 3, 4)))
    assert len(subsets) == 15
    valid = mask != 255
    expected_cross_entropy = expected_dice = 0.0
    for subset in subsets:
        logits = torch.stack([large[i] for i in subset]).sum(0)
        expected_cross_entropy += functional.cross_entropy(logits, mask, ignore_index=255).item()
        probabilities = logits.softmax(1)
        scores = []
        for label in range(CLASSES):
            share, truth = probabilities[:, label][valid], (mask == label)[valid].float()
            scores.append(2 * (share * truth).sum() / ((share**2).sum() + truth.sum()))
        expected_dice += 1 - torch.stack(scores).mean().item()
    assert parts["cross_entropy"].item() == pytest.approx(expected_cross_entropy, rel=1e-5)
    assert parts["dice"].item() == pytest.approx(expected_dice, rel=1e-4)
    assert parts["total"].item() == pytest.approx(0.3 * expected_cross_entropy + 0.7 * expected_dice, rel=1e-4)


def test_soft_dice_by_hand():
    truth = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]]])  # two classes, two pixels each
    assert soft_dice_loss(truth, truth).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice_loss(1 - truth, truth).item() == pytest.approx(1, abs=1e-5)
    # p = 1/2 everywhere: 2 * 1 / (4 / 4 + 2) = 2/3 for both classes.
    assert soft_dice_loss(torch.full_like(truth, 0.5), truth).item() == pytest.approx(1 / 3, abs=1e-5)
    absent = torch.zeros(1, 1, 2, 2)
    assert soft_dice_loss(absent, absent).item() == pytest.approx(0, abs=1e-6)


def test_half_precision_logits_are_summed_in_float32():
    mask = _mask()
    for kind in ("released", "mixing"):
        loss = build_loss(LossConfig(kind=kind))
        half = TrainingLogits(*(map_.detach().bfloat16() for map_ in _maps()))
        single = TrainingLogits(*(map_.float() for map_ in half))
        got = loss(half, mask)["total"]
        assert got.dtype == torch.float32
        assert torch.equal(got, loss(single, mask)["total"])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["released", "mixing"]),
    ignored=st.floats(0, 1),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_losses_are_finite_and_not_negative(seed, kind, ignored, scale):
    maps = TrainingLogits(*((map_.detach() * scale).requires_grad_() for map_ in _maps(seed)))
    parts = build_loss(LossConfig(kind=kind))(maps, _mask(seed, ignored=ignored))
    parts["total"].backward()
    assert all(part.isfinite() and part >= -1e-6 for part in parts.values())
    assert all(map_.grad is not None and map_.grad.isfinite().all() for map_ in maps)
