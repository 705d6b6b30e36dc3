"""AugSeg: a basic teacher and student; strong views change intensity at random, and boxes that are exchanged show
labeled images where the teacher is unsure.

Augmentation Matters: A Simple-yet-Effective Approach to Semi-supervised Semantic Segmentation,
https://arxiv.org/abs/2212.04976
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmsemi.models.branch import BranchOutput, of_logits
from mmsemi.models.losses.pixel import pixel_cross_entropy
from mmsemi.models.pseudo_labels import confident_labels, image_confidence
from mmsemi.registry import MODELS
from mmsemi.structures import Paste, PseudoLabel, Streams

from .fixmatch import MeanTeacher
from .semi_segmentor import check_settings


@MODELS.register_module()
class AugSeg(MeanTeacher):
    """The mean teacher with adaptive label-aided CutMix.

    A box of a labeled image is pasted into a copy of an unlabeled one of which the teacher is unsure; what an image
    then takes from its partner is taken from the partner's copy. The image itself keeps its own pixels elsewhere.

    The other half of the method, random changes of intensity and the boxes that are exchanged, is the preprocessor's
    ``RandomIntensity`` and ``BetaCutMix``.

    Source: Zhao et al., 2023 (arXiv:2212.04976), section 3. What the paper leaves open is in configs/augseg/README.md.

    Args:
        label_box (dict, optional): Config of the law of the labeled box. Defaults to
            ``dict(type='BetaCutMix', beta=(8, 2))``.
        label_prob (float, optional): A fixed probability that a copy gets a labeled box, in [0, 1]; 0 leaves them out.
            Defaults to one minus the teacher's confidence of the image.
        **kwargs: Those of :class:`MeanTeacher`.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, label_box: dict | None = None, label_prob: float | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        fits = label_prob is None or 0 <= label_prob <= 1
        check_settings('AugSeg', ('label_prob', label_prob, fits, 'lie in [0, 1]'))
        self.label_box = MODELS.build(label_box or dict(type='BetaCutMix', beta=(8, 2)))
        self.label_prob = label_prob

    @torch.no_grad()
    def adapt_streams(self, streams: Streams, guides: dict[str, BranchOutput]) -> Streams:
        """Draw partners, and labeled boxes for copies of the images that the teacher is unsure of."""
        count, height, width = streams.valid.shape
        device = streams.valid.device
        if self.label_prob is None:
            confidence = image_confidence(guides['guide'].logits, streams.valid)
        else:
            confidence = 1 - self.label_prob
        # Not torch.randperm, which draws on the host and waits.
        partner = torch.rand(count, device=device).argsort()
        masks = []
        for _ in streams.strong:
            unsure = self.triggered(torch.rand(count, device=device), confidence)
            masks.append(self.label_box(count, height, width, device).mask & unsure[:, None, None])
        return self.with_labeled_boxes(streams, partner, masks)

    @staticmethod
    def triggered(draw: Tensor, confidence: Tensor | float) -> Tensor:
        """Which copies get a labeled box, bool, (B,), by uniform numbers and confidences, (B,)."""
        return draw > confidence

    @staticmethod
    def with_labeled_boxes(streams: Streams, partner: Tensor, masks: Sequence[Tensor]) -> Streams:
        """Put boxes of labeled images into the copies.

        Args:
            streams (Streams): The batch.
            partner (Tensor): A permutation (Bu,): image i takes its exchanged box from the copy of image partner[i],
                and its copy gets its labeled box from labeled image partner[i] (modulo their number).
            masks (Sequence[Tensor]): The labeled boxes in the copies of each strong view, bool, (Bu, H, W).
        """
        labeled = partner % len(streams.labeled)
        images, labels = streams.labeled[labeled], streams.labels[labeled]
        return replace(
            streams,
            pasted=tuple(Paste(mask, labels, images) for mask in masks),
            mix=tuple(replace(mix, partner=partner) for mix in streams.mix),
        )

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """Cross-entropy of each strong view to the teacher's labels and, in the labeled boxes, the ground truth."""
        pseudo = confident_labels(views['guide'].logits, self.threshold, streams.valid)
        pseudo = self.reweight(pseudo, views['guide'])
        terms = [
            of_logits(pixel_cross_entropy, views[f'strong_{i}'], *self.target(pseudo, streams, i))
            for i in range(len(streams.strong))
        ]
        pairs = zip(streams.mix, streams.pasted, strict=True)
        shown = torch.stack([mix.mask & mix.partners(paste.mask) for mix, paste in pairs]).float().mean()
        return {'loss_strong': sum(terms) / len(terms), 'pasted': shown, **self.describe(pseudo, streams)}

    @staticmethod
    def target(pseudo: PseudoLabel, streams: Streams, i: int) -> tuple[PseudoLabel, Tensor]:
        """What strong view ``i``, mixed, learns, given the labels of the weak view; and where it has anything to learn:
        a label of a labeled image, or an unlabeled pixel that is no padding, bool, (Bu, H, W).
        """
        mix, paste = streams.mix[i], streams.pasted[i]
        known = mix.maps(streams.valid, paste.known(streams.valid))
        return mix.labels(pseudo, paste.truth(pseudo)), known
