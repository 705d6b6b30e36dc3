"""Strong views by a few changes of intensity, drawn anew for each image."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from kornia import enhance, filters
from torch import Tensor

from mmsemi.registry import MODELS


@MODELS.register_module()
class RandomIntensity:
    """A random number of changes of intensity, each image its own, with strengths of its own.

    The changes are those of PIL that RandAugment made common: identity, autocontrast, equalize, blur, contrast,
    brightness, color, sharpness, posterize, solarize and hue. An image gets 1 to ``max_ops`` different ones, all
    numbers and all sets equally likely, one after another in random order.

    What is drawn for each sample is drawn on the host, as kornia does; the images stay where they are.

    Source: AugSeg, Zhao et al., 2023 (arXiv:2212.04976), the random intensity-based augmentation.

    Args:
        max_ops (int): Most changes of an image. Defaults to 3.
        blur_sigma (tuple[float, float]): Range of the Gaussian's standard deviation in pixels. Defaults to (0.1, 2.0).
        factor (tuple[float, float]): Range of PIL's enhancement factor of contrast, brightness, color and sharpness: 1
            leaves the image, 0 leaves nothing of the property. Defaults to (0.05, 0.95).
        posterize_bits (tuple[int, int]): Range of the bits kept of 8, both ends included. Defaults to (4, 8).
        solarize_threshold (tuple[float, float]): Range of the level, of 255, from which on values are inverted.
            Defaults to (1, 256).
        hue (tuple[float, float]): Range of the turn of the hue, in turns, to either side. Defaults to (0.0, 0.5).

    Raises:
        ValueError: If a range is empty or outside its limits, or there are not as many changes as ``max_ops``.
    """

    def __init__(
        self,
        max_ops: int = 3,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        factor: tuple[float, float] = (0.05, 0.95),
        posterize_bits: tuple[int, int] = (4, 8),
        solarize_threshold: tuple[float, float] = (1, 256),
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
        # Three standard deviations on either side hold 99.7 % of the kernel's mass.
        kernel = 2 * math.ceil(3 * blur_sigma[1]) + 1
        levels = posterize_bits[1] - posterize_bits[0] + 1

        # Every change takes images (n, 3, H, W) and strengths (n,) in [0, 1).
        self.operations: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            'identity': lambda x, _: x,
            'autocontrast': lambda x, _: _autocontrast(x),
            'equalize': lambda x, _: enhance.equalize(x),
            'blur': lambda x, u: filters.gaussian_blur2d(x, kernel, _within(blur_sigma, u)[:, None].expand(-1, 2)),
            'contrast': lambda x, u: enhance.adjust_contrast_with_mean_subtraction(x, _within(factor, u)),
            'brightness': lambda x, u: enhance.adjust_brightness_accumulative(x, _within(factor, u)),
            'color': lambda x, u: enhance.adjust_saturation_with_gray_subtraction(x, _within(factor, u)),
            'sharpness': lambda x, u: enhance.sharpness(x, _within(factor, u)),
            'posterize': lambda x, u: enhance.posterize(x, posterize_bits[0] + (levels * u).floor().to(torch.int32)),
            'solarize': lambda x, u: enhance.solarize(x, _within(solarize_threshold, u) / 255),
            'hue': lambda x, u: enhance.adjust_hue(x, 2 * math.pi * _either_side(hue, u)),
        }
        if not 1 <= max_ops <= len(self.operations):
            raise ValueError(f'RandomIntensity: max_ops must lie in [1, {len(self.operations)}], not {max_ops}.')
        self.max_ops = max_ops

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Change RGB ``images`` (B, 3, H, W) in [0, 1]; the result lies in [0, 1] too."""
        images, batch = images.clone(), len(images)
        # On the host, since the draw decides what runs: the device is told rows and strengths and never waited for.
        drawn = torch.rand(batch, len(self.operations)).argsort(1)[:, : self.max_ops]
        count = torch.randint(1, self.max_ops + 1, (batch, 1))
        drawn = drawn.masked_fill(torch.arange(self.max_ops) >= count, -1)
        strengths = torch.rand(batch, self.max_ops, dtype=images.dtype)
        sent = strengths.to(images.device, non_blocking=True)
        for position in range(self.max_ops):
            for number, (name, change) in enumerate(self.operations.items()):
                rows = (drawn[:, position] == number).nonzero()[:, 0]
                if len(rows):
                    # kornia looks at the width of a blur on the host.
                    strength = strengths[rows, position]
                    rows = rows.to(images.device, non_blocking=True)
                    changed = change(images[rows], strength if name == 'blur' else sent[rows, position])
                    images.index_copy_(0, rows, changed.clamp(0, 1))
        return images


def _within(limits: tuple[float, float], strength: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * strength


def _either_side(limits: tuple[float, float], strength: Tensor) -> Tensor:
    """A value within ``limits``, or its negative, equally likely, for a ``strength`` uniform in [0, 1)."""
    signed = 2 * strength - 1
    return _within(limits, signed.abs()).copysign(signed)


def _autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel of each image to [0, 1]; a channel of one value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low), images)
