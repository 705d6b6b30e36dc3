"""The two graphs of MLLC as functions: exact, with memory linear in the number of nodes unless they are dense.

Nodes are pixels. Every function takes batches (B, n, .), one graph per batch entry, computes in float32 (float64 if
given float64) whatever autocast says, is differentiable, and needs neither an n x n matrix (the two named dense aside)
nor a host round trip. Nodes that ``valid`` marks False are padding: nobody's neighbour, part of no degree and no sum.
Their values must be finite.

Source: Multi-Level Label Correction (MLLC), Xiao et al., 2024 (arXiv:2404.02065), eq. 4 to 7.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmsemi.models.precision import full_precision, no_autocast

_TILE_ROWS = 64
_NO_DEGREE = 1e-12
"""Degrees up to this count as 0: their inverse root would overflow in the gradient."""


# Sparse products over k neighbours. `embedding_bag` adds up weighted rows without writing them out: memory stays
# O(n D), never O(n k D), and the order of summation is fixed. Batches are one graph without edges between its parts.


class _Edges:
    """Edges from every node to its k neighbours, and the same edges by their target.

    Args:
        index (Tensor): Neighbours within each graph, long, (B, n, k).
    """

    def __init__(self, index: Tensor) -> None:
        batch, nodes, self.k = index.shape
        first = nodes * torch.arange(batch, device=index.device)
        self.target = (index + first[:, None, None]).flatten(0, 1)
        target = self.target.flatten()
        self.by_target = target.argsort(stable=True)
        count = target.new_zeros(batch * nodes).scatter_add_(0, target, torch.ones_like(target))
        self.start = count.cumsum(0) - count

    def gather(self, weight: Tensor, x: Tensor) -> Tensor:
        """Ahat x: the weighted sum over each node's neighbours; ``weight`` (B, n, k), ``x`` (B, n, D)."""
        weight = weight.flatten(0, 1).contiguous()
        return F.embedding_bag(self.target, x.flatten(0, 1), per_sample_weights=weight, mode='sum').view_as(x)

    def scatter(self, weight: Tensor, x: Tensor) -> Tensor:
        """Ahat^T x: the weighted sum over the nodes whose neighbour a node is."""
        source = self.by_target.div(self.k, rounding_mode='floor')
        weight = weight.flatten()[self.by_target]
        total = F.embedding_bag(source, x.flatten(0, 1), self.start, per_sample_weights=weight, mode='sum')
        return total.view_as(x)

    def dot(self, source: Tensor, target: Tensor) -> Tensor:
        """Product of every node's ``source`` with the ``target`` of each neighbour, (B, n, k)."""
        rows, columns = source.flatten(0, 1), target.flatten(0, 1)
        ranks = [torch.linalg.vecdot(rows, columns.index_select(0, rank)) for rank in self.target.unbind(1)]
        return torch.stack(ranks, -1).view(*source.shape[:2], self.k)


class _SymmetricProduct(torch.autograd.Function):
    """(Ahat + Ahat^T) x for the sparse Ahat with entries ``weight`` at the edges' ends."""

    @staticmethod
    def forward(ctx, edges: _Edges, weight: Tensor, x: Tensor) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(weight, x)
        return edges.gather(weight, x) + edges.scatter(weight, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, Tensor]:
        weight, x = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = ctx.edges.gather(weight, grad) + ctx.edges.scatter(weight, grad)
        # Both products of an edge's ends at once.
        grad_weight = ctx.edges.dot(torch.cat((grad, x), -1), torch.cat((x, grad), -1))
        return None, grad_weight, grad_x


