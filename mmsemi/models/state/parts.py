"""Object parts: subclasses of the classes, found in an encoder's features without labels of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from mmengine.dist import broadcast
from mmengine.logging import print_log
from mmseg.models.utils import resize
from torch import Tensor
from torch.nn import functional as F

from mmsemi.models.precision import full_precision, no_autocast
from mmsemi.models.resizing import resize_transposed

from .memory import Prototypes

NO_PART = -1
"""What a part map holds where a pixel belongs to no part."""

_MOST_PASSES = 10
"""How often the labeled images are looked through for classes of which few pixels were met."""


class PartPrototypes(Prototypes):
    """The slowly moving mean features of ``parts`` parts of each class; part k of class c is row ``c * parts + k``.

    :meth:`collect` starts them. A class that it met no pixel of takes its parts from training instead, one a step: the
    mean of all its sure pixels in that step, so that its parts differ as the images of those steps do.

    Source: ESL, eq. 7 and 12.

    Args:
        num_classes (int): Number of classes (C).
        parts (int): Parts of a class (K), >= 1.
        channels (int): Dimension of the features (L').
        momentum (float): Share of the old value that a commit keeps (theta). Defaults to 0.99.
    """

    def __init__(self, num_classes: int, parts: int, channels: int, momentum: float = 0.99) -> None:
        super().__init__(num_classes * parts, channels, momentum)
        self.parts = parts

    def collect(
        self,
        labeled_pass: Callable[[int], Iterable[tuple[Tensor, Tensor, bool]]],
        class_names: Sequence[str],
        limit: int,
    ) -> None:
        """Start from k-means in each class, on a sample of the labeled pixels.

        Where a class has shown fewer pixels than parts, the images are looked at again in other views.

        Args:
            labeled_pass (Callable): Gives, for the number of a pass, features (B, L', h, w), labels (B, H, W) and
                ``align_corners``, by which features are resized to the labels.
            class_names (Sequence[str]): For messages.
            limit (int): Most pixels of a class that are kept.

        Raises:
            ValueError: If a class has labeled pixels, but fewer than parts.
        """
        samples = ClassSamples(len(class_names), self.value.shape[1], limit)
        few: list[int] = []
        for number in range(_MOST_PASSES):
            for features, labels, align_corners in labeled_pass(number):
                for image, truth in zip(features, labels, strict=True):
                    image = resize(image[None], size=truth.shape, mode='bilinear', align_corners=align_corners)[0]
                    samples.add(image, truth)
            few = [label for label, rows in enumerate(samples.features) if 0 < len(rows) < self.parts]
            if not few:
                break
        if few:
            raise ValueError(
                f'The labeled images show {len(samples.features[few[0]])} pixels of the class {class_names[few[0]]}, '
                f'fewer than model.parts={self.parts}; lower model.parts or label more images of it.'
            )
        self.fit(samples.features)
        for buffer in self.buffers():
            # The same on all ranks to the last bit.
            broadcast(buffer)
        missing = [name for name, rows in zip(class_names, samples.features, strict=True) if not len(rows)]
        if missing:
            print_log(f'No labeled pixel shows {", ".join(missing)}: their parts start in training.', logger='current')

    @torch.no_grad()
    def fit(self, samples: list[Tensor]) -> None:
        """Take the centres of k-means in each class.

        Args:
            samples (list[Tensor]): Features of pixels of each class, (n_c, L'), n_c = 0 or n_c >= K.
        """
        from sklearn.cluster import KMeans  # takes a second to import, and is needed once a training

        for rows, value, seen in zip(samples, self._by_class(self.value), self._by_class(self.seen), strict=True):
            if len(rows):
                centres = KMeans(self.parts, n_init=3, random_state=0).fit(rows.double().numpy()).cluster_centers_
                value.copy_(torch.from_numpy(centres))
                seen.fill_(True)

    def _by_class(self, rows: Tensor) -> Tensor:
        return rows.view(-1, self.parts, *rows.shape[1:])

    @torch.no_grad()
    def assign(
        self, features: Tensor, labels: Tensor, valid: Tensor, confident: Tensor, align_corners: bool = False
    ) -> Tensor:
        """The part of each pixel: the nearest prototype of its class by cosine.

        The cosine is taken with the features at the labels' resolution. Resizing is linear and a pixel's own length
        does not matter to an argmax over parts, so similarities are resized instead, C K maps and not L'.

        Args:
            features (Tensor): (B, L', h, w).
            labels (Tensor): Class of each pixel, (B, H, W); read where ``valid``.
            valid (Tensor): Which pixels have a part, bool, (B, H, W).
            confident (Tensor): Whose class is sure enough to start new prototypes, bool, (B, H, W).
            align_corners (bool): How features are resized. Defaults to False.

        Returns:
            Tensor: ``c * parts + k``, or :data:`NO_PART`, long, (B, H, W).
        """
        with no_autocast(features):
            prototypes = F.normalize(self.value).to(full_precision(features).dtype)
            similarity = torch.einsum('blhw,pl->bphw', full_precision(features), prototypes)
            similarity = resize(similarity, size=labels.shape[1:], mode='bilinear', align_corners=align_corners)
        label = torch.where(valid, labels, 0)
        own = similarity.unflatten(1, (-1, self.parts))
        own = own.gather(1, label[:, None, None].expand(-1, -1, self.parts, -1, -1))[:, 0]
        # Where a class lacks prototypes, its next one is being filled.
        count = self._by_class(self.seen).sum(1)[label]
        complete = count == self.parts
        part = torch.where(complete, own.argmax(1), count)
        return torch.where(valid & (complete | confident), label * self.parts + part, NO_PART)

    def members(self, part_map: Tensor) -> Tensor:
        """The one-hot part mask (M) of a map of parts (B, H, W): float, (B, C K, H, W)."""
        rows = torch.arange(len(self.value), device=part_map.device)[:, None, None]
        return (part_map[:, None] == rows).to(self.value.dtype)

    @torch.no_grad()
    def observe_members(self, features: Tensor, members: Tensor, align_corners: bool = False) -> None:
        """Add the features' masked sums, at the masks' resolution, to what the next commit folds in.

        Args:
            features (Tensor): (B, L', h, w).
            members (Tensor): As of :meth:`members`, (B, C K, H, W).
            align_corners (bool): How features are resized. Defaults to False.
        """
        with no_autocast(features):
            weight = resize_transposed(members, features.shape[2:], align_corners)
            self.pending[:, :-1] += torch.einsum('bphw,blhw->pl', weight, features.detach().to(weight.dtype))
            self.pending[:, -1] += members.sum((0, 2, 3))


@torch.no_grad()
def masked_average_pooling(features: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """The mean feature of each part in each image.

    Source: ESL, eq. 8.

    Args:
        features (Tensor): (B, D, H, W).
        members (Tensor): One-hot masks, float, (B, P, H, W).

    Returns:
        tuple[Tensor, Tensor]: Means, 0 for an absent part, (B, P, D), and whether the part is there, bool, (B, P).
    """
    with no_autocast(features):
        masks = members.flatten(2)
        count = masks.sum(2)
        total = masks @ features.to(masks.dtype).flatten(2).transpose(1, 2)
        return total / count.clamp(min=1)[..., None], count > 0


class ClassSamples:
    """A uniform sample of the features of each class, of bounded size, taken in one pass over images.

    Args:
        num_classes (int): Number of classes (C).
        channels (int): Dimension of the features (D).
        limit (int): Most features of a class.
    """

    def __init__(self, num_classes: int, channels: int, limit: int) -> None:
        self.limit = limit
        # Each pixel draws a number, and a class keeps the features of the lowest, in that order.
        self._generator = torch.Generator().manual_seed(0)
        self._draws = [torch.empty(0)] * num_classes
        self.features = [torch.empty(0, channels)] * num_classes
        """What is kept of each class, (n_c, D)."""

    @torch.no_grad()
    def add(self, features: Tensor, labels: Tensor) -> None:
        """Offer the pixels of an image: features (D, H, W), labels (H, W), 255 = none."""
        features, labels = features.flatten(1), labels.flatten().cpu()
        draws = torch.rand(len(labels), generator=self._generator)
        for label, kept in enumerate(self._draws):
            pixels = (labels == label).nonzero()[:, 0]
            if len(kept) == self.limit:
                pixels = pixels[draws[pixels] < kept[-1]]
            rows = features[:, pixels.to(features.device)].T.float().cpu()
            merged = torch.cat([kept, draws[pixels]])
            lowest = merged.argsort()[: self.limit]
            self._draws[label] = merged[lowest]
            self.features[label] = torch.cat([self.features[label], rows])[lowest]
