"""MLLC corrects pseudo-labels by what lies close in feature space and in class: a semantic- and a class-level graph.

Multi-Level Label Correction by Distilling Proximate Patterns for Semi-supervised Semantic Segmentation,
https://arxiv.org/abs/2404.02065
"""

from __future__ import annotations

import torch
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmsemi.models.branch import Branch, BranchOutput, of_logits
from mmsemi.models.losses.contrastive import intra_image_contrast, prototype_contrast
from mmsemi.models.losses.pixel import masked_mean
from mmsemi.models.precision import full_precision, probabilities
from mmsemi.models.pseudo_labels import label_accuracy
from mmsemi.models.resizing import resize_labels
from mmsemi.models.state import Prototypes
from mmsemi.models.thresholds import class_thresholds
from mmsemi.registry import MODELS
from mmsemi.structures import IGNORE_INDEX, PseudoLabel, Streams

from .semi_segmentor import SemiSegmentor, check_settings

LABEL_RESOLUTIONS = ('crop', 'graph')


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
        graph_supervision (float): Weight of the graphs' cross-entropy to the ground truth of labeled images, which the
            paper does not have: from a random start, taught by pseudo-labels alone, f_C comes to agree with itself on
            the commonest class. Defaults to 0.
        label_resolution (str): ``'crop'``: pseudo-labels are the classifier's scores at the crop's resolution,
            corrected by the graph's layers; ``'graph'``: the graph's layers alone, resized, as the paper writes it.
            Defaults to 'crop'.
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
        label_resolution: str = 'crop',
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        heads = self.student.heads
        missing = {'embedding', 'graph'} - set(heads.keys())
        if missing:
            raise ValueError(f'MLLC needs model.heads.{min(missing)}; it has {sorted(heads.keys())}.')
        check_settings(
            'MLLC',
            ('threshold', threshold, 0 <= threshold <= 1, 'lie in [0, 1]'),
            ('slg_weight', slg_weight, slg_weight >= 0, 'be 0 or more'),
            ('clg_weight', clg_weight, clg_weight >= 0, 'be 0 or more'),
            ('intra_weight', intra_weight, 0 <= intra_weight <= 1, 'lie in [0, 1]'),
            ('temperature', temperature, temperature > 0, 'lie above 0'),
            ('graph_supervision', graph_supervision, graph_supervision >= 0, 'be 0 or more'),
            (
                'label_resolution',
                label_resolution,
                label_resolution in LABEL_RESOLUTIONS,
                f'be one of {", ".join(LABEL_RESOLUTIONS)}',
            ),
            ('data_preprocessor.num_strong', (n := self.data_preprocessor.num_strong), n == 1, 'be 1'),
        )
        self.threshold = threshold
        self.class_wise = class_wise
        self.slg_weight = slg_weight
        self.clg_weight = clg_weight
        self.terms = {'intra': intra_weight * intra_image, 'cross': (1 - intra_weight) * cross_image}
        self.temperature = temperature
        self.dynamic_weight = dynamic_weight
        self.graph_supervision = graph_supervision
        self.label_resolution = label_resolution
        self.prototypes = nn.ModuleList(
            Prototypes(self.num_classes, heads['embedding'].out_channels, prototype_momentum)
            for _ in range(heads['graph'].num_layers)
        )

    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Labeled and mixed strong view in one pass: running statistics must fit both, since the teacher uses them."""
        mix = streams.mix[0]
        strong, valid = mix.images(streams.strong[0]), mix.maps(streams.valid)
        joined = self.student.heads['graph'].scope == 'batch'
        labeled, strong = self.refined(self.student, streams, strong, valid, joined or self.graph_supervision > 0)
        return {'labeled': labeled, 'strong_0': strong}

    def labeled_view(self, streams: Streams) -> BranchOutput:
        """Without unlabeled images: with the graph of the labeled ones, if it learns from them."""
        if not self.graph_supervision:
            return super().labeled_view(streams)
        return self.refined(self.student, streams, streams.weak, streams.valid, True)[0]

    @torch.no_grad()
    def guide_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """The teacher on the labeled images, of which it makes prototypes, and the weak view in one pass."""
        labeled, weak = self.refined(self.teacher, streams, streams.weak, streams.valid, True)
        return {'guide_labeled': labeled, 'guide': weak}

    def refined(
        self, branch: Branch, streams: Streams, view: Tensor, valid: Tensor, graph_of_labeled: bool
    ) -> tuple[BranchOutput, BranchOutput]:
        """Run a branch on the labeled images and a view of the unlabeled ones together, and its graphs (algorithm 1).

        Graphs have the embedding's resolution; the threshold of confidence, eq. 9, is that of the unlabeled images.

        Args:
            branch (Branch): Student or teacher.
            streams (Streams): Whose labeled images to take; where they have no label they are no nodes.
            view (Tensor): Of the unlabeled images, (Bu, 3, H, W).
            valid (Tensor): False where it was padded, (Bu, H, W).
            graph_of_labeled (bool): Whether the labeled images have a graph, too.

        Returns:
            tuple[BranchOutput, BranchOutput]: The labeled images and the view, each with ``heads['graph']``, a
            :class:`GraphOutput`, and ``heads['nodes']``, which of its nodes count, (B, h, w), if it has a graph.
        """
        sizes, counted = [len(streams.labeled), len(view)], [streams.labels != IGNORE_INDEX, valid]
        out = branch(streams.labeled, view)
        if not graph_of_labeled:
            labeled, out = out.split(sizes)
            sizes, counted = sizes[1:], counted[1:]
        features = out.heads['embedding']
        size, unlabeled = features.shape[2:], slice(-sizes[-1], None)
        logits = resize(out.coarse_logits, size=size, mode='bilinear', align_corners=out.align_corners)
        log_prob = full_precision(logits).log_softmax(1)
        nodes = resize_labels(torch.cat(counted), size, out.align_corners)
        threshold = self.confidence_threshold(log_prob[unlabeled].exp(), nodes[unlabeled])
        out.heads['graph'] = branch.heads['graph'](log_prob, features, threshold, nodes, sizes)
        out.heads['nodes'] = nodes
        return tuple(out.split(sizes)) if graph_of_labeled else (labeled, out)

    @torch.no_grad()
    def confidence_threshold(self, prob: Tensor, valid: Tensor) -> Tensor:
        """eta of eq. 9, (C,)."""
        if self.class_wise:
            return class_thresholds(prob, self.threshold, valid)
        return prob.new_full((prob.shape[1],), self.threshold)

    def supervised_loss(self, out: BranchOutput, labels: Tensor) -> dict[str, Tensor]:
        """Eq. 2, and with ``graph_supervision`` the mean cross-entropy of the graph's layers to the same labels."""
        losses = super().supervised_loss(out, labels)
        if self.graph_supervision and self.student.heads['graph'].num_layers:
            layers, nodes = out.heads['graph'].log_probs[1:], out.heads['nodes']
            labels = torch.where(nodes, self.to_nodes(labels, out), 0)
            truth = PseudoLabel(labels, nodes.to(layers[0].dtype))
            terms = [_nll(log_prob, truth, nodes) for log_prob in layers]
            losses['loss_graph'] = self.graph_supervision * sum(terms) / len(terms)
        return losses

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """Eq. 17: the teacher's graphs correct the labels of the weak view, the student's graphs learn them."""
        guide, mix, out = views['guide'], streams.mix[0], views['strong_0']
        label = self.corrected_labels(guide)
        self.observe(guide, label)
        self.observe(views['guide_labeled'], streams.labels)
        pseudo = self.reweight(PseudoLabel(label, streams.valid.to(guide.coarse_logits.dtype)), guide)
        if self.seen:
            self.show(pseudo, label_before_the_graph=guide.logits.argmax(1), label_after_the_graph=label)
        mixed, valid = mix.labels(pseudo), mix.maps(streams.valid)
        return {
            'loss_slg': self.slg_weight * self.slg_loss(out, mixed.label),
            'loss_clg': self.clg_weight * self.clg_loss(out, mixed, valid),
            **self.report(guide, label, streams),
        }

    @torch.no_grad()
    def corrected_labels(self, guide: BranchOutput) -> Tensor:
        """The pseudo-labels (B, H, W) below eq. 15: the argmax of the sum over layers, or the classifier's without any.

        The graph is coarser than the classifier: what the sum changes of the graph's input corrects the classifier's
        scores at the crop's resolution. With ``label_resolution='graph'`` the sum itself is resized.
        """
        first, *layers = guide.heads['graph'].log_probs
        if not layers:
            return guide.logits.argmax(1)
        total = torch.stack(layers).logsumexp(0)
        resized = dict(size=guide.size, mode='bilinear', align_corners=guide.align_corners)
        if self.label_resolution == 'graph':
            return resize(total.exp(), **resized).argmax(1)
        # Scores are log-probabilities but for a constant of the pixel, and the sum over layers their mean.
        return (full_precision(guide.logits) + resize(total - first, **resized)).argmax(1)

    @staticmethod
    def to_nodes(maps: Tensor, out: BranchOutput) -> Tensor:
        """Maps of a view (B, H, W) at the nodes of its graph, (B, h, w), each value from the pixel the node lies on."""
        return resize_labels(maps, out.heads['nodes'].shape[1:], out.align_corners)

    @torch.no_grad()
    def report(self, guide: BranchOutput, label: Tensor, streams: Streams) -> dict[str, Tensor]:
        """What the log tells: as confident counts a pixel whose classifier reaches its class's threshold."""
        threshold = guide.heads['graph'].threshold
        confidence, best = probabilities(guide.logits).max(1)
        confident = (confidence >= threshold[best]) & streams.valid
        report = {**self.describe(PseudoLabel(label, confident.float()), streams), 'threshold': threshold.mean()}
        if streams.unlabeled_gt is not None:
            counted = streams.valid & (streams.unlabeled_gt != IGNORE_INDEX)
            report['accuracy_uncorrected'] = label_accuracy(best, streams.unlabeled_gt, counted)
        return report

    def observe(self, out: BranchOutput, labels: Tensor) -> None:
        """Eq. 13, for each layer; ``labels`` (B, H, W)."""
        nodes = out.heads['nodes']
        labels = self.to_nodes(labels, out)
        for prototypes, features in zip(self.prototypes, out.heads['graph'].features[1:], strict=True):
            prototypes.observe(features, labels, nodes)

    def slg_loss(self, out: BranchOutput, label: Tensor) -> Tensor:
        """Eq. 12, summed over layers, for the student's strong view and its pseudo-labels (B, H, W)."""
        nodes = out.heads['nodes']
        labels, valid = self.to_nodes(label, out).flatten(1), nodes.flatten(1)
        loss = out.coarse_logits.new_zeros(())
        for prototypes, maps in zip(self.prototypes, out.heads['graph'].features[1:], strict=True):
            features = maps.flatten(2).transpose(1, 2)
            if self.terms['intra']:
                loss = loss + self.terms['intra'] * intra_image_contrast(features, labels, self.num_classes, valid)
            if self.terms['cross']:
                # Copies: the prototypes move before the next step, and autograd must see what the loss saw.
                value, seen = prototypes.value.clone(), prototypes.seen.clone()
                cross = prototype_contrast(features, labels, value, seen, self.temperature, valid)
                loss = loss + self.terms['cross'] * cross
        return loss

    def clg_loss(self, out: BranchOutput, pseudo: PseudoLabel, valid: Tensor) -> Tensor:
        """Eq. 15, 16 for the student's strong view: the classifier (k = 0) at the crop's resolution, and each layer.

        Args:
            out (BranchOutput): The strong view.
            pseudo (PseudoLabel): Its labels and their weights, (B, H, W).
            valid (Tensor): Where they count, (B, H, W).
        """
        nodes = out.heads['nodes']
        coarse = PseudoLabel(self.to_nodes(pseudo.label, out), self.to_nodes(pseudo.weight, out))
        loss = of_logits(_nll_of_scores, out, pseudo, valid, self.dynamic_weight)
        for log_prob in out.heads['graph'].log_probs[1:]:
            loss = loss + _nll(log_prob, coarse, nodes, self.dynamic_weight)
        return loss


def _nll_of_scores(logits: Tensor, *args) -> Tensor:
    return _nll(logits.log_softmax(1), *args)


def _nll(log_prob: Tensor, pseudo: PseudoLabel, valid: Tensor, dynamic_weight: bool = False) -> Tensor:
    """Mean weighted negative log-likelihood; ``dynamic_weight``: times its own (detached) probability, eq. 16."""
    nll = -log_prob.gather(1, pseudo.label[:, None])[:, 0]
    if dynamic_weight:
        nll = nll * (-nll.detach()).exp()
    return masked_mean(nll * pseudo.weight, valid)
