"""From a model folder and a scan to a mask of exactly the scan's size."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from sa2net.artifacts import ModelInfo, read_model_info, read_weights
from sa2net.config import BatchConfig, Device, EvaluateConfig, Precision
from sa2net.data.framing import Grey, ScaledBy, WorkingScale, find_frame, paste, to_working_scale
from sa2net.errors import DataError, DeviceError
from sa2net.inference.device import resolve_device, resolve_precision, set_threads
from sa2net.model.ensemble import build_model


@dataclass(frozen=True)
class Prediction:
    """What the network says of one scan.

    Attributes:
        mask: Class ids, uint8 (H, W), the scan's own size.
        probabilities: Softmax over the classes, float32 (K, H, W); outside the framed sweep surely background.
        scale: Working-scale pixels per scan pixel, vertically.
        scaled_by: How the working scale was found.
    """

    mask: Grey
    probabilities: npt.NDArray[np.float32]
    scale: float
    scaled_by: ScaledBy


class Predictor:
    """A network with everything that its model folder says about it.

    Args:
        network: The network that `sa2net.model.network.build` makes, with its weights.
        info: The folder's `model.json`.
        mode: The whole scan at once, or overlapping windows of the training crop's size.
        scales: Test-time scales whose probabilities are averaged.
        flip: Average with the mirrored scan too.
        device: Where to compute.
        precision: Number format of the forward pass.
    """

    def __init__(
        self,
        network: nn.Module,
        info: ModelInfo,
        *,
        mode: Literal["whole", "sliding"] = "whole",
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        device: torch.device | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self.network, self.info = network, info
        self.mode, self.scales, self.flip = mode, tuple(scales), flip
        self.device = device or torch.device("cpu")
        self.precision = precision
        x_y = info.spacing_mm
        self.working = WorkingScale(info.sweep_width, (x_y[0], x_y[1]) if x_y else None)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        mode: Literal["whole", "sliding"] = "whole",
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        device: Device = "auto",
        precision: Precision = "auto",
        threads: int = 2,
    ) -> Self:
        """Read a model folder.

        Raises:
            DataError: The folder is not a model folder, or its weights do not fit its network.
            DeviceError: The device cannot be used.
        """
        info = read_model_info(folder)
        target = resolve_device(device)
        set_threads(threads)
        network = build_model(info.model, info.members)
        try:
            network.load_state_dict(read_weights(folder))
        except RuntimeError as error:
            raise DataError(
                f"the weights in {folder} do not fit its network", evidence=str(error), action="Train again."
            ) from error
        network.drop_training_heads()
        return cls(
            network.to(target),
            info,
            mode=mode,
            scales=scales,
            flip=flip,
            device=target,
            precision=resolve_precision(precision, target),
        )

    @classmethod
    def for_settings(cls, folder: Path, cfg: EvaluateConfig | BatchConfig) -> Self:
        """Read a model folder and set inference up as a section says; raises what `load` raises."""
        return cls.load(
            folder,
            mode=cfg.mode,
            scales=cfg.scales,
            flip=cfg.flip,
            device=cfg.device,
            precision=cfg.precision,
            threads=cfg.threads,
        )

    def __call__(self, scan: Grey, spacing_mm: tuple[float, float] | None = None) -> Grey:
        """The mask of a scan: class ids, uint8 (H, W)."""
        return self.probabilities(scan, spacing_mm).mask

    def probabilities(self, scan: Grey, spacing_mm: tuple[float, float] | None = None) -> Prediction:
        """Predict one scan.

        Args:
            scan: Grey picture, uint8 (H, W).
            spacing_mm: Size of its pixels (x, y), mm, where known.

        Raises:
            DataError: Not a grey picture, or without a sweep.
            DeviceError: The GPU's memory is too small for it.
        """
        if scan.ndim != 2 or scan.dtype != np.uint8:
            raise DataError(
                "the scan is not an 8-bit grey picture",
                evidence=f"shape {scan.shape}, type {scan.dtype}",
                action="Convert it to 8-bit grey.",
            )
        frame = find_frame(scan, self.working, spacing_mm)
        with _evaluating(self.network), torch.inference_mode(), self._memory_explained():
            averaged = self._average(to_working_scale(scan, frame)[None].to(self.device))  # (1, K, h, w)
            if not averaged.isfinite().all():
                raise DataError(
                    "the network answers with numbers that are not finite",
                    evidence=f"precision {self.precision}",
                    action="With float16 try precision float32; else its weights are spoiled: train again.",
                )
            own_scale = functional.interpolate(
                averaged, size=(frame.height, frame.width), mode="bilinear", align_corners=False
            )[0]
            window = own_scale.cpu().numpy()
        shape = (scan.shape[0], scan.shape[1])
        # Outside the frame the network was not asked: surely background.
        probabilities = np.stack(
            [paste(channel, frame, shape, fill=float(index == 0)) for index, channel in enumerate(window)]
        )
        mask = probabilities.argmax(axis=0).astype(np.uint8)
        return Prediction(mask, probabilities, frame.working_height / frame.height, frame.scaled_by)

    @contextmanager
    def _memory_explained(self) -> Iterator[None]:
        """Turn an out-of-memory trace into a message that names what needs less."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            smaller = [] if self.mode == "sliding" else ["windows instead of the whole scan (mode sliding)"]
            if max(self.scales) > 1:
                smaller.append("no scale above 1")
            raise DeviceError(
                "the GPU's memory is too small to predict this scan",
                evidence=str(error),
                action=f"Any of these needs less: {'; '.join([*smaller, 'the CPU (device cpu)'])}. Or end what else runs on the GPU.",
            ) from error

    def _average(self, picture: torch.Tensor) -> torch.Tensor:
        """Mean softmax over scales and flips; picture (1, 1, h, w) grey 0-255 -> (1, K, h, w)."""
        height, width = picture.shape[-2:]
        total: torch.Tensor | None = None
        count = 0
        for scale in self.scales:
            size = (max(round(height * scale), 8), max(round(width * scale), 8))
            scaled = (
                picture
                if size == (height, width)
                else functional.interpolate(picture, size=size, mode="bilinear", align_corners=False, antialias=True)
            )
            for mirrored in (False, True) if self.flip else (False,):
                softmax = self._softmax(scaled.flip(-1) if mirrored else scaled)
                softmax = functional.interpolate(
                    softmax.flip(-1) if mirrored else softmax,
                    size=(height, width),
                    mode="bilinear",
                    align_corners=False,
                )
                total = softmax if total is None else total + softmax
                count += 1
        assert total is not None  # noqa: S101 - settings hold at least one scale
        return total / count

    def _softmax(self, picture: torch.Tensor) -> torch.Tensor:
        """One pass: grey (1, 1, h, w) -> softmax (1, K, h, w)."""
        black = -self.info.normalisation.mean / self.info.normalisation.std
        normalised = (picture - self.info.normalisation.mean) / self.info.normalisation.std
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            logits = self._slide(normalised, black) if self.mode == "sliding" else self.network(normalised)
        softmax: torch.Tensor = logits.float().softmax(dim=1)
        return softmax

    def _slide(self, picture: torch.Tensor, black: float) -> torch.Tensor:
        """Overlapping windows of the training crop's size, blended with Gaussian weights."""
        from monai.inferers import sliding_window_inference

        try:
            augment = self.info.params["train"]["augment"]
            window = (int(augment["crop_height"]), int(augment["crop_width"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                "the model does not say how large its training crops were",
                evidence="params.train.augment of model.json lacks crop_height and crop_width",
                action="Predict with mode whole.",
            ) from error
        logits: torch.Tensor = sliding_window_inference(
            picture, window, 1, self.network, overlap=0.5, mode="gaussian", cval=black
        )
        return logits


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode of before afterwards."""
    before = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(before)
