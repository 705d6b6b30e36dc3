"""The two features that a correlation map compares."""

from __future__ import annotations

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import nn

from mmsemi.models.branch import BranchOutput
from mmsemi.models.modules.correlation import Correlation
from mmsemi.registry import MODELS

_SOURCES = ('backbone', 'aspp', 'fusion', 'classifier')


@MODELS.register_module()
class CorrelationHead(BaseModule):
    """One 3x3 Conv-BN-ReLU block with channel dropout, then two linear 1x1 convolutions side by side.

    Source: CorrMatch, Sun et al., 2024 (arXiv:2306.04300), section 3.2 and supplement B; positions: table 7.

    Args:
        in_channels (int): Channels of the feature that is read.
        out_channels (int): Dimension of both features (D).
        hidden_channels (int): Channels of the block. Defaults to 256.
        source (str): Where the feature is taken: ``'backbone'``, ``'aspp'`` (DeepLabV3+: after the ASPP), ``'fusion'``
            (after the two convolutions that join it with the low level) or ``'classifier'`` (class scores). Defaults to
            'backbone'.
        in_index (int): Which level of the backbone. Defaults to -1, the last.
        dropout (float): Share of the block's channels that are dropped, in [0, 1). Defaults to 0.1.
        norm_cfg, act_cfg (dict): Layers of the block.

    Raises:
        ValueError: If ``source`` is none of these, a number is out of range, or the feature has other channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int = 256,
        source: str = 'backbone',
        in_index: int = -1,
        dropout: float = 0.1,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if source not in _SOURCES:
            raise ValueError(f'CorrelationHead: source must be one of {", ".join(_SOURCES)}, not {source!r}.')
        if min(in_channels, out_channels, hidden_channels) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                'CorrelationHead: in_channels, out_channels and hidden_channels must be 1 or more and dropout lie in '
                f'[0, 1), not {in_channels}, {out_channels}, {hidden_channels} and {dropout}.'
            )
        self.in_channels = in_channels
        self.source = source
        self.in_index = in_index
        layer = dict(norm_cfg=norm_cfg or dict(type='BN'), act_cfg=act_cfg or dict(type='ReLU'))
        block = ConvModule(in_channels, hidden_channels, 3, padding=1, **layer)
        self.layers = nn.Sequential(block, nn.Dropout2d(dropout))
        self.rows = nn.Conv2d(hidden_channels, out_channels, 1)
        self.columns = nn.Conv2d(hidden_channels, out_channels, 1)

    def forward(self, out: BranchOutput) -> Correlation:
        """Features of a branch's output, each (B, out_channels, h, w)."""
        x = out.feature(self.source, self.in_index)
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"CorrelationHead: in_channels={self.in_channels}, but source='{self.source}' has {x.shape[1]} "
                f'channels; set model.heads.correlation.in_channels={x.shape[1]}.'
            )
        x = self.layers(x)
        return Correlation(self.rows(x), self.columns(x))
