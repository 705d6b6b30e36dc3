"""mmseg's DPT decoder over backbones that return feature maps alone."""

from __future__ import annotations

from mmseg.models.decode_heads import DPTHead
from torch import Tensor

from mmsemi.registry import MODELS


@MODELS.register_module()
class PlainDPTHead(DPTHead):
    """mmseg's ``DPTHead`` without a class token, which mmpretrain's vision transformers do not hand on with their maps.

    Source: Ranftl et al., Vision Transformers for Dense Prediction, 2021 (arXiv:2103.13413).

    Args:
        **kwargs: Those of mmseg's ``DPTHead``.

    Raises:
        ValueError: If ``readout_type`` asks for the class token.
    """

    def __init__(self, readout_type: str = 'ignore', **kwargs) -> None:
        if readout_type != 'ignore':
            raise ValueError(f"PlainDPTHead has no class token; readout_type must be 'ignore', not {readout_type!r}.")
        super().__init__(readout_type=readout_type, **kwargs)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Score pixels from feature maps of one stride, each (B, D, h, w): (B, C, 8 h, 8 w)."""
        return super().forward([(x, None) for x in inputs])
