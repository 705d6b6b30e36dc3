"""Multi-Level Label Correction's graph network: pseudo-labels corrected by similar pixels, features by their class.

Source: Multi-Level Label Correction by Distilling Proximate Patterns for Semi-supervised Semantic Segmentation, Xiao et
al., 2024 (arXiv:2404.02065), section III-B, III-C and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmsemi.models.precision import full_precision, no_autocast
from mmsemi.registry import MODELS

from .graph_ops import (
    dense_affinity,
    knn_affinity,
    propagate_features,
    propagate_labels,
    propagate_labels_dense,
)

ORDERS = ('clg_first', 'slg_first', 'together')
SCOPES = ('image', 'stream', 'batch')


@dataclass
class GraphOutput:
    """Nodes of the two graphs before the first layer and after each of the K layers.

    Args:
        log_probs (tuple[Tensor]): Class-level nodes: logarithms of class probabilities, K + 1 maps (B, C, h, w); the
            first is the input.
        features (tuple[Tensor]): Semantic-level nodes: features of length 1, K + 1 maps (B, D, h, w).
        threshold (Tensor): From what probability on each class counts as confident, (C,).
    """

    log_probs: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    threshold: Tensor

    def split(self, sizes: list[int]) -> list[GraphOutput]:
        """Take apart the images of a joint pass, ``sizes`` images each."""
        log_probs = zip(*(maps.split(sizes) for maps in self.log_probs), strict=True)
        features = zip(*(maps.split(sizes) for maps in self.features), strict=True)
        return [GraphOutput(p, f, self.threshold) for p, f in zip(log_probs, features, strict=True)]


def _mlp(channels: int, hidden_channels: int) -> nn.Sequential:
    """From a node and its neighbours' average, concatenated, to a correction that is 0 before training."""
    mlp = nn.Sequential(nn.Linear(2 * channels, hidden_channels), nn.ReLU(), nn.Linear(hidden_channels, channels))
    nn.init.zeros_(mlp[-1].weight)
    nn.init.zeros_(mlp[-1].bias)
    return mlp


