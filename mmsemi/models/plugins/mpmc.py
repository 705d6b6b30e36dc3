"""MPMC: a classifier of patches learns which classes are near, and doubts pseudo-labels of classes that are not.

Beyond Pixels: Semi-Supervised Semantic Segmentation with a Multi-scale Patch-based Multi-Label Classifier,
https://arxiv.org/abs/2407.04036
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.nn import functional as F

from mmsemi.models.branch import Branch, BranchOutput
from mmsemi.models.heads.patch_classifier import PatchClassifier
from mmsemi.models.losses.multi_label import asymmetric_loss, weighted_binary_cross_entropy
from mmsemi.models.losses.pixel import masked_mean
from mmsemi.models.modules.receptive_field import Field, receptive_fields
from mmsemi.models.precision import full_precision
from mmsemi.registry import MODELS
from mmsemi.structures import PseudoLabel, Streams

from .plugin import Plugin

_HEAD = 'patch_classifier'


@MODELS.register_module()
class MPMC(Plugin):
    """A multi-label classifier of patches beside any method.

    Every branch gets the head ``patch_classifier``. A patch is the receptive field of a location of the feature that
    the head reads, computed from the network's own layers. The whole loss is ``L_l + L_l^M + alpha L_u + beta L_u^M``,
    times the method's own factors of its supervised and unsupervised terms.

    The log tells ``sup.patch_f1``, how well the student's classifier knows the labeled patches (micro: over all patches
    and classes of the batch together), and ``unsup.lambda_s``, the mean of lambda_s over the pixels whose pseudo-label
    counts (over all, where none does).

    Source: Howlader et al., 2024, section 3.3. Where the paper is silent or contradicts itself, the choices are in
    configs/mpmc/README.md.

    Args:
        alpha (float): Factor of the method's unsupervised losses. Defaults to 0.25.
        beta (float): Weight of the unsupervised loss of patches. Defaults to 0.15.
        position (str): Feature that is classified: 'stage1', 'stage2', ..., the levels that the backbone returns, or
            'decoder', the last one in front of the segmentor's classifier. Defaults to 'stage1'.
        pools (Sequence[int]): Windows over which the feature is averaged (s_0, s_1). Defaults to (7, 19).
        raw (bool): Whether the feature itself is classified beside its averages. Defaults to True.
        channels (int): Width of the head's convolutions. Defaults to 32.
        gamma_pos, gamma_neg (float): Exponents of eq. 3. Default to 0 and 1.
        labeled (bool): Learn patches of the labeled images, eq. 4. Without it nothing tells the classifier what a class
            is, which a warning says. Defaults to True.
        patch_consistency (bool): Learn patches of the unlabeled images, eq. 6. Defaults to True.
        pixel_weight (bool): Multiply the method's pseudo-labels by lambda_s, eq. 5. Defaults to True.
        confidence (str): What the softmax of lambda_m and lambda_s is taken of: 'logits', or 'probabilities' as
            section 3.3 writes. Defaults to 'logits'.
        norm_cfg (dict, optional): Norm of the head. Defaults to the decode head's.

    Raises:
        ValueError: If a weight is negative or no number, ``pools`` are no odd numbers, nothing is left to do, the
            network has no feature at ``position``, or a window is larger than it.
    """

    def __init__(
        self,
        alpha: float = 0.25,
        beta: float = 0.15,
        position: str = 'stage1',
        pools: Sequence[int] = (7, 19),
        raw: bool = True,
        channels: int = 32,
        gamma_pos: float = 0.0,
        gamma_neg: float = 1.0,
        labeled: bool = True,
        patch_consistency: bool = True,
        pixel_weight: bool = True,
        confidence: str = 'logits',
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        for name, value in dict(alpha=alpha, beta=beta, gamma_pos=gamma_pos, gamma_neg=gamma_neg).items():
            if not (isinstance(value, (int, float)) and 0 <= value < math.inf):
                raise ValueError(f'MPMC: {name} must be a finite number, 0 or more, not {value!r}.')
        if confidence not in ('logits', 'probabilities'):
            raise ValueError(f"MPMC: confidence must be 'logits' or 'probabilities', not {confidence!r}.")
        if not (labeled or patch_consistency):
            raise ValueError(
                'MPMC: labeled=False with patch_consistency=False: nothing trains the classifier; leave the plugin out.'
            )
        self.unsup_scale = alpha
        self.beta = beta
        self.position = position
        self.pools = PatchClassifier.checked_pools(pools)
        self.norm_cfg = norm_cfg
        self.raw = raw
        self.channels = channels
        self.gamma = (gamma_pos, gamma_neg)
        self.labeled = labeled
        self.patch_consistency = patch_consistency
        self.pixel_weight = pixel_weight
        self.confidence = confidence
        # What reweight saw in this step.
        self._pixel_weights: list[Tensor] = []

    def head_configs(self, student: Branch, crop: tuple[int, int]) -> dict[str, dict]:
        """The classifier, fitted to the feature at ``position``, whose receptive fields are found here."""
        if not self.labeled:
            print_log(
                'MPMC: with labeled=False nothing teaches the classifier which classes a patch shows: lambda_s stays '
                f'near 1 / {student.num_classes} for every class and only scales the unsupervised loss. Set '
                'labeled=True, but for the ablation of table 6.',
                logger='current',
                level=logging.WARNING,
            )
        image = torch.empty(1, student.in_channels, *crop, device='meta')
        segmentor, planned = student.segmentor, student.dry_run(image)
        # Some decoders have no feature in front of a classifier.
        decoder = ['decoder'] if getattr(segmentor.decode_head, 'conv_seg', None) is not None else []
        stages = [f'stage{i + 1}' for i in range(len(planned.features))]
        if self.position in stages:
            source = seen = dict(source='backbone', in_index=stages.index(self.position))
            channels = planned.feature(**seen).shape[1]
        elif self.position in decoder:
            # The classifier is a 1x1 convolution: its scores see what the feature in front of it sees.
            source, seen = dict(source='decoder'), dict(source='classifier')
            channels = segmentor.decode_head.channels
        else:
            raise ValueError(
                f"MPMC: there is no position='{self.position}' in {type(segmentor.backbone).__name__} and "
                f'{type(segmentor.decode_head).__name__}, which have {", ".join([*stages, *decoder])}.'
            )
        self.field = receptive_fields(
            lambda image: student.dry_run(image).feature(**seen), crop, 'meta', student.in_channels
        )
        height, width = planned.feature(**seen).shape[2:]
        if max((*self.pools, 1)) > min(height, width):
            raise ValueError(
                f"MPMC: a window of {max(self.pools)} is larger than the feature map at position='{self.position}', "
                f'{height} x {width} at this crop; lower pools={self.pools} or enlarge the crop.'
            )
        norm = self.norm_cfg or getattr(segmentor.decode_head, 'norm_cfg', None)
        config = dict(type='PatchClassifier', pools=self.pools, raw=self.raw, channels=self.channels, norm_cfg=norm)
        return {_HEAD: dict(config, **source, in_channels=channels, num_classes=student.num_classes)}

    # Labeled images

    def supervised_loss(self, out: BranchOutput, labels: Tensor) -> dict[str, Tensor]:
        """Eq. 4 as a mean over the patches that show a labeled pixel, and how well these are known."""
        logits = out.heads[_HEAD]
        targets, known = patch_targets(labels, logits.shape[1], self.field, logits.shape[2:])
        report = {'patch_f1': micro_f1(logits, targets, known)}
        if not self.labeled:
            return report
        return {'loss_patch': masked_mean(asymmetric_loss(logits, targets, *self.gamma), known), **report}

    # Unlabeled images

    def reweight(self, pseudo: PseudoLabel, guide: BranchOutput) -> PseudoLabel:
        """Eq. 5: the weight of each pixel, times its patch's confidence in the pixel's class (lambda_s)."""
        if not self.pixel_weight:
            return pseudo
        weight = self.pixel_weights(pseudo.label, guide.heads[_HEAD])
        counted = pseudo.weight > 0
        self._pixel_weights.append(masked_mean(weight, counted | ~counted.any()))
        return pseudo.reweight(weight)

    @torch.no_grad()
    def pixel_weights(self, label: Tensor, logits: Tensor) -> Tensor:
        """lambda_s: of the patch in whose middle a pixel lies most nearly, for ``label`` (B, H, W)."""
        weight = self.patch_weights(logits)
        rows, columns = (
            extent.nearest(weight.shape[2 + axis], label.shape[1 + axis], label.device)
            for axis, extent in enumerate(self.field)
        )
        patch = rows[:, None] * weight.shape[3] + columns
        index = label.clamp(max=weight.shape[1] - 1) * weight[0, 0].numel() + patch
        return weight.flatten(1).gather(1, index.flatten(1)).view(label.shape)

    @torch.no_grad()
    def patch_weights(self, logits: Tensor) -> Tensor:
        """lambda_m: the confidence of a patch in each class, gamma of section 3.3, (B, C, h, w)."""
        logits = full_precision(logits)
        return (logits if self.confidence == 'logits' else logits.sigmoid()).softmax(1)

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """Eq. 6 as a mean over the patches whose middle is no padding, averaged over the strong views; the mean of what
        :meth:`reweight` did."""
        report = {}
        if self._pixel_weights:
            report['lambda_s'] = torch.stack(self._pixel_weights).mean()
            self._pixel_weights.clear()
        if not (self.patch_consistency and 'guide' in views):
            return report
        logits = full_precision(views['guide'].heads[_HEAD].detach())
        prob, weight = logits.sigmoid(), self.patch_weights(logits)
        rows, columns = (
            extent.middles(logits.shape[2 + axis], streams.valid.shape[1 + axis], logits.device)
            for axis, extent in enumerate(self.field)
        )
        terms = []
        for i, mix in enumerate(streams.mix):
            if f'strong_{i}' not in views:
                continue
            coarse = mix.at(rows, columns)
            own = streams.own(i)[:, rows[:, None], columns]
            patches = views[f'strong_{i}'].heads[_HEAD]
            loss = weighted_binary_cross_entropy(patches, coarse.images(prob), coarse.images(weight))
            terms.append(masked_mean(loss, own))
        return {'loss_patch': self.beta * sum(terms) / len(terms), **report} if terms else report


@torch.no_grad()
def patch_targets(labels: Tensor, num_classes: int, field: Field, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The classes that each location's receptive field shows.

    Source: MPMC, section 3.3; a maximum of the one-hot label map over each field, found by counting along both axes.

    Args:
        labels (Tensor): Ground truth, long, (B, H, W); 255 belongs to no class.
        num_classes (int): Number of classes (C).
        field (Field): The receptive fields.
        size (Sequence[int]): Height and width of the feature map (h, w).

    Returns:
        tuple[Tensor, Tensor]: Which classes are present, bool, (B, C, h, w), and whether any is, (B, h, w).
    """
    classes = torch.arange(num_classes, device=labels.device)[:, None, None]
    present = labels[:, None] == classes
    for axis, (extent, locations) in enumerate(zip(field, size, strict=True), start=2):
        first, end = extent.windows(locations, labels.shape[axis - 1], labels.device)
        before = (0, 0, 1, 0) if axis == 2 else (1, 0)
        count = F.pad(present.cumsum(axis, dtype=torch.int32), before)
        present = count.index_select(axis, end) > count.index_select(axis, first)
    return present, present.any(1)


@torch.no_grad()
def micro_f1(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """F1 of a multi-label classifier that answers with the classes of probability above 1/2.

    ``2 TP / (2 TP + FP + FN)``, counted over all known patches and all classes together.

    Args:
        logits (Tensor): Scores, of which the probability is the sigmoid, (B, C, h, w).
        targets (Tensor): Which classes are present, bool, (B, C, h, w).
        known (Tensor): Which patches count, bool, (B, h, w).

    Returns:
        Tensor: A scalar in [0, 1]; 0 where no known patch shows a class and none is claimed.
    """
    claimed, present = (logits > 0) & known[:, None], targets & known[:, None]
    return 2 * (claimed & present).sum() / (claimed.sum() + present.sum()).clamp(min=1)
