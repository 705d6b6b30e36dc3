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
from mmsemi.models.sampling import count_classes, draw_classes, draw_others, draw_partners, thin_out
from mmsemi.models.state import ClassConfidence
from mmsemi.models.views.regions import region_boxes
from mmsemi.models.views.scaling import rescaled
from mmsemi.registry import MODELS
from mmsemi.structures import IGNORE_INDEX, Mix, PseudoLabel, Streams

from .fixmatch import MeanTeacher
from .semi_segmentor import check_settings

_SAMPLED = ('consistency', 'supervised')
_BRANCHES = ('teacher', 'student')
_SHARES = ('image', 'batch')


@MODELS.register_module()
class AEL(MeanTeacher):
    """A mean teacher whose mixing and sampling favour classes of low confidence, and which weighs every pixel.

    The labeled images are changed first, then the teacher sees them and the weak view in one pass, and the student them
    and the strong views in another. ``ConfidenceHook`` commits the confidence bank.

    Source: Hu et al., 2021 (arXiv:2110.05474), section 3.3. Where paper and released code differ or are silent, the
    choices are in configs/ael/README.md.

    Args:
        threshold (float): Least probability of a pseudo-label, in [0, 1]; pixels below it still count in the sum that
            divides. Defaults to 0: every pixel is learned.
        confidence_momentum (float): Share of the confidence bank that a step keeps (tau of eq. 7). Defaults to 0.999.
        forget_absent (bool): A class that no labeled pixel of a step shows counts as confidence 0 in it, as released;
            else its entry stays. Defaults to False.
        adaptive_cutmix (bool): Mixed images get a box around a region of a little known class, which their partner
            shows; else the plain box of the preprocessor. Defaults to True.
        min_area (float): Least share of the crop that such a region has, in [0, 1). Defaults to 0.005.
        region_stride (int): Regions are found in label maps that are this many times smaller. Defaults to 8.
        copy_paste_prob (float): Probability that a labeled image gets the pixels of little known classes from another
            one. Defaults to 0.5.
        paste_classes (int): How often such a class is drawn for an image (K). Defaults to 3.
        paste_scale (tuple[float, float]): What the sides of the crop that is pasted are multiplied by, an ascending
            range above 0. Defaults to (0.2, 1): 0.1 to 2 in all, since the crops themselves are scaled by 0.5 to 2.
        sampling_power (float): Exponent of the share of a class's pixels that is learned (beta of eq. 10); 0 learns
            all. Defaults to 0.5; 1 as released.
        sampled (str): Loss whose pixels are sampled: 'consistency', or 'supervised', by the true classes. Defaults to
            'consistency'.
        sampled_by (str): Whose class decides in the consistency, that of the 'teacher' (the pseudo-label) or, as
            released, of the 'student'. Defaults to 'teacher'.
        confidence_power (float): Exponent of the weight of a pseudo-label (gamma of eq. 13); 0 weighs all alike.
            Defaults to 2.
        normalised_by (str): Weights sum to 1 over each 'image' (eq. 12), or over the 'batch' of all ranks (as released,
            for each rank). Defaults to 'image'.
        labeled_weight (float): Weight of the consistency on labeled images; 0 leaves it out. Defaults to 1.
        joint_pass (bool): Labeled and strong views share a pass of the student; else, as released, each have their own.
            Defaults to True.
        **kwargs: Those of :class:`FixMatch`.

    Raises:
        ValueError: If a setting is out of range, or the adaptive CutMix has no CutMix to adapt.
    """

    def __init__(
        self,
        threshold: float = 0.0,
        confidence_momentum: float = 0.999,
        forget_absent: bool = False,
        adaptive_cutmix: bool = True,
        min_area: float = 0.005,
        region_stride: int = 8,
        copy_paste_prob: float = 0.5,
        paste_classes: int = 3,
        paste_scale: tuple[float, float] = (0.2, 1.0),
        sampling_power: float = 0.5,
        sampled: str = 'consistency',
        sampled_by: str = 'teacher',
        confidence_power: float = 2.0,
        normalised_by: str = 'image',
        labeled_weight: float = 1.0,
        joint_pass: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(threshold=threshold, **kwargs)
        ascending = len(paste_scale) == 2 and 0 < paste_scale[0] <= paste_scale[1]
        check_settings(
            'AEL',
            ('min_area', min_area, 0 <= min_area < 1, 'lie in [0, 1)'),
            ('region_stride', region_stride, region_stride >= 1, 'be 1 or more'),
            ('copy_paste_prob', copy_paste_prob, 0 <= copy_paste_prob <= 1, 'lie in [0, 1]'),
            ('paste_classes', paste_classes, paste_classes >= 1, 'be 1 or more'),
            ('paste_scale', paste_scale, ascending, 'be an ascending range above 0'),
            ('sampling_power', sampling_power, sampling_power >= 0, 'be 0 or more'),
            ('sampled', sampled, sampled in _SAMPLED, f'be one of {", ".join(_SAMPLED)}'),
            ('sampled_by', sampled_by, sampled_by in _BRANCHES, f'be one of {", ".join(_BRANCHES)}'),
            ('confidence_power', confidence_power, confidence_power >= 0, 'be 0 or more'),
            ('normalised_by', normalised_by, normalised_by in _SHARES, f'be one of {", ".join(_SHARES)}'),
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
        self.paste_classes = paste_classes
        self.paste_scale = tuple(paste_scale)
        self.sampling_power = sampling_power
        self.sampled = sampled
        self.sampled_by = sampled_by
        self.confidence_power = confidence_power
        self.normalised_by = normalised_by
        self.labeled_weight = labeled_weight
        self.labeled_guide = labeled_weight > 0
        self.joint_pass = joint_pass
        self.confidence = ClassConfidence(self.num_classes, confidence_momentum, forget_absent)

    def loss(self, inputs: Streams, data_samples: None = None) -> dict[str, Tensor]:
        """As of any method, of labeled images that copy-paste has changed before both branches see them."""
        return super().loss(self.copy_paste(inputs), data_samples)

    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Labeled and mixed strong views, in one pass or in two."""
        if self.joint_pass:
            return super().student_views(streams)
        return {'labeled': self.student(streams.labeled), **self.student.forward_together(**streams.strong_views())}

    # Adaptive augmentation, by eq. 9

    @torch.no_grad()
    def copy_paste(self, streams: Streams) -> Streams:
        """Give some labeled images all pixels of little known classes of another image, at another scale.

        The other image is any of the batch, the classes are drawn for each image.
        """
        labels = streams.labels
        batch, device = len(labels), labels.device
        if not self.copy_paste_prob or batch == 1:
            return streams
        drawn = draw_classes(self.confidence.class_probabilities(), batch * self.paste_classes)
        other = draw_others(batch, device)
        least, most = self.paste_scale
        factor = least + (most - least) * torch.rand(batch, device=device)
        images, source = rescaled(streams.labeled[other], labels[other], factor, torch.rand(batch, 2, device=device))
        pasted = (source[:, None] == drawn.view(batch, -1, 1, 1)).any(1)
        pasted &= (torch.rand(batch, device=device) < self.copy_paste_prob)[:, None, None]
        return replace(
            streams,
            labeled=torch.where(pasted[:, None], images.to(streams.labeled), streams.labeled),
            labels=torch.where(pasted, source, labels),
        )

    @torch.no_grad()
    def adapt_streams(self, streams: Streams, guides: dict[str, BranchOutput]) -> Streams:
        """Adaptive CutMix of the unlabeled images."""
        if not self.adaptive_cutmix:
            return streams
        guide = guides['guide']
        label = torch.where(streams.valid, guide.logits.argmax(1), IGNORE_INDEX)
        mixes = tuple(self.adaptive_mix(mix, label, guide.align_corners) for mix in streams.mix)
        return replace(streams, mix=mixes)

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
        pseudo, weight = self.weighted_labels(guide, streams.valid)
        doubted = self.reweight(pseudo, guide)
        terms = [
            self.consistency(views[f'strong_{i}'], mix.labels(doubted), mix.maps(weight))
            for i, mix in enumerate(streams.mix)
        ]
        losses = {'loss_strong': sum(terms) / len(terms)}
        if self.labeled_weight:
            # Padding cannot be told from void pixels; neither is learned.
            known = self.weighted_labels(views['guide_labeled'], streams.labels != IGNORE_INDEX)
            losses['loss_labeled'] = self.labeled_weight * self.consistency(views['labeled'], *known)
        report = {**self.describe(pseudo, streams), 'class_confidence': self.confidence.value.mean()}
        return {**losses, **report}

    def weighted_labels(self, guide: BranchOutput, valid: Tensor) -> tuple[PseudoLabel, Tensor]:
        """The teacher's labels with their weights, and the weights before the threshold, which divide, (B, H, W)."""
        return confidence_weighted_labels(guide.logits, self.confidence_power, self.threshold, valid)

    def consistency(self, out: BranchOutput, pseudo: PseudoLabel, weight: Tensor) -> Tensor:
        """Eq. 12: weighted cross-entropy of the sampled pixels, normalised by the sum of the method's own weights.

        What the threshold or a plugin takes from the weights is not given back by the normalisation.

        Args:
            out (BranchOutput): The student's view.
            pseudo (PseudoLabel): Its labels and weights.
            weight (Tensor): The weights before threshold and plugins, (B, H, W).
        """
        if self.sampled == 'consistency':
            classes = pseudo.label if self.sampled_by == 'teacher' else out.logits.detach().argmax(1)
            sampled = (self.sample(classes) != IGNORE_INDEX).to(weight)
            pseudo, weight = pseudo.reweight(sampled), weight * sampled
        total = weight.sum((1, 2))
        if self.normalised_by == 'batch':
            # Ranks share one sum: the mean of their losses is that of one process with all their images.
            total = total.sum()
            all_reduce(total, 'mean')
        return normalised_cross_entropy(out.logits, pseudo, total)
