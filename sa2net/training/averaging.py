"""Averaged weights: an exponential moving average over the steps, which is scored and kept instead of the last ones."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sa2net.training.checkpoint import Tensors


class Averaged:
    """What is validated and kept: the network itself, or the average of its weights.

    Args:
        network: In training.
        decay: Share of the average that stays in each step; 0 = no average.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.average: AveragedModel | None = None
        if decay:
            follow = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(network, multi_avg_fn=follow, use_buffers=True)
        self.network: nn.Module = self.average.module if self.average is not None else network

    def step(self, network: nn.Module) -> None:
        """Follow the network after a step; the first one is taken as it is."""
        if self.average is not None:
            self.average.update_parameters(network)

    def state(self) -> Tensors:
        """For a checkpoint; empty without an average."""
        if self.average is None:
            return {}
        return {name: value.detach() for name, value in self.average.state_dict().items()}

    def restore(self, state: Tensors) -> None:
        """Go on from a checkpoint."""
        if self.average is not None:
            self.average.load_state_dict(state)
