"""The structure-affinity module: which class each channel belongs to, learned from the picture as a whole.

A transformer predictor looks at the map with one query a class and gives each class a mask embedding; the module
sets channels against classes with it, and writes the classes' probability maps back into the features.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from sa2net.config import PredictorConfig
from sa2net.config.network import Affinity
from sa2net.model.layers import ConvNormAct, at_least_float32, build_energies, full_precision

REDUCTION = 4
"""The affinity is computed for so many times fewer channels than the map has."""
MLP_RATIO = 4


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention of given queries, keys and values, heads concatenated and projected.

    Args:
        width: Width of the tokens.
        num_heads: Heads; divides `width`.
        dropout: On the weights and on the result.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.projection = nn.Linear(width, width)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries (B, K, D) against keys and values (B, N, D) -> (B, K, D)."""
        split = [x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2) for x in (query, key, value)]
        query, key, value = split  # (B, heads, K or N, D / heads)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        projected = self.projection(mixed.transpose(1, 2).flatten(2))
        return functional.dropout(projected, self.dropout, self.training)


class SelfAttention(MultiHeadAttention):
    """The class queries attend to each other."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__(width, num_heads, dropout)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)

    def forward(self, queries: Tensor) -> Tensor:
        """(B, K, D) -> the same shape."""
        query, key, value = self.query_key_value(queries).chunk(3, dim=-1)
        return self.attend(query, key, value)


class CrossAttention(MultiHeadAttention):
    """The class queries attend to the map."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__(width, num_heads, dropout)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Queries (B, K, D), memory (B, N, D) -> (B, K, D)."""
        return self.attend(self.query(queries), self.key(memory), self.value(memory))


class DecoderLayer(nn.Module):
    """One pre-norm transformer decoder layer: self-attention, attention to the map, MLP."""

    def __init__(self, cfg: PredictorConfig) -> None:
        super().__init__()
        width, dropout = cfg.embed_dim, cfg.dropout
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = SelfAttention(width, cfg.num_heads, dropout)
        self.query_norm = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width, cfg.num_heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, MLP_RATIO * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(MLP_RATIO * width, width),
            nn.Dropout(dropout),
        )
        self.skip = StochasticDepth(dropout, mode="row")

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        """Queries (B, K, D), memory (B, N, D), which stays as it is -> (B, K, D)."""
        queries = queries + self.skip(self.self_attention(self.self_norm(queries)))
        queries = queries + self.skip(self.cross_attention(self.query_norm(queries), self.memory_norm(memory)))
        answer: Tensor = queries + self.skip(self.mlp(self.mlp_norm(queries)))
        return answer


class TransformerPredictor(nn.Module):
    """One learned query a class reads the map and becomes that class's mask embedding.

    There is no positional encoding: the answer does not depend on the order of the positions.

    Args:
        in_channels: Channels of the map.
        num_classes: Classes, hence queries.
        cfg: Width, depth and heads.
    """

    def __init__(self, in_channels: int, num_classes: int, cfg: PredictorConfig) -> None:
        super().__init__()
        width = cfg.embed_dim
        self.memory = nn.Linear(in_channels, width)
        self.queries = nn.Parameter(torch.randn(num_classes, width))
        self.layers = nn.ModuleList(DecoderLayer(cfg) for _ in range(cfg.depth))
        self.mask_embedding = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, cfg.mask_dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> mask embeddings (B, K, mask_dim)."""
        memory = self.memory(x.flatten(2).transpose(1, 2))  # (B, N, D)
        queries = self.queries.expand(x.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(queries, memory)
        embeddings: Tensor = self.mask_embedding(queries)
        return embeddings


class StructureAffinityOutput(NamedTuple):
    """What the module hands on."""

    features: Tensor
    """(B, C, H, W), or (B, C, H + 2, W + 2) with released logits."""
    coarse: Tensor
    """Logits (B, K, H, W) of the module's own classifier."""


class StructureAffinity(nn.Module):
    """Give every reduced channel a mixture of the class probability maps, and merge that with the features.

    Args:
        channels: Channels of the map, at least 4.
        num_classes: Classes K.
        cfg: The predictor's sizes.
        affinity: `released` adds the raw sums over positions and over mask channels, which saturates the softmax and
            starves the predictor of gradient; `normalised` brings each of the two to a set spread first, so that both
            take part from the first step and the picture's size does not matter; `mean` and `cosine` are alternatives
            to it (see `sa2net.model.layers`).
        padding: Of the last 3 x 3 convolution: 1 keeps the size, 2 (released) makes the map 2 px larger.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        cfg: PredictorConfig,
        *,
        affinity: Affinity,
        padding: int,
    ) -> None:
        super().__init__()
        reduced = channels // REDUCTION
        self.predictor = TransformerPredictor(channels, num_classes, cfg)
        self.coarse = nn.Conv2d(channels, num_classes, 1)
        self.position_query = nn.Conv2d(channels, reduced, 1)
        self.mask_query = nn.Linear(num_classes, reduced)
        self.spread = ConvNormAct(reduced, channels, 1, activate=False)
        self.merge = ConvNormAct(2 * channels, channels, 3, padding=padding)
        self.position_energies = build_energies(affinity, parts=2)
        self.mask_energies = build_energies(affinity, parts=2)

    def affinity(self, x: Tensor, probabilities: Tensor) -> Tensor:
        """Which classes each reduced channel belongs to.

        Args:
            x: Features (B, C, H, W).
            probabilities: Class probabilities (B, K, N), N = H W in row-major order.

        Returns:
            (B, C/4, K), each row sums to 1.
        """
        query = at_least_float32(self.position_query(x).flatten(2))  # (B, C/4, N)
        masks = self.predictor(x)  # (B, K, M)
        mask_query = at_least_float32(self.mask_query(masks.transpose(1, 2)).transpose(1, 2))  # (B, C/4, M)
        classes, masks = probabilities.transpose(1, 2), at_least_float32(masks.transpose(1, 2))
        with full_precision(x):
            energies = self.position_energies(query, classes) + self.mask_energies(mask_query, masks)
        return torch.softmax(energies, dim=-1)

    def forward(self, x: Tensor) -> StructureAffinityOutput:
        """(B, C, H, W) -> features of the same size (or 2 px larger) and coarse logits."""
        coarse = self.coarse(x)
        probabilities = torch.softmax(at_least_float32(coarse).flatten(2), dim=1)  # (B, K, N), over the classes
        mixed = self.affinity(x, probabilities) @ probabilities  # (B, C/4, N)
        classwise = self.spread(mixed.to(x.dtype).reshape(*mixed.shape[:2], *x.shape[-2:]))
        return StructureAffinityOutput(self.merge(torch.cat([x, classwise], dim=1)), coarse)
