"""The contracting half of a U-Net."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsemi.models.modules.unet_block import UNetBlock
from mmsemi.registry import MODELS


@MODELS.register_module()
class UNetEncoder(BaseModule):
    """Blocks of two 3x3 convolutions, each at half the resolution of the one before; ``UNetHead`` is the other half.

    mmseg's ``UNet`` holds both halves in the backbone, where no feature can be perturbed before the decoder reads it.

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
            UNetBlock(*widths, share, norm_cfg, act_cfg)
            for *widths, share in zip(before, channels, dropout, strict=False)
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
