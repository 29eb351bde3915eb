"""The modules around the poolings: corner pooling, cascade corner pooling, center pooling."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from headwise.networks.corners.blocks import conv_norm, conv_norm_relu
from headwise.networks.corners.pooling import pool_bottom, pool_column, pool_left, pool_right, pool_row, pool_top

Corner = Literal["top_left", "bottom_right"]
POOLINGS = {"top_left": (pool_top, pool_left), "bottom_right": (pool_bottom, pool_right)}


class PoolMerge(nn.Module):
    """What the poolings' modules end with: the pooled sum and the input, each convolved, added, convolved."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.pooled = conv_norm(pooled, width, 3)
        self.direct = conv_norm(width, width, 1)
        self.out = conv_norm_relu(width, width)

    def forward(self, pooled: Tensor, features: Tensor) -> Tensor:
        """Merge (N, pooled, H, W) with (N, width, H, W) into (N, width, H, W)."""
        merged: Tensor = self.out(F.relu(self.pooled(pooled) + self.direct(features), inplace=True))
        return merged


class CornerPool(nn.Module):
    """Corner pooling: one branch pooled along the columns, one along the rows."""

    def __init__(self, width: int, pooled: int, corner: Corner) -> None:
        super().__init__()
        self.vertical = conv_norm_relu(width, pooled)
        self.horizontal = conv_norm_relu(width, pooled)
        self.merge = PoolMerge(width, pooled)
        self.pool_vertically, self.pool_horizontally = POOLINGS[corner]

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, width, H, W) to (N, width, H, W)."""
        pooled = self.pool_vertically(self.vertical(features)) + self.pool_horizontally(self.horizontal(features))
        merged: Tensor = self.merge(pooled, features)
        return merged


class CascadeCornerPool(nn.Module):
    """Cascade corner pooling: each branch first adds what pooling in the other direction saw inside the object."""

    def __init__(self, width: int, pooled: int, corner: Corner) -> None:
        super().__init__()
        self.vertical = conv_norm_relu(width, pooled)
        self.horizontal = conv_norm_relu(width, pooled)
        self.look_horizontally = conv_norm_relu(width, pooled)
        self.look_vertically = conv_norm_relu(width, pooled)
        self.mix_vertical = nn.Conv2d(pooled, pooled, 3, padding=1, bias=False)
        self.mix_horizontal = nn.Conv2d(pooled, pooled, 3, padding=1, bias=False)
        self.merge = PoolMerge(width, pooled)
        self.pool_vertically, self.pool_horizontally = POOLINGS[corner]

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, width, H, W) to (N, width, H, W)."""
        across = self.pool_horizontally(self.look_horizontally(features))
        along = self.pool_vertically(self.look_vertically(features))
        vertical = self.pool_vertically(self.mix_vertical(self.vertical(features) + across))
        horizontal = self.pool_horizontally(self.mix_horizontal(self.horizontal(features) + along))
        merged: Tensor = self.merge(vertical + horizontal, features)
        return merged


class CenterPool(nn.Module):
    """Center pooling: the maximum of the whole column of one branch and of the whole row of the other."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.vertical = conv_norm_relu(width, pooled)
        self.horizontal = conv_norm_relu(width, pooled)
        self.merge = PoolMerge(width, pooled)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, width, H, W) to (N, width, H, W)."""
        pooled = pool_column(self.vertical(features)) + pool_row(self.horizontal(features))
        merged: Tensor = self.merge(pooled, features)
        return merged
