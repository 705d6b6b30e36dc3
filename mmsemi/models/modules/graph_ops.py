"""The two graphs of MLLC as functions: exact, with memory linear in the number of nodes unless they are dense.

Nodes are pixels. Every function takes batches (B, n, .), one graph per batch entry, computes in float32 (float64 if
given float64) whatever autocast says, is differentiable, and needs neither an n x n matrix (the two named dense aside)
nor a host round trip. Nodes that ``valid`` marks False are padding: nobody's neighbour, part of no degree and no sum.
Their values must be finite.

Source: Multi-Level Label Correction (MLLC), Xiao et al., 2024 (arXiv:2404.02065), eq. 4 to 7.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmsemi.models.precision import full_precision, no_autocast

from .nearest import nearest_neighbors, take_rows

_SMALLEST_DEGREE = 1e-12
"""Degrees below this count as this: a node without edges receives 0 whatever its degree is divided by."""
_MOST_EXPANDED = 32
"""Up to so many classes the sums of all classes are one product on a GPU."""
_TILE_ROWS = 64
_GATHERED = {'cpu': 2**18}
"""Numbers that one round of products of edges' ends gathers: what fits the cache; elsewhere many at a time."""


# Semantic-level graph. `embedding_bag` adds up weighted rows without writing them out: memory stays O(n D), never
# O(n k D), and the order of summation is fixed. Batches are one graph without edges between its parts.


class Edges:
    """Edges from every node to its k neighbours, and the same edges by their target: what all products share.

    Args:
        target (Tensor): The neighbours, as numbers of nodes in the whole batch, long, (B, n, k).
    """

    def __init__(self, target: Tensor) -> None:
        self.shape = target.shape
        *_, k = target.shape
        self.target = target.reshape(-1)
        nodes = target.shape[0] * target.shape[1]
        self.first = torch.arange(0, nodes * k, k, device=target.device)
        ordered, self.by_target = self.target.sort(stable=True)
        self.source = self.by_target.div(k, rounding_mode='floor')
        self.first_by_target = torch.searchsorted(ordered, torch.arange(nodes, device=target.device))

    @classmethod
    def within_graphs(cls, index: Tensor) -> Edges:
        """From neighbours' numbers within each graph, long, (B, n, k)."""
        batch, nodes, _ = index.shape
        return cls(index + torch.arange(0, batch * nodes, nodes, device=index.device)[:, None, None])

    @property
    def index(self) -> Tensor:
        """The neighbours' numbers within each graph, long, (B, n, k)."""
        batch, nodes, _ = self.shape
        first = torch.arange(0, batch * nodes, nodes, device=self.target.device)
        return self.target.view(self.shape) - first[:, None, None]

    def symmetric(self, weight: Tensor, by_target: Tensor, x: Tensor) -> Tensor:
        """(Ahat + Ahat^T) x: each node's weighted sum over its neighbours and over those whose neighbour it is.

        Args:
            weight (Tensor): Of the edges, (B n k,).
            by_target (Tensor): The same in the order of ``self.by_target``.
            x (Tensor): (B n, D).
        """
        own = F.embedding_bag(self.target, x, self.first, per_sample_weights=weight, mode='sum')
        others = F.embedding_bag(self.source, x, self.first_by_target, per_sample_weights=by_target, mode='sum')
        return own + others

    def dot(self, source: Tensor, target: Tensor) -> Tensor:
        """Product of every node's ``source`` with the ``target`` of each neighbour, both (B n, D); (B n k,)."""
        nodes, width = source.shape
        neighbours = self.target.view(nodes, -1)
        step = max(1, _GATHERED.get(source.device.type, 2**26) // max(1, neighbours.shape[1] * width))
        parts = [
            torch.bmm(take_rows(target, some), rows[..., None])
            for some, rows in zip(neighbours.split(step), source.split(step), strict=True)
        ]
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).flatten()


class _EdgeCosine(torch.autograd.Function):
    """The cosines of edges between unit-length nodes, known already, as a function of the nodes."""

    @staticmethod
    def forward(ctx, edges: Edges, cosine: Tensor, unit: Tensor) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(unit)
        return cosine

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, None, Tensor]:
        (unit,), edges = ctx.saved_tensors, ctx.edges
        grad = grad.reshape(-1)
        return None, None, edges.symmetric(grad, grad[edges.by_target], unit.flatten(0, 1)).view_as(unit)


