"""The weights that come with the project: a network of the default settings, trained on phantoms alone.

They let `predict` work before anything was trained, and a first training begin somewhere. They lie in the project's own
DVC remote (`weights.dvc` names them, `starter/` holds them), or where `SA2NET_READY` says, as in the images.
"""

import os
from pathlib import Path

from filelock import FileLock

import sa2net
from sa2net.artifacts import MODEL_JSON
from sa2net.config import ModelConfig
from sa2net.errors import ConfigError
from sa2net.registry.store import var_folder

READY = "ready"
"""Name of these weights wherever a model is named."""
POINTER = "weights.dvc"
REMOTE = "starter"
IDENTITY = "5054c6725894e88d3346078f02f4b339.dir"
"""What the pointer names. It stands here too since a stage of DVC cannot depend on a pointer, and a training must not be
taken from the cache when the weights have changed; a test holds both together."""


def ready_weights() -> Path:
    """The model folder of the ready weights; from the project's remote it is copied to `var/ready/` once, and verified.

    Raises:
        ConfigError: This installation has none.
        StorageError: They are damaged, or cannot be copied.
    """
    told = os.environ.get("SA2NET_READY")
    if told:
        folder = Path(told).expanduser()
        if not (folder / MODEL_JSON).is_file():
            raise ConfigError(f"SA2NET_READY is {told}, which is no model folder", action="Correct it, or unset it.")
        return folder
    root = Path(sa2net.__file__).parents[1]
    if not (root / POINTER).is_file():
        raise ConfigError(
            "the ready weights are not here",
            evidence=f"they come with the project, and there is no {POINTER} in {root}",
            action="Run in a clone of the project, or set SA2NET_READY to their folder.",
        )
    from sa2net.data.store.objects import open_store
    from sa2net.data.store.pull import parse_pointer, pull, read_pointer

    place = var_folder() / "ready"
    place.parent.mkdir(parents=True, exist_ok=True)
    pointer = parse_pointer(read_pointer(str(root / POINTER)))
    with FileLock(place.with_suffix(".lock")):
        return pull(pointer, open_store(str(root / REMOTE)), place, progress=False).tree


def are_of(model: ModelConfig) -> bool:
    """Whether the ready weights are of this network: that of the default settings, with fresh weights."""
    return model.model_copy(update={"dropout": ModelConfig().dropout}) == ModelConfig()
