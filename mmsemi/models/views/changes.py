"""Changes of intensity, as PIL has them, of many images at once: each image gets its own, in its own order.

A change that several images get is made for them together, whatever its place in their orders: a batch needs few
launches. What comes when is decided on the host, which knows all that was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from kornia.enhance import solarize
from kornia.filters import filter2d_separable
from torch import Tensor
from torch.nn import functional as F

from mmsemi.models.device import send


class Change(NamedTuple):
    """One change of an image.

    Args:
        name (str): 'identity', 'autocontrast', 'equalize', 'brightness', 'contrast', 'color', 'sharpness',
            'posterize', 'solarize', 'blur' or 'hue'.
        strength (float): PIL's factor of brightness, contrast, color and sharpness, >= 0, 1 leaves the image;
            bits kept, 1 to 8 (posterize); level from which on values are inverted, of 255 (solarize); standard
            deviation in pixels, > 0 (blur); turns of the color circle (hue); else of no meaning.
    """

    name: str
    strength: float = 0.0


def within(limits: tuple[float, float], share: float) -> float:
    """The number that lies ``share``, in [0, 1], of the way from the lower limit to the upper one."""
    return limits[0] + (limits[1] - limits[0]) * share


# What lies this little below a level, in levels, is the level: arithmetic in float is not exact, PIL's is.
_ROUNDING = 2**-6

# How a change is made: by which kernel, with which numbers for a strength.
_MADE_BY: dict[str, tuple[str, Callable[[float], tuple[float, ...]]]] = {
    'autocontrast': ('stretch', lambda _: (0.0,)),
    'equalize': ('equalize', lambda _: (0.0,)),
    # Factor; weights of the gray image and of its mean in what the image is blended with.
    'brightness': ('blend', lambda factor: (factor, 0.0, 0.0)),
    'color': ('blend', lambda factor: (factor, 1.0, 0.0)),
    'contrast': ('blend', lambda factor: (factor, 0.0, 1.0)),
    'sharpness': ('sharpen', lambda factor: ((1 - factor) * 9 / 13,)),
    'posterize': ('posterize', lambda bits: _grid(2 ** (8 - bits))),
    'solarize': ('solarize', lambda level: ((level - _ROUNDING) / 255,)),
    'blur': ('blur', lambda sigma: _gaussian_weights(sigma)),
    'hue': ('turn', lambda turns: (6 * turns + 5, 6 * turns + 3, 6 * turns + 1)),
}
# Launches of a kernel, about.
_LAUNCHES = dict(stretch=10, equalize=23, blend=11, sharpen=6, posterize=7, solarize=6, blur=9, turn=22)


@torch.no_grad()
def change_images(images: Tensor, orders: Sequence[Sequence[Change]]) -> Tensor:
    """Change images, RGB or of any other channels; the latter have no color, and 'color' and 'hue' leave them.

    Args:
        images (Tensor): In [0, 1], (B, C, H, W).
        orders (Sequence[Sequence[Change]]): The changes of each image, the first first.

    Returns:
        Tensor: In [0, 1], (B, C, H, W).
    """
    images = images.clone()
    if images.shape[1] != 3:
        orders = [[change for change in order if change.name not in ('color', 'hue')] for order in orders]
    rounds = _rounds(orders)
    if not rounds:
        return images
    rows = np.concatenate([rows for _, rows, _ in rounds])
    numbers = np.concatenate([numbers.ravel() for _, _, numbers in rounds])
    rows = send(torch.from_numpy(rows), images.device).split([len(rows) for _, rows, _ in rounds])
    numbers = send(torch.from_numpy(numbers).to(images.dtype), images.device)
    numbers = numbers.split([numbers.size for _, _, numbers in rounds])
    for (kernel, _, shape), index, values in zip(rounds, rows, numbers, strict=True):
        changed = _KERNELS[kernel](images.index_select(0, index), values.view(shape.shape))
        images.index_copy_(0, index, changed)
    return images


def _rounds(orders: Sequence[Sequence[Change]]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """In which order kernels run: name, rows of the images (n,), and their numbers (n, k).

    Of the kernels that an image waits for, that one comes first for which the fewest launches must be repeated later
    on, by the number of changes that it lets come closer.
    """
    waiting = [[_MADE_BY[name] + (strength,) for name, strength in order if name != 'identity'] for order in orders]
    rounds = []
    while any(waiting):
        served: dict[str, list[int]] = {}
        for row, order in enumerate(waiting):
            if order:
                served.setdefault(order[0][0], []).append(row)

        def repeated(kernel: str, served: dict[str, list[int]] = served) -> float:
            later = sum(any(kind == kernel for kind, _, _ in order[1:]) for order in waiting)
            return later * _LAUNCHES[kernel] / sum(len(waiting[row]) for row in served[kernel])

        kernel = min(served, key=repeated)
        numbers = [waiting[row][0][1](waiting[row][0][2]) for row in served[kernel]]
        for row in served[kernel]:
            waiting[row].pop(0)
        rounds.append((kernel, np.array(served[kernel]), _rectangle(numbers)))
    return rounds


def _rectangle(numbers: Sequence[tuple[float, ...]]) -> np.ndarray:
    """Rows of equal length, with zeros around the middle ones of shorter rows."""
    longest = max(map(len, numbers))
    padding = ((longest - len(row)) // 2 for row in numbers)
    return np.array([np.pad(row, margin) for row, margin in zip(numbers, padding, strict=True)], dtype=np.float64)


def _grid(step: float) -> tuple[float, float, float]:
    """Of multiples of a number of levels: factor and summand before rounding down, factor after it."""
    return 255 / step, _ROUNDING / step, step / 255


def _gaussian_weights(sigma: float) -> tuple[float, ...]:
    """PIL's Gaussian in one dimension: a box of fractional width, three times, whose variance is that of the Gaussian.

    Source: Gwosdek et al., Theoretical Foundations of Gaussian Convolution by Extended Box Filtering, 2011.
    """
    variance = sigma**2 / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    edge = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    box = np.array([edge, *[1.0] * (2 * whole + 1), edge]) / (2 * whole + 1 + 2 * edge)
    return tuple(np.convolve(np.convolve(box, box), box))


# Kernels: images (n, C, H, W), which they may overwrite, and numbers (n, k), to images


def _columns(numbers: Tensor) -> tuple[Tensor, ...]:
    """Each (n, 1, 1, 1)."""
    return numbers[:, :, None, None, None].unbind(1)


def _blend(images: Tensor, numbers: Tensor) -> Tensor:
    factor, gray, mean = _columns(numbers)
    if images.shape[1] == 3:
        luma = (images[:, :1] * 0.299).add_(images[:, 1:2], alpha=0.587).add_(images[:, 2:], alpha=0.114)
    else:
        luma = images.mean(1, keepdim=True)
    other = torch.addcmul(luma.mean((2, 3), keepdim=True) * mean, luma, gray)
    return torch.lerp(other, images, factor).clamp_(0, 1)


def _sharpen(images: Tensor, numbers: Tensor) -> Tensor:
    """Blend with PIL's SMOOTH, (8 neighbours + 5 times the pixel) / 13, which leaves pixels at the border."""
    if min(images.shape[2:]) >= 3:
        images[:, :, 1:-1, 1:-1].lerp_(F.avg_pool2d(images, 3, 1), *_columns(numbers))
    return images.clamp_(0, 1)


