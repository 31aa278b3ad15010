"""The losses: hand-worked values, the mean over valid pixels, all subsets of the mixing loss, and masks with nothing in them."""

import math
from itertools import chain, combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sa2net.config import LossConfig
from sa2net.model.logits import TrainingLogits
from sa2net.model.losses import build_loss
from sa2net.model.terms import TERMS, Comparison, Truth

CLASSES = 4
LOSSES = {
    "released": LossConfig(kind="released"),
    "mixing": LossConfig(kind="mixing"),
    "every term": LossConfig(kind="sum", cross_entropy=1, dice=1, focal=1, tversky=1, lovasz=1),
    "weighted": LossConfig(kind="sum", focal=1, tversky=1, class_weights=(0.2, 1, 3, 0)),
}


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
    parts = build_loss(LossConfig(kind="released"))(maps, _mask(batch=1))
    for name in ("main", "coarse", "channel", "position", "auxiliary"):
        assert parts[name].item() == pytest.approx(math.log(CLASSES), rel=1e-6)
    assert parts["total"].item() == pytest.approx((1 + 0.4 + 0.5 + 0.5 + 0.4) * math.log(CLASSES), rel=1e-6)


def test_each_weight_acts_on_its_own_part():
    maps, mask = _maps(), _mask()
    parts = build_loss(LossConfig(kind="released"))(maps, mask)
    for name in ("main", "coarse", "channel", "position", "auxiliary"):
        weights = dict.fromkeys(("main", "coarse", "channel", "position", "auxiliary"), 0.0) | {name: 3.0}
        total = build_loss(LossConfig(kind="released", **weights))(maps, mask)["total"]
        assert total.item() == pytest.approx(3 * parts[name].item(), rel=1e-6)


def test_valid_and_released_means_differ_by_the_share_of_valid_pixels():
    maps, mask = _maps(), _mask(ignored=0.3)
    share = (mask != 255).double().mean().item()
    assert 0.5 < share < 0.9
    valid = build_loss(LossConfig(kind="released", ignored="valid"))(maps, mask)
    released = build_loss(LossConfig(kind="released", ignored="released"))(maps, mask)
    for name in ("total", "main", "coarse", "channel", "position", "auxiliary"):
        assert released[name].item() == pytest.approx(share * valid[name].item(), rel=1e-5)


def test_ignored_pixels_get_no_gradient():
    maps, mask = _maps(), _mask()
    mask[:, :12] = 255  # the upper half; row 0 of 6 is interpolated into rows 0..5 of 24 only
    for cfg in LOSSES.values():
        final = maps.final.detach().clone().requires_grad_()
        build_loss(cfg)(maps._replace(final=final), mask)["total"].backward()
        assert final.grad is not None
        assert final.grad[:, :, 0].abs().max() == 0
        assert final.grad[:, :, 5].abs().max() > 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ignored", ["valid", "released"])
@pytest.mark.parametrize("auxiliary", [True, False])
def test_a_mask_that_is_ignored_altogether_costs_nothing(name, ignored, auxiliary):
    maps = _maps(auxiliary=auxiliary)
    parts = build_loss(LOSSES[name].model_copy(update={"ignored": ignored}))(
        maps, torch.full((2, 24, 20), 255, dtype=torch.uint8)
    )
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
    for cfg in LOSSES.values():
        loss = build_loss(cfg)
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


def _cost(term: str, probabilities: torch.Tensor, mask: torch.Tensor, **settings) -> float:
    """A term at given probabilities (K, n) of the pixels of one row."""
    cfg = LossConfig(kind="sum", **{"class_weights": (1.0,) * len(probabilities), **settings})
    truth = Truth(mask[None, None], cfg, len(probabilities))
    return TERMS[term](Comparison(probabilities.clamp_min(1e-12).log()[None, :, None], truth)).item()


MASK = torch.tensor([0, 0, 1, 1])
RIGHT = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
HALF = torch.full((2, 4), 0.5)


def test_dice_by_hand():
    assert _cost("dice", RIGHT, MASK) == pytest.approx(0, abs=1e-6)
    assert _cost("dice", 1 - RIGHT, MASK) == pytest.approx(1, abs=1e-5)
    # p = 1/2 everywhere: 2 * 1 / (4 / 4 + 2) = 2/3 for both classes.
    assert _cost("dice", HALF, MASK) == pytest.approx(1 / 3, abs=1e-5)
    # An absent class that nobody predicts is a perfect match: the mean of 2/3, 2/3 and 1.
    three = torch.cat([HALF, torch.zeros(1, 4)])
    assert _cost("dice", three, MASK) == pytest.approx(1 - (2 / 3 + 2 / 3 + 1) / 3, abs=1e-5)
    # Weights act on the mean over classes.
    uneven = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])  # 2*2/(4+2) = 2/3, and 0
    assert _cost("dice", uneven, MASK, class_weights=(3.0, 1.0)) == pytest.approx(1 - 0.75 * 2 / 3, abs=1e-5)


