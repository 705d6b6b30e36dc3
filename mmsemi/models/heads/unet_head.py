"""The expanding half of a U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from mmsemi.models.modules.unet_block import UNetBlock
from mmsemi.registry import MODELS


@MODELS.register_module()
class UNetHead(BaseDecodeHead):
    """From the coarsest level on, features are doubled in size and a block joins them with the level there.

    Source: Ronneberger et al., U-Net, 2015 (arXiv:1505.04597), in the form that UniMatch trains on medical images: a
    1x1 convolution and bilinear enlargement in place of a transposed convolution, no dropout, scores by a 3x3
    convolution. With :class:`UNetEncoder`, 4 classes and one channel it has 1,813,764 parameters.

    Args:
        in_channels (Sequence[int]): Width of each level, the finest first, which is that of the last block, too.
        enlarge_align_corners (bool): How features are enlarged; ``align_corners`` is how scores are resized to another
            size than the images'. Defaults to True.
        **kwargs: Those of mmseg's ``BaseDecodeHead``. Unless they say otherwise, all levels are read, the norm is BN
            and the activation a leaky ReLU.
    """

    def __init__(self, in_channels: Sequence[int], enlarge_align_corners: bool = True, **kwargs: Any) -> None:
        defaults = dict(
            in_index=tuple(range(len(in_channels))),
            dropout_ratio=0,
            norm_cfg=dict(type='BN'),
            act_cfg=dict(type='LeakyReLU'),
            init_cfg=None,
        )
        settings = {**defaults, **kwargs}
        super().__init__(in_channels, channels=in_channels[0], input_transform='multiple_select', **settings)
        self.enlarge_align_corners = enlarge_align_corners
        pairs = list(zip(in_channels[1:], in_channels[:-1], strict=True))[::-1]
        self.reduce = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for coarse, fine in pairs)
        self.blocks = nn.ModuleList(
            UNetBlock(2 * fine, fine, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg) for _, fine in pairs
        )
        self.conv_seg = nn.Conv2d(self.channels, self.out_channels, 3, padding=1)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Score pixels at the resolution of the finest level, (B, C, H, W)."""
        *levels, x = self._transform_inputs(inputs)
        for level, reduce, block in zip(reversed(levels), self.reduce, self.blocks, strict=True):
            x = F.interpolate(
                reduce(x), size=level.shape[2:], mode='bilinear', align_corners=self.enlarge_align_corners
            )
            x = block(torch.cat([level, x], 1))
        return self.cls_seg(x)
