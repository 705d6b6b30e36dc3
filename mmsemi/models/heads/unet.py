"""The two halves of a U-Net: a backbone and a decode head, in one file so that both can be exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from mmsemi.registry import MODELS


class _Block(nn.Sequential):
    """Two 3x3 convolutions, each with norm and activation, and dropout between them.

    Args:
        in_channels, channels (int): Channels that the block reads and gives.
        dropout (float): Share of the values that are dropped, in [0, 1). Defaults to 0.
        norm_cfg, act_cfg (dict, optional): Layers. Default to BN and a leaky ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        dropout: float = 0.0,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
    ) -> None:
        norm_cfg, act_cfg = norm_cfg or dict(type='BN'), act_cfg or dict(type='LeakyReLU')
        layers = []
        for width in (in_channels, channels):
            norm = build_norm_layer(norm_cfg, channels)[1]
            layers += [nn.Conv2d(width, channels, 3, padding=1), norm, build_activation_layer(act_cfg)]
        super().__init__(*layers[:3], nn.Dropout(dropout), *layers[3:])


@MODELS.register_module()
class UNetEncoder(BaseModule):
    """Blocks of two 3x3 convolutions, each at half the resolution of the one before.

    :class:`UNetHead` is the other half. mmseg's ``UNet`` holds both in the backbone, where no feature can be perturbed
    before the decoder reads it.

    Source: Ronneberger et al., U-Net, 2015 (arXiv:1505.04597), in the form that UniMatch trains on medical images.

    Args:
        in_channels (int): Channels of the images. Defaults to 1.
        channels (Sequence[int]): Width of each level, the finest first; each has twice the stride of the one before.
            Defaults to (16, 32, 64, 128, 256).
        dropout (Sequence[float]): Dropout between the two convolutions of each level. Defaults to (0.05, 0.1, 0.2, 0.3,
            0.5).
        norm_cfg, act_cfg (dict): Layers of the blocks. Default to BN and a leaky ReLU.

    Raises:
        ValueError: If ``dropout`` is not of as many levels as ``channels``.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5),
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(dropout) != len(channels):
            raise ValueError(
                f'UNetEncoder: dropout={tuple(dropout)} must have as many levels as channels={tuple(channels)}.'
            )
        before = (in_channels, *channels)
        self.levels = nn.ModuleList(
            _Block(*widths, share, norm_cfg, act_cfg) for *widths, share in zip(before, channels, dropout, strict=False)
        )
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features of all levels, the finest first, of images (B, in_channels, H, W).

        Raises:
            ValueError: If height or width is no multiple of the coarsest level's stride.
        """
        stride = 2 ** (len(self.levels) - 1)
        if x.shape[2] % stride or x.shape[3] % stride:
            raise ValueError(
                f'UNetEncoder: height and width must be multiples of {stride}, not {tuple(x.shape[2:])}; resize or '
                f'pad the images (model.data_preprocessor.test_cfg.size_divisor={stride}).'
            )
        features = []
        for i, level in enumerate(self.levels):
            x = level(self.pool(x) if i else x)
            features.append(x)
        return tuple(features)


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
            _Block(2 * fine, fine, norm_cfg=self.norm_cfg, act_cfg=self.act_cfg) for _, fine in pairs
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
