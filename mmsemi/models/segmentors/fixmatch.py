"""Weak-to-strong consistency, with the student or its moving average as the guide.

FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence, https://arxiv.org/abs/2001.07685
Mean teachers are better role models, https://arxiv.org/abs/1703.01780
"""

from __future__ import annotations

from torch import Tensor

from mmsemi.models.branch import BranchOutput, of_logits
from mmsemi.models.losses.dice import dice_loss
from mmsemi.models.losses.pixel import pixel_cross_entropy
from mmsemi.models.pseudo_labels import confident_labels
from mmsemi.registry import MODELS
from mmsemi.structures import PseudoLabel, Streams

from .semi_segmentor import SemiSegmentor, check_settings

_UNSUP_LOSSES = ('cross_entropy', 'dice')


@MODELS.register_module()
class FixMatch(SemiSegmentor):
    """Confident predictions on the weak view supervise the strong views.

    The labeled and the weak view share a pass of the student, the strong views another.

    Source: Sohn et al., 2020 (arXiv:2001.07685), eq. 4, for each pixel.

    Args:
        threshold (float): Least probability of a pseudo-label, in [0, 1]. Defaults to 0.95.
        unsup_loss (str): How pseudo-labels are learned: 'cross_entropy', or 'dice' as UniMatch has it for medical
            images. Defaults to 'cross_entropy'.
        **kwargs: Those of :class:`SemiSegmentor`.

    Raises:
        ValueError: If ``threshold`` lies outside [0, 1], the method has no such loss, or there is no strong view.
    """

    unsup_losses = _UNSUP_LOSSES

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        # A method with unsupervised losses of its own names those it can take.
        if 'unsupervised_loss' in vars(cls) and 'unsup_losses' not in vars(cls):
            cls.unsup_losses = ('cross_entropy',)

    def __init__(self, threshold: float = 0.95, unsup_loss: str = 'cross_entropy', **kwargs) -> None:
        super().__init__(**kwargs)
        check_settings(
            type(self).__name__,
            ('threshold', threshold, 0 <= threshold <= 1, 'lie in [0, 1]'),
            ('unsup_loss', unsup_loss, unsup_loss in self.unsup_losses, f'be {" or ".join(self.unsup_losses)}'),
            ('data_preprocessor.num_strong', (n := self.data_preprocessor.num_strong), n >= 1, 'be 1 or more'),
        )
        self.threshold = threshold
        self.unsup_loss = unsup_loss

    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Labeled and weak views in one pass, the mixed strong views in another."""
        first = self.student.forward_together(labeled=streams.labeled, weak=streams.weak)
        return {**first, 'guide': first['weak'], **self.student.forward_together(**streams.strong_views())}

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """The loss of each strong view to the guide's labels, averaged over the strong views."""
        pseudo = confident_labels(views['guide'].logits, self.threshold, streams.valid)
        pseudo = self.reweight(pseudo, views['guide'])
        terms = [
            self.pixel_loss(views[f'strong_{i}'], mix.labels(pseudo), mix.maps(streams.valid))
            for i, mix in enumerate(streams.mix)
        ]
        return {'loss_strong': sum(terms) / len(terms), **self.describe(pseudo, streams)}

    def pixel_loss(self, out: BranchOutput, pseudo: PseudoLabel, valid: Tensor) -> Tensor:
        """What a view learns of labels (B, H, W), by ``unsup_loss``."""
        return of_logits(dice_loss if self.unsup_loss == 'dice' else pixel_cross_entropy, out, pseudo, valid)


@MODELS.register_module()
class MeanTeacher(FixMatch):
    """FixMatch guided by the student's exponential moving average.

    The labeled and the strong views share one pass, as in U2PL and AugSeg, whose basic teacher-student this is.

    Source: Tarvainen and Valpola, 2017 (arXiv:1703.01780), with the strong view of FixMatch.
    """

    has_teacher = True

    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Labeled and mixed strong views in one pass."""
        return self.student.forward_together(labeled=streams.labeled, **streams.strong_views())
