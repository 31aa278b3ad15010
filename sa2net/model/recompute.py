"""Activation checkpointing: parts of a network forget what they computed and compute it again in the backward pass.

Memory then grows with the largest part instead of their sum, for one more forward pass. Batch norms update their
running statistics in the first pass only, so that a step is the same with and without.
"""

import functools
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from sa2net.model.affinity import StructureAffinity
from sa2net.model.attention import ChannelAttention, CrissCrossAttention
from sa2net.model.layers import ConvNormAct

HEAD_PARTS = (ConvNormAct, ChannelAttention, CrissCrossAttention, StructureAffinity)


def recompute_activations(network: nn.Module) -> None:
    """Make the blocks of the backbone, and the parts of the head, recompute in the backward pass of a training."""
    for part in _blocks(network):
        # A method, not a closure: the copy of a network (averaged weights) then runs its own parts.
        part.forward = types.MethodType(_forward, part)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost parts of our heads, and modules of several layers that stand in a row with others."""
    for child in module.children():
        in_a_row = isinstance(module, nn.Sequential | nn.ModuleList) and not isinstance(child, nn.ModuleList)
        if isinstance(child, HEAD_PARTS) or (in_a_row and _is_composite(child)):
            yield child
        else:
            yield from _blocks(child)


def _is_composite(module: nn.Module) -> bool:
    layers = [child for child in module.modules() if not list(child.children()) and list(child.parameters())]
    return len(layers) > 1


def _forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What takes the place of a part's own `forward`."""
    forward = functools.partial(type(module).forward, module)
    if not module.training:
        return forward(*args, **kwargs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(module)

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms inside normalise by the batch as before, but do not count it again."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # the running statistics take no part of this batch
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
