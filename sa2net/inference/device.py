"""Device, number format and threads: asked for in the settings, checked once at the start."""

import torch

from sa2net.config import Device, Precision
from sa2net.errors import DeviceError

_FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: Device) -> torch.device:
    """The device to work on. `auto` takes a GPU where there is one; `cuda` is a demand.

    Raises:
        DeviceError: `cuda` was asked for and no GPU can be used.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError(
            "no GPU can be used, and device is cuda",
            evidence=f"torch {torch.__version__} (CUDA {torch.version.cuda or 'not built in'}) sees {torch.cuda.device_count()} GPUs",
            action="Check `nvidia-smi` and the driver, or set device to auto or cpu.",
        )
    return torch.device("cuda", torch.cuda.current_device())


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The number format of the forward pass. `auto`: bfloat16 on a GPU that has it, else float32.

    Raises:
        DeviceError: float16 was asked for on a CPU, where it has no fast arithmetic.
    """
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    if precision == "float16" and device.type == "cpu":
        raise DeviceError(
            "float16 needs a GPU", evidence="device is cpu", action="Set precision to float32 or bfloat16."
        )
    return _FORMATS[precision]


def set_threads(threads: int) -> None:
    """Use so many CPU threads: part of what makes a run bit-equal."""
    torch.set_num_threads(threads)