@MODELS.register_module()
class LabelGraph(BaseModule):
    """Semantic-level graph (SLG) and class-level graph (CLG) that correct each other for K layers.

    SLG: nodes are features, edges join nearest neighbours by cosine; it averages class probabilities. CLG: nodes are
    class probabilities, edges join pixels of one predicted class; it averages features.

    The paper calls f_C and f_S "a non-linear function" of the concatenation [x, propagated x]. Our choice is plain
    propagation plus an MLP on that concatenation whose last layer starts at zero, so that an untrained graph propagates
    and nothing else: ``f_C = softmax(log(normalise(x + A x)) + MLP)``, normalised over classes, and
    ``f_S = normalise(x + W x + MLP)``, normalised to length 1.

    Args:
        num_classes (int): Number of classes C, >= 2.
        feature_channels (int): Channels D of the features.
        num_layers (int): Layers K; 0 = no graph.
        num_neighbors (int | float | str): Neighbours k in the SLG; 0 = no probabilities are propagated,
            ``float('inf')`` or ``'inf'`` = all pixels, with memory quadratic in the number of pixels.
        gamma (float): Exponent of the cosine similarity (eq. 4), > 0.
        alpha (float): Share of the propagated probabilities where the head is confident, in [0, 1]; ``1 - alpha``
            where it is not (eq. 10).
        order (str): Which graph's nodes a layer updates first: ``'clg_first'``, ``'slg_first'``, or ``'together'``,
            each from the other's previous layer (table VI).
        scope (str): ``'image'``: one graph per image; ``'stream'``: one over the images of each stream, so that the
            unlabeled ones of a batch are one graph and the labeled ones another; ``'batch'``: one over all images.
        hidden_channels (int, optional): Width of both MLPs; by default ``feature_channels``.
        init_cfg (dict, optional): Initialisation of mmengine's BaseModule.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        feature_channels: int = 256,
        num_layers: int = 2,
        num_neighbors: int | float | str = 20,
        gamma: float = 1.0,
        alpha: float = 0.2,
        order: str = 'clg_first',
        scope: str = 'image',
        hidden_channels: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_classes < 2:
            raise ValueError(f'num_classes of LabelGraph must be at least 2, got {num_classes}.')
        if num_layers < 0:
            raise ValueError(f'num_layers of LabelGraph must be 0 (no graph) or more, got {num_layers}.')
        neighbors = float(num_neighbors)
        if not (neighbors >= 0 and (neighbors.is_integer() or neighbors == float('inf'))):
            raise ValueError(
                f"num_neighbors of LabelGraph must be a whole number >= 0 or 'inf' (all pixels), got {num_neighbors}."
            )
        if gamma <= 0:
            raise ValueError(f'gamma of LabelGraph must be greater than 0, got {gamma}.')
        if not 0 <= alpha <= 1:
            raise ValueError(f'alpha of LabelGraph must be between 0 and 1, got {alpha}.')
        if order not in ORDERS:
            raise ValueError(f'order of LabelGraph must be one of {", ".join(ORDERS)}, got {order!r}.')
        if scope not in SCOPES:
            raise ValueError(f'scope of LabelGraph must be one of {", ".join(SCOPES)}, got {scope!r}.')
        self.num_layers = num_layers
        self.num_neighbors = neighbors if neighbors == float('inf') else int(neighbors)
        self.gamma = gamma
        self.alpha = alpha
        self.order = order
        self.scope = scope
        hidden_channels = hidden_channels or feature_channels
        self.label_mlps = nn.ModuleList(_mlp(num_classes, hidden_channels) for _ in range(num_layers))
        self.feature_mlps = nn.ModuleList(_mlp(feature_channels, hidden_channels) for _ in range(num_layers))

    def forward(
        self,
        log_prob: Tensor,
        features: Tensor,
        threshold: Tensor,
        valid: Tensor | None = None,
        streams: Sequence[int] | None = None,
    ) -> GraphOutput:
        """Run the K layers, in float32 (float64 if given float64) also under autocast.

        Args:
            log_prob (Tensor): Logarithms of the segmentation head's class probabilities, finite, (B, C, h, w).
            features (Tensor): Embedding at the same resolution, (B, D, h, w).
            threshold (Tensor): Confidence from which the head counts as confident, for each class (eq. 9), (C,).
            valid (Tensor, optional): False at padding, which takes no part: its probabilities stay, its
                features mean nothing, (B, h, w).
            streams (Sequence[int], optional): How many of the images each stream has, in their order; read where
                ``scope='stream'``. Defaults to one stream.
        """
        if self.scope == 'stream' and streams is not None and len(streams) > 1:
            parts = zip(*(x.split(list(streams)) for x in (log_prob, features)), strict=True)
            valids = [None] * len(streams) if valid is None else valid.split(list(streams))
            outputs = [self(p, f, threshold, v) for (p, f), v in zip(parts, valids, strict=True)]
            joined = [
                tuple(torch.cat(maps) for maps in zip(*(getattr(x, name) for x in outputs), strict=True))
                for name in ('log_probs', 'features')
            ]
            return GraphOutput(*joined, threshold)
        with no_autocast(log_prob):
            node_prob, node_features = (self._to_nodes(full_precision(x)) for x in (log_prob, features))
            node_features = F.normalize(node_features, dim=-1)
            valid_nodes = None if valid is None else self._to_nodes(valid[:, None]).squeeze(-1)
            shares = self._log_shares(node_prob.detach(), threshold, valid_nodes)

            log_probs = [log_prob]
            feature_maps = [self._to_maps(node_features, features)]
            for layer in range(len(self.label_mlps)):
                node_prob, node_features = self._layer(layer, node_prob, node_features, shares, valid_nodes)
                log_probs.append(self._to_maps(node_prob, log_prob))
                feature_maps.append(self._to_maps(node_features, features))
        return GraphOutput(tuple(log_probs), tuple(feature_maps), threshold)

    def _log_shares(self, log_prob: Tensor, threshold: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logarithms of the shares of the propagated and of the old probabilities (eq. 10), (B, n, 1)."""
        confidence, label = log_prob.max(-1, keepdim=True)
        confident = (confidence.exp() >= threshold[label]).to(log_prob.dtype)
        share = (2 * self.alpha - 1) * confident + (1 - self.alpha)
        if valid is not None:
            share = share * valid[..., None]  # padding stays what it is
        return share.log(), (1 - share).log()

    def _layer(
        self, layer: int, log_prob: Tensor, features: Tensor, shares: tuple[Tensor, Tensor], valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One layer (algorithm 1) in the order that was asked for (table VI)."""
        label_mlp, feature_mlp = self.label_mlps[layer], self.feature_mlps[layer]
        if self.order == 'slg_first':
            features = self._update_features(features, log_prob, feature_mlp, valid)
            return self._update_probs(log_prob, features, shares, label_mlp, valid), features
        new = self._update_probs(log_prob, features, shares, label_mlp, valid)
        seen = new if self.order == 'clg_first' else log_prob
        return new, self._update_features(features, seen, feature_mlp, valid)

    def _update_probs(
        self, log_prob: Tensor, features: Tensor, shares: tuple[Tensor, Tensor], mlp: nn.Module, valid: Tensor | None
    ) -> Tensor:
        """CLG nodes of the next layer (eq. 8, 10)."""
        prob = log_prob.exp()
        propagated = self._propagate_probs(prob, features, valid)
        correction = mlp(torch.cat((prob, propagated), -1))
        candidate = (_LogSum.apply(log_prob, propagated) + correction).log_softmax(-1)
        return _LogMean.apply(candidate, log_prob, *shares)

    def _propagate_probs(self, prob: Tensor, features: Tensor, valid: Tensor | None) -> Tensor:
        if self.num_neighbors == 0 or prob.size(1) == 1:
            return torch.zeros_like(prob)
        if self.num_neighbors == float('inf'):
            return propagate_labels_dense(dense_affinity(features, self.gamma, valid), prob)
        affinity = knn_affinity(features, self.num_neighbors, self.gamma, valid, normalized=True)
        return propagate_labels(*affinity, prob)

    @staticmethod
    def _update_features(features: Tensor, log_prob: Tensor, mlp: nn.Module, valid: Tensor | None) -> Tensor:
        """SLG nodes of the next layer (eq. 11), normalised to length 1."""
        propagated = propagate_features(log_prob.exp(), features, valid)
        correction = mlp(torch.cat((features, propagated), -1))
        return F.normalize(features + propagated + correction, dim=-1)

    def _to_nodes(self, maps: Tensor) -> Tensor:
        """Maps (B, C, h, w) as nodes (B, h w, C), or (1, B h w, C) if the graph spans the batch."""
        # Rows in one piece: what follows works on rows, and mixed layouts make the graph a tenth slower.
        nodes = maps.flatten(2).transpose(1, 2).contiguous()
        return nodes.reshape(1, -1, nodes.size(-1)) if self.scope != 'image' else nodes

    @staticmethod
    def _to_maps(nodes: Tensor, like: Tensor) -> Tensor:
        batch, channels, height, width = like.shape
        return nodes.reshape(batch, -1, channels).transpose(1, 2).reshape(batch, channels, height, width)


class _LogSum(torch.autograd.Function):
    """log(exp(a) + b) for b >= 0. Where exp(a) is too small for its type, a is what counts: a wrong class still learns.

    What b adds to sums so small that its gradient, 1 over the sum, could not be written down is left out.
    """

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        total = torch.logaddexp(a, F.threshold(b, math.exp(-_largest_exponent(b)), 0.0).log())
        ctx.save_for_backward(a, total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, total = ctx.saved_tensors
        return grad * (a - total).exp(), grad * total.neg().clamp(max=_largest_exponent(total)).exp()


def _largest_exponent(like: Tensor) -> float:
    """Of e, with room for what its power is multiplied by."""
    return 0.8 * math.log(torch.finfo(like.dtype).max)


class _LogMean(torch.autograd.Function):
    """log(share a + rest b) of probabilities and shares that are given as logarithms; shares are constants."""

    @staticmethod
    def forward(ctx, log_a: Tensor, log_b: Tensor, log_share: Tensor, log_rest: Tensor) -> Tensor:
        part = log_a + log_share
        total = torch.logaddexp(part, log_b + log_rest)
        ctx.save_for_backward(part, total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        part, total = ctx.saved_tensors
        grad_a = grad * (part - total).exp()
        return grad_a, grad - grad_a, None, None
