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
    """Which pixels of each image are replaced by those of its partner in the batch.

    Mixing inside the batch needs no second batch and no second forward pass.

    Args:
        mask (Tensor): True where the partner's pixel is taken, bool, (B, H, W).
        partner (Tensor, optional): Index of each image's partner, long, (B,). Defaults to the reverse order.
    """

    mask: Tensor
    partner: Tensor | None = None

    def images(self, images: Tensor, shown: Tensor | None = None) -> Tensor:
        """Mix ``images`` (B, C, H, W); ``shown`` is what a partner gives away, by default the images themselves."""
        return torch.where(self.mask[:, None], self.partners(images if shown is None else shown), images)

    def maps(self, maps: Tensor, shown: Tensor | None = None) -> Tensor:
        """Mix ``maps`` (B, H, W): labels, weights, validity; ``shown`` is what a partner gives away."""
        return torch.where(self.mask, self.partners(maps if shown is None else shown), maps)

    def partners(self, values: Tensor) -> Tensor:
        """What belongs to each image's partner, (B, ...)."""
        return values.flip(0) if self.partner is None else values[self.partner]

    def at(self, rows: Tensor, columns: Tensor) -> Mix:
        """The mix of maps that have only these rows (h,) and columns (w,)."""
        return Mix(self.mask[:, rows[:, None], columns], self.partner)

    def labels(self, pseudo: PseudoLabel, shown: PseudoLabel | None = None) -> PseudoLabel:
        """Mix a pseudo-label with the boxes that its images were mixed with; ``shown`` is what a partner gives away."""
        shown = shown or pseudo
        prob = None if pseudo.prob is None else self.images(pseudo.prob, shown.prob)
        return PseudoLabel(self.maps(pseudo.label, shown.label), self.maps(pseudo.weight, shown.weight), prob)


@dataclass
class Paste:
    """Boxes of labeled images in copies of the unlabeled ones. A copy is what an image gives away when boxes are
    exchanged; the image itself keeps its own pixels.

    Args:
        mask (Tensor): True where the copy shows the labeled image, bool, (B, H, W).
        labels (Tensor): Ground truth of the labeled images, long, (B, H, W), read where ``mask``; 255 = ignore.
        images (Tensor): The labeled images, (B, 3, H, W), read where ``mask``.
    """

    mask: Tensor
    labels: Tensor
    images: Tensor

    def into(self, images: Tensor) -> Tensor:
        """The copies of ``images`` (B, 3, H, W)."""
        return torch.where(self.mask[:, None], self.images, images)

    def truth(self, pseudo: PseudoLabel) -> PseudoLabel:
        """The copies' labels: the ground truth, fully counted, where it is known, else those of the images."""
        given = self.labels != IGNORE_INDEX
        label = torch.where(self.mask & given, self.labels, pseudo.label)
        return replace(pseudo, label=label, weight=torch.where(self.mask, given.to(pseudo.weight), pseudo.weight))

    def known(self, valid: Tensor) -> Tensor:
        """Where the copies have something to teach: a label, or an unlabeled pixel that is no padding, (B, H, W)."""
        return torch.where(self.mask, self.labels != IGNORE_INDEX, valid)


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
        pasted (tuple[Paste]): Labeled boxes in what each strong view takes from partners, where a method has some.
        unlabeled_gt (Tensor, optional): Ground truth of the unlabeled images, for diagnostics alone: no loss reads it.
    """

    labeled: Tensor
    labels: Tensor
    weak: Tensor
    strong: tuple[Tensor, ...] = ()
    valid: Tensor | None = None
    mix: tuple[Mix, ...] = field(default=())
    pasted: tuple[Paste, ...] = ()
    unlabeled_gt: Tensor | None = None

    def strong_views(self) -> dict[str, Tensor]:
        """The strong views, mixed, by name: 'strong_0', 'strong_1', ..., each (Bu, 3, H, W)."""
        views = {}
        for i, (strong, mix) in enumerate(zip(self.strong, self.mix, strict=True)):
            views[f'strong_{i}'] = mix.images(strong, self.pasted[i].into(strong) if self.pasted else strong)
        return views

    def own(self, i: int) -> Tensor:
        """Where strong view ``i``, mixed, shows pixels of unlabeled images, padding left out, bool, (Bu, H, W)."""
        shown = self.valid & ~self.pasted[i].mask if self.pasted else self.valid
        return self.mix[i].maps(self.valid, shown)


@dataclass
class Seen:
    """What a method saw in a step, for those who look at it: no loss reads it.

    Args:
        streams (Streams): The batch.
        pseudo (PseudoLabel, optional): The labels that the method gave the weak view.
        predictions (dict[str, Tensor]): Classes that views got, by view, (B, H, W): 'guide' is the weak view as who
            labels it sees it, 'strong_0' the student on the first strong view, 'labeled' on the labeled images.
        maps (dict[str, Tensor]): What a method shows of itself, by name, (Bu, h, w): class maps, long, or other maps,
            floating, nan where there is nothing.
    """

    streams: Streams
    pseudo: PseudoLabel | None = None
    predictions: dict[str, Tensor] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