class _NearestCosine(torch.autograd.Function):
    """Cosine of each unit-length node with its k most similar others, (B, n, k), 0 where there are fewer; who they are.

    The rows of the similarity matrix exist ``block_size`` at a time.
    """

    @staticmethod
    def forward(ctx, unit: Tensor, k: int, valid: Tensor | None, block_size: int) -> tuple[Tensor, Tensor]:
        batch, n, _ = unit.shape
        rows = max(1, block_size // batch)
        if valid is not None:
            # Adding a row of these to a block is faster than masking it.
            absent = unit.new_zeros(batch, 1, n).masked_fill_(~valid[:, None], -torch.inf)
        cosines, indices = [], []
        for start in range(0, n, rows):
            similarity = unit[:, start : start + rows] @ unit.transpose(1, 2)
            similarity.diagonal(start, 1, 2).fill_(-torch.inf)
            if valid is not None:
                similarity += absent
            cosine, index = similarity.topk(min(k, n - 1), dim=-1)
            cosines.append(cosine)
            indices.append(index)
            del similarity
        cosine, index = torch.cat(cosines, 1), torch.cat(indices, 1)
        missing = cosine == -torch.inf
        if valid is not None:
            missing = missing | ~valid[..., None]
        ctx.save_for_backward(unit, index, missing)
        ctx.mark_non_differentiable(index)
        return cosine.masked_fill_(missing, 0.0), index

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        unit, index, missing = ctx.saved_tensors
        grad, edges = grad.masked_fill(missing, 0.0), _Edges(index)
        return edges.gather(grad, unit) + edges.scatter(grad, unit), None, None, None


def _positive_power(cosine: Tensor, gamma: float) -> Tensor:
    """[cosine]_+^gamma. The inner ``where`` keeps the gradient finite at 0 for gamma < 1."""
    kept = cosine > 0
    return torch.where(kept, torch.where(kept, cosine, 1.0).pow(gamma), 0.0)


def knn_affinity(
    features: Tensor,
    k: int,
    gamma: float = 1.0,
    valid: Tensor | None = None,
    block_size: int = 512,
    normalized: bool = False,
) -> tuple[Tensor, Tensor]:
    """Affinity of every node to its k nearest neighbours by cosine, exact (eq. 4).

    Similarities are computed for ``block_size`` rows at a time and forgotten: memory O(n (k + D)), and the gradient
    with respect to the features takes the same. The set of neighbours is constant in the gradient.

    Args:
        features (Tensor): Node features, need not be normalised, (B, n, D).
        k (int): Number of neighbours, >= 0; at most n - 1 are used.
        gamma (float): Exponent of the cosine, > 0.
        valid (Tensor, optional): False at padding, bool, (B, n).
        block_size (int): Rows of the similarity matrix that exist at one time, over the whole batch.
        normalized (bool): Whether the features have length 1 already. Defaults to False.

    Returns:
        tuple[Tensor, Tensor]: Neighbours, long, (B, n, k), most similar first, and weights [cos]_+^gamma, (B, n, k).
        Where a node has fewer than k neighbours the missing ones have weight 0 and an arbitrary index.
    """
    with no_autocast(features):
        unit = full_precision(features)
        if not normalized:
            unit = F.normalize(unit, dim=-1)
        cosine, index = _NearestCosine.apply(unit, k, valid, block_size)
        return index, _positive_power(cosine, gamma)


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


def _inverse_root(degree: Tensor) -> Tensor:
    """degree^-1/2, and 0 (with gradient 0) for a node without edges."""
    connected = degree > _NO_DEGREE
    return torch.where(connected, torch.where(connected, degree, 1.0).rsqrt(), 0.0)


def propagate_labels(index: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """Average of the neighbours' ``x``: A x, A = D^-1/2 (Ahat + Ahat^T) D^-1/2 (eq. 5), in O(n k C).

    Args:
        index (Tensor): Neighbours of each node, long, (B, n, k).
        weight (Tensor): Entries of Ahat, >= 0, (B, n, k), as :func:`knn_affinity` returns them.
        x (Tensor): What is propagated, (B, n, C).

    Returns:
        Tensor: (B, n, C); 0 for nodes without edges.
    """
    with no_autocast(x):
        weight, x = full_precision(weight), full_precision(x)
        edges = _Edges(index)
        scale = _inverse_root(_SymmetricProduct.apply(edges, weight, torch.ones_like(x[..., :1])))
        return scale * _SymmetricProduct.apply(edges, weight, scale * x)


def propagate_labels_dense(affinity: Tensor, x: Tensor) -> Tensor:
    """:func:`propagate_labels` for a dense ``affinity`` Ahat (B, n, n), as :func:`dense_affinity` returns it."""
    with no_autocast(x):
        affinity, x = full_precision(affinity), full_precision(x)
        affinity = affinity + affinity.transpose(1, 2)
        scale = _inverse_root(affinity.sum(-1, keepdim=True))
        return scale * (affinity @ (scale * x))


# Class-level graph


def _class_tiles(label: Tensor, num_classes: int, rows: int) -> tuple[Tensor, Tensor]:
    """Lay nodes out so that each tile of ``rows`` slots holds nodes of one class; the number of tiles is static.

    Returns:
        tuple[Tensor, Tensor]: The slot of every node, (B, n), and the class of each tile, one-hot bool, (B, tiles, C).
    """
    tiles = label.size(1) // rows + num_classes
    member = label[..., None] == torch.arange(num_classes, device=label.device)
    seen = member.cumsum(1)
    last = (seen[:, -1] + rows - 1).div(rows, rounding_mode='floor').cumsum(-1)
    first = F.pad(last[:, :-1], (1, 0))
    slot = first.gather(1, label) * rows + seen.gather(2, label[..., None]).squeeze(-1) - 1
    tile = torch.arange(tiles, device=label.device)[:, None]
    return slot, (tile >= first[:, None]) & (tile < last[:, None])


def propagate_features(prob: Tensor, features: Tensor, valid: Tensor | None = None) -> Tensor:
    """Average of the features of a node's class: W x, W = D^-1/2 What D^-1/2 (eq. 6, 7), in O(n C D).

    Within a class What = P P^T with the diagonal replaced by 1. So with y = argmax p, S_c the sum of p over class c and
    s_i = 1 - |p_i|^2, the degree is d_i = p_i . S_y + s_i, and with q_i = d_i^-1/2 p_i and M_c the sum of q_i^T X_i
    over class c, (W X)_i = q_i M_y + s_i / d_i X_i. Products run on tiles of nodes of one class, so that memory is
    O(n (C + D)) plus M, (C, C, D) per graph.

    Args:
        prob (Tensor): Class probabilities, rows sum to 1, (B, n, C). Their argmax is constant in the gradient.
        features (Tensor): What is propagated, (B, n, D).
        valid (Tensor, optional): False at padding, bool, (B, n).

    Returns:
        Tensor: (B, n, D); the input at padding.
    """
    with no_autocast(prob):
        prob, features = full_precision(prob), full_precision(features)
        label = prob.argmax(-1)
        if valid is not None:
            # Without probability a node has no edge but the one to itself: it adds nothing, and stays what it is.
            prob = prob.masked_fill(~valid[..., None], 0.0)
        batch, _, num_classes = prob.shape
        rows = max(_TILE_ROWS, num_classes)  # as many rows as classes: the (tiles, C, D) products stay O(n D)
        slot, tile_class = _class_tiles(label, num_classes, rows)
        tile_class = tile_class.to(prob.dtype)
        tiles = tile_class.size(1)

        def to_tiles(x: Tensor) -> Tensor:
            empty = x.new_zeros(batch, tiles * rows, x.size(-1))
            return empty.scatter_add_(1, slot[..., None].expand_as(x), x).view(batch, tiles, rows, -1)

        def class_sum_of(x: Tensor) -> Tensor:
            """Sum (B, tiles, ...) over the tiles of each class and give every tile its class's sum."""
            return (tile_class @ (tile_class.transpose(1, 2) @ x.flatten(2))).view_as(x)

        prob, x = to_tiles(prob), to_tiles(features)
        self_weight = 1 - prob.square().sum(-1, keepdim=True)
        prob_sum = class_sum_of(prob.sum(2))
        degree = prob @ prob_sum[..., None] + self_weight
        prob = prob * degree.rsqrt()
        class_features = class_sum_of(prob.transpose(2, 3) @ x)
        x = torch.addcmul(prob @ class_features, self_weight / degree, x)
        return x.flatten(1, 2).gather(1, slot[..., None].expand_as(features))
