"""The DeepLabV3+ decoder that the papers of this field train."""

from __future__ import annotations

from collections import OrderedDict

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.aspp_head import ASPPHead
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmsemi.registry import MODELS


@MODELS.register_module()
class DeepLabV3PlusHead(ASPPHead):
    """ASPP with plain convolutions, joined with a low-level branch by two 3x3 convolutions.

    mmseg's ``DepthwiseSeparableASPPHead`` uses separable convolutions and a 3x3 ASPP projection; the networks of
    UniMatch, U2PL, AugSeg, DSSN, CorrMatch and their kin do not.

    Source: Chen et al., Encoder-Decoder with Atrous Separable Convolution, 2018 (arXiv:1802.02611).

    Args:
        low_level_in_channels (int): Channels of the low-level feature (stride 4).
        low_level_channels (int): Channels it is reduced to. Defaults to 48.
        low_level_index (int): Its place among the backbone's outputs. Defaults to 0.
        bottleneck_kernel_size (int): Of the convolution that joins the branches of the ASPP; 3 in U2PL and AEL.
            Defaults to 1.
        inner_dropout (float): Channel dropout behind that convolution and behind the first that joins the low-level
            feature, in [0, 1); 0.1 in U2PL and AEL. ``dropout_ratio`` is the one in front of the classifier. Defaults
            to 0.
        **kwargs: Those of mmseg's ``ASPPHead``; ``in_channels`` and ``in_index`` name the high-level feature.
    """

    positions = {'aspp': 'bottleneck', 'fusion': 'fuse'}
    """Features that auxiliary heads can read, and the modules they come out of."""

    def __init__(
        self,
        low_level_in_channels: int,
        low_level_channels: int = 48,
        low_level_index: int = 0,
        bottleneck_kernel_size: int = 1,
        inner_dropout: float = 0.0,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.low_level_index = low_level_index
        layer = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg)
        branches = len(self.dilations) + 1
        kernel = bottleneck_kernel_size
        self.bottleneck = ConvModule(branches * self.channels, self.channels, kernel, padding=kernel // 2, **layer)
        self.low_level = ConvModule(low_level_in_channels, low_level_channels, 1, **layer)
        self.inner_dropout = nn.Dropout2d(inner_dropout)
        self.fuse = nn.Sequential(
            ConvModule(self.channels + low_level_channels, self.channels, 3, padding=1, **layer),
            ConvModule(self.channels, self.channels, 3, padding=1, **layer),
        )
        if inner_dropout:
            # Between the two, whose names in checkpoints stay.
            first, second = self.fuse
            self.fuse = nn.Sequential(OrderedDict([('0', first), ('dropout', self.inner_dropout), ('1', second)]))

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Score pixels at the low-level feature's resolution, (B, C, h, w)."""
        low_level = self.low_level(inputs[self.low_level_index])
        aspp = self.inner_dropout(self._forward_feature(inputs))
        aspp = resize(aspp, size=low_level.shape[2:], mode='bilinear', align_corners=self.align_corners)
        return self.cls_seg(self.fuse(torch.cat([aspp, low_level], dim=1)))
