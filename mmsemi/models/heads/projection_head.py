"""Pixel embeddings beside the classifier."""

from __future__ import annotations

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmsemi.models.branch import BranchOutput
from mmsemi.registry import MODELS


@MODELS.register_module()
class ProjectionHead(BaseModule):
    """Conv-BN-ReLU blocks and a linear 1x1 convolution: a feature vector for each pixel.

    Args:
        in_channels (int): Channels of the feature that is read.
        out_channels (int): Dimension of the embedding. Defaults to 256.
        hidden_channels (int, optional): Channels of the blocks. Defaults to ``out_channels``.
        num_convs (int): Number of 3x3 Conv-BN-ReLU blocks. Defaults to 1.
        source (str): ``'decoder'``, the feature in front of the classifier, or ``'backbone'``. Defaults to 'decoder'.
        in_index (int): Which level of the backbone. Defaults to -1, the last.
        downsample (int): Resize the feature to a side of 1 / this first, so that graphs over embeddings stay affordable
            on large crops. Defaults to 1.
        norm_cfg, act_cfg (dict): Layers of the blocks.

    Raises:
        ValueError: If ``source`` is neither, or a number is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        hidden_channels: int | None = None,
        num_convs: int = 1,
        source: str = 'decoder',
        in_index: int = -1,
        downsample: int = 1,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if source not in ('decoder', 'backbone'):
            raise ValueError(f"ProjectionHead: source must be 'decoder' or 'backbone', not {source!r}.")
        if num_convs < 0 or downsample < 1:
            raise ValueError(
                f'ProjectionHead: num_convs >= 0 and downsample >= 1 are needed, not {num_convs} and {downsample}.'
            )
        self.source = source
        self.in_index = in_index
        self.downsample = downsample
        self.out_channels = out_channels
        hidden = hidden_channels or out_channels
        layer = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='ReLU'))
        widths = [in_channels] + [hidden] * num_convs
        blocks = [ConvModule(widths[i], widths[i + 1], 3, padding=1, **layer) for i in range(num_convs)]
        self.layers = nn.Sequential(*blocks, nn.Conv2d(widths[-1], out_channels, 1))

    def forward(self, out: BranchOutput) -> Tensor:
        """Embed the pixels of a branch's output: (B, out_channels, h, w)."""
        x = out.feature(self.source, self.in_index)
        if self.downsample > 1:
            # As scores are resized, so that a pixel of the embedding lies where the class scores of its place lie.
            size = [-(-side // self.downsample) for side in x.shape[2:]]
            x = resize(x, size=size, mode='bilinear', align_corners=out.align_corners)
        return self.layers(x)
