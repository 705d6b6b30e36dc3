"""DPT's decoder over backbones that return feature maps alone, with or without normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import DPTHead
from torch import Tensor, nn
from torch.nn import functional as F

from mmsemi.registry import MODELS


@MODELS.register_module()
class PlainDPTHead(DPTHead):
    """mmseg's ``DPTHead`` without a class token, and without normalisation unless ``norm_cfg`` asks for it.

    A map is resized to exactly the size of the next finer one, whatever the number of patches is. Without
    normalisation, convolutions have biases and start as PyTorch's do: the decoder of Depth Anything and UniMatch V2.
    With it, parameters are those of mmseg's head, under its names.

    Source: Ranftl et al., Vision Transformers for Dense Prediction, 2021 (arXiv:2103.13413).

    Args:
        norm_cfg (dict, optional): Norm of the residual units and of the last 3x3 convolution. Defaults to none.
        readout_type (str): 'ignore', since there is no class token.
        **kwargs: Those of mmseg's ``DPTHead``: ``embed_dims``, ``post_process_channels``, ``channels``, ...

    Raises:
        ValueError: If ``readout_type`` asks for the class token.
    """

    def __init__(self, readout_type: str = 'ignore', norm_cfg: dict | None = None, **kwargs) -> None:
        if readout_type != 'ignore':
            raise ValueError(f"PlainDPTHead has no class token; readout_type must be 'ignore', not {readout_type!r}.")
        super().__init__(readout_type=readout_type, norm_cfg=norm_cfg, **kwargs)
        act_cfg = kwargs.get('act_cfg') or dict(type='ReLU')
        self.fusion_blocks = nn.ModuleList(
            _Fusion(self.channels, norm_cfg, act_cfg, joins=i > 0) for i in range(len(self.convs))
        )

    def init_weights(self) -> None:
        """Initialise as mmseg does, or without a norm, which would rescale what that lets grow, as PyTorch does."""
        super().init_weights()
        if self.norm_cfg is None:
            for module in self.modules():
                if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                    module.reset_parameters()

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Score pixels from four feature maps of one stride, each (B, D, h, w): (B, C, 8 h, 8 w)."""
        levels = self.reassemble_blocks([(x, None) for x in self._transform_inputs(inputs)])
        levels = [conv(level) for conv, level in zip(self.convs, levels, strict=True)][::-1]
        sizes = [level.shape[2:] for level in levels[1:]] + [[2 * side for side in levels[-1].shape[2:]]]
        out = None
        for block, level, size in zip(self.fusion_blocks, levels, sizes, strict=True):
            out = block(level, out, size)
        return self.cls_seg(self.project(out))


class _Fusion(nn.Module):
    """Adds a level to what comes from the coarser ones, and hands both on at the size of the next finer level."""

    def __init__(self, channels: int, norm_cfg: dict | None, act_cfg: dict, joins: bool) -> None:
        super().__init__()
        self.res_conv_unit1 = _ResidualUnit(channels, norm_cfg, act_cfg) if joins else None
        self.res_conv_unit2 = _ResidualUnit(channels, norm_cfg, act_cfg)
        self.project = ConvModule(channels, channels, 1, act_cfg=None)

    def forward(self, level: Tensor, coarser: Tensor | None, size: Sequence[int]) -> Tensor:
        x = level if coarser is None else coarser + self.res_conv_unit1(level)
        # A convolution of one pixel and an interpolation may change places; this way it has a quarter of the pixels.
        x = self.project(self.res_conv_unit2(x))
        return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=True)


class _ResidualUnit(nn.Module):
    """Two 3x3 convolutions, each behind its activation, beside the identity."""

    def __init__(self, channels: int, norm_cfg: dict | None, act_cfg: dict) -> None:
        super().__init__()
        layer = dict(norm_cfg=norm_cfg, act_cfg=act_cfg, inplace=False, order=('act', 'conv', 'norm'))
        self.conv1 = ConvModule(channels, channels, 3, padding=1, **layer)
        self.conv2 = ConvModule(channels, channels, 3, padding=1, **layer)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))
