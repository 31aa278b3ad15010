"""The register step: make a scored model a version of the registered model and ask the gate whether it is promoted."""

from pathlib import Path

from sa2net.artifacts import Scores
from sa2net.config import EvaluateConfig, RegisterConfig
from sa2net.errors import ConfigError, DataError
from sa2net.registry.registration import RegisterResult, Rescore, register

__all__ = ["RegisterResult", "rescorer", "run"]


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
    return register(cfg, model=model, evaluation=evaluation, out=out, rescore=rescorer(data))


def rescorer(data: Path | None) -> Rescore:
    """What scores a champion again, as the candidate was scored.

    Args:
        data: Folder that holds `dataset/` and `groundtruth/`; None if there is none, which is an error once it is needed.
    """

    def rescore(champion: Path, fresh: Path, wanted: Scores) -> None:
        if data is None:
            raise ConfigError(
                "the champion was scored on other data and must be scored again",
                action="Give the data set of today's evaluation with --data.",
            )
        from sa2net.steps import evaluate  # loads torch, which no other path through this step needs

        as_candidate = EvaluateConfig.model_validate({**wanted.inference, "split": wanted.split, "overlays": 0})
        result = evaluate.score_model(as_candidate, data=data, model=champion, out=fresh)
        if result.scores.data_md5 != wanted.data_md5:
            raise DataError(
                "the candidate was scored on another data set than this",
                evidence=f"candidate {wanted.data_md5[:12]}, {data} {result.scores.data_md5[:12]}",
                action="Evaluate and register the candidate on this data set, or name the one it was scored on.",
            )

    return rescore
