"""DSSN: pairs of views, of images and of features, agree with each other and learn class-aware pseudo-labels.

Improving Semi-Supervised Semantic Segmentation with Dual-Level Siamese Structure Network,
https://doi.org/10.1145/3581783.3611816
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmsemi.models.branch import BranchOutput, of_logits
from mmsemi.models.losses.pixel import logit_distance, pixel_cross_entropy
from mmsemi.models.pseudo_labels import class_aware_labels, confident_labels
from mmsemi.registry import MODELS
from mmsemi.structures import Mix, PseudoLabel, Streams

from .fixmatch import FixMatch
from .semi_segmentor import check_settings

_LEVELS = ('low', 'high')
_PAIRS = ('same', 'all')
_MAXIMA = ('image', 'view')


@MODELS.register_module()
class DSSN(FixMatch):
    """Two strong views of the image (low level) and two of the weak view's features (high level).

    At each level the two views are drawn together, pixel by pixel, and both learn pseudo-labels of the weak view: the
    teacher's at the low level, the student's own at the high level. The labeled and the weak view share a pass of the
    student, the perturbed features their pass of the decoder, the strong views a pass of their own.

    Source: Tian et al., 2023, section 3. Where the paper is silent, the choices are in configs/dssn/README.md.

    Args:
        contrast_weight (float): gamma_1 of eq. 23. Defaults to 0.01.
        contrast_levels (tuple[str]): Levels whose views are drawn together, of 'low' and 'high'. Defaults to both.
        contrast_pixels (str): Pairs of the contrast: 'same', pixels that both views show of the same image, or, as
            released, 'all', padding and what CutMix made differ included. Defaults to 'same'.
        normalize_logits (bool): Contrast standardised scores, as the released code does; else the paper's plain scores.
            Defaults to True.
        label_weight (float): gamma_2 of eq. 23. Defaults to 0.25.
        label_levels (tuple[str]): Levels whose views learn pseudo-labels. Defaults to both.
        class_aware (bool): A threshold for each class in each image, section 3.4; else ``threshold`` for every pixel.
            Defaults to True.
        threshold (float): Class-aware: what the surest pixel of a class must exceed (tau_low), in (0, 1]. Else: least
            probability of a pseudo-label, in [0, 1]. Defaults to 0.92.
        class_ratio (float): Share of the surest pixel's probability that the others must exceed (r), in (0, 1].
            Defaults to 0.96.
        maxima_of (str): Where the surest pixel of a class is looked for: in each 'image' of the weak view without its
            padding (eq. 20), or, as released, in the 'view' that learns, mixed as it is, padding included. Defaults to
            'image'.
        low_level_start (float): Epochs in which the views of the image learn no labels; 5 in the released code for
            Cityscapes. Defaults to 0.
        feature_dropout (float): Share of the channels that a feature view drops, in [0, 1). Defaults to 0.5.
        loss_scale (float): Factor of all terms, supervised ones included; 0.5 in the released code. Defaults to 1.
        sup_weight, unsup_weight (float): Factors of all supervised and unsupervised terms beside it. Default to 1.
        **kwargs: Those of :class:`SemiSegmentor`.

    Raises:
        ValueError: If a number is out of range, a level is unknown, or there are not exactly two strong views.
    """

    has_teacher = True

    def __init__(
        self,
        contrast_weight: float = 0.01,
        contrast_levels: tuple[str, ...] = _LEVELS,
        contrast_pixels: str = 'same',
        normalize_logits: bool = True,
        label_weight: float = 0.25,
        label_levels: tuple[str, ...] = _LEVELS,
        class_aware: bool = True,
        threshold: float = 0.92,
        class_ratio: float = 0.96,
        maxima_of: str = 'image',
        low_level_start: float = 0.0,
        feature_dropout: float = 0.5,
        loss_scale: float = 1.0,
        sup_weight: float = 1.0,
        unsup_weight: float = 1.0,
        **kwargs,
    ) -> None:
        # Before the weights of the base are multiplied by it.
        check_settings('DSSN', ('loss_scale', loss_scale, loss_scale >= 0, 'be 0 or more'))
        super().__init__(
            threshold=threshold, sup_weight=sup_weight * loss_scale, unsup_weight=unsup_weight * loss_scale, **kwargs
        )
        share = 'lie in (0, 1], or model.class_aware be False'
        levels = "hold nothing but 'low' and 'high'"
        check_settings(
            'DSSN',
            ('threshold', threshold, threshold > 0 or not class_aware, share),
            ('class_ratio', class_ratio, 0 < class_ratio <= 1 or not class_aware, share),
            ('contrast_weight', contrast_weight, contrast_weight >= 0, 'be 0 or more'),
            ('contrast_levels', contrast_levels, set(contrast_levels) <= set(_LEVELS), levels),
            ('contrast_pixels', contrast_pixels, contrast_pixels in _PAIRS, f'be one of {", ".join(_PAIRS)}'),
            ('label_weight', label_weight, label_weight >= 0, 'be 0 or more'),
            ('label_levels', label_levels, set(label_levels) <= set(_LEVELS), levels),
            ('maxima_of', maxima_of, maxima_of in _MAXIMA, f'be one of {", ".join(_MAXIMA)}'),
            ('low_level_start', low_level_start, low_level_start >= 0, 'be 0 or more'),
            ('feature_dropout', feature_dropout, 0 <= feature_dropout < 1, 'lie in [0, 1)'),
            ('data_preprocessor.num_strong', (n := self.data_preprocessor.num_strong), n == 2, 'be 2'),
        )
        self.contrast_weight = contrast_weight
        self.contrast_levels = tuple(contrast_levels)
        self.contrast_pixels = contrast_pixels
        self.normalize_logits = normalize_logits
        self.label_weight = label_weight
        self.label_levels = tuple(label_levels)
        self.class_aware = class_aware
        self.class_ratio = class_ratio
        self.maxima_of = maxima_of
        self.low_level_start = low_level_start
        self.perturb = nn.Dropout2d(feature_dropout)

    @torch.no_grad()
    def guide_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """The teacher on the weak view, eq. 15, where the low level learns its labels."""
        return {'guide': self.teacher(streams.weak)} if 'low' in self.label_levels else {}

    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Labeled, weak and two perturbed weak views in one pass, the mixed strong views in another (eq. 6, 7, 12, 13).

        A level that no term uses is left out.
        """
        used = self.contrast_levels + self.label_levels
        copies = 2 if 'high' in used else 0
        views = self.student.forward_perturbed(self.perturb, copies, labeled=streams.labeled, weak=streams.weak)
        if 'low' in used:
            views.update(self.student.forward_together(**streams.strong_views()))
        return {**views, 'guide': views['weak']}

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """The terms of eq. 23 at both levels."""
        losses: dict[str, Tensor] = {}
        if 'low' in self.contrast_levels:
            losses['loss_contrast_low'] = self.contrast(views['strong_0'], views['strong_1'], same_content(streams))
        if 'high' in self.contrast_levels:
            losses['loss_contrast_high'] = self.contrast(views['perturbed_0'], views['perturbed_1'], streams.valid)
        if 'low' in self.label_levels:
            pseudo = self.pseudo_labels(views['guide'], streams.valid)
            losses['loss_label_low'] = self.low_level_loss(pseudo, streams, views)
            losses.update(self.describe(pseudo, streams))
        if 'high' in self.label_levels:
            pseudo = self.pseudo_labels(views['weak'], streams.valid)
            losses['loss_label_high'] = self.high_level_loss(pseudo, streams, views)
            losses.update({f'{name}_student': value for name, value in self.describe(pseudo, streams).items()})
        return losses

    def contrast(self, first: BranchOutput, second: BranchOutput, same: Tensor) -> Tensor:
        """Eq. 10 or 14 over the pixels that are positive pairs, ``same`` (B, H, W)."""
        pairs = same if self.contrast_pixels == 'same' else None
        return self.contrast_weight * of_logits(logit_distance, (first, second), pairs, self.normalize_logits)

    def pseudo_labels(self, weak: BranchOutput, valid: Tensor) -> PseudoLabel:
        """Labels of the weak view and the mask of eq. 22."""
        if self.class_aware:
            counted = valid if self.maxima_of == 'image' else None
            pseudo = class_aware_labels(weak.logits, self.class_ratio, self.threshold, counted)
        else:
            pseudo = confident_labels(weak.logits, self.threshold, valid)
        return self.reweight(pseudo, weak)

    def view_labels(self, guide: BranchOutput, mix: Mix) -> PseudoLabel:
        """Labels of a mixed view, and the mask of eq. 22 with the maxima of what this view shows."""
        logits = guide.logits
        whole = confident_labels(logits, 0.0)
        kept = class_aware_labels(mix.images(logits), self.class_ratio, self.threshold).weight
        return mix.labels(self.reweight(whole, guide)).reweight(kept)

    def low_level_loss(self, pseudo: PseudoLabel, streams: Streams, views: dict[str, BranchOutput]) -> Tensor:
        """Eq. 18: the strong views learn the labels, mixed as their images are."""
        terms = []
        for i, mix in enumerate(streams.mix):
            of_view = self.class_aware and self.maxima_of == 'view'
            labels = self.view_labels(views['guide'], mix) if of_view else mix.labels(pseudo)
            terms.append(of_logits(pixel_cross_entropy, views[f'strong_{i}'], labels, mix.maps(streams.valid)))
        started = self.epoch >= self.low_level_start if self.low_level_start else 1
        return self.label_weight * started * sum(terms)

    def high_level_loss(self, pseudo: PseudoLabel, streams: Streams, views: dict[str, BranchOutput]) -> Tensor:
        """Eq. 19: the perturbed features learn the labels."""
        terms = [of_logits(pixel_cross_entropy, views[f'perturbed_{i}'], pseudo, streams.valid) for i in range(2)]
        return self.label_weight * sum(terms)


def same_content(streams: Streams) -> Tensor:
    """Where two strong views show the same pixel of the same image, bool, (B, H, W).

    Each view has CutMix boxes of its own: a pixel inside one view's box alone shows two images, which is no positive
    pair (i, i) of eq. 8.
    """
    first, second = streams.mix
    return (first.mask == second.mask) & first.maps(streams.valid)
