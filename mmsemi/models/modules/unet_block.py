"""What both halves of a U-Net are made of."""

from __future__ import annotations

from mmcv.cnn import build_activation_layer, build_norm_layer
from torch import nn


class UNetBlock(nn.Sequential):
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
