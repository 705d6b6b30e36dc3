"""What passes between the rooms: the views of a batch, the boxes that mix them, and pseudo-labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

IGNORE_INDEX = 255
"""Label of pixels that no loss counts: unlabeled, void, or padding."""


@dataclass
class PseudoLabel:
    """Labels that a network gave to unlabeled pixels, and how much each pixel counts.

    Args:
        label (Tensor): Class of each pixel, long, (B, H, W).
        weight (Tensor): What the pixel counts in a loss, >= 0, float, (B, H, W); 0 leaves it out.
        prob (Tensor, optional): Class probabilities of soft labels, (B, C, H, W).
    """

    label: Tensor
    weight: Tensor
    prob: Tensor | None = None

    def reweight(self, factor: Tensor) -> PseudoLabel:
        """Multiply the weight of every pixel by ``factor`` (B, H, W)."""
        return replace(self, weight=self.weight * factor)


@dataclass
class Mix:
    """Which pixels of each image are replaced by those of its partner in the batch, ``flip(0)``.

    Mixing inside the batch needs no second batch and no second forward pass.

    Args:
        mask (Tensor): True where the partner's pixel is taken, bool, (B, H, W).
    """

    mask: Tensor

    def images(self, images: Tensor) -> Tensor:
        """Mix ``images`` (B, C, H, W)."""
        return torch.where(self.mask[:, None], images.flip(0), images)

    def maps(self, maps: Tensor) -> Tensor:
        """Mix ``maps`` (B, H, W): labels, weights, validity."""
        return torch.where(self.mask, maps.flip(0), maps)

    def labels(self, pseudo: PseudoLabel) -> PseudoLabel:
        """Mix a pseudo-label with the boxes that its images were mixed with."""
        prob = None if pseudo.prob is None else self.images(pseudo.prob)
        return PseudoLabel(self.maps(pseudo.label), self.maps(pseudo.weight), prob)


@dataclass
class Streams:
    """The views of one training batch: ``Bl`` labeled and ``Bu`` unlabeled images, normalised, on the model's device.

    Args:
        labeled (Tensor): Weak view of the labeled images, (Bl, 3, H, W).
        labels (Tensor): Their ground truth, long, (Bl, H, W); 255 = ignore.
        weak (Tensor): Weak view of the unlabeled images, (Bu, 3, H, W).
        strong (tuple[Tensor]): Strong views of ``weak``, each (Bu, 3, H, W), not yet mixed.
        valid (Tensor): False where an unlabeled crop was padded, bool, (Bu, H, W).
        mix (tuple[Mix]): How each strong view is mixed.
        unlabeled_gt (Tensor, optional): Ground truth of the unlabeled images, for diagnostics alone: no loss reads it.
    """

    labeled: Tensor
    labels: Tensor
    weak: Tensor
    strong: tuple[Tensor, ...] = ()
    valid: Tensor | None = None
    mix: tuple[Mix, ...] = field(default=())
    unlabeled_gt: Tensor | None = None