class _Average(torch.autograd.Function):
    """D^-1/2 (Ahat + Ahat^T) D^-1/2 x for the sparse Ahat with entries ``weight``, and D its degrees."""

    @staticmethod
    def forward(ctx, edges: Edges, weight: Tensor, x: Tensor) -> Tensor:
        weight, shape, x = weight.reshape(-1), x.shape, x.flatten(0, 1)
        by_target = weight[edges.by_target]
        degree = weight.view(edges.shape).sum(-1).flatten().scatter_add_(0, edges.target, weight)
        degree = degree.clamp_(min=_SMALLEST_DEGREE)[:, None]
        scale = degree.rsqrt()
        scaled = scale * x
        total = edges.symmetric(weight, by_target, scaled)
        ctx.edges = edges
        ctx.save_for_backward(weight, by_target, degree, scale, scaled, total)
        return (scale * total).view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        weight, by_target, degree, scale, scaled, total = ctx.saved_tensors
        shape, grad_total = grad.shape, scale * grad.flatten(0, 1)
        grad_scaled = ctx.edges.symmetric(weight, by_target, grad_total)
        # The gradient of the degree is this times -1/2.
        slope = torch.addcmul(grad_total * total, grad_scaled, scaled).sum(-1, keepdim=True) / degree
        half = torch.full_like(slope, -0.5)
        # Both products of an edge's ends, and both ends' degrees, at once.
        ends = torch.cat((grad_total, slope, scaled, half), -1)
        grad_weight = ctx.edges.dot(ends, ends.roll(ends.size(1) // 2, 1))
        return None, grad_weight.view(ctx.edges.shape), (scale * grad_scaled).view(shape)


def _positive_power(cosine: Tensor, gamma: float) -> Tensor:
    """[cosine]_+^gamma. ``relu`` stops what the power's gradient is at 0."""
    positive = cosine.relu()
    return positive if gamma == 1 else positive.pow(gamma)


def knn_affinity(
    features: Tensor, k: int, gamma: float = 1.0, valid: Tensor | None = None, normalized: bool = False
) -> tuple[Edges, Tensor]:
    """Affinity of every node to its k nearest neighbours by cosine, exact (eq. 4).

    The neighbours are those of :func:`nearest_neighbors`; they are constant in the gradient. Memory O(n (k + D)), and
    the gradient with respect to the features takes the same.

    Args:
        features (Tensor): Node features, need not be normalised, (B, n, D).
        k (int): Number of neighbours, >= 1; at most n - 1 are used.
        gamma (float): Exponent of the cosine, > 0.
        valid (Tensor, optional): False at padding, bool, (B, n).
        normalized (bool): Whether the features have length 1 already. Defaults to False.

    Returns:
        tuple[Edges, Tensor]: The edges, and weights [cos]_+^gamma, (B, n, k). Where a node has fewer than k neighbours
        whose cosine is positive, the weights of the others are 0, and they are arbitrary nodes.
    """
    with no_autocast(features):
        unit = full_precision(features)
        if not normalized:
            unit = F.normalize(unit, dim=-1)
        if valid is not None:
            # Without length a node is similar to none.
            unit = unit * valid[..., None]
        target, cosine = nearest_neighbors(unit.detach(), k)
        edges = Edges(target)
        return edges, _positive_power(_EdgeCosine.apply(edges, cosine, unit), gamma)


def dense_affinity(features: Tensor, gamma: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """Affinity of every node to every other one, (B, n, n): eq. 4 with k = inf, quadratic in n.

    Args:
        features (Tensor): Node features, need not be normalised, (B, n, D).
        gamma (float): Exponent of the cosine, > 0.
        valid (Tensor, optional): False at padding, bool, (B, n).
    """
    with no_autocast(features):
        unit = F.normalize(full_precision(features), dim=-1)
        kept = ~torch.eye(unit.size(1), dtype=torch.bool, device=unit.device)
        if valid is not None:
            kept = kept & valid[:, None] & valid[..., None]
        return _positive_power((unit @ unit.transpose(1, 2)).masked_fill(~kept, 0.0), gamma)


def propagate_labels(edges: Edges, weight: Tensor, x: Tensor) -> Tensor:
    """Average of the neighbours' ``x``: A x, A = D^-1/2 (Ahat + Ahat^T) D^-1/2 (eq. 5), in O(n k C).

    Args:
        edges (Edges): From each node to its neighbours.
        weight (Tensor): Entries of Ahat, >= 0, (B, n, k), as :func:`knn_affinity` returns them.
        x (Tensor): What is propagated, (B, n, C).

    Returns:
        Tensor: (B, n, C); 0 for nodes without edges.
    """
    with no_autocast(x):
        return _Average.apply(edges, full_precision(weight), full_precision(x))


def propagate_labels_dense(affinity: Tensor, x: Tensor) -> Tensor:
    """:func:`propagate_labels` for a dense ``affinity`` Ahat (B, n, n), as :func:`dense_affinity` returns it."""
    with no_autocast(x):
        affinity, x = full_precision(affinity), full_precision(x)
        affinity = affinity + affinity.transpose(1, 2)
        scale = affinity.sum(-1, keepdim=True).clamp(min=_SMALLEST_DEGREE).rsqrt()
        return scale * (affinity @ (scale * x))


# Class-level graph


def propagate_features(
    prob: Tensor, features: Tensor, valid: Tensor | None = None, expand: bool | None = None
) -> Tensor:
    """Average of the features of a node's class: W x, W = D^-1/2 What D^-1/2 (eq. 6, 7), in O(n C D).

    Within a class What = P P^T with the diagonal replaced by 1. So with s_i = 1 - |p_i|^2 the degree is
    d = P P^T 1 + s, and with G = D^-1/2 X, W X = D^-1/2 (P P^T G + s G): two products with the n x C matrix P of each
    class, whose sum over the class lies between them.

    Args:
        prob (Tensor): Class probabilities, rows sum to 1, (B, n, C). Their argmax is constant in the gradient.
        features (Tensor): What is propagated, (B, n, D).
        valid (Tensor, optional): False at padding, bool, (B, n).
        expand (bool, optional): Whether all classes are one product: C times the arithmetic, in a third of the
            operations. By default on a GPU, up to 32 classes.

    Returns:
        Tensor: (B, n, D); the input at padding.
    """
    with no_autocast(prob):
        prob, features = full_precision(prob), full_precision(features)
        label = prob.argmax(-1, keepdim=True)
        if valid is not None:
            # Without probability a node has no edge but the one to itself: it adds nothing, and stays what it is.
            prob = prob * valid[..., None]
        if expand is None:
            expand = prob.device.type != 'cpu' and prob.size(-1) <= _MOST_EXPANDED
        plus_same_class = (_expanded if expand else _tiled)(prob, label)
        own = 1 - (prob[..., None, :] @ prob[..., None]).squeeze(-1)
        scale = plus_same_class(own, None).rsqrt()
        scaled = scale * features
        return scale * plus_same_class(own * scaled, scaled)


Products = Callable[[Tensor, Tensor | None], Tensor]
"""From ``plus`` and ``x``, both (B, n, D), to plus + P P^T x of each class; without ``x`` it is 1 everywhere."""


def _expanded(prob: Tensor, label: Tensor) -> Products:
    """All classes in one product: probabilities stand in the block of their node's class, (B, n, C C)."""
    classes = torch.arange(prob.size(-1), device=prob.device)
    blocks = ((label == classes)[..., None] * prob[:, :, None]).flatten(2)

    def products(plus: Tensor, x: Tensor | None) -> Tensor:
        sums = blocks.sum(1)[..., None] if x is None else blocks.transpose(1, 2) @ x
        return torch.baddbmm(plus, blocks, sums)

    return products


def _tiled(prob: Tensor, label: Tensor) -> Products:
    """Nodes are laid out in tiles that hold one class each, whose number is static.

    Memory is O(n (C + D)) plus the sums, (C, C, D) per graph.
    """
    batch, nodes, num_classes = prob.shape
    # As many rows as classes, at least, so that the (tiles, C, D) products stay O(n D); a power of 2.
    rows = max(_TILE_ROWS, 1 << (num_classes - 1).bit_length())
    tiles = nodes // rows + num_classes
    # A node's place among those of its class, counted from 1, and where the tiles of each class end.
    place = (label == torch.arange(num_classes, device=label.device)).cumsum(1)
    end = ((place[:, -1:] + (rows - 1)) & -rows).cumsum(-1)
    slot = end.gather(2, label.transpose(1, 2)).transpose(1, 2) - place.gather(2, label)
    first = torch.arange(0, tiles * rows, rows, device=label.device)[:, None]
    tile_class = ((first < end) & (first >= F.pad(end[..., :-1], (1, 0)))).to(prob.dtype)

    def to_tiles(x: Tensor) -> Tensor:
        empty = x.new_zeros(batch, tiles * rows, x.size(-1))
        return empty.scatter(1, slot.expand_as(x), x).view(batch, tiles, rows, -1)

    tiled = to_tiles(prob)

    def products(plus: Tensor, x: Tensor | None) -> Tensor:
        sums = tiled.sum(2) if x is None else (tiled.transpose(2, 3) @ to_tiles(x)).flatten(2)
        sums = (tile_class @ (tile_class.transpose(1, 2) @ sums)).view(batch, tiles, num_classes, -1)
        return plus + (tiled @ sums).flatten(1, 2).gather(1, slot.expand_as(plus))

    return products
