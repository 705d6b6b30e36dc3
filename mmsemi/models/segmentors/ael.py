"""AEL watches how well each class is known, and shows and learns the less known ones more often.

Semi-Supervised Semantic Segmentation via Adaptive Equalization Learning, https://arxiv.org/abs/2110.05474
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from mmsemi.models.branch import BranchOutput
from mmsemi.models.losses.pixel import normalised_cross_entropy
from mmsemi.models.pseudo_labels import confidence_weighted_labels
from mmsemi.models.resizing import resize_labels
from mmsemi.models.sampling import count_classes, draw_classes, draw_partners, thin_out
from mmsemi.models.state import ClassConfidence
from mmsemi.models.views.regions import region_boxes
from mmsemi.registry import MODELS
from mmsemi.structures import IGNORE_INDEX, Mix, PseudoLabel, Streams

from .fixmatch import MeanTeacher
from .semi_segmentor import check_settings

_SAMPLED = ('consistency', 'supervised')


@MODELS.register_module()
class AEL(MeanTeacher):
    """A mean teacher whose mixing and sampling favour classes of low confidence, and which weighs every pixel.

    The labeled and the strong views share a pass of the student, the labeled and the weak one a pass of the teacher.
    ``ConfidenceHook`` commits the confidence bank.

    Source: Hu et al., 2021 (arXiv:2110.05474). What is chosen where it leaves something open is in
    configs/ael/README.md.

    Args:
        threshold (float): Least probability of a pseudo-label, in [0, 1]. Defaults to 0: every pixel counts.
        confidence_momentum (float): Share of the confidence bank that a step keeps. Defaults to 0.999.
        adaptive_cutmix (bool): Mixed images get a box around a region of a little known class, which their partner
            shows; else the plain box of the preprocessor. Defaults to True.
        min_area (float): Least share of the crop that such a region has, in [0, 1). Defaults to 0.001.
        region_stride (int): Regions are found in label maps that are this many times smaller. Defaults to 8.
        copy_paste_prob (float): Probability that a labeled image gets the pixels of a little known class from another
            one. Defaults to 0.5.
        sampling_power (float): Exponent of the share of a class's pixels that is learned (beta); 0 learns all.
            Defaults to 0.5.
        sampled (str): Loss whose pixels are sampled: 'consistency', by the teacher's classes, or 'supervised', by the
            true ones. Defaults to 'consistency'.
        confidence_power (float): Exponent of the weight of a pseudo-label (gamma); 0 weighs all alike. Defaults to 2.
        labeled_weight (float): Weight of the consistency on labeled images; 0 leaves it out. Defaults to 1.
        **kwargs: Those of :class:`FixMatch`.

    Raises:
        ValueError: If a number is out of range, or the adaptive CutMix has no CutMix to adapt.
    """

    def __init__(
        self,
        threshold: float = 0.0,
        confidence_momentum: float = 0.999,
        adaptive_cutmix: bool = True,
        min_area: float = 0.001,
        region_stride: int = 8,
        copy_paste_prob: float = 0.5,
        sampling_power: float = 0.5,
        sampled: str = 'consistency',
        confidence_power: float = 2.0,
        labeled_weight: float = 1.0,
        **kwargs,
    ) -> None:
        super().__init__(threshold=threshold, **kwargs)
        check_settings(
            'AEL',
            ('min_area', min_area, 0 <= min_area < 1, 'lie in [0, 1)'),
            ('region_stride', region_stride, region_stride >= 1, 'be 1 or more'),
            ('copy_paste_prob', copy_paste_prob, 0 <= copy_paste_prob <= 1, 'lie in [0, 1]'),
            ('sampling_power', sampling_power, sampling_power >= 0, 'be 0 or more'),
            ('sampled', sampled, sampled in _SAMPLED, f'be one of {", ".join(_SAMPLED)}'),
            ('confidence_power', confidence_power, confidence_power >= 0, 'be 0 or more'),
            ('labeled_weight', labeled_weight, labeled_weight >= 0, 'be 0 or more'),
        )
        if adaptive_cutmix and self.data_preprocessor.cutmix is None:
            raise ValueError(
                'AEL: model.data_preprocessor.cutmix says which images are mixed; set it, or '
                'model.adaptive_cutmix=False.'
            )
        self.adaptive_cutmix = adaptive_cutmix
        self.min_area = min_area
        self.region_stride = region_stride
        self.copy_paste_prob = copy_paste_prob
        self.sampling_power = sampling_power
        self.sampled = sampled
        self.confidence_power = confidence_power
        self.labeled_weight = labeled_weight
        self.labeled_guide = labeled_weight > 0
        self.confidence = ClassConfidence(self.num_classes, confidence_momentum)

    # Adaptive augmentation

    @torch.no_grad()
    def adapt_streams(self, streams: Streams, guides: dict[str, BranchOutput]) -> Streams:
        """Adaptive CutMix of the unlabeled images, adaptive copy-paste of the labeled ones."""
        if self.adaptive_cutmix:
            guide = guides['guide']
            label = torch.where(streams.valid, guide.logits.argmax(1), IGNORE_INDEX)
            mixes = tuple(self.adaptive_mix(mix, label, guide.align_corners) for mix in streams.mix)
            streams = replace(streams, mix=mixes)
        if self.copy_paste_prob:
            mix = self.paste_mix(streams.labels)
            pasted = dict(labeled=mix.images(streams.labeled), labels=mix.maps(streams.labels))
            streams = replace(streams, **pasted, labeled_mix=mix)
        return streams

    def adaptive_mix(self, mix: Mix, label: Tensor, align_corners: bool = False) -> Mix:
        """Give the images that ``mix`` mixes the box of a region of a little known class, drawn for each image.

        The partner is drawn among the other images in which the teacher sees enough of the class. Where there is none,
        or it shows the class in small pieces alone, the plain box stays.

        Args:
            mix (Mix): Plain boxes.
            label (Tensor): The teacher's labels of the weak view, long, (B, H, W); 255 where it was padded.
            align_corners (bool): How maps are laid over pixels where regions are looked for. Defaults to False.
        """
        batch, size = len(label), [math.ceil(n / self.region_stride) for n in label.shape[1:]]
        least = max(1, math.ceil(self.min_area * size[0] * size[1]))
        coarse = resize_labels(label, size, align_corners)
        classes = draw_classes(self.confidence.class_probabilities(), batch)
        partner, found = draw_partners(count_classes(coarse, self.num_classes), classes, least)
        box = region_boxes(coarse[partner] == classes[:, None, None], least)
        found = found & box.flatten(1).any(1) & mix.mask.flatten(1).any(1)
        box = resize_labels(box, label.shape[1:], align_corners)
        mask = torch.where(found[:, None, None], box, mix.mask)
        plain = mix.partners(torch.arange(batch, device=label.device))
        return Mix(mask, torch.where(found, partner, plain))

    def paste_mix(self, labels: Tensor) -> Mix:
        """Draw for each labeled image a little known class and another image, whose pixels of the class it gets.

        Args:
            labels (Tensor): Ground truth, long, (B, H, W).
        """
        classes = draw_classes(self.confidence.class_probabilities(), len(labels))
        partner, found = draw_partners(count_classes(labels, self.num_classes), classes)
        pasted = found & (torch.rand(len(labels), device=labels.device) < self.copy_paste_prob)
        return Mix((labels[partner] == classes[:, None, None]) & pasted[:, None, None], partner)

    # Losses

    def supervised_loss(self, out: BranchOutput, labels: Tensor) -> dict[str, Tensor]:
        """The heads' losses, with equalised sampling if it is theirs; all labeled pixels are noted for the bank."""
        self.confidence.observe(out.logits, labels)
        return super().supervised_loss(out, self.sample(labels) if self.sampled == 'supervised' else labels)

    def sample(self, labels: Tensor) -> Tensor:
        """Equalised sampling: of each class a share of the pixels keeps its label, (B, H, W); the others get 255."""
        return thin_out(labels, self.confidence.sampling_rates(self.sampling_power))

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """Consistency of the mixed strong views and of the labeled images, weighted by the teacher's confidence."""
        guide = views['guide']
        pseudo = self.weighted_labels(guide, streams.valid)
        doubted = self.reweight(pseudo, guide)
        terms = [
            self.consistency(views[f'strong_{i}'], mix.labels(doubted), mix.maps(pseudo.weight))
            for i, mix in enumerate(streams.mix)
        ]
        losses = {'loss_strong': sum(terms) / len(terms)}
        if self.labeled_weight:
            losses['loss_labeled'] = self.labeled_weight * self.labeled_consistency(streams, views)
        report = {**self.describe(pseudo, streams), 'class_confidence': self.confidence.value.mean()}
        return {**losses, **report}

    def labeled_consistency(self, streams: Streams, views: dict[str, BranchOutput]) -> Tensor:
        """The labeled images with what was pasted into them learn what the teacher saw in the images themselves."""
        pseudo = self.weighted_labels(views['guide_labeled'])
        if streams.labeled_mix is not None:
            pseudo = streams.labeled_mix.labels(pseudo)
        pseudo = pseudo.reweight((streams.labels != IGNORE_INDEX).to(pseudo.weight))
        return self.consistency(views['labeled'], pseudo, pseudo.weight)

    def weighted_labels(self, guide: BranchOutput, valid: Tensor | None = None) -> PseudoLabel:
        """The teacher's labels and their weights, the confidence to a power, of the pixels that are sampled."""
        pseudo = confidence_weighted_labels(guide.logits, self.confidence_power, self.threshold, valid)
        if self.sampled == 'consistency':
            pseudo = pseudo.reweight((self.sample(pseudo.label) != IGNORE_INDEX).to(pseudo.weight))
        return pseudo

    @staticmethod
    def consistency(out: BranchOutput, pseudo: PseudoLabel, weight: Tensor) -> Tensor:
        """Weighted cross-entropy, normalised by the sum of the method's own weights.

        What a plugin takes from the weights is not given back by the normalisation, and ranks share one sum: their mean
        is the loss of one process with all their images.

        Args:
            out (BranchOutput): The student's view.
            pseudo (PseudoLabel): Its labels and weights.
            weight (Tensor): The weights before plugins saw them, (B, H, W).
        """
        total = weight.sum()
        all_reduce(total, 'mean')
        return normalised_cross_entropy(out.logits, pseudo, total)
