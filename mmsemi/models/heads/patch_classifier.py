"""Which classes are present around each location of a feature map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsemi.models.branch import BranchOutput
from mmsemi.registry import MODELS


@MODELS.register_module()
class PatchClassifier(BaseModule):
    """Multi-label scores from a feature and its averages over windows of several sizes.

    The feature and its averages are concatenated, pass three blocks of two 3x3 and one 1x1 convolution, and a linear
    layer scores the classes at each location.

    Source: MPMC, Howlader et al., 2024, eq. 2 and section 4.1.

    Args:
        in_channels (int): Channels of the feature that is read.
        num_classes (int): Number of classes (C).
        source (str): ``'backbone'`` or ``'decoder'``, the feature in front of the classifier. Defaults to 'backbone'.
        in_index (int): Which level of the backbone. Defaults to 0, the first.
        pools (Sequence[int]): Odd sizes of the windows; none leaves the feature alone. Defaults to (7, 19).
        raw (bool): Whether the feature itself is among the scales. Defaults to True.
        channels (int): Width of the convolutions. Defaults to 32.
        num_blocks (int): Number of blocks. Defaults to 3.
        norm_cfg, act_cfg (dict): Layers of the blocks.

    Raises:
        ValueError: If no scale is left, a window's size is even, or a number is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        source: str = 'backbone',
        in_index: int = 0,
        pools: Sequence[int] = (7, 19),
        raw: bool = True,
        channels: int = 32,
        num_blocks: int = 3,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        pools = self.checked_pools(pools)
        scales = len(pools) + bool(raw)
        if not scales:
            raise ValueError('PatchClassifier: without pools, raw=False leaves nothing to classify.')
        if min(channels, num_blocks) < 1:
            raise ValueError(
                f'PatchClassifier: channels and num_blocks must be 1 or more, not {channels}, {num_blocks}.'
            )
        self.source = source
        self.in_index = in_index
        self.pools = pools
        self.raw = raw
        layer = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='ReLU'))
        widths = [scales * in_channels] + [channels] * num_blocks
        blocks = [
            ConvModule(widths[i] if j == 0 else channels, channels, kernel, padding=kernel // 2, **layer)
            for i in range(num_blocks)
            for j, kernel in enumerate((3, 3, 1))
        ]
        self.layers = nn.Sequential(*blocks, nn.Conv2d(channels, num_classes, 1))

    @staticmethod
    def checked_pools(pools: int | Sequence[int]) -> tuple[int, ...]:
        """Sizes of windows as a tuple; one may come alone.

        Raises:
            ValueError: If they are no odd whole numbers.
        """
        several = (pools,) if isinstance(pools, int) else pools
        if not isinstance(several, Sequence) or not all(isinstance(n, int) and n > 0 and n % 2 for n in several):
            raise ValueError(f'MPMC: pools must be odd whole numbers, so that maps keep their size, not {pools!r}.')
        return tuple(several)

    def forward(self, out: BranchOutput) -> Tensor:
        """Score the classes around each location of a branch's output: logits, (B, C, h, w)."""
        x = out.feature(self.source, self.in_index)
        scales = [x] if self.raw else []
        scales += [average(x, pool) for pool in self.pools]
        return self.layers(torch.cat(scales, 1) if len(scales) > 1 else scales[0])


def average(maps: Tensor, window: int) -> Tensor:
    """Mean over the pixels of a square window around each pixel, as far as they lie within the map, (B, D, h, w).

    An average pooling with stride 1 that does not count its padding, by two products with banded matrices.
    """
    rows, columns = (_band(side, window, maps) for side in maps.shape[2:])
    return rows @ maps @ columns.T


def _band(side: int, window: int, like: Tensor) -> Tensor:
    """Row i averages the entries within ``window // 2`` of i, (side, side)."""
    place = torch.arange(side, device=like.device)
    band = ((place[:, None] - place).abs() <= window // 2).to(like.dtype)
    return band / band.sum(1, keepdim=True)
