"""A small vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) whose heads and MLP units can be removed."""

import torch
from torch import Tensor, nn

from prunus.study.catalogue import SIDE_MULTIPLE

PATCH = SIDE_MULTIPLE["vit"]


class Attention(nn.Module):
    """Multi-head self-attention on tokens [N, T, width].

    Head h is in rows h * head_dim to (h + 1) * head_dim of ``query``, ``key`` and ``value``, and in those columns of
    ``projection``. A network without some heads has a smaller ``heads`` and the same ``head_dim``. The softmax is
    written out because the fused kernels have no second derivative.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.projection = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            layer(tokens).unflatten(2, (self.heads, self.head_dim)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(2, 3) / self.head_dim**0.5).softmax(3)
        return self.projection((weights @ value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Layer norm and attention, then layer norm and a GELU layer of ``hidden`` units, each added to its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.gelu = nn.GELU()
        self.output = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.output(self.gelu(self.hidden(self.norm2(tokens))))


class VisionTransformer(nn.Module):
    """Patches of 4 x 4 pixels with a learned position each; the classifier reads the mean token."""

    def __init__(
        self, channels: int, side: int, classes: int, width: int = 96, depth: int = 4, heads: int = 4, ratio: int = 2
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, PATCH, stride=PATCH)
        self.position = nn.Parameter(torch.empty(1, (side // PATCH) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads, ratio * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.position, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.classifier(self.norm(self.blocks(tokens)).mean(1))


def vit(channels: int, side: int, classes: int) -> VisionTransformer:
    """Width 96, four blocks of four heads and 192 hidden units: 0.3 million parameters."""
    return VisionTransformer(channels, side, classes)
