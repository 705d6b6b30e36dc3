"""CutMix boxes, drawn on the device for the whole batch.

A class draws ``boxes``, long, (B, 4): first row, row after the last, first column, column after the last. Called, it
makes a :class:`Mix` of them, with the probability that an image is mixed at all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mmsemi.registry import MODELS
from mmsemi.structures import Mix


class BoxMix(ABC):
    """Base of the laws: with probability ``prob``, a box of each image is replaced by the same box of its partner.

    Args:
        prob (float): Probability that an image is mixed, in [0, 1].

    Raises:
        ValueError: If ``prob`` lies outside.
    """

    def __init__(self, prob: float) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'{type(self).__name__}: prob must lie in [0, 1], not {prob}.')
        self.prob = prob

    def check(self, height: int, width: int) -> None:
        """Refuse a size of images for which there is no box; raises ``ValueError``."""
        if min(height, width) < 1:
            raise ValueError(f'{type(self).__name__}: images of {height} x {width} have no box.')

    @abstractmethod
    def boxes(self, batch: int, height: int, width: int, device: torch.device | str) -> Tensor:
        """Draw a box for each of ``batch`` images, long, (batch, 4)."""

    def __call__(self, batch: int, height: int, width: int, device: torch.device | str) -> Mix:
        """Draw what ``batch`` images get of their partners, which are the batch reversed: a mask (batch, H, W)."""
        mixed = torch.rand(batch, device=device) < self.prob
        return Mix(box_masks(self.boxes(batch, height, width, device), height, width) & mixed[:, None, None])


@MODELS.register_module()
class CutMix(BoxMix):
    """A box whose area and aspect are drawn uniformly, the area once, the aspect until the box fits.

    The released code draws aspect and corner (anywhere in the image) again until the box lies within the image. That
    is: the density of an aspect is proportional to the number of places in which its box fits, and all these places are
    equally likely. Height and width are whole numbers, so the density is constant between the aspects at which one of
    them changes, and its inverse is exact: a place for every box, without a loop.

    Source: Yun et al., CutMix, 2019 (arXiv:1905.04899), with the law of ST++, UniMatch, CorrMatch and DSSN.

    Args:
        prob (float): Probability that an image is mixed. Defaults to 0.5.
        area (tuple[float, float]): Range of the box's share of the image. Defaults to (0.02, 0.4).
        aspect (tuple[float, float]): Range of height / width. Defaults to (0.3, 1 / 0.3).

    Raises:
        ValueError: If a range is empty or outside its limits; from ``check``, if no such box fits into the image.
    """

    def __init__(
        self,
        prob: float = 0.5,
        area: tuple[float, float] = (0.02, 0.4),
        aspect: tuple[float, float] = (0.3, 1 / 0.3),
    ) -> None:
        super().__init__(prob)
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f'CutMix: area must be an ascending range within (0, 1], not {area}.')
        if not 0 < aspect[0] <= aspect[1]:
            raise ValueError(f'CutMix: aspect must be an ascending range above 0, not {aspect}.')
        self.area = area
        self.aspect = aspect

    def check(self, height: int, width: int) -> None:
        """Refuse a size into which a box of the largest area fits with no aspect."""
        super().check(height, width)
        largest, (lowest, highest) = self.area[1] * height * width, self.aspect
        if largest * lowest >= (height + 1) ** 2 or largest >= highest * (width + 1) ** 2:
            raise ValueError(
                f'CutMix: no box of {self.area[1]} of the image with an aspect within {self.aspect} fits into '
                f'{height} x {width}; set model.data_preprocessor.cutmix.area or .aspect.'
            )

    def boxes(self, batch: int, height: int, width: int, device: torch.device | str) -> Tensor:
        """Draw a box for each image."""
        self.check(height, width)
        draw = torch.rand(4, batch, dtype=torch.float64, device=device)
        area = (self.area[0] + (self.area[1] - self.area[0]) * draw[0]) * (height * width)
        box_h, box_w = self._sides(area[:, None], draw[1][:, None], height, width)
        return _placed(box_h, box_w, draw[2:], height, width)

    def _sides(self, area: Tensor, draw: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Height and width of boxes of ``area`` pixels, (B,), each by a number in [0, 1); both arguments (B, 1)."""
        whole = torch.arange(1, max(height, width) + 2, dtype=area.dtype, device=area.device).square()
        ends = (torch.full_like(area, end) for end in self.aspect)
        # The aspects at which floor(sqrt(area * aspect)) and floor(sqrt(area / aspect)) change, up to where a side is
        # too long.
        edges = torch.cat([whole[: height + 1] / area, area / whole[: width + 1], *ends], 1)
        edges = edges.clamp(*self.aspect).sort(1).values
        middle = (edges[:, 1:] + edges[:, :-1]) / 2
        box_h, box_w = (area * middle).sqrt().floor(), (area / middle).sqrt().floor()
        places = (height + 1 - box_h).clamp(0, height) * (width + 1 - box_w).clamp(0, width)
        mass = ((edges[:, 1:] - edges[:, :-1]) * places).cumsum(1)
        drawn = torch.searchsorted(mass, draw * mass[:, -1:], right=True).clamp(max=mass.shape[1] - 1)
        return box_h.gather(1, drawn)[:, 0], box_w.gather(1, drawn)[:, 0]


