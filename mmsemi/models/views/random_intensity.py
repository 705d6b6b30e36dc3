"""Strong views by a few changes of intensity, drawn anew for each image."""

from __future__ import annotations

import math

import torch

from mmsemi.registry import MODELS

from .changes import Change, within
from .strong import PhotometricView

_NAMES = (
    'identity', 'autocontrast', 'equalize', 'blur', 'contrast', 'brightness', 'color', 'sharpness', 'posterize',
    'solarize', 'hue',
)  # fmt: skip


@MODELS.register_module()
class RandomIntensity(PhotometricView):
    """A random number of changes of intensity, each image its own, with strengths of its own.

    The changes are those of PIL that RandAugment made common: identity, autocontrast, equalize, blur, contrast,
    brightness, color, sharpness, posterize, solarize and hue. An image gets 1 to ``max_ops`` different ones, all
    numbers and all sets equally likely, one after another in random order.

    Source: AugSeg, Zhao et al., 2023 (arXiv:2212.04976), the random intensity-based augmentation.

    Args:
        max_ops (int): Most changes of an image. Defaults to 3.
        repeat (bool): An image may get a change more than once, as in the released code. Defaults to False.
        blur_sigma (tuple[float, float]): Range of the Gaussian's standard deviation in pixels. Defaults to (0.1, 2.0).
        factor (tuple[float, float]): Range of PIL's enhancement factor of contrast, brightness, color and sharpness: 1
            leaves the image, 0 leaves nothing of the property. Defaults to (0.05, 0.95).
        posterize_bits (tuple[int, int]): Range of the bits kept of 8, both ends included. Defaults to (4, 7).
        solarize_threshold (tuple[int, int]): Range of the level, of 255, from which on values are inverted, both ends
            included. Defaults to (1, 255).
        hue (tuple[float, float]): Range of the turn of the hue, in turns, to either side. Defaults to (0.0, 0.5).

    Raises:
        ValueError: If a range is empty or outside its limits, or there are not as many changes as ``max_ops``.
    """

    def __init__(
        self,
        max_ops: int = 3,
        repeat: bool = False,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        factor: tuple[float, float] = (0.05, 0.95),
        posterize_bits: tuple[int, int] = (4, 7),
        solarize_threshold: tuple[int, int] = (1, 255),
        hue: tuple[float, float] = (0.0, 0.5),
    ) -> None:
        for name, (low, high), least, most in (
            ('blur_sigma', blur_sigma, 0, math.inf),
            ('factor', factor, 0, math.inf),
            ('posterize_bits', posterize_bits, 1, 8),
            ('solarize_threshold', solarize_threshold, 0, 256),
            ('hue', hue, 0, 0.5),
        ):
            if not least <= low <= high <= most or (name == 'blur_sigma' and low == 0):
                raise ValueError(
                    f'RandomIntensity: {name} must be an ascending range '
                    f'{"above 0" if name == "blur_sigma" else f"within [{least}, {most}]"}, not {(low, high)}.'
                )
        if not 1 <= max_ops <= len(_NAMES):
            raise ValueError(f'RandomIntensity: max_ops must lie in [1, {len(_NAMES)}], not {max_ops}.')
        self.max_ops = max_ops
        self.repeat = repeat
        self.limits = dict.fromkeys(('contrast', 'brightness', 'color', 'sharpness'), factor)
        self.limits |= dict(blur=blur_sigma, posterize=posterize_bits, solarize=solarize_threshold, hue=hue)

    def orders(self, batch: int) -> list[list[Change]]:
        """Draw the changes of each of ``batch`` images, the first first."""
        count, places, strengths = torch.rand(batch, 1 + len(_NAMES) + self.max_ops, dtype=torch.float64).split(
            [1, len(_NAMES), self.max_ops], 1
        )
        orders = []
        for (number,), place, strength in zip(count.tolist(), places.tolist(), strengths.tolist(), strict=True):
            if self.repeat:
                names = [_NAMES[math.floor(len(_NAMES) * x)] for x in place[: self.max_ops]]
            else:
                names = [_NAMES[i] for i in sorted(range(len(_NAMES)), key=place.__getitem__)]
            chosen = names[: 1 + math.floor(self.max_ops * number)]
            orders.append([Change(name, self.strength(name, x)) for name, x in zip(chosen, strength, strict=False)])
        return orders

    def strength(self, name: str, share: float) -> float:
        """How strong a change is, for a ``share`` uniform in [0, 1)."""
        if name not in self.limits:
            return 0.0
        low, high = self.limits[name]
        if name in ('posterize', 'solarize'):
            return low + math.floor((high - low + 1) * share)
        if name == 'hue':
            signed = 2 * share - 1
            return math.copysign(within((low, high), abs(signed)), signed)
        return within((low, high), share)
