"""Strong views: photometric changes that keep every pixel's label."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mmsemi.registry import MODELS

from .changes import Change, change_images, within


class PhotometricView(ABC):
    """Base of the strong views: changes of intensity, drawn for each image, made for the whole batch where it lies.

    What is drawn is drawn on the host, which decides by it what runs; the images stay where they are. Images of one
    channel, or of more than three, have no color: what changes color leaves them as they are.
    """

    @abstractmethod
    def orders(self, batch: int) -> list[list[Change]]:
        """Draw the changes of each of ``batch`` images, the first first."""

    def __call__(self, images: Tensor) -> Tensor:
        """Change ``images`` (B, C, H, W) in [0, 1]; the result lies in [0, 1] too."""
        return change_images(images, self.orders(len(images)))


@MODELS.register_module()
class StrongView(PhotometricView):
    """Color jitter, in an order of each image's own, then grayscale, then blur.

    Source: the strong view of ST++ and UniMatch (Yang et al., 2023, arXiv:2208.09910), used by most methods here.

    Args:
        jitter (tuple[float]): Strength of brightness, contrast and saturation, whose factors lie within 1 - strength
            (0 at least) and 1 + strength, and most turns of the hue to either side, in [0, 0.5]. Defaults to
            (0.5, 0.5, 0.5, 0.25).
        jitter_prob, gray_prob, blur_prob (float): Probability of each change. Default to 0.8, 0.2 and 0.5.
        blur_sigma (tuple[float, float]): Range of the Gaussian's standard deviation in pixels. Defaults to (0.1, 2.0).

    Raises:
        ValueError: If a probability lies outside [0, 1], a strength is out of range, or ``blur_sigma`` is no ascending
            range above 0.
    """

    def __init__(
        self,
        jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.25),
        jitter_prob: float = 0.8,
        gray_prob: float = 0.2,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        blur_prob: float = 0.5,
    ) -> None:
        for name, prob in dict(jitter_prob=jitter_prob, gray_prob=gray_prob, blur_prob=blur_prob).items():
            if not 0 <= prob <= 1:
                raise ValueError(f'StrongView: {name} must lie in [0, 1], not {prob}.')
        if len(jitter) != 4 or min(jitter) < 0 or jitter[3] > 0.5:
            raise ValueError(f'StrongView: jitter must be four numbers >= 0, the last up to 0.5, not {jitter}.')
        if not 0 < blur_sigma[0] <= blur_sigma[1]:
            raise ValueError(f'StrongView: blur_sigma must be an ascending range above 0, not {blur_sigma}.')
        *factors, hue = jitter
        self.limits = [(max(0.0, 1 - strength), 1 + strength) for strength in factors] + [(-hue, hue)]
        self.jitter_prob, self.gray_prob, self.blur_prob = jitter_prob, gray_prob, blur_prob
        self.blur_sigma = blur_sigma

    def orders(self, batch: int) -> list[list[Change]]:
        """Draw the changes of each of ``batch`` images, the first first."""
        orders = []
        for jittered, grayed, blurred, sigma, *drawn in torch.rand(batch, 12, dtype=torch.float64).tolist():
            places, strengths = drawn[:4], drawn[4:]
            jitter = [
                Change(name, within(limits, strength))
                for name, limits, strength in zip(_JITTER, self.limits, strengths, strict=True)
            ]
            order = [jitter[i] for i in sorted(range(4), key=places.__getitem__) if jittered < self.jitter_prob]
            if grayed < self.gray_prob:
                order.append(Change('color', 0.0))
            if blurred < self.blur_prob:
                order.append(Change('blur', within(self.blur_sigma, sigma)))
            orders.append(order)
        return orders


_JITTER = ('brightness', 'contrast', 'color', 'hue')