@MODELS.register_module()
class FixedAreaCutMix(BoxMix):
    """A box that always has the same area, anywhere within the image.

    Source: U2PL, Wang et al., 2022 (arXiv:2203.03884), and AEL, Hu et al., 2021 (arXiv:2110.05474), whose box is that
    of French et al., 2020 (arXiv:1906.01916); in both half of the image.

    Args:
        area (float): The box's share of the image, in (0, 1). Defaults to 0.5.
        sides (str): What is drawn uniformly: the 'width', a whole number of pixels between the box's share of the
            image's width and the image's width, both left out (U2PL); or the 'logarithm' of the height (AEL).
            The area gives the other side. Defaults to 'width'.
        prob (float): Probability that an image is mixed. Defaults to 0.5.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, area: float = 0.5, sides: str = 'width', prob: float = 0.5) -> None:
        super().__init__(prob)
        if not 0 < area < 1:
            raise ValueError(f'FixedAreaCutMix: area must lie in (0, 1), not {area}.')
        if sides not in ('width', 'logarithm'):
            raise ValueError(f"FixedAreaCutMix: sides must be 'width' or 'logarithm', not {sides!r}.")
        self.area = area
        self.sides = sides

    def boxes(self, batch: int, height: int, width: int, device: torch.device | str) -> Tensor:
        """Draw a box for each image."""
        draw = torch.rand(3, batch, dtype=torch.float64, device=device)
        if self.sides == 'width':
            least = min(math.floor(self.area * width) + 1, width)
            box_w = least + (draw[0] * max(width - least, 1)).floor()
            return _placed((self.area * height * width / box_w).round(), box_w, draw[1:], height, width)
        share = (draw[0] * math.log(self.area)).exp()
        box_h, box_w = (share * height).round(), (self.area / share * width).round()
        top, left = (draw[1] * (height - box_h)).round(), (draw[2] * (width - box_w)).round()
        return torch.stack([top, top + box_h, left, left + box_w], 1).long()


@MODELS.register_module()
class BetaCutMix(BoxMix):
    """A box whose share of the image follows a beta law, around a centre anywhere in the image, cut at the border.

    The share that is kept (lambda, as CutMix has it) follows the law. The box has the image's aspect; its centre lies
    in the last seven eighths of rows and columns, as in the released code.

    Source: Yun et al., CutMix, 2019 (arXiv:1905.04899), with the beta laws of AugSeg (arXiv:2212.04976).

    Args:
        beta (tuple[int, int]): Parameters (a, b) of the law of the share that is kept, whole numbers: before it is cut,
            the box's share is b / (a + b) in the mean. Defaults to (4, 4).
        prob (float): Probability that an image is mixed. Defaults to 1.
        shared (bool): One share for all images of a batch; else each draws its own. Defaults to True.

    Raises:
        ValueError: If a number is outside its limits.
    """

    def __init__(self, beta: tuple[int, int] = (4, 4), prob: float = 1.0, shared: bool = True) -> None:
        super().__init__(prob)
        if len(beta) != 2 or any(int(number) != number or number < 1 for number in beta):
            raise ValueError(f'BetaCutMix: beta must be two whole numbers of 1 or more, not {beta}.')
        self.beta = tuple(int(number) for number in beta)
        self.shared = shared

    def boxes(self, batch: int, height: int, width: int, device: torch.device | str) -> Tensor:
        """Draw a box for each image."""
        a, b = self.beta
        # Of a + b - 1 uniform numbers, the a-th smallest follows Beta(a, b); torch's own sampler checks on the host.
        shares = torch.rand(1 if self.shared else batch, a + b - 1, dtype=torch.float64, device=device)
        kept = shares.sort(1).values[:, a - 1]
        rows, columns = torch.rand(2, batch, dtype=torch.float64, device=device).unbind()
        rows, columns = (
            (size // 8 + place * (size - size // 8)).floor() for size, place in ((height, rows), (width, columns))
        )
        return centred_boxes(kept, rows, columns, height, width)


def centred_boxes(kept: Tensor, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Boxes around given pixels, with half of a side, rounded down, to either side, cut at the image's border.

    Args:
        kept (Tensor): Share of the image outside of an uncut box, in [0, 1], (B,) or (1,).
        rows, columns (Tensor): The pixels, (B,).
        height, width (int): Of the image.

    Returns:
        Tensor: Long, (B, 4).
    """
    edges = []
    for centre, size in ((rows, height), (columns, width)):
        half = ((1 - kept).sqrt() * size).floor().div(2).floor()
        edges += [(centre - half).clamp(0, size), (centre + half).clamp(0, size)]
    return torch.stack(edges, 1).long()


def box_masks(boxes: Tensor, height: int, width: int) -> Tensor:
    """True inside of each box (B, 4), bool, (B, height, width)."""
    top, bottom, left, right = boxes[:, :, None, None].unbind(1)
    rows = torch.arange(height, device=boxes.device)[:, None]
    columns = torch.arange(width, device=boxes.device)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def _placed(box_h: Tensor, box_w: Tensor, draw: Tensor, height: int, width: int) -> Tensor:
    """Boxes (B, 4) of sides (B,), each in one of the places in which it fits, by numbers in [0, 1), (2, B)."""
    top, left = (draw[0] * (height - box_h + 1)).floor(), (draw[1] * (width - box_w + 1)).floor()
    return torch.stack([top, top + box_h, left, left + box_w], 1).long()
