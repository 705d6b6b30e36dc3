"""Region propagation of CorrMatch: confident pixels of one class give that class to the whole shape that they lie in.

Shapes act one after another, and a later one counts the labels that an earlier one wrote. So there are as many
decisions as shapes, each after the one before; but a decision needs counts alone, not pixels. Eight shapes make a byte,
which sorts the pixels into 256 kinds; the eight act on how often the kinds have each label, and the pixels look up what
became of their kind. All of it is exact, and nothing waits for the device.

Source: CorrMatch, Sun et al., 2024 (arXiv:2306.04300), section 3.3 and algorithm 1.
"""

from __future__ import annotations

import torch
from mmseg.models.utils import resize
from torch import Tensor
from torch.nn import functional as F

from mmsemi.models.precision import no_autocast
from mmsemi.structures import PseudoLabel

_BITS = (128, 64, 32, 16, 8, 4, 2, 1)
"""The bit of each of the shapes that share a byte, in their order."""
_KINDS = 256
_PIXELS_AT_ONCE = {'cpu': 1 << 22, 'cuda': 1 << 26}
"""Pixels of shapes that exist at a time, over the batch, in float32: what suits a CPU's cache, what fills a GPU."""
_ENTRIES_AT_ONCE = 1 << 24
"""Entries of the tables that shapes act on, over the batch, in float64."""
_SHARP = 1024.0
"""The least difference of two scores; their softmax then is exactly 1 and 0."""