def test_tversky_by_hand():
    # All predicted as class 0: it has 2 hits and 2 too many, class 1 has 2 missed.
    uneven = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    weights = {"tversky": 1.0, "tversky_alpha": 0.25, "tversky_beta": 0.75}
    assert _cost("tversky", uneven, MASK, **weights) == pytest.approx(1 - (2 / 2.5 + 0) / 2, abs=1e-5)
    assert _cost("tversky", RIGHT, MASK) == pytest.approx(0, abs=1e-6)
    # alpha = beta = 1/2 is Dice without squares: 2 * 1 / (2 + 2).
    halves = {"tversky": 1.0, "tversky_alpha": 0.5, "tversky_beta": 0.5}
    assert _cost("tversky", HALF, MASK, **halves) == pytest.approx(0.5, abs=1e-5)


def test_focal_by_hand():
    ninety = torch.tensor([[0.9, 0.9, 0.1, 0.1], [0.1, 0.1, 0.9, 0.9]])
    assert _cost("focal", ninety, MASK) == pytest.approx(0.01 * -math.log(0.9), rel=1e-4)
    plain = {"focal": 1.0, "focal_gamma": 0.0}
    assert _cost("focal", ninety, MASK, **plain) == pytest.approx(_cost("cross_entropy", ninety, MASK), rel=1e-5)


def test_lovasz_by_hand():
    # Hard answers: the Lovasz extension is the Jaccard loss. Class 0: 2 of 3, class 1: 1 of 2.
    three_right = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert _cost("lovasz", three_right, MASK) == pytest.approx((1 / 3 + 1 / 2) / 2, abs=1e-5)


def test_class_weights_of_the_cross_entropy_are_torchs_weighted_mean():
    logits, mask = torch.randn(2, CLASSES, 24, 20), _mask(ignored=0.2)
    weights = (0.5, 2.0, 1.0, 4.0)
    got = build_loss(LossConfig(kind="released", class_weights=weights))(TrainingLogits(logits), mask)["total"]
    expected = functional.cross_entropy(logits, mask, weight=torch.tensor(weights), ignore_index=255)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    focal_as_cross_entropy = LossConfig(
        kind="sum", dice=0, cross_entropy=0, focal=1.0, focal_gamma=0.0, class_weights=weights
    )
    again = build_loss(focal_as_cross_entropy)(TrainingLogits(logits), mask)["total"]
    assert again.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_sum_adds_its_terms_for_every_map_and_tells_those_of_the_final_map():
    weights = {"cross_entropy": 0.5, "dice": 0.25, "focal": 2.0, "tversky": 0.75, "lovasz": 1.5}
    maps, mask = _maps(), _mask(ignored=0.2)
    cfg = LossConfig(kind="sum", **weights)
    parts = build_loss(cfg)(maps, mask)
    expected = 0.0
    middles = mask[:, 2::4, 2::4]  # the maps that only train are compared on every fourth row and column
    for name, map_ in zip(("main", "coarse", "channel", "position", "auxiliary"), maps, strict=True):
        comparison = Comparison(map_, Truth(mask if name == "main" else middles, cfg, CLASSES))
        cost = sum(weight * TERMS[term](comparison).item() for term, weight in weights.items())
        assert parts[name].item() == pytest.approx(cost, rel=1e-5)
        expected += getattr(cfg, name) * cost
    assert parts["total"].item() == pytest.approx(expected, rel=1e-5)
    comparison = Comparison(maps.final, Truth(mask, cfg, CLASSES))
    for term in weights:
        assert parts[f"main_{term}"].item() == pytest.approx(TERMS[term](comparison).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "released", "dice": 0.2}, "dice would have no effect with kind released"),
        (
            {"kind": "sum", "cross_entropy": 0.0, "ignored": "released"},
            "ignored would have no effect while cross_entropy",
        ),
        (dict.fromkeys(("main", "coarse", "channel", "position", "auxiliary"), 0.0), "nothing would be learnt"),
        ({"kind": "sum", "tversky": 1.0, "tversky_alpha": 0.0, "tversky_beta": 0.0}, "nothing would cost anything"),
        ({"kind": "mixing", "main": 2.0}, "main would have no effect with kind mixing"),
        ({"kind": "sum", "dice": 0, "cross_entropy": 0}, "nothing would be learnt"),
        ({"kind": "sum", "focal_gamma": 1.0}, "focal_gamma would have no effect while focal is 0"),
        ({"kind": "sum", "lovasz": 1.0, "class_weights": (1, 2, 1, 1)}, "class_weights would have no effect on lovasz"),
        ({"class_weights": (0, 0, 0, 0)}, "nothing would be learnt"),
    ],
)
def test_a_setting_without_effect_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        LossConfig(**values)


def test_half_precision_logits_are_summed_in_float32():
    mask = _mask()
    for cfg in LOSSES.values():
        loss = build_loss(cfg)
        half = TrainingLogits(*(map_.detach().bfloat16() for map_ in _maps()))
        single = TrainingLogits(*(map_.float() for map_ in half))
        got = loss(half, mask)["total"]
        assert got.dtype == torch.float32
        assert torch.equal(got, loss(single, mask)["total"])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    name=st.sampled_from(sorted(LOSSES)),
    ignored=st.floats(0, 1),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_losses_are_finite_and_not_negative(seed, name, ignored, scale):
    maps = TrainingLogits(*((map_.detach() * scale).requires_grad_() for map_ in _maps(seed)))
    parts = build_loss(LOSSES[name])(maps, _mask(seed, ignored=ignored))
    parts["total"].backward()
    assert all(part.isfinite() and part >= -1e-6 for part in parts.values())
    assert all(map_.grad is not None and map_.grad.isfinite().all() for map_ in maps)
