"""UniMatch V2: a teacher labels the weak view, two strong views learn it, each from the channels that the other lacks.

UniMatch V2: Pushing the Limit of Semi-Supervised Semantic Segmentation, https://arxiv.org/abs/2410.10777
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from mmsemi.models.branch import BranchOutput
from mmsemi.models.modules.channel_dropout import ComplementaryDropout
from mmsemi.registry import MODELS
from mmsemi.structures import Streams

from .fixmatch import FixMatch
from .semi_segmentor import check_settings

_DROPOUTS = ('complementary', 'independent', None)


@MODELS.register_module()
class UniMatchV2(FixMatch):
    """FixMatch with a teacher and two strong views whose features are dropped out against each other.

    UniMatch's image-level and feature-level perturbations in one stream: both strong views go through one pass of the
    student, and the decoder reads features that lack channels. The labeled images have a pass of their own. The loss is
    ``(L_x + (L_s1 + L_s2) / 2) / 2``.

    Source: Yang et al., 2024 (arXiv:2410.10777), section 3.

    Args:
        threshold (float): Least probability of a pseudo-label, in [0, 1]. Defaults to 0.95.
        dropout (str, optional): 'complementary': each channel of an image reaches one of its two strong views, twice as
            large; 'independent': each view loses channels of its own; None: none is lost. Defaults to 'complementary'.
        dropout_share (float): Share of the images that lose channels in a step, in [0, 1]. Defaults to 0.5.
        guide (str): Who labels the weak view: the 'teacher', or the 'student' itself, which then sees labeled and weak
            images in one pass; the teacher is there for evaluation all the same. Defaults to 'teacher'.
        sup_weight, unsup_weight (float): Factors of all supervised and unsupervised terms. Default to 0.5.
        **kwargs: Those of :class:`FixMatch`.

    Raises:
        ValueError: If a number is out of range, a word is unknown, or complementary dropout has more than two strong
            views.
    """

    has_teacher = True

    def __init__(
        self,
        threshold: float = 0.95,
        dropout: str | None = 'complementary',
        dropout_share: float = 0.5,
        guide: str = 'teacher',
        sup_weight: float = 0.5,
        unsup_weight: float = 0.5,
        **kwargs,
    ) -> None:
        super().__init__(threshold=threshold, sup_weight=sup_weight, unsup_weight=unsup_weight, **kwargs)
        self.num_strong = self.data_preprocessor.num_strong
        fits = dropout != 'complementary' or self.num_strong <= 2
        check_settings(
            'UniMatchV2',
            ('dropout', dropout, dropout in _DROPOUTS, "be 'complementary', 'independent' or None"),
            ('dropout_share', dropout_share, 0 <= dropout_share <= 1, 'lie in [0, 1]'),
            ('guide', guide, guide in ('teacher', 'student'), "be 'teacher' or 'student'"),
            ('data_preprocessor.num_strong', self.num_strong, fits, "be 1 or 2, or model.dropout be 'independent'"),
        )
        self.guide = guide
        self.dropout = dropout and ComplementaryDropout(dropout_share, dropout == 'complementary')

    @torch.no_grad()
    def guide_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """The teacher on the weak view, unless the student labels it."""
        return super().guide_views(streams) if self.guide == 'teacher' else {}

    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Labeled images in one pass, all strong views with dropped channels in another."""
        if self.guide == 'teacher':
            first = {'labeled': self.student(streams.labeled)}
        else:
            first = self.student.forward_together(labeled=streams.labeled, weak=streams.weak)
            first['guide'] = first['weak']
        return {**first, **self.student.forward_together(self.perturb(), **streams.strong_views())}

    def perturb(self) -> partial[tuple[Tensor, ...]] | None:
        """What happens to the levels that the decoder reads of all strong views, one view after the other."""
        return partial(self.dropout, views=self.num_strong) if self.dropout else None
