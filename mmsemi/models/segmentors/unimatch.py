"""UniMatch: one weak view teaches two strong views and a view whose features are perturbed.

Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation, https://arxiv.org/abs/2208.09910
"""

from __future__ import annotations

from torch import Tensor, nn

from mmsemi.models.branch import BranchOutput
from mmsemi.models.pseudo_labels import confident_labels
from mmsemi.registry import MODELS
from mmsemi.structures import PseudoLabel, Streams

from .fixmatch import FixMatch
from .semi_segmentor import check_settings


@MODELS.register_module()
class UniMatch(FixMatch):
    """FixMatch with several strong views and a stream of perturbed features, without a teacher.

    The labeled and the weak view share a pass of the student, the perturbed features their pass of the decoder, the
    strong views a pass of their own. The loss is ``(L_x + 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp) / 2``.

    Source: Yang et al., 2023 (arXiv:2208.09910), section 3.

    Args:
        strong_weight (float): Weight of each strong view. Defaults to 0.25.
        feature_weight (float): Weight of the perturbed features; 0 leaves them out. Defaults to 0.5.
        feature_dropout (float): Share of the channels that the perturbation drops, in [0, 1). Defaults to 0.5.
        sup_weight, unsup_weight (float): Factors of all supervised and unsupervised terms. Default to 0.5.
        **kwargs: Those of :class:`FixMatch`.

    Raises:
        ValueError: If a number is out of range.
    """

    unsup_losses = FixMatch.unsup_losses

    def __init__(
        self,
        strong_weight: float = 0.25,
        feature_weight: float = 0.5,
        feature_dropout: float = 0.5,
        sup_weight: float = 0.5,
        unsup_weight: float = 0.5,
        **kwargs,
    ) -> None:
        super().__init__(sup_weight=sup_weight, unsup_weight=unsup_weight, **kwargs)
        check_settings(
            'UniMatch',
            ('strong_weight', strong_weight, strong_weight >= 0, 'be 0 or more'),
            ('feature_weight', feature_weight, feature_weight >= 0, 'be 0 or more'),
            ('feature_dropout', feature_dropout, 0 <= feature_dropout < 1, 'lie in [0, 1)'),
        )
        self.strong_weight = strong_weight
        self.feature_weight = feature_weight
        self.perturb = nn.Dropout2d(feature_dropout)

    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Labeled, weak and perturbed weak views in one pass, the mixed strong views in another."""
        copies = 1 if self.feature_weight else 0
        first = self.student.forward_perturbed(self.perturb, copies, labeled=streams.labeled, weak=streams.weak)
        return {**first, 'guide': first['weak'], **self.student.forward_together(**streams.strong_views())}

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """The loss of the strong views and of the perturbed features to the labels of the weak view."""
        pseudo = confident_labels(views['guide'].logits, self.threshold, streams.valid)
        pseudo = self.reweight(pseudo, views['guide'])
        return {**self.view_losses(pseudo, streams, views), **self.describe(pseudo, streams)}

    def view_losses(self, pseudo: PseudoLabel, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """What the strong views and the perturbed features lose to labels of the weak view."""
        losses = {
            f'loss_strong_{i}': self.strong_weight
            * self.pixel_loss(views[f'strong_{i}'], mix.labels(pseudo), mix.maps(streams.valid))
            for i, mix in enumerate(streams.mix)
        }
        if self.feature_weight:
            losses['loss_feature'] = self.feature_weight * self.pixel_loss(views['perturbed_0'], pseudo, streams.valid)
        return losses
