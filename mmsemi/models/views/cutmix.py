"""CutMix boxes, drawn on the device for the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from mmsemi.registry import MODELS
from mmsemi.structures import Mix


@MODELS.register_module()
class CutMix:
    """With probability ``prob``, one box of each image is replaced by the same box of its partner in the batch.

    Area and aspect are drawn uniformly, the corner anywhere in the image, again until the box fits: the law of the
    released code of this field (ST++, UniMatch, CorrMatch), without its loop: ``tries`` boxes are drawn at once and the
    first that fits is taken.

    Source: Yun et al., CutMix, 2019 (arXiv:1905.04899); French et al., 2020 (arXiv:1906.01916).

    Args:
        prob (float): Probability that an image is mixed. Defaults to 0.5.
        area (tuple[float, float]): Range of the box's share of the image. Defaults to (0.02, 0.4).
        aspect (tuple[float, float]): Range of height / width. Defaults to (0.3, 1 / 0.3).
        tries (int): Boxes drawn an image; where none fits, the image is not mixed. Defaults to 32.

    Raises:
        ValueError: If a range is empty or outside its limits.
    """

    def __init__(
        self,
        prob: float = 0.5,
        area: tuple[float, float] = (0.02, 0.4),
        aspect: tuple[float, float] = (0.3, 1 / 0.3),
        tries: int = 32,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'CutMix: prob must lie in [0, 1], not {prob}.')
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f'CutMix: area must be an ascending range within (0, 1], not {area}.')
        if not 0 < aspect[0] <= aspect[1]:
            raise ValueError(f'CutMix: aspect must be an ascending range above 0, not {aspect}.')
        self.prob = prob
        self.area = area
        self.aspect = aspect
        self.tries = tries

    def __call__(self, batch: int, height: int, width: int, device: torch.device | str) -> Mix:
        """Draw boxes for ``batch`` images: a mask (batch, height, width)."""
        draw = torch.rand(batch, self.tries, 4, device=device)
        area = (self.area[0] + (self.area[1] - self.area[0]) * draw[..., 0]) * height * width
        aspect = self.aspect[0] + (self.aspect[1] - self.aspect[0]) * draw[..., 1]
        box_h, box_w = (area * aspect).sqrt().floor(), (area / aspect).sqrt().floor()
        top, left = (draw[..., 2] * height).floor(), (draw[..., 3] * width).floor()
        fits = (top + box_h <= height) & (left + box_w <= width)
        first = fits.to(torch.uint8).argmax(1, keepdim=True)

        def chosen(values: Tensor) -> Tensor:
            return values.gather(1, first)[..., None]

        rows = torch.arange(height, device=device)[None, :, None]
        columns = torch.arange(width, device=device)[None, None, :]
        mask = (rows >= chosen(top)) & (rows < chosen(top + box_h))
        mask = mask & (columns >= chosen(left)) & (columns < chosen(left + box_w))
        mixed = fits.any(1) & (torch.rand(batch, device=device) < self.prob)
        return Mix(mask & mixed[:, None, None])
