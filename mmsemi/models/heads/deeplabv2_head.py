"""The DeepLabV2 classifier: dilated convolutions on the last backbone stage, summed."""

from __future__ import annotations

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmsemi.registry import MODELS


@MODELS.register_module()
class DeepLabV2Head(BaseDecodeHead):
    """Sum of dilated 3x3 classifiers, one a dilation, without hidden layers.

    Source: Chen et al., DeepLab, 2016 (arXiv:1606.00915), ASPP-L.

    Args:
        dilations (tuple[int]): One classifier each. Defaults to (6, 12, 18, 24).
        **kwargs: Those of mmseg's ``BaseDecodeHead``; ``channels`` and ``dropout_ratio`` have no meaning here.
    """

    def __init__(self, dilations: tuple[int, ...] = (6, 12, 18, 24), **kwargs) -> None:
        kwargs.setdefault('channels', 1)
        init_cfg = kwargs.pop('init_cfg', dict(type='Normal', std=0.01, override=dict(name='classifiers')))
        super().__init__(**kwargs, dropout_ratio=0, init_cfg=init_cfg)
        self.conv_seg = None
        self.classifiers = nn.ModuleList(
            nn.Conv2d(self.in_channels, self.out_channels, 3, padding=dilation, dilation=dilation)
            for dilation in dilations
        )

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Score pixels at the backbone's resolution, (B, C, h, w)."""
        x = self._transform_inputs(inputs)
        return sum(classifier(x) for classifier in self.classifiers)
