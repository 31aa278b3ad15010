"""What torch cannot do with the settings of a training, said in their words: too little memory, no compiler."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sa2net.config import TrainConfig
from sa2net.errors import DeviceError
from sa2net.model.backbone import first_line

_OF_A_CPU = "DefaultCPUAllocator"
"""In the text of a `RuntimeError` where the memory of a CPU ends: torch has no class for it."""


@contextmanager
def explained(cfg: TrainConfig, processes: int = 1) -> Iterator[None]:
    """Turn torch's trace into a message that names the settings to change.

    Args:
        cfg: Of the training.
        processes: That share the batch.

    Raises:
        DeviceError: The memory is too small, or the network cannot be compiled here.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise out_of_memory(cfg, error, processes) from error
    except RuntimeError as error:
        if _OF_A_CPU in str(error):
            raise out_of_memory(cfg, error, processes) from error
        if cfg.compile and isinstance(error, _compiler_errors()):
            raise _not_compiled(error) from error
        raise


def out_of_memory(cfg: TrainConfig, error: Exception, processes: int = 1) -> DeviceError:
    """What is said where a step does not fit: settings that need about half the memory, mildest first.

    Args:
        cfg: Of the training.
        error: Torch's own.
        processes: That share the batch; the proposed one can be shared too.
    """
    cures = []
    half = cfg.batch_size // 2
    if half and half % processes == 0:
        cures.append(
            f"train.batch_size={half} train.accumulate={cfg.accumulate * 2} (as many crops an update, half the memory)"
        )
    if not cfg.recompute:
        cures.append("train.recompute=true (about a third more arithmetic)")
    if cfg.augment.crop_height > 64 and cfg.augment.crop_width > 64:
        height, width = (
            max(64, side * 3 // 4 // 32 * 32) for side in (cfg.augment.crop_height, cfg.augment.crop_width)
        )
        cures.append(f"train.augment.crop_height={height} train.augment.crop_width={width}")
    if cfg.model.channels > 16:
        cures.append(f"train.model.channels={max(16, cfg.model.channels // 2)}")
    whose = "the GPU's" if isinstance(error, torch.OutOfMemoryError) else "this machine's"
    return DeviceError(
        f"{whose} memory is too small for this training",
        evidence=f"batch {cfg.batch_size} of {cfg.augment.crop_height} x {cfg.augment.crop_width}, {cfg.model.channels} channels; {error}",
        action=f"Any of these needs less: {'; '.join(cures)}."
        if cures
        else "Take a smaller backbone (train.model.backbone).",
    )


def _compiler_errors() -> tuple[type[Exception], ...]:
    """What `torch.compile` raises; imported where it is in use, since that takes a second."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InvalidCxxCompiler

    return TorchDynamoException, InvalidCxxCompiler


def _not_compiled(error: Exception) -> DeviceError:
    return DeviceError(
        "the network cannot be compiled on this machine",
        evidence=first_line(error)[:300],
        action="Set train.compile to false, or install a C++ compiler (g++; on a GPU Triton, which comes with torch).",
    )
