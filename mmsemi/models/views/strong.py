"""Strong views: photometric changes that keep every pixel's label."""

from __future__ import annotations

import torch
from kornia import augmentation
from torch import Tensor

from mmsemi.registry import MODELS


@MODELS.register_module()
class StrongView:
    """Color jitter, grayscale and blur, drawn for each image, applied to the whole batch where it lies.

    Images of one channel, or of more than three, have no color: of the jitter they get brightness and contrast, and
    they are not turned gray.

    kornia draws the parameters of each sample on the host and applies them on the images' device.

    Source: the strong view of ST++ and UniMatch (Yang et al., 2023, arXiv:2208.09910), used by most methods here.

    Args:
        jitter (tuple[float]): Strength of brightness, contrast, saturation and hue. Defaults to (0.5, 0.5, 0.5, 0.25).
        jitter_prob, gray_prob, blur_prob (float): Probability of each change. Default to 0.8, 0.2 and 0.5.
        blur_sigma (tuple[float, float]): Range of the Gaussian's standard deviation in pixels. Defaults to (0.1, 2.0).

    Raises:
        ValueError: If a probability lies outside [0, 1] or ``blur_sigma`` is no ascending range above 0.
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
        if not 0 < blur_sigma[0] <= blur_sigma[1]:
            raise ValueError(f'StrongView: blur_sigma must be an ascending range above 0, not {blur_sigma}.')
        # Three standard deviations on either side hold 99.7 % of the kernel's mass.
        kernel = 2 * round(3 * blur_sigma[1]) + 1
        blur = augmentation.RandomGaussianBlur((kernel, kernel), tuple(blur_sigma), p=blur_prob)
        self.changes = [
            augmentation.ColorJitter(*jitter, p=jitter_prob),
            augmentation.RandomGrayscale(p=gray_prob),
            blur,
        ]
        self.colorless_changes = [augmentation.ColorJitter(*jitter[:2], p=jitter_prob), blur]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Change ``images`` (B, C, H, W), RGB or of any other channels, in [0, 1]; the result lies in [0, 1] too."""
        for change in self.changes if images.shape[1] == 3 else self.colorless_changes:
            images = change(images)
        return images
