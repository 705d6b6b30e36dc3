"""CorrMatch spreads labels along correlation maps: to pixels that look alike, and to whole regions.

CorrMatch: Label Propagation via Correlation Matching for Semi-Supervised Semantic Segmentation,
https://arxiv.org/abs/2306.04300
"""

from __future__ import annotations

from dataclasses import replace

import torch
from mmseg.models.utils import resize
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmsemi.models.branch import BranchOutput, of_logits
from mmsemi.models.losses.pixel import pixel_cross_entropy
from mmsemi.models.losses.soft import SOFT_LOSSES, soft_consistency
from mmsemi.models.modules.correlation import SAMPLINGS, pixel_propagation, sample_positions, sampled_rows
from mmsemi.models.modules.regions import count_shapes, packed_shapes, region_propagation
from mmsemi.models.precision import full_precision, probabilities
from mmsemi.models.pseudo_labels import confident_labels
from mmsemi.models.state import DynamicThreshold
from mmsemi.registry import MODELS
from mmsemi.structures import IGNORE_INDEX, PseudoLabel, Streams

from .fixmatch import FixMatch
from .semi_segmentor import check_settings, head_losses


@MODELS.register_module()
class CorrMatch(FixMatch):
    """Confident labels of the weak view, enlarged by region propagation, teach the strong view.

    A student without teacher owns the head ``correlation``, which learns through the scores that it propagates. The
    labeled and the weak view share a pass, the perturbed features their pass of the decoder, the strong view has a pass
    of its own. ``L = (L_s + L_u) / 2``.

    Source: Sun et al., 2024 (arXiv:2306.04300), section 3. Where the paper is silent or contradicts itself, the choices
    are in configs/corrmatch/README.md.

    Args:
        threshold (float): tau at the start, in (0, 1]; if it is fixed, 0 too. Defaults to 0.85.
        dynamic_threshold (bool): tau follows eq. 11 and 13. Defaults to True.
        threshold_momentum (float): lambda of eq. 13, on the old value. Defaults to 0.999.
        threshold_update (str): What tau follows, one of ``THRESHOLD_UPDATES``: 'class_maxima' (eq. 11), 'per_class'
            (eq. 14), 'maximum', 'mean' or 'per_pixel' (table 12). Defaults to 'class_maxima'.
        hard_weight, soft_weight, corr_weight (float): lambda_1, 2, 3 of eq. 12. Default to 0.5, 0.25 and 0.25.
        sup_corr_share (float): Share of L_s^c in the supervised loss, in [0, 1]. Defaults to 0.5.
        soft_loss (str): 'kl', 'cross_entropy' or 'cosine', table 10. Defaults to 'kl'.
        mix_soft_target (bool): What the strong view's probabilities learn is mixed as that view is; the released code
            compares them with the image's own weak view in the partner's box, too. Defaults to True.
        pixel_propagation (bool): Learn the propagated scores of eq. 5; without it there is no correlation head, no L^c,
            and no region propagation. Defaults to True.
        region_propagation (bool): Enlarge the strong view's labels, eq. 7 to 10. Defaults to True.
        region_threshold (float, optional): What both shares of a shape are compared with, in [0, 1]. Defaults to tau.
        region_cascade (bool): What a shape has written is confident for later ones. Not the paper's. Defaults to False.
        num_shapes (int): Rows of the correlation map that are sampled. Defaults to 128.
        sampling (str): 'random' or 'uniform', table 8. Defaults to 'random'.
        feature_dropout (float): Share of the channels that the perturbation drops, in [0, 1). Defaults to 0.5.
        sup_weight, unsup_weight (float): Factors of all supervised and unsupervised terms. Default to 0.5.
        **kwargs: Those of :class:`FixMatch`.

    Raises:
        ValueError: If a number is out of range, the head is missing, or there is not exactly one strong view.
    """

    def __init__(
        self,
        student: dict,
        heads: dict[str, dict] | None = None,
        threshold: float = 0.85,
        dynamic_threshold: bool = True,
        threshold_momentum: float = 0.999,
        threshold_update: str = 'class_maxima',
        hard_weight: float = 0.5,
        soft_weight: float = 0.25,
        corr_weight: float = 0.25,
        sup_corr_share: float = 0.5,
        soft_loss: str = 'kl',
        mix_soft_target: bool = True,
        pixel_propagation: bool = True,
        region_propagation: bool = True,
        region_threshold: float | None = None,
        region_cascade: bool = False,
        num_shapes: int = 128,
        sampling: str = 'random',
        feature_dropout: float = 0.5,
        sup_weight: float = 0.5,
        unsup_weight: float = 0.5,
        **kwargs,
    ) -> None:
        heads = dict(heads or {})
        if not pixel_propagation:
            # Nothing would train it.
            heads.pop('correlation', None)
        elif 'correlation' not in heads:
            raise ValueError(f'CorrMatch needs model.heads.correlation; it has {sorted(heads)}.')
        else:
            # D is the number of classes in the released code.
            heads['correlation'] = {'out_channels': student['decode_head']['num_classes'], **heads['correlation']}
        super().__init__(
            student=student,
            heads=heads,
            threshold=threshold,
            sup_weight=sup_weight,
            unsup_weight=unsup_weight,
            **kwargs,
        )
        check_settings(
            'CorrMatch',
            ('hard_weight', hard_weight, hard_weight >= 0, 'be 0 or more'),
            ('soft_weight', soft_weight, soft_weight >= 0, 'be 0 or more'),
            ('corr_weight', corr_weight, corr_weight >= 0, 'be 0 or more'),
            ('sup_corr_share', sup_corr_share, 0 <= sup_corr_share <= 1, 'lie in [0, 1]'),
            ('soft_loss', soft_loss, soft_loss in SOFT_LOSSES, f'be one of {", ".join(SOFT_LOSSES)}'),
            ('region_threshold', (r := region_threshold), r is None or 0 <= r <= 1, 'lie in [0, 1] or be None'),
            ('num_shapes', num_shapes, num_shapes >= 1, 'be 1 or more'),
            ('sampling', sampling, sampling in SAMPLINGS, f'be one of {", ".join(SAMPLINGS)}'),
            ('feature_dropout', feature_dropout, 0 <= feature_dropout < 1, 'lie in [0, 1)'),
            ('data_preprocessor.num_strong', (n := self.data_preprocessor.num_strong), n == 1, 'be 1'),
        )
        if region_propagation and not pixel_propagation:
            raise ValueError(
                'CorrMatch: region propagation reads the correlation map that pixel propagation trains; set '
                'model.region_propagation=False or model.pixel_propagation=True.'
            )
        if region_propagation:
            self._check_positions(num_shapes)
        self.moving_threshold = DynamicThreshold(
            self.num_classes,
            self.data_preprocessor.size,
            threshold,
            threshold_momentum,
            threshold_update,
            dynamic_threshold,
        )
        self.weights = {'hard': hard_weight, 'soft': soft_weight, 'corr': corr_weight}
        self.sup_corr_share = sup_corr_share
        self.soft_loss = soft_loss
        self.mix_soft_target = mix_soft_target
        self.pixel_propagation = pixel_propagation
        self.region_propagation = region_propagation
        self.region_threshold = region_threshold
        self.region_cascade = region_cascade
        self.num_shapes = num_shapes
        self.sampling = sampling
        self.perturb = nn.Dropout2d(feature_dropout)

    def _check_positions(self, num_shapes: int) -> None:
        """Refuse more shapes than the map has positions."""
        image = torch.empty(1, self.student.in_channels, *self.data_preprocessor.size, device='meta')
        height, width = self.student.dry_run(image).heads['correlation'].rows.shape[2:]
        if num_shapes > height * width:
            raise ValueError(
                f'model.num_shapes={num_shapes} asks for more rows than the correlation map has at this crop, '
                f'{height} x {width} = {height * width}; lower it, or let the network keep a finer stride.'
            )

    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Labeled, weak and perturbed weak views in one pass, the mixed strong view in another."""
        first = self.student.forward_perturbed(self.perturb, 1, labeled=streams.labeled, weak=streams.weak)
        return {**first, 'guide': first['weak'], **self.student.forward_together(**streams.strong_views())}

    def propagated(self, out: BranchOutput) -> BranchOutput:
        """z of eq. 5 in place of the scores, (B, C, h, w)."""
        correlation = out.heads['correlation']
        how = dict(mode='bilinear', align_corners=out.align_corners)
        scores = resize(full_precision(out.coarse_logits.detach()), size=correlation.rows.shape[2:], **how)
        return BranchOutput((), pixel_propagation(scores, correlation), out.size, out.align_corners)

    def supervised_loss(self, out: BranchOutput, labels: Tensor) -> dict[str, Tensor]:
        """L_s: the heads' losses and those of the propagated scores."""
        losses = super().supervised_loss(out, labels)
        if not self.pixel_propagation:
            return losses
        head = self.student.segmentor.decode_head
        corr = head_losses(head, self.propagated(out).coarse_logits, labels)
        share = self.sup_corr_share
        return {
            **{name: (1 - share) * value for name, value in losses.items()},
            **add_prefix({name: share * value for name, value in corr.items()}, 'corr'),
        }

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """L_u, eq. 12."""
        mix, strong, guide = streams.mix[0], views['strong_0'], views['guide']
        logits = replace(guide, coarse_logits=full_precision(guide.coarse_logits.detach())).logits
        self.moving_threshold.observe(logits, streams.valid)
        valid = mix.maps(streams.valid)
        plain = confident_labels(logits, self.moving_threshold.limits(), streams.valid)  # eq. 2
        pseudo = self.reweight(plain, guide)
        mixed = enlarged = mix.labels(pseudo)
        if self.region_propagation:
            # Shapes count confident pixels, whatever plugins think of them, and stay out of the partner's box.
            shapes = self.shapes(views['weak'], valid & ~mix.mask)
            enlarged = self.enlarge(mix.labels(plain), shapes)
            own = self.reweight(enlarged, guide).weight
            enlarged = replace(enlarged, weight=torch.where(mix.mask, mixed.weight, own))
            if self.seen:
                grown = torch.where(enlarged.weight > 0, enlarged.label, IGNORE_INDEX)
                self.show(shapes_over_a_pixel=count_shapes(shapes), label_of_the_mixed_view=grown)

        target = probabilities(mix.images(logits) if self.mix_soft_target else logits)
        del logits  # The maps of all classes are the largest of the step.
        hard = of_logits(pixel_cross_entropy, strong, enlarged, valid)  # eq. 1
        perturbed = of_logits(pixel_cross_entropy, views['perturbed_0'], pseudo, streams.valid)
        soft = of_logits(soft_consistency, strong, target, mixed.weight, valid, self.soft_loss)  # eq. 3
        losses = {
            'loss_hard': self.weights['hard'] * 0.5 * (hard + perturbed),
            'loss_soft': self.weights['soft'] * soft,
        }
        if self.pixel_propagation:  # eq. 6
            corr_strong = of_logits(pixel_cross_entropy, self.propagated(strong), enlarged, valid)
            corr_weak = of_logits(pixel_cross_entropy, self.propagated(views['weak']), pseudo, streams.valid)
            losses['loss_corr'] = self.weights['corr'] * 0.5 * (corr_strong + corr_weak)
        report = {**self.describe(pseudo, streams), 'threshold': self.moving_threshold.limits().mean()}
        if self.region_propagation:
            truth = None if streams.unlabeled_gt is None else mix.maps(streams.unlabeled_gt)
            seen = self.describe(enlarged, replace(streams, valid=valid, unlabeled_gt=truth))
            report.update(add_prefix(seen, 'enlarged'))
        return {**losses, **report}

    @torch.no_grad()
    def shapes(self, weak: BranchOutput, allowed: Tensor) -> Tensor:
        """Sampled shapes of the weak view, eq. 7, where they may lie: uint8, (B, ceil(num_shapes / 8), H, W)."""
        correlation = weak.heads['correlation']
        positions = correlation.rows[0, 0].numel()
        index = sample_positions(self.num_shapes, positions, self.sampling, allowed.device)
        return packed_shapes(sampled_rows(correlation, index), allowed, weak.align_corners)

    @torch.no_grad()
    def enlarge(self, mixed: PseudoLabel, shapes: Tensor) -> PseudoLabel:
        """Region propagation, eq. 8 to 10, on mixed labels."""
        tau = self.region_threshold
        tau = self.moving_threshold.value.mean() if tau is None else tau
        return region_propagation(mixed, shapes, tau, self.num_classes, self.region_cascade)
