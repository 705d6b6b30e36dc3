"""The exact nearest neighbours of every node by cosine, in blocks: no n x n matrix, no host round trip."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_SPARE = 6
"""How many neighbours more than needed a first pass finds, and how many of those that it found last are in doubt."""
_TIE = 2.0**-52
"""What a similarity gives way to one with a number smaller by 1: nothing, unless they are equal."""
_CPU_ROWS = 256
"""Rows of a block on a CPU, for one image: it lives in the cache."""
_GPU_SHARE = 32
"""A block takes at most this fraction of a GPU's memory."""
_GPU_MEMORY = 24 * 2**30
"""Of a device that does not tell."""


@torch.no_grad()
def nearest_neighbors(unit: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` other nodes of its graph with the largest products with each node; of equal ones those that come first.

    A first pass computes all products in the precision of ``unit`` and keeps ``k`` and six more. Products of the last
    twelve of these are then computed in float64, and the best of them complete the neighbours. So they are those of
    float64 as long as no more than six nodes lie within rounding (about 1e-7) of the last neighbour's product without
    being equal to it; of equal nodes there may be any number.

    The first pass finds the largest of many products in two steps: the groups of nodes with the largest maxima, and the
    largest of their members. Of equal products that with the smaller number counts for more: they are made float64, and
    less by 2^-52 times the number, which is far less than other products differ by in float32.

    Args:
        unit (Tensor): Nodes of length 1, or 0 for those that have no neighbours, float32 or float64, (B, n, D).
        k (int): At least 1; at most n - 1 are found.

    Returns:
        tuple[Tensor, Tensor]: The neighbours, as numbers of nodes in the whole batch, long, (B, n, k), most similar
        first but for rounding, and the products, (B, n, k).
    """
    batch, nodes, channels = unit.shape
    k = min(k, nodes - 1)
    found = min(k + _SPARE, nodes - 1)
    sure = max(0, k - _SPARE)
    number = torch.arange(batch * nodes, dtype=torch.float64, device=unit.device).view(batch, nodes)
    graphs = 1 if unit.device.type == 'cpu' else batch
    parts = [_first_pass(*part, found) for part in zip(unit.split(graphs), number.split(graphs), strict=True)]
    candidate, product = (_joined(x, 0).flatten(0, 1) for x in zip(*parts, strict=True))
    rows = unit.flatten(0, 1)
    step = _rows_at_a_time(unit, 12 * (found - sure) * channels)
    doubted = [
        (take_rows(rows, some) * node[:, None]).sum(-1)
        for some, node in zip(candidate[:, sure:].split(step), rows.double().split(step), strict=True)
    ]
    # Stable: of equal ones the first pass's order.
    best, order = _joined(doubted, 0).sort(dim=-1, descending=True, stable=True)
    last = candidate[:, sure:].gather(1, order[:, : k - sure])
    products = torch.cat((product[:, :sure], best[:, : k - sure]), 1).to(unit.dtype)
    return torch.cat((candidate[:, :sure], last), 1).view(batch, nodes, k), products.view(batch, nodes, k)


def _first_pass(unit: Tensor, number: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest products of each node in the precision of ``unit``, (B, n, count), and whose they are."""
    batch, nodes, _ = unit.shape
    size = _group_size(nodes, count)
    groups = -(-nodes // size)
    surplus = groups * size - nodes
    # Columns that fill the last group; they are similar to none.
    padded = F.pad(unit, (0, 0, 0, surplus)) if surplus else unit
    members = number[:, None, None, :size]
    rows = max(1, _rows_at_a_time(unit, unit.element_size() * nodes + 20 * count * size) // batch)
    candidates, products = [], []
    for start in range(0, nodes, rows):
        similarity = _products(unit[:, start : start + rows], padded)
        similarity.diagonal(start, 1, 2).fill_(-torch.inf)
        if surplus:
            similarity[..., nodes:].fill_(-torch.inf)
        grouped = similarity.unflatten(2, (groups, size))
        # Reduced along the transpose: on a CPU, that is how it lies in memory.
        largest = grouped.permute(0, 2, 3, 1).amax(2).transpose(1, 2)
        largest = torch.sub(largest, number[:, None, :groups], alpha=_TIE)
        chosen = largest.topk(min(count, groups), sorted=False).indices[..., None]
        member = grouped.gather(2, chosen.expand(-1, -1, -1, size)).flatten(2)
        whose = torch.add(members, chosen, alpha=size).flatten(2)
        product, place = torch.sub(member, whose, alpha=_TIE).topk(count)
        candidates.append(whose.gather(2, place).long())
        products.append(product)
    return _joined(candidates, 1), _joined(products, 1)


def take_rows(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]``, for a table (m, D) and an index of any shape."""
    if table.device.type != 'cpu':
        return table[index]
    return table.index_select(0, index.flatten()).view(*index.shape, -1)  # twice as fast there


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Blocks in a row; a single one is not copied."""
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def _products(some: Tensor, unit: Tensor) -> Tensor:
    """Products of ``some`` nodes with all of their graph, (B, r, n)."""
    if unit.device.type != 'cpu' or unit.dtype != torch.float32 or len(unit) > 1:
        return some @ unit.transpose(1, 2)
    # On a CPU a 1x1 convolution in channels-last may be twice as fast as a matrix product. Its dilation means nothing,
    # but without it torch does not ask oneDNN on one thread. The result lies transposed, as maxima of groups like it.
    image = unit[:, :, None].permute(0, 3, 1, 2)
    return F.conv2d(image, some[0, :, :, None, None], dilation=2)[..., 0]


def _group_size(nodes: int, count: int) -> int:
    """How many nodes a group has, so that the groups and the members of ``count`` of them are about equally many.

    A number that divides the nodes, if one is near.
    """
    best = max(1, round((nodes / count) ** 0.5))
    near = [size for size in range(max(1, best // 2), 2 * best + 1) if nodes % size == 0]
    return min(near, key=lambda size: abs(size - best), default=best)


def _rows_at_a_time(unit: Tensor, bytes_a_row: int) -> int:
    """How many rows of the whole batch one block may have."""
    return _CPU_ROWS if unit.device.type == 'cpu' else max(1, _gpu_memory(unit.device) // _GPU_SHARE // bytes_a_row)


def _gpu_memory(device: torch.device) -> int:
    if device.type == 'cuda' and torch.cuda.is_available():
        return torch.cuda.get_device_properties(device).total_memory
    return _GPU_MEMORY
