"""A backbone that does not learn: student and teacher share it, and no image goes through it twice in a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def is_frozen(encoder: nn.Module) -> bool:
    """Whether a backbone has parameters and none of them learns."""
    flags = [parameter.requires_grad for parameter in encoder.parameters()]
    return bool(flags) and not any(flags)


class EncodedViews:
    """Levels of a frozen backbone by the tensor of images that they were made of, within one step."""

    def __init__(self) -> None:
        # The images are kept with their levels, so that no other tensor gets their id.
        self._known: dict[int, tuple[Tensor, tuple[Tensor, ...]]] = {}

    def __call__(self, encoder: nn.Module, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Levels of all ``views`` (B_v, 3, H, W), one after the other; only those not yet seen are computed, together.

        Returns:
            tuple[Tensor, ...]: Each (sum of B_v, C_l, h_l, w_l).
        """
        new = [view for view in views if id(view) not in self._known]
        if new:
            with torch.no_grad():
                levels = encoder(torch.cat(new) if len(new) > 1 else new[0])
            parts = zip(*(level.split([len(view) for view in new]) for level in levels), strict=True)
            self._known.update((id(view), (view, part)) for view, part in zip(new, parts, strict=True))
        found = zip(*(self._known[id(view)][1] for view in views), strict=True)
        return tuple(torch.cat(parts) if len(parts) > 1 else parts[0] for parts in found)


@contextmanager
def encoded_once(branches: Sequence[nn.Module]) -> Iterator[None]:
    """Within it the branches, which have one frozen backbone, encode an image that several of them see once."""
    encoded = EncodedViews()
    for branch in branches:
        branch.encoded = encoded
    try:
        yield
    finally:
        for branch in branches:
            branch.encoded = None
