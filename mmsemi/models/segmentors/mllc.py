"""MLLC corrects pseudo-labels by what lies close in feature space and in class: a semantic- and a class-level graph.

Multi-Level Label Correction by Distilling Proximate Patterns for Semi-supervised Semantic Segmentation,
https://arxiv.org/abs/2404.02065
"""

from __future__ import annotations

import torch
from mmseg.models.utils import resize
from torch import Tensor, nn
from torch.nn import functional as F

from mmsemi.models.branch import Branch, BranchOutput
from mmsemi.models.losses.contrastive import intra_image_contrast, prototype_contrast
from mmsemi.models.losses.pixel import masked_mean
from mmsemi.models.memory import Prototypes
from mmsemi.models.modules.graph_ops import full_precision
from mmsemi.models.modules.label_graph import GraphOutput
from mmsemi.models.thresholds import class_thresholds
from mmsemi.registry import MODELS
from mmsemi.structures import IGNORE_INDEX, PseudoLabel, Streams

from .semi_segmentor import SemiSegmentor


@MODELS.register_module()
class MLLC(SemiSegmentor):
    """Two graphs over the pixels of an image refine the teacher's labels and the student's features.

    A branch owns two heads: ``embedding`` (pixel features) and ``graph`` (:class:`LabelGraph`, K layers); the teacher
    is the moving average of all. The labeled and the strong view share a pass of the student.

    Source: Xiao et al., 2024 (arXiv:2404.02065), section III. Where the paper is silent or contradicts itself, the
    choices are in configs/mllc/README.md.

    Args:
        threshold (float): Fixed threshold of confidence (sigma), in [0, 1]. Defaults to 0.95.
        class_wise (bool): One threshold a class, eq. 9; else sigma for all. Defaults to True.
        slg_weight (float): lambda_SLG of eq. 17. Defaults to 0.1.
        clg_weight (float): lambda_CLG of eq. 17. Defaults to 1.
        intra_weight (float): lambda of eq. 12, the share of the intra-image term. Defaults to 0.5.
        intra_image, cross_image (bool): Switches of the two terms of eq. 12. Default to True.
        temperature (float): tau of eq. 12. Defaults to 0.1.
        dynamic_weight (bool): Weights of eq. 16; else 1. Defaults to True.
        prototype_momentum (float): beta of eq. 14, on the old value. Defaults to 0.99.
        **kwargs: Those of :class:`SemiSegmentor`.

    Raises:
        ValueError: If a head is missing, a number is out of range, or there is not exactly one strong view.
    """

    has_teacher = True

    def __init__(
        self,
        threshold: float = 0.95,
        class_wise: bool = True,
        slg_weight: float = 0.1,
        clg_weight: float = 1.0,
        intra_weight: float = 0.5,
        intra_image: bool = True,
        cross_image: bool = True,
        temperature: float = 0.1,
        dynamic_weight: bool = True,
        prototype_momentum: float = 0.99,
        graph_supervision: float = 0.0,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        heads = self.student.heads
        missing = {'embedding', 'graph'} - set(heads.keys())
        if missing:
            raise ValueError(f'MLLC needs model.heads.{min(missing)}; it has {sorted(heads.keys())}.')
        if not (
            0 <= threshold <= 1 and 0 <= intra_weight <= 1 and temperature > 0 and min(slg_weight, clg_weight) >= 0
        ):
            raise ValueError(
                'MLLC: threshold and intra_weight must lie in [0, 1], temperature above 0, slg_weight and clg_weight '
                f'at 0 or above, not {threshold}, {intra_weight}, {temperature}, {slg_weight}, {clg_weight}.'
            )
        if self.data_preprocessor.num_strong != 1:
            count = self.data_preprocessor.num_strong
            raise ValueError(f'MLLC learns one strong view; model.data_preprocessor.num_strong is {count}.')
        self.threshold = threshold
        self.class_wise = class_wise
        self.slg_weight = slg_weight
        self.clg_weight = clg_weight
        self.terms = {'intra': intra_weight * intra_image, 'cross': (1 - intra_weight) * cross_image}
        self.temperature = temperature
        self.dynamic_weight = dynamic_weight
        self.graph_supervision = graph_supervision
        self.prototypes = nn.ModuleList(
            Prototypes(self.num_classes, heads['embedding'].out_channels, prototype_momentum)
            for _ in range(heads['graph'].num_layers)
        )

    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Labeled and mixed strong view in one pass: running statistics must fit both, since the teacher uses them."""
        return self.student.forward_together(labeled=streams.labeled, strong=streams.mix[0].images(streams.strong[0]))

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """Eq. 17: the teacher's graphs correct the labels of the weak view, the student's graphs learn them."""
        pseudo, threshold = self.corrected_labels(streams)
        mix = streams.mix[0]
        mixed, valid = mix.labels(pseudo), mix.maps(streams.valid)

        out = views['strong']
        graph, valid_nodes = self.refine(self.student, out, valid)
        labels = _nearest(mixed.label, valid_nodes.shape[1:])
        losses = {
            'loss_slg': self.slg_weight * self.slg_loss(graph, labels, valid_nodes),
            'loss_clg': self.clg_weight * self.clg_loss(out, graph, mixed.label, valid, labels, valid_nodes),
        }
        if self.graph_supervision:
            truth = streams.labels != IGNORE_INDEX
            graph, nodes = self.refine(self.student, views['labeled'], truth)
            labels = _nearest(torch.where(truth, streams.labels, 0), nodes.shape[1:])
            losses['loss_clg_labeled'] = self.graph_supervision * sum(
                masked_mean(-prob.clamp(min=1e-8).log().gather(1, labels[:, None])[:, 0], nodes) for prob in graph.probs[1:]
            )
        return {**losses, **self.describe(pseudo, streams), 'threshold': threshold.mean()}

    def refine(
        self, branch: Branch, out: BranchOutput, valid: Tensor, threshold: Tensor | None = None
    ) -> tuple[GraphOutput, Tensor]:
        """Build the initial graphs of a branch's output at the embedding's resolution and run K layers (algorithm 1).

        Args:
            branch (Branch): Whose heads to use.
            out (BranchOutput): Its output.
            valid (Tensor): False where the crop was padded, (B, H, W).
            threshold (Tensor, optional): Confidence a class, (C,); by default that of these images, eq. 9.

        Returns:
            tuple[GraphOutput, Tensor]: The layers, and which nodes are valid, (B, h, w).
        """
        features = branch.heads['embedding'](out)
        size = features.shape[2:]
        logits = resize(out.coarse_logits, size=size, mode='bilinear', align_corners=out.align_corners)
        prob = _softmax(logits)
        valid = _nearest(valid, size)
        if threshold is None:
            threshold = self.confidence_threshold(prob, valid)
        return branch.heads['graph'](prob, features, threshold, valid), valid

    @torch.no_grad()
    def confidence_threshold(self, prob: Tensor, valid: Tensor) -> Tensor:
        """eta of eq. 9, (C,)."""
        if self.class_wise:
            return class_thresholds(prob, self.threshold, valid)
        return prob.new_full((prob.shape[1],), self.threshold)

    @torch.no_grad()
    def corrected_labels(self, streams: Streams) -> tuple[PseudoLabel, Tensor]:
        """The teacher's labels of the weak view after correction; its features of both streams move the prototypes.

        Returns:
            tuple[PseudoLabel, Tensor]: Labels with weight 1 at confident pixels, which the log counts; every valid
            pixel is learned. And the thresholds, (C,).
        """
        views = self.teacher.forward_together(labeled=streams.labeled, weak=streams.weak)
        weak, labeled = views['weak'], views['labeled']
        prob = _softmax(weak.coarse_logits)
        threshold = self.confidence_threshold(prob, _nearest(streams.valid, prob.shape[2:]))

        graph, valid = self.refine(self.teacher, weak, streams.valid, threshold)
        # argmax of the sum over layers, below eq. 15; without layers the classifier's own labels.
        total = sum(graph.probs[1:]) if len(graph.probs) > 1 else graph.probs[0]
        label = resize(total, size=weak.size, mode='bilinear', align_corners=weak.align_corners).argmax(1)

        graph_labeled, annotated = self.refine(self.teacher, labeled, streams.labels != IGNORE_INDEX, threshold)
        self.observe(graph, _nearest(label, valid.shape[1:]), valid)
        self.observe(graph_labeled, _nearest(streams.labels, valid.shape[1:]), annotated)

        confidence, best = _softmax(weak.logits).max(1)
        confident = (confidence >= threshold[best]) & streams.valid
        return PseudoLabel(label, confident.float()), threshold

    def observe(self, graph: GraphOutput, labels: Tensor, valid: Tensor) -> None:
        """Eq. 13, for each layer."""
        for prototypes, features in zip(self.prototypes, graph.features[1:], strict=True):
            prototypes.observe(features, labels, valid)

    def slg_loss(self, graph: GraphOutput, labels: Tensor, valid: Tensor) -> Tensor:
        """Eq. 12, summed over layers.

        Args:
            graph (GraphOutput): The student's layers.
            labels (Tensor): Pseudo-labels, (B, h, w).
            valid (Tensor): (B, h, w).
        """
        labels, valid = labels.flatten(1), valid.flatten(1)
        loss = graph.probs[0].new_zeros(())
        for prototypes, maps in zip(self.prototypes, graph.features[1:], strict=True):
            features = maps.flatten(2).transpose(1, 2)
            if self.terms['intra']:
                loss = loss + self.terms['intra'] * intra_image_contrast(features, labels, self.num_classes, valid)
            if self.terms['cross']:
                # A copy: the prototypes move before the next step, and autograd must see what the loss saw.
                value, seen = prototypes.value.clone(), prototypes.seen.clone()
                cross = prototype_contrast(features, labels, value, seen, self.temperature, valid)
                loss = loss + self.terms['cross'] * cross
        return loss

    def clg_loss(
        self, out: BranchOutput, graph: GraphOutput, label: Tensor, valid: Tensor, labels: Tensor, valid_nodes: Tensor
    ) -> Tensor:
        """Eq. 15 and 16 for the classifier (k = 0, at the resolution of the crop) and each layer's class-level graph.

        Args:
            out, graph: The student's output and layers.
            label, valid (Tensor): Pseudo-labels and validity of the crop, (B, H, W).
            labels, valid_nodes (Tensor): The same at the graph's resolution, (B, h, w).
        """
        loss = self.weighted_nll(F.log_softmax(*full_precision(out.logits), dim=1), label, valid)
        for prob in graph.probs[1:]:
            loss = loss + self.weighted_nll(prob.clamp(min=1e-8).log(), labels, valid_nodes)
        return loss

    def weighted_nll(self, log_prob: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        """Negative log-likelihood of ``label``, each pixel weighted by its own (detached) probability, eq. 16."""
        nll = -log_prob.gather(1, label[:, None])[:, 0]
        if self.dynamic_weight:
            nll = nll * (-nll.detach()).exp()
        return masked_mean(nll, valid)


def _softmax(logits: Tensor) -> Tensor:
    (logits,) = full_precision(logits)
    return logits.softmax(1)


def _nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels or masks (B, H, W) at another size, without mixing values."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None].float(), size=tuple(size), mode='nearest-exact')[:, 0].to(maps.dtype)
