"""Folds and ensembles: who is validated by whom, and the mean of several networks."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sa2net.config import ModelConfig, PredictorConfig, TrainConfig
from sa2net.data.layout import Case
from sa2net.errors import DataError
from sa2net.model.ensemble import Ensemble, build_model, join_weights
from sa2net.model.network import build
from sa2net.training.folds import settings_of, split

SMALL = ModelConfig(channels=16, predictor=PredictorConfig(embed_dim=16, depth=1, num_heads=2, mask_dim=8))


def case(number: int, subject: str, split: str = "train") -> Case:
    name = f"scan{number:02d}"
    return Case(name, split, subject, Path(f"{name}.png"), Path(f"{name}_bone_3.png"))


@settings(max_examples=40)
@given(
    subjects=st.lists(st.integers(0, 9), min_size=12, max_size=40).filter(lambda found: len(set(found)) >= 4),
    folds=st.integers(2, 4),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_scan_is_validated_once_by_a_network_that_knows_nobody_of_its_subject(subjects, folds, seed):
    cases = [case(number, f"person{subject}") for number, subject in enumerate(subjects)]
    found = split(TrainConfig(folds=folds, seed=seed), cases[:-3], cases[-3:])
    assert [fold.number for fold in found] == list(range(1, folds + 1))
    assert sorted(item.name for fold in found for item in fold.val) == [item.name for item in cases]
    for fold in found:
        assert fold.val
        assert not {item.subject for item in fold.train} & {item.subject for item in fold.val}
        assert sorted(item.name for item in fold.train + fold.val) == [item.name for item in cases]
    assert found == split(TrainConfig(folds=folds, seed=seed), cases[::-1], [])


def test_one_fold_is_the_given_split():
    cases = [case(number, f"person{number}") for number in range(4)]
    (only,) = split(TrainConfig(), cases[:3], cases[3:])
    assert only == (0, cases[:3], cases[3:])
    assert settings_of(TrainConfig(seed=7), only) == TrainConfig(seed=7)


def test_folds_have_seeds_of_their_own():
    cases = [case(number, f"person{number}") for number in range(4)]
    cfg = TrainConfig(folds=3, seed=7)
    assert [settings_of(cfg, fold) for fold in split(cfg, cases, [])] == [TrainConfig(seed=seed) for seed in (7, 8, 9)]


def test_more_folds_than_subjects_are_refused():
    with pytest.raises(DataError, match=r"hold 2 subjects.*Set train\.folds to at most 2"):
        split(TrainConfig(folds=3), [case(number, f"person{number % 2}") for number in range(8)], [])


def test_an_ensemble_is_the_mean_of_the_probabilities():
    torch.manual_seed(0)
    members = [build(SMALL).eval() for _ in range(3)]
    x = torch.randn(2, 1, 45, 64)
    with torch.no_grad():
        expected = torch.stack([member(x).softmax(1) for member in members]).mean(0)
        got = Ensemble(members).eval()(x).softmax(1)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_members_go_into_one_set_of_weights_and_back():
    torch.manual_seed(0)
    members = [build(SMALL).eval() for _ in range(2)]
    weights = join_weights([member.state_dict() for member in members])
    network = build_model(SMALL, 2).eval()
    network.load_state_dict(weights)
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(x), Ensemble(members).eval()(x))
        before = network(x)
        network.drop_training_heads()
        assert torch.equal(network(x), before)
    assert join_weights([members[0].state_dict()]).keys() == members[0].state_dict().keys()


def test_probabilities_of_zero_stay_finite():
    class Sure(torch.nn.Module):
        def forward(self, x):
            return torch.stack([torch.full_like(x[:, 0], 400.0), torch.full_like(x[:, 0], -400.0)], dim=1)

    logits = Ensemble([Sure(), Sure()])(torch.zeros(1, 1, 2, 2))
    assert logits.isfinite().all()
    assert torch.equal(logits.softmax(1)[:, 0], torch.ones(1, 2, 2))
