"""Evaluation of networks that take whole patches alone."""

from __future__ import annotations

from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor
from torch.nn import functional as F

from mmsemi.registry import MODELS


@MODELS.register_module()
class PatchEncoderDecoder(EncoderDecoder):
    """mmseg's ``EncoderDecoder``, where an image of any size, or a window of it, is evaluated at the nearest size that
    is made of whole patches; its scores are resized back.

    Source: evaluation of UniMatch V2 (Yang et al., 2024, arXiv:2410.10777), as released.

    Args:
        patch_size (int): What both sides become multiples of, in pixels. Defaults to 14.
        test_cfg (dict): That of ``EncoderDecoder``; with ``mode='slide'`` also ``average='probabilities'``: windows are
            averaged by their probabilities, as released, and not by their logits. Scores are then log-probabilities.
        **kwargs: Those of ``EncoderDecoder``.

    Raises:
        ValueError: If ``patch_size`` is below 1, or ``test_cfg.average`` is unknown.
    """

    def __init__(self, patch_size: int = 14, **kwargs) -> None:
        super().__init__(**kwargs)
        average = (self.test_cfg or {}).get('average', 'logits')
        if patch_size < 1 or average not in ('logits', 'probabilities'):
            raise ValueError(
                "PatchEncoderDecoder: patch_size >= 1 and test_cfg.average 'logits' or 'probabilities' are needed, not "
                f'{patch_size!r} and {average!r}.'
            )
        self.patch_size = patch_size
        self.averages_probabilities = average == 'probabilities' and self.test_cfg['mode'] == 'slide'

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Class scores of ``inputs`` (B, 3, H, W) at their own size, (B, C, H, W)."""
        size = tuple(inputs.shape[2:])
        whole = tuple(max(int(side / self.patch_size + 0.5), 1) * self.patch_size for side in size)
        scores = self.decode_head(self.extract_feat(self._resized(inputs, whole)))
        scores = self._resized(self._resized(scores, whole), size)
        return scores.softmax(1) if self.averages_probabilities else scores

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Class scores of ``inputs`` (B, 3, H, W), averaged over the windows that show a pixel, (B, C, H, W)."""
        scores = super().slide_inference(inputs, batch_img_metas)
        return scores.clamp(min=1e-30).log() if self.averages_probabilities else scores

    def _resized(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(maps.shape[2:]) == size:
            return maps
        return F.interpolate(maps, size=size, mode='bilinear', align_corners=self.align_corners)