def binary_shapes(rows: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """The shape in each row of a correlation map: resized to the crop, scaled to [0, 1], above one half.

    Source: eq. 7.

    Args:
        rows (Tensor): (B, m, h, w).
        size (tuple[int, int]): H, W.
        align_corners (bool): How to resize.

    Returns:
        Tensor: bool, (B, m, H, W).
    """
    rows = resize(rows, size=size, mode='bilinear', align_corners=align_corners)
    low, high = rows.amin((2, 3), keepdim=True), rows.amax((2, 3), keepdim=True)
    return rows > 0.5 * (low + high)


def pack_shapes(shapes: Tensor) -> Tensor:
    """Eight shapes to a byte, the first in the highest bit: bool (B, m, H, W) to uint8 (B, ceil(m / 8), H, W)."""
    missing = -shapes.shape[1] % len(_BITS)
    if missing:
        shapes = F.pad(shapes, (0, 0, 0, 0, 0, missing))
    bits = _bits(shapes.device).to(torch.uint8)[:, None, None]
    return (shapes.unflatten(1, (-1, len(_BITS))) * bits).sum(2, dtype=torch.uint8)


def packed_shapes(rows: Tensor, allowed: Tensor, align_corners: bool = False) -> Tensor:
    """:func:`binary_shapes` where they may lie, packed, some at a time so that memory holds them.

    Args:
        rows (Tensor): Sampled rows of the correlation maps, (B, m, h, w).
        allowed (Tensor): Where shapes may lie, bool, (B, H, W).
        align_corners (bool): How to resize rows.

    Returns:
        Tensor: uint8, (B, ceil(m / 8), H, W).
    """
    size = tuple(allowed.shape[1:])
    some = len(_BITS) * max(1, _at_once(allowed) // len(_BITS))
    shapes = (binary_shapes(part, size, align_corners) & allowed[:, None] for part in rows.split(some, 1))
    return torch.cat([pack_shapes(part) for part in shapes], 1)


def count_shapes(packed: Tensor) -> Tensor:
    """How many of :func:`packed_shapes` cover a pixel, float, (B, H, W)."""
    bits = _bits(packed.device).to(torch.uint8)[:, None, None]
    return ((packed[:, :, None] & bits) > 0).sum((1, 2)).float()


def region_propagation(
    pseudo: PseudoLabel, shapes: Tensor, threshold: Tensor | float, num_classes: int, cascade: bool = False
) -> PseudoLabel:
    """Give the leading class of a shape's confident pixels to the whole shape, one shape after another.

    A shape acts if at least ``threshold`` of it is confident and its leading class has more than ``threshold`` of those
    pixels. Its confident pixels are those from before any shape acted; their labels are what earlier shapes made them.
    Among equal counts the lower class leads.

    Source: eq. 8 to 10, algorithm 1.

    Args:
        pseudo (PseudoLabel): Labels, confident where the weight is above 0, (B, H, W).
        shapes (Tensor): Packed shapes, where they may lie, uint8, (B, ceil(m / 8), H, W).
        threshold (Tensor | float): tau, in [0, 1], compared in float32.
        num_classes (int): Number of classes (C).
        cascade (bool): What a shape has written is confident for later ones. Not the paper's, and much slower. Defaults
            to False.

    Returns:
        PseudoLabel: The new labels, with weight 1 where a shape was written.
    """
    images = max(1, _ENTRIES_AT_ONCE // (_KINDS * (num_classes + 1) ** 2))
    act = _cascade if cascade else _propagate
    with no_autocast(pseudo.weight):
        parts = [
            act(label, weight > 0, part, threshold, num_classes)
            for label, weight, part in zip(
                pseudo.label.flatten(1).split(images),
                pseudo.weight.flatten(1).split(images),
                shapes.flatten(2).split(images),
                strict=True,
            )
        ]
    label, written = (torch.cat(maps).view_as(pseudo.label) for maps in zip(*parts, strict=True))
    return PseudoLabel(label, torch.where(written, 1, pseudo.weight), pseudo.prob)


def _propagate(
    label: Tensor, confident: Tensor, kinds: Tensor, threshold: Tensor | float, num_classes: int
) -> tuple[Tensor, Tensor]:
    """New labels and where a shape was written, (B, n), for n pixels of ``kinds`` (B, bytes, n)."""
    columns, bits = num_classes + 1, _bits(label.device)
    sets = torch.arange(_KINDS, device=label.device)
    # Which kinds lie in all shapes of a set, (sets, kinds); a set is a byte as a kind is.
    within = ((sets[:, None] & ~sets) == 0).double()
    common = _count_kinds(kinds, confident) @ within.T
    # A kind takes the class of the last of its shapes that wrote, or keeps its own.
    order = ((sets[:, None] & bits) > 0) * 2.0 ** torch.arange(1, len(_BITS) + 1, device=label.device).double()
    own = torch.eye(columns, dtype=common.dtype, device=label.device)
    # A shape's scores: its votes, of which the lower class wins a tie, and behind them what the winner needs.
    unit = _SHARP * columns
    needed = unit * _votes_needed(common.index_select(3, bits).float(), threshold).double() - _SHARP * num_classes
    ties = (-_SHARP * torch.arange(num_classes, device=label.device).double()).expand(*needed.shape, -1)
    scores = torch.cat([ties, needed[..., None]], 3)
    scores = common.new_zeros(*common.shape[:2], _KINDS, columns).index_copy_(2, bits, scores)
    vote, voters = unit * confident.double(), unit * common[:, :, 1, :, None]
    alike = F.pad(own[:-1, :-1], (0, 1, 0, 1))[:, None]

    tables = common.new_zeros(kinds.shape[1], len(label), _KINDS * columns)
    written = []
    for i, table in enumerate(tables):
        index = torch.add(label, kinds[:, i], alpha=columns)
        votes = table.scatter_add_(1, index, vote).unflatten(1, (-1, columns))
        votes = torch.baddbmm(scores[:, i], within.expand(len(label), -1, -1), votes)
        written.append(_decide(torch.addcmul(votes[:, None], voters[:, i, None], alike, value=-1)))
        of_kind = ((order @ written[-1])[:, :, None] + own[:, :-1]).argmax(3)
        label = of_kind.flatten(1).gather(1, index)
    acted = (torch.stack(written, 1).sum(3) * bits).sum(2).to(torch.uint8)
    return label, (kinds & acted[..., None]).amax(1) > 0


def _decide(excess: Tensor) -> Tensor:
    """What the eight shapes of a byte write, each after the one before it.

    Votes are counted for each set of shapes, of the pixels that lie in all of them. A shape that writes a class gives
    it the votes of all its pixels; a set then loses, of what it has in common with this shape, the excess over "all are
    of this class". After a shape's turn sets with it are of no interest: every turn leaves half of the tables.

    Args:
        excess (Tensor): Votes less what they were if all were for one class, for each such class and, the last, for
            none; float64, (B, C + 1, sets, C + 1), changed in place. Where a set is one shape, the last are its scores.

    Returns:
        Tensor: 1 for the class that a shape writes, else 0, float64, (B, 8, C).
    """
    chosen = []
    for bit in _BITS:
        chosen.append(excess[:, -1, bit].softmax(1))
        if bit > 1:
            choice = chosen[-1][:, None, :-1].expand(-1, excess.shape[1], -1)
            others, shared = excess[:, :, :bit].flatten(2), excess[:, :-1, bit : 2 * bit].flatten(2)
            others.baddbmm_(choice, shared, alpha=-1)
    return torch.stack(chosen, 1)[..., :-1]


def _votes_needed(pixels: Tensor, threshold: Tensor | float) -> Tensor:
    """The fewest votes with which a class wins a shape, and more than it has if the shape must not act, (B, bytes, 8).

    Args:
        pixels (Tensor): Pixels of each shape that are not confident, and that are, float32, (B, bytes, 2, 8).
        threshold (Tensor | float): tau.
    """
    size, confident = pixels.sum(2), pixels[:, :, 1]
    # Which of these shares are above tau is asked of the rounded quotient, as the authors' code does.
    near = (confident * threshold).floor()[..., None] + torch.arange(2, device=pixels.device)
    needed = near[..., 0] + (near / confident[..., None] <= threshold).sum(3)
    # Without a pixel the quotient is no number, and accepts nothing.
    return torch.where(confident / size >= threshold, needed.clamp(min=1), size + 1)


def _count_kinds(kinds: Tensor, confident: Tensor) -> Tensor:
    """Pixels of each kind that are not confident, and that are: float64, (B, bytes, 2, kinds)."""
    counts = []
    for part in kinds.split(max(1, _at_once(confident) // 2), 1):
        index = torch.add(part, confident.long()[:, None], alpha=_KINDS)
        zeros = torch.zeros(*part.shape[:2], 2 * _KINDS, dtype=torch.float64, device=part.device)
        counts.append(zeros.scatter_add_(2, index, zeros.new_ones(()).expand(index.shape)))
    return torch.cat(counts, 1).unflatten(2, (2, _KINDS))


def _cascade(
    label: Tensor, confident: Tensor, kinds: Tensor, threshold: Tensor | float, num_classes: int
) -> tuple[Tensor, Tensor]:
    """As :func:`_propagate`, but what was written is confident from then on: the shapes one by one, on the pixels."""
    written = torch.zeros_like(confident)
    for i in range(kinds.shape[1]):
        for bit in _BITS:
            shape = (kinds[:, i] & bit) > 0
            label, wrote = write_shape(label, shape, shape & (confident | written), threshold, num_classes)
            written = written | wrote
    return label, written


def write_shape(
    label: Tensor, shape: Tensor, confident: Tensor, threshold: Tensor | float, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Let one shape act, on the pixels (eq. 8 to 10): the new labels, and where it was written, (B, n).

    Args:
        label (Tensor): What earlier shapes made of the labels, long, (B, n).
        shape (Tensor): Where it lies, bool, (B, n).
        confident (Tensor): Its confident pixels, bool, (B, n).
        threshold (Tensor | float): tau.
        num_classes (int): Number of classes (C).
    """
    inside = confident.float()
    votes = inside.new_zeros(len(label), num_classes).scatter_add_(1, label, inside)
    best, leader = votes.max(1)
    overlap = inside.sum(1)
    acts = (overlap / shape.sum(1) >= threshold) & (best / overlap > threshold)
    wrote = shape & acts[:, None]
    return torch.where(wrote, leader[:, None], label), wrote


def _at_once(maps: Tensor) -> int:
    """How many maps for each image memory should hold at a time."""
    return _PIXELS_AT_ONCE.get(maps.device.type, 1 << 26) // maps.numel()


def _bits(device: torch.device) -> Tensor:
    return _BITS[0] >> torch.arange(len(_BITS), device=device)
