"""Cross-validation: which scans each of several networks learns from and is validated on."""

from collections.abc import Sequence
from typing import NamedTuple

from sa2net.config import TrainConfig
from sa2net.data.layout import Case
from sa2net.errors import DataError


class Fold(NamedTuple):
    """One of the trainings that share a data set."""

    number: int
    """From 1; 0 where there is only one training."""
    train: list[Case]
    val: list[Case]


def split(cfg: TrainConfig, train: Sequence[Case], val: Sequence[Case]) -> list[Fold]:
    """The trainings: the given split alone, or `cfg.folds` splits by subject of all these scans.

    Every scan is validated on by one network, which has seen no scan of its subject. Folds have about as many scans.

    Args:
        cfg: The train section.
        train: Train scans.
        val: Validation scans.

    Raises:
        DataError: There are fewer subjects than folds.
    """
    if cfg.folds == 1:
        return [Fold(0, list(train), list(val))]
    from sklearn.model_selection import GroupKFold  # seconds that a training without folds need not wait

    cases = sorted([*train, *val], key=lambda case: case.name)
    subjects = [case.subject for case in cases]
    if len(set(subjects)) < cfg.folds:
        raise DataError(
            f"too few subjects for {cfg.folds} folds",
            evidence=f"train and val hold {len(set(subjects))} subjects",
            action=f"Set train.folds to at most {len(set(subjects))}.",
        )
    dealt = GroupKFold(cfg.folds, shuffle=True, random_state=cfg.seed % 2**32).split(cases, groups=subjects)
    return [
        Fold(number, [cases[place] for place in learnt], [cases[place] for place in validated])
        for number, (learnt, validated) in enumerate(dealt, start=1)
    ]


def settings_of(cfg: TrainConfig, fold: Fold) -> TrainConfig:
    """The settings of one fold's training: another seed each, so that members differ in more than their scans."""
    return cfg.model_copy(update={"seed": (cfg.seed + max(fold.number - 1, 0)) % 2**63, "folds": 1})
