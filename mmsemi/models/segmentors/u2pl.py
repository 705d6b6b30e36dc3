"""U2PL uses every pixel: the labels of sure ones, and of unsure ones the classes that they certainly are not.

Semi-Supervised Semantic Segmentation Using Unreliable Pseudo-Labels, https://arxiv.org/abs/2203.03884
"""

from __future__ import annotations

from functools import partial

import torch
from mmengine.dist import all_reduce
from mmseg.models.utils import resize
from torch import Tensor

from mmsemi.models.branch import BranchOutput, of_logits
from mmsemi.models.losses.info_nce import info_nce
from mmsemi.models.losses.pixel import normalised_cross_entropy
from mmsemi.models.precision import prediction_entropy, probabilities
from mmsemi.models.resizing import resize_labels
from mmsemi.models.sampling import draw_per_class
from mmsemi.models.state import ClassQueues, Prototypes
from mmsemi.models.thresholds import quantiles
from mmsemi.registry import MODELS
from mmsemi.structures import IGNORE_INDEX, Mix, PseudoLabel, Streams

from .semi_segmentor import SemiSegmentor, check_settings

_HEAD = 'representation'
_KINDS = ('unreliable', 'reliable', 'all')


@MODELS.register_module()
class U2PL(SemiSegmentor):
    """The teacher's labels of low entropy teach the CutMixed view; pixels of high entropy are negatives of a contrast.

    A branch owns the head ``representation``. The labeled and the strong view share a pass of the student, the labeled
    and the weak one a pass of the teacher. ``contrast_weight=0`` needs neither the head nor ``PrototypeHook``.

    Source: Wang et al., 2022 (arXiv:2203.03884), section 3. Where paper and released code differ or are silent, the
    choices are in configs/u2pl/README.md.

    Args:
        unreliable (float): Share of the unlabeled pixels, those of highest entropy, whose labels are not used at the
            start of training (alpha_0), in [0, 1). Defaults to 0.2.
        dynamic_partition (bool): The share falls to 0 at the end of training, epoch by epoch, and ``confident`` with
            it; else they stay. Defaults to True.
        pseudo_weight (float): Base weight of the pseudo-labels' cross-entropy (eta). Defaults to 1.
        contrast_weight (float): Weight of the contrast (lambda_c). Defaults to 1.
        threshold (float): Teacher's probability of its class above which a pixel may be an anchor (delta_p), in [0, 1].
            Defaults to 0.3.
        confident (float, optional): Share of the unlabeled pixels, those of lowest entropy, that may be anchors at the
            start of training, in [0, 1], 0.2 as released; None: all whose labels are used. Defaults to None.
        low_rank, high_rank (int): An unlabeled pixel is a negative of the classes from ``low_rank`` on to the one
            before ``high_rank`` in its order of probability, 0 the likeliest, as many of them as there are; a labeled
            one of the wrong classes before ``low_rank``. Default to 3 and 20.
        negatives_from (str): Unlabeled pixels that may be negatives: 'unreliable', 'reliable' or 'all'. Defaults to
            'unreliable'.
        queries (int): Most anchors of a class. Defaults to 256.
        negatives (int): Negative samples of an anchor. Defaults to 50.
        temperature (float): tau of the contrast. Defaults to 0.5.
        center_momentum (float): Share of its old value that the centre of a class keeps, in [0, 1); 0: the centre is
            that of the batch. Defaults to 0.
        queue_length (int): Features in the queue of a class. Defaults to 30,000.
        background_length (int): The same of class 0. Defaults to 50,000.
        keys_per_step (int): Features that a queue takes a step, at most. Defaults to 512.
        heads (dict[str, dict], optional): ``representation``.
        **kwargs: Those of :class:`SemiSegmentor`.

    Raises:
        ValueError: If the head is missing, a number is out of range, or there is not exactly one strong view.
    """

    has_teacher = True

    def __init__(
        self,
        unreliable: float = 0.2,
        dynamic_partition: bool = True,
        pseudo_weight: float = 1.0,
        contrast_weight: float = 1.0,
        threshold: float = 0.3,
        confident: float | None = None,
        low_rank: int = 3,
        high_rank: int = 20,
        negatives_from: str = 'unreliable',
        queries: int = 256,
        negatives: int = 50,
        temperature: float = 0.5,
        center_momentum: float = 0.0,
        queue_length: int = 30_000,
        background_length: int = 50_000,
        keys_per_step: int = 512,
        heads: dict[str, dict] | None = None,
        **kwargs,
    ) -> None:
        # Without contrast the representation would learn nothing.
        super().__init__(heads=heads if contrast_weight else None, **kwargs)
        classes, shortest = self.num_classes, min(queue_length, background_length)
        # Ranks are the contrast's: two classes are enough without it.
        ranked = not contrast_weight or 1 <= low_rank < classes
        check_settings(
            'U2PL',
            ('unreliable', unreliable, 0 <= unreliable < 1, 'lie in [0, 1)'),
            ('pseudo_weight', pseudo_weight, pseudo_weight >= 0, 'be 0 or more'),
            ('contrast_weight', contrast_weight, contrast_weight >= 0, 'be 0 or more'),
            ('threshold', threshold, 0 <= threshold <= 1, 'lie in [0, 1]'),
            ('confident', confident, confident is None or 0 <= confident <= 1, 'lie in [0, 1], or be None'),
            ('low_rank', low_rank, ranked, f'lie between 1 and {classes - 1} with {classes} classes'),
            ('high_rank', high_rank, high_rank > low_rank, f'lie above model.low_rank={low_rank}'),
            ('negatives_from', negatives_from, negatives_from in _KINDS, f'be one of {", ".join(_KINDS)}'),
            ('queries', queries, queries >= 1, 'be 1 or more'),
            ('negatives', negatives, negatives >= 1, 'be 1 or more'),
            ('temperature', temperature, temperature > 0, 'lie above 0'),
            ('center_momentum', center_momentum, 0 <= center_momentum < 1, 'lie in [0, 1)'),
            ('queue_length', queue_length, queue_length >= 1, 'be 1 or more'),
            ('background_length', background_length, background_length >= 1, 'be 1 or more'),
            ('keys_per_step', keys_per_step, 1 <= keys_per_step <= shortest, f'lie within a queue, 1 to {shortest}'),
            ('data_preprocessor.num_strong', (n := self.data_preprocessor.num_strong), n == 1, 'be 1'),
        )
        self.unreliable = unreliable
        self.dynamic_partition = dynamic_partition
        self.pseudo_weight = pseudo_weight
        self.contrast_weight = contrast_weight
        self.labeled_guide = contrast_weight > 0
        self.threshold = threshold
        self.confident = confident
        self.low_rank = low_rank
        self.high_rank = high_rank
        self.negatives_from = negatives_from
        self.queries = queries
        self.negatives = negatives
        self.temperature = temperature
        # Set by ProgressHook before each step: the share of training that is over.
        self.register_buffer('progress', torch.zeros(()))
        if not contrast_weight:
            return
        if _HEAD not in self.student.heads:
            raise ValueError(f'U2PL needs model.heads.{_HEAD}; only model.contrast_weight=0 trains without it.')
        channels = self.student.heads[_HEAD].out_channels
        self.centers = Prototypes(classes, channels, center_momentum)
        self.queues = ClassQueues([background_length] + [queue_length] * (classes - 1), channels, keys_per_step)

    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Labeled and CutMixed view in one pass."""
        return self.student.forward_together(labeled=streams.labeled, **streams.strong_views())

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """Cross-entropy to the reliable pseudo-labels, and the contrast."""
        guide = views['guide']
        logits = guide.logits
        label, entropy = logits.argmax(1), prediction_entropy(logits)
        reliable, sure, limit = self.partition(entropy, streams.valid)
        pseudo = self.reweight(PseudoLabel(label, reliable.to(entropy.dtype)), guide)
        mix = streams.mix[0]
        pseudo_loss = self.pseudo_loss(views['strong_0'], mix.labels(pseudo), mix.maps(reliable))
        losses = {'loss_pseudo': self.pseudo_weight * pseudo_loss}
        report = {**self.describe(pseudo, streams), 'threshold': limit}
        if self.contrast_weight:
            losses['loss_contrast'] = self.contrast_weight * self.contrast_loss(streams, views, label, reliable, sure)
            report['queues_filled'] = self.queues.filled.sum() / len(self.queues.value)
        return {**losses, **report}

    # Pseudo-labels, section 3.2

    @torch.no_grad()
    def partition(self, entropy: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split the valid pixels by percentiles of their entropy, which are those of all ranks.

        Args:
            entropy (Tensor): (B, H, W).
            valid (Tensor): (B, H, W).

        Returns:
            tuple[Tensor, Tensor, Tensor]: Whose label is used, and who may be an anchor, bool, (B, H, W); the entropy
            (gamma_t) below which a label is used.
        """
        # The share of training is t / T in whole epochs.
        past = self.progress * self.epoch.floor() / self.epoch.clamp(min=1)
        remaining = 1 - past * self.dynamic_partition
        shares = torch.stack([(self.confident or 0) * remaining, 1 - self.unreliable * remaining])
        lowest, limit = quantiles(entropy, valid, shares)
        reliable = valid & (entropy < limit)
        return reliable, (reliable if self.confident is None else valid & (entropy <= lowest)), limit

    def pseudo_loss(self, out: BranchOutput, pseudo: PseudoLabel, reliable: Tensor) -> Tensor:
        """Mean cross-entropy over the reliable pixels of the mixed view, divided by their share of all pixels.

        What a plugin takes from the weights is not given back.
        """
        kept = reliable.sum().to(pseudo.weight.dtype)
        all_reduce(kept, 'mean')
        return of_logits(normalised_cross_entropy, out, pseudo, kept * kept / reliable.numel())

    # Contrast, section 3.3; all maps at the resolution of the representation

    def contrast_loss(
        self, streams: Streams, views: dict[str, BranchOutput], label: Tensor, reliable: Tensor, sure: Tensor
    ) -> Tensor:
        """Find anchors and negatives, note them for the centres and the queues, contrast the student with these.

        Args:
            streams (Streams): The batch.
            views (dict[str, BranchOutput]): The student's 'labeled' and 'strong_0', the teacher's 'guide_labeled' and
                'guide'.
            label (Tensor): The teacher's class of each pixel of the weak view, (B, H, W).
            reliable, sure (Tensor): Of :meth:`partition`, (B, H, W).
        """
        labeled, weak = views['guide_labeled'], views['guide']
        size = weak.heads[_HEAD].shape[2:]
        with torch.no_grad():
            coarse = partial(resize_labels, size=size, align_corners=weak.align_corners)
            truth, valid = coarse(streams.labels), coarse(streams.valid)
            label, reliable, sure = coarse(label), coarse(reliable), coarse(sure)
            known = truth != IGNORE_INDEX
            truth = torch.where(known, truth, 0)
            prob_labeled, rank_labeled = self.class_order(labeled)
            prob_weak, rank_weak = self.class_order(weak)

            anchors = known & (prob_labeled.gather(1, truth[:, None])[:, 0] > self.threshold)
            anchors_weak = sure & (prob_weak.gather(1, label[:, None])[:, 0] > self.threshold)
            self.centers.observe(labeled.heads[_HEAD], truth, anchors)
            self.centers.observe(weak.heads[_HEAD], label, anchors_weak)

            # What is easily taken for a class that it is not; and what is unsure, but of no likely class.
            wrong = truth[:, None] != torch.arange(self.num_classes, device=truth.device)[:, None, None]
            asked = {'unreliable': valid & ~reliable, 'reliable': reliable, 'all': valid}[self.negatives_from]
            unlikely = (rank_weak >= self.low_rank) & (rank_weak < self.high_rank)
            self.queues.observe(labeled.heads[_HEAD], wrong & (rank_labeled < self.low_rank) & known[:, None])
            self.queues.observe(weak.heads[_HEAD], unlikely & asked[:, None])

            # The student's anchors lie where the strong view shows these pixels.
            mix = Mix(coarse(streams.mix[0].mask), streams.mix[0].partner)
            classes = torch.cat([truth, mix.maps(label)])
            qualified = torch.cat([anchors, mix.maps(anchors_weak)])
        features = views['labeled'].heads[_HEAD], views['strong_0'].heads[_HEAD]
        return self.anchor_loss(features, classes, qualified)

    @torch.no_grad()
    def class_order(self, out: BranchOutput) -> tuple[Tensor, Tensor]:
        """Probability of each class and its place among them, 0 the likeliest, both (B, C, h, w)."""
        size = out.heads[_HEAD].shape[2:]
        prob = probabilities(resize(out.coarse_logits, size=size, mode='bilinear', align_corners=out.align_corners))
        return prob, prob.argsort(dim=1, descending=True, stable=True).argsort(dim=1)

    def anchor_loss(self, features: tuple[Tensor, Tensor], classes: Tensor, qualified: Tensor) -> Tensor:
        """Contrast anchors drawn of each class with its centre and its queue: the mean over classes that have some.

        Args:
            features (tuple[Tensor, Tensor]): The student's representation of both streams, (Bl, D, h, w) and
                (Bu, D, h, w).
            classes (Tensor): Class of each pixel of both, (Bl + Bu, h, w).
            qualified (Tensor): Which pixels may be anchors, (Bl + Bu, h, w).
        """
        index, drawn = draw_per_class(classes, qualified, self.num_classes, 1.0, self.queries)
        pixels = classes[0].numel()
        image, pixel = index // pixels, index % pixels
        labeled, strong = (maps.flatten(2) for maps in features)
        last = len(labeled) - 1
        anchors = torch.where(
            (image <= last)[..., None],
            labeled[image.clamp(max=last), :, pixel],
            strong[(image - last - 1).clamp(min=0), :, pixel],
        )
        rows = self.queues.draw(self.queries * self.negatives).view(-1, self.negatives)
        count = drawn.sum(1, keepdim=True)
        counted = (drawn & (self.queues.filled > 0)[:, None]).to(self.queues.value.dtype)
        weight = counted / (count.clamp(min=1) * (count > 0).sum().clamp(min=1))
        centers, _ = self.centers.upcoming()
        positives = centers[:, None].expand_as(anchors).flatten(0, 1)
        return info_nce(anchors.flatten(0, 1), positives, self.queues.value, rows, self.temperature, weight.flatten())
