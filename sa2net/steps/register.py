"""The register step: make a scored model a version of the registered model and ask the gate whether it is promoted."""

from pathlib import Path

from sa2net.artifacts import SCORES, read_scores
from sa2net.config import EvaluateConfig, RegisterConfig
from sa2net.errors import ConfigError
from sa2net.registry.registration import RegisterResult, register

__all__ = ["RegisterResult", "run"]


def run(cfg: RegisterConfig, *, model: Path, evaluation: Path, out: Path, data: Path | None = None) -> RegisterResult:
    """Register a model; called again with nothing changed it changes nothing.

    Args:
        cfg: The register section.
        model: Model folder.
        evaluation: Evaluation folder of that model.
        out: Folder that takes `decision.json` and `run.json`.
        data: Folder that holds `dataset/` and `groundtruth/`; needed only if the champion must be scored again, because
            its scores are of other data.

    Returns:
        Version, aliases and decision. A model that is not promoted is no error.

    Raises:
        ConfigError: The champion must be scored again and `data` was not given.
        DataError: A folder cannot be used, or they do not belong together.
        StorageError: The registry cannot be reached or refuses.
    """

    def rescore(champion: Path, fresh: Path) -> None:
        if data is None:
            raise ConfigError(
                "the champion was scored on other data and must be scored again",
                action="Give the data set of today's evaluation with --data.",
            )
        from sa2net.steps import evaluate  # loads torch, which no other path through this step needs

        scores = read_scores(evaluation / SCORES)
        as_candidate = EvaluateConfig.model_validate({**scores.inference, "split": scores.split, "overlays": 0})
        evaluate.score_model(as_candidate, data=data, model=champion, out=fresh)

    return register(cfg, model=model, evaluation=evaluation, out=out, rescore=rescore)
