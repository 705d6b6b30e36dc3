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
        corner_and_sides = (values.gather(1, first)[:, 0] for values in (top, left, box_h, box_w))
        mixed = fits.any(1) & (torch.rand(batch, device=device) < self.prob)
        return Mix(_boxes(*corner_and_sides, height, width) & mixed[:, None, None])


@MODELS.register_module()
class BetaCutMix:
    """With probability ``prob``, one box of each image is replaced by the same box of its partner in the batch.

    The box has the image's aspect and lies anywhere within it; the share of the image that is kept (lambda, as CutMix
    has it) follows a beta law.

    Source: Yun et al., CutMix, 2019 (arXiv:1905.04899), with the beta laws of AugSeg (arXiv:2212.04976).

    Args:
        beta (tuple[int, int]): Parameters (a, b) of the law of the share that is kept, whole numbers: the box's share
            is b / (a + b) in the mean. Defaults to (4, 4).
        prob (float): Probability that an image is mixed. Defaults to 1.

    Raises:
        ValueError: If a number is outside its limits.
    """

    def __init__(self, beta: tuple[int, int] = (4, 4), prob: float = 1.0) -> None:
        if len(beta) != 2 or any(int(number) != number or number < 1 for number in beta):
            raise ValueError(f'BetaCutMix: beta must be two whole numbers of 1 or more, not {beta}.')
        if not 0 <= prob <= 1:
            raise ValueError(f'BetaCutMix: prob must lie in [0, 1], not {prob}.')
        self.beta = tuple(int(number) for number in beta)
        self.prob = prob

    def __call__(self, batch: int, height: int, width: int, device: torch.device | str) -> Mix:
        """Draw boxes for ``batch`` images: a mask (batch, height, width)."""
        a, b = self.beta
        # Of a + b - 1 uniform numbers, the b-th smallest follows Beta(b, a), as the share of the box does; torch's own
        # sampler checks on the host.
        share = torch.rand(batch, a + b - 1, device=device).sort(1).values[:, b - 1]
        box_h, box_w = (share.sqrt() * height).round(), (share.sqrt() * width).round()
        place = torch.rand(2, batch, device=device)
        top, left = (place[0] * (height - box_h + 1)).floor(), (place[1] * (width - box_w + 1)).floor()
        mixed = torch.rand(batch, device=device) < self.prob
        return Mix(_boxes(top, left, box_h, box_w, height, width) & mixed[:, None, None])


def _boxes(top: Tensor, left: Tensor, box_h: Tensor, box_w: Tensor, height: int, width: int) -> Tensor:
    """True inside of each image's box, (B, height, width), given its corner and sides, each (B,)."""
    top, left, bottom, right = (x[:, None, None] for x in (top, left, top + box_h, left + box_w))
    rows = torch.arange(height, device=top.device)[:, None]
    columns = torch.arange(width, device=top.device)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
