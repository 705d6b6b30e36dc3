"""ESL keeps the label of an unsure pixel soft among its dominant classes, and tells these apart by contrast with object
parts.

Enhanced Soft Label for Semi-Supervised Semantic Segmentation, Ma et al., ICCV 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from mmseg.models.utils import resize
from torch import Tensor

from mmsemi.models.branch import BranchOutput, of_logits
from mmsemi.models.losses.info_nce import info_nce
from mmsemi.models.losses.pixel import soft_cross_entropy
from mmsemi.models.precision import probabilities
from mmsemi.models.pseudo_labels import dynamic_soft_labels
from mmsemi.models.resizing import resize_labels
from mmsemi.models.sampling import draw_per_class
from mmsemi.models.state import FeatureQueues, PartPrototypes, masked_average_pooling
from mmsemi.registry import MODELS
from mmsemi.structures import IGNORE_INDEX, Mix, PseudoLabel, Streams

from .semi_segmentor import SemiSegmentor, check_settings


@MODELS.register_module()
class ESL(SemiSegmentor):
    """The teacher's dynamic soft labels for the CutMixed view, and pixel-to-part contrast of both streams.

    A branch owns the head ``projector``. The labeled and the strong view share a pass of the student, the labeled and
    the weak one a pass of the teacher. ``PrototypeHook`` collects the parts' prototypes before training and commits
    them and the queues; ``contrast_weight=0`` needs neither it nor the head.

    Source: Ma et al., 2023, section 3. Where the paper is silent, the choices are in configs/esl/README.md.

    Args:
        dominant_mass (float): What the dominant classes' probabilities must sum to (eta), in (0, 1]. Defaults to 0.95.
        top_n (int, optional): A fixed number of dominant classes instead.
        soft_weight (float): Weight of the soft labels (lambda_1). Defaults to 0.2.
        contrast_weight (float): Weight of the contrast (lambda_2). Defaults to 0.1.
        threshold (float): Teacher's probability above which an unlabeled pixel may be an anchor (zeta), in [0, 1].
            Defaults to 0.95.
        parts (int): Parts of a class (K); 1 contrasts with whole classes. Defaults to 5.
        prototype_momentum (float): theta of eq. 12. Defaults to 0.99.
        prototype_samples (int): Most pixels of a class that k-means takes. Defaults to 2000.
        queue_length (int): Features in the queue of a part (q). Defaults to 256.
        negatives (int): Negative samples of an anchor (N_s). Defaults to 255.
        temperature (float): sigma of eq. 10. Defaults to 0.5.
        anchor_ratio (float): Share of the qualified pixels that are anchors, in (0, 1]. Defaults to 0.1.
        max_anchors (int): Most anchors of a class. Defaults to 128.
        heads (dict[str, dict], optional): ``projector``.
        **kwargs: Those of :class:`SemiSegmentor`.

    Raises:
        ValueError: If the projector is missing, a number is out of range, the queues cannot hold as many negatives as
            are drawn, or there is not exactly one strong view; before training, if a class has fewer labeled pixels
            than parts.
    """

    has_teacher = True

    def __init__(
        self,
        dominant_mass: float = 0.95,
        top_n: int | None = None,
        soft_weight: float = 0.2,
        contrast_weight: float = 0.1,
        threshold: float = 0.95,
        parts: int = 5,
        prototype_momentum: float = 0.99,
        prototype_samples: int = 2000,
        queue_length: int = 256,
        negatives: int = 255,
        temperature: float = 0.5,
        anchor_ratio: float = 0.1,
        max_anchors: int = 128,
        heads: dict[str, dict] | None = None,
        **kwargs,
    ) -> None:
        # Without contrast the projector would learn nothing.
        super().__init__(heads=heads if contrast_weight else None, **kwargs)
        classes = self.num_classes
        check_settings(
            'ESL',
            ('dominant_mass', dominant_mass, 0 < dominant_mass <= 1, 'lie in (0, 1]'),
            ('top_n', top_n, top_n is None or 1 <= top_n <= classes, f'lie between 1 and the {classes} classes'),
            ('soft_weight', soft_weight, soft_weight >= 0, 'be 0 or more'),
            ('contrast_weight', contrast_weight, contrast_weight >= 0, 'be 0 or more'),
            ('threshold', threshold, 0 <= threshold <= 1, 'lie in [0, 1]'),
            ('parts', parts, parts >= 1, 'be 1 or more; model.contrast_weight=0 trains without the contrast'),
            ('prototype_samples', prototype_samples, prototype_samples >= parts, f'be at least model.parts={parts}'),
            ('queue_length', queue_length, queue_length >= 1, 'be 1 or more'),
            ('negatives', negatives, negatives >= 1, 'be 1 or more'),
            ('temperature', temperature, temperature > 0, 'lie above 0'),
            ('anchor_ratio', anchor_ratio, 0 < anchor_ratio <= 1, 'lie in (0, 1]'),
            ('max_anchors', max_anchors, max_anchors >= 1, 'be 1 or more'),
            ('data_preprocessor.num_strong', (n := self.data_preprocessor.num_strong), n == 1, 'be 1'),
        )
        self.dominant_mass = dominant_mass
        self.top_n = top_n
        self.soft_weight = soft_weight
        self.contrast_weight = contrast_weight
        self.labeled_guide = self.guide_features = contrast_weight > 0
        self.threshold = threshold
        self.prototype_samples = prototype_samples
        self.negatives = negatives
        self.temperature = temperature
        self.anchor_ratio = anchor_ratio
        self.max_anchors = max_anchors
        if not contrast_weight:
            return
        if 'projector' not in self.student.heads:
            raise ValueError('ESL needs model.heads.projector; only model.contrast_weight=0 trains without it.')
        room = (classes * parts - 1) * queue_length
        if negatives > room:
            raise ValueError(
                f'ESL: model.negatives={negatives} are more than the {room} features that all queues but one hold; '
                f'raise model.queue_length={queue_length} or lower model.negatives.'
            )
        # The encoder's feature: the last level that the decode head reads.
        head = self.student.segmentor.decode_head
        self.level, channels = _last(head.in_index), _last(head.in_channels)
        self.part_prototypes = PartPrototypes(classes, parts, channels, prototype_momentum)
        self.queues = FeatureQueues(classes * parts, queue_length, self.student.heads['projector'].out_channels)

    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Labeled and CutMixed view in one pass."""
        return self.student.forward_together(labeled=streams.labeled, **streams.strong_views())

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """The second and third term of eq. 11."""
        mix = streams.mix[0]
        pseudo = dynamic_soft_labels(views['guide'].logits, self.dominant_mass, self.top_n, streams.valid)
        pseudo = self.reweight(pseudo, views['guide'])
        if self.seen:
            self.show(pseudo, dominant_classes=(pseudo.prob > 0).sum(1).float())
        soft = of_logits(soft_cross_entropy, views['strong_0'], mix.labels(pseudo), mix.maps(streams.valid))
        losses = {'loss_soft': self.soft_weight * soft}
        if self.contrast_weight:
            losses['loss_contrast'] = self.contrast_weight * self.contrast_loss(streams, views)
        return {**losses, **self.report(pseudo, streams)}

    def report(self, pseudo: PseudoLabel, streams: Streams) -> dict[str, Tensor]:
        """What the log tells: as confident counts a pixel with one dominant class (figure 3)."""
        dominant = (pseudo.prob > 0).sum(1)
        single = PseudoLabel(pseudo.label, (dominant == 1).float())
        mean = (dominant * streams.valid).sum() / streams.valid.sum().clamp(min=1)
        report = {**self.describe(single, streams), 'dominant_classes': mean}
        if self.contrast_weight:
            report['queues_filled'] = self.queues.filled.float().mean() / self.queues.length
        return report

    # Pixel-to-part contrast, section 3.3; all maps at the resolution of the projector

    def contrast_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> Tensor:
        """Eq. 7 to 10: find the parts, note them for the prototypes and the queues, contrast the student with these.

        Args:
            streams (Streams): The batch.
            views (dict[str, BranchOutput]): The student's 'labeled' and 'strong_0', the teacher's 'guide_labeled' and
                'guide'.
        """
        weak, size = views['guide'], views['guide'].heads['projector'].shape[2:]
        with torch.no_grad():
            coarse = partial(resize_labels, size=size, align_corners=weak.align_corners)
            truth, valid = coarse(streams.labels), coarse(streams.valid)
            known = truth != IGNORE_INDEX
            logits = resize(weak.coarse_logits, size=size, mode='bilinear', align_corners=weak.align_corners)
            confidence, label = probabilities(logits).max(1)
            confident = (confidence > self.threshold) & valid
            labeled_parts = self.observe_parts(views['guide_labeled'], truth, known, known)
            weak_parts = self.observe_parts(weak, label, valid, confident)
            if self.seen:
                number = weak_parts % self.part_prototypes.parts + 1
                self.show(part_of_its_class=torch.where(weak_parts >= 0, number, torch.nan))
            # Eq. 9, where the strong view's pixels lie.
            mix = Mix(coarse(streams.mix[0].mask), streams.mix[0].partner)
            classes = torch.cat([truth, mix.maps(label)])
            parts = torch.cat([labeled_parts, mix.maps(weak_parts)])
            qualified = torch.cat([known, mix.maps(confident)])
        features = torch.cat([views[name].heads['projector'] for name in ('labeled', 'strong_0')])
        return self.pixel_to_part_loss(features, classes, parts, qualified)

    def observe_parts(self, out: BranchOutput, labels: Tensor, valid: Tensor, confident: Tensor) -> Tensor:
        """The parts in a view of the teacher's (eq. 7), noted for the queues (eq. 8) and the prototypes (eq. 12)."""
        encoded = out.features[self.level]
        parts = self.part_prototypes.assign(encoded, labels, valid, confident, out.align_corners)
        members = self.part_prototypes.members(parts)
        self.queues.observe(*masked_average_pooling(out.heads['projector'], members))
        self.part_prototypes.observe_members(encoded, members, out.align_corners)
        return parts

    def pixel_to_part_loss(self, features: Tensor, classes: Tensor, parts: Tensor, qualified: Tensor) -> Tensor:
        """Eq. 10 for anchors drawn of each class, and its mean over all classes.

        Args:
            features (Tensor): The student's projections of both streams, (B, D, h, w).
            classes, parts (Tensor): Class and part of each pixel, (B, h, w).
            qualified (Tensor): Which pixels may be anchors (eq. 9), (B, h, w).
        """
        index, drawn = draw_per_class(classes, qualified, self.num_classes, self.anchor_ratio, self.max_anchors)
        own = parts.flatten()[index.flatten()].clamp(min=0)
        positives, negatives, available = self.queues.draw(own, self.negatives)
        counts = (drawn & available.view_as(drawn)).to(self.queues.value.dtype)
        weight = counts / (counts.sum(1, keepdim=True).clamp(min=1) * self.num_classes)
        image, pixel = index.flatten() // classes[0].numel(), index.flatten() % classes[0].numel()
        anchors = features.flatten(2)[image, :, pixel]
        bank = self.queues.value.flatten(0, 1)
        return info_nce(anchors, bank[positives], bank, negatives, self.temperature, weight.flatten())

    # Before training

    def collect_prototypes(self, labeled_pass: Callable[[int], Iterable[dict]], class_names: Sequence[str]) -> None:
        """Start the parts' prototypes from the pretrained encoder's features of labeled images, unless they are known.

        Args:
            labeled_pass (Callable): Gives the batches of a pass over the labeled images, other views for each number.
            class_names (Sequence[str]): For messages.
        """
        if self.contrast_weight and not self.part_prototypes.seen.any():
            self.teacher.eval()
            self.part_prototypes.collect(
                lambda number: map(self._encode, labeled_pass(number)), class_names, self.prototype_samples
            )

    @torch.no_grad()
    def _encode(self, batch: dict) -> tuple[Tensor, Tensor, bool]:
        """The encoder's features of labeled images, labels at the projector's resolution, and ``align_corners``."""
        streams = self.data_preprocessor(batch, training=True)['inputs']
        out = self.teacher(streams.labeled)
        labels = resize_labels(streams.labels, out.heads['projector'].shape[2:], out.align_corners)
        return out.features[self.level], labels, out.align_corners


def _last(setting: int | Sequence[int]) -> int:
    return setting if isinstance(setting, int) else setting[-1]