def _stretch(images: Tensor, _: Tensor) -> Tensor:
    """Each channel of each image to [0, 1]; a channel of one value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = high - low
    flat = span == 0
    return images.sub_(low.masked_fill_(flat, 0)).div_(span.masked_fill_(flat, 1))


def _equalize(images: Tensor, _: Tensor) -> Tensor:
    """Each channel of each image by PIL's table; a channel for which its step is 0 stays."""
    flat = images.flatten(2)
    level = (flat * 255).add_(_ROUNDING).long()
    count = flat.new_zeros(*flat.shape[:2], 256).scatter_add_(2, level, flat.new_ones(()).expand_as(flat))
    last = count.gather(2, level.amax(2, keepdim=True))
    step = torch.div(flat.shape[2] - last, 255, rounding_mode='floor')
    before = (count.cumsum(2) - count).add_(torch.div(step, 2, rounding_mode='floor'))
    table = torch.div(before, step.clamp(min=1), rounding_mode='floor').clamp_(max=255).div_(255)
    return torch.where(step[..., None] > 0, table.gather(2, level).view_as(images), images)


def _posterize(images: Tensor, numbers: Tensor) -> Tensor:
    before, summand, after = _columns(numbers)
    return images.mul_(before).add_(summand).floor_().mul_(after)


def _solarize(images: Tensor, numbers: Tensor) -> Tensor:
    return solarize(images, numbers[:, 0])


def _blur(images: Tensor, numbers: Tensor) -> Tensor:
    return filter2d_separable(images, numbers, numbers, border_type='replicate')


def _turn(images: Tensor, numbers: Tensor) -> Tensor:
    """Turn the hue; a channel is the value less the chroma, by its distance from the hue: HSV without its maps."""
    red, green, blue = images.split(1, 1)
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    after_green, after_blue = (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4)
    hue = torch.where(red == value, green - blue, torch.where(green == value, after_green, after_blue))
    place = (hue.div_(chroma.clamp(min=1e-12)) + numbers[:, :, None, None]).remainder_(6)
    return torch.addcmul(value, chroma, torch.minimum(place, 4 - place).clamp_(0, 1), value=-1)


_KERNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = dict(
    blend=_blend,
    sharpen=_sharpen,
    stretch=_stretch,
    equalize=_equalize,
    posterize=_posterize,
    solarize=_solarize,
    blur=_blur,
    turn=_turn,
)
