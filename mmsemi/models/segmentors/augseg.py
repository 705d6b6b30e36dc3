"""AugSeg: a basic teacher and student; strong views change intensity at random, and a box of a labeled image helps
where the teacher is unsure.

Augmentation Matters: A Simple-yet-Effective Approach to Semi-supervised Semantic Segmentation,
https://arxiv.org/abs/2212.04976
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mmsemi.models.branch import BranchOutput
from mmsemi.models.losses.pixel import pixel_cross_entropy
from mmsemi.models.pseudo_labels import confident_labels, image_confidence
from mmsemi.registry import MODELS
from mmsemi.structures import IGNORE_INDEX, Paste, Streams

from .fixmatch import MeanTeacher
from .semi_segmentor import check_settings


@MODELS.register_module()
class AugSeg(MeanTeacher):
    """The mean teacher with adaptive label-aided CutMix.

    The other half of the method, random changes of intensity and boxes exchanged within the batch, is the
    preprocessor's ``RandomIntensity`` and ``BetaCutMix``. The labeled, the weak and the strong views share a pass of
    the student; of the weak view only the batch statistics count.

    Source: Zhao et al., 2023 (arXiv:2212.04976), section 3. What the paper leaves open is in configs/augseg/README.md.

    Args:
        label_box (dict, optional): Config of the law of the labeled box. Defaults to
            ``dict(type='BetaCutMix', beta=(8, 2))``.
        label_prob (float, optional): A fixed probability that an image gets a labeled box, in [0, 1]; 0 leaves them
            out. Defaults to one minus the teacher's confidence of the image.
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
        """Paste labeled boxes into the strong views of images that the teacher is unsure of."""
        count, height, width = streams.valid.shape
        device = streams.valid.device
        partner = torch.arange(count, device=device) % len(streams.labeled)
        images, labels = streams.labeled[partner], streams.labels[partner]
        if self.label_prob is None:
            prob = 1 - image_confidence(guides['guide'].logits, streams.valid)
        else:
            prob = self.label_prob
        strong, pasted = [], []
        for view in streams.strong:
            chosen = torch.rand(count, device=device) < prob
            mask = self.label_box(count, height, width, device).mask & chosen[:, None, None]
            strong.append(torch.where(mask[:, None], images, view))
            pasted.append(Paste(mask, labels))
        return replace(streams, strong=tuple(strong), pasted=tuple(pasted))

    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Labeled, weak and mixed strong views in one pass."""
        return self.student.forward_together(labeled=streams.labeled, weak=streams.weak, **streams.strong_views())

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """Cross-entropy of each strong view to the teacher's labels and, in the labeled boxes, the ground truth."""
        pseudo = confident_labels(views['guide'].logits, self.threshold, streams.valid)
        pseudo = self.reweight(pseudo, views['guide'])
        terms = []
        for i, (paste, mix) in enumerate(zip(streams.pasted, streams.mix, strict=True)):
            # In a box the labeled image counts, where it has labels; outside the unlabeled one, where it is no padding.
            counted = torch.where(paste.mask, paste.labels != IGNORE_INDEX, streams.valid)
            target = mix.labels(paste.truth(pseudo))
            terms.append(pixel_cross_entropy(views[f'strong_{i}'].logits, target, mix.maps(counted)))
        pasted = torch.stack([paste.mask for paste in streams.pasted]).float().mean()
        return {'loss_strong': sum(terms) / len(terms), 'pasted': pasted, **self.describe(pseudo, streams)}
