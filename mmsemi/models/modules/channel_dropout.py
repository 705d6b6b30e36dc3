"""Dropout of whole channels, drawn together for the views of an image and for all levels of a backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ComplementaryDropout(nn.Module):
    """Two views of an image divide the channels of its features among them: what one loses, the other has twice.

    Each channel goes to either view with equal chance. A share of the images, drawn anew in each step, loses channels
    in both views; the others keep all channels. The same channels are dropped at all levels of one width, which in a
    plain vision transformer are all levels, and at all places of a map. As any dropout it acts in training alone.

    Source: UniMatch V2, Yang et al., 2024 (arXiv:2410.10777), complementary dropout; the share of images as released.

    Args:
        share (float): Share of the images that lose channels, in [0, 1]; of 1 image, all (the number that keeps its
            channels is rounded down). Defaults to 0.5.
        complementary (bool): False draws the channels of each view by itself, as Dropout2d does. One view alone, or
            more than two, are always drawn by themselves. Defaults to True.

    Raises:
        ValueError: If ``share`` lies outside [0, 1].
    """

    def __init__(self, share: float = 0.5, complementary: bool = True) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f'ComplementaryDropout: share must lie in [0, 1], not {share!r}.')
        self.share = share
        self.complementary = complementary

    def forward(self, levels: tuple[Tensor, ...], views: int = 2) -> tuple[Tensor, ...]:
        """Drop channels of levels (views * N, C_l, h_l, w_l): first one view of all N images, then the other."""
        if not self.training:
            return levels
        images, device = len(levels[0]) // views, levels[0].device
        order = torch.rand(images, device=device).argsort()
        masks = {width: self.draw(views, order, width) for width in dict.fromkeys(x.shape[1] for x in levels)}
        return tuple(level * masks[level.shape[1]].to(level.dtype)[..., None, None] for level in levels)

    def draw(self, views: int, order: Tensor, channels: int) -> Tensor:
        """Factors of the channels, (views * N, channels), for N images in a random ``order`` (N,)."""
        whole = int(len(order) * (1 - self.share))
        paired = self.complementary and views == 2
        kept = torch.rand(1 if paired else views, len(order), channels, device=order.device) < 0.5
        return complementary_masks(kept[0], order, whole) if paired else channel_masks(kept, order, whole)


def complementary_masks(kept: Tensor, order: Tensor, whole: int) -> Tensor:
    """M of the first views and 2 - M of the second ones.

    Args:
        kept (Tensor): Channels that the first view keeps, bool, (N, C).
        order (Tensor): Permutation of the N images, long, (N,); the first ``whole`` of it keep all channels.
        whole (int): How many images keep all channels, from 0 to N.

    Returns:
        Tensor: 0, 1 or 2, float, (2 N, C): first all first views, then all second ones.
    """
    return channel_masks(torch.stack([kept, ~kept]), order, whole)


def channel_masks(kept: Tensor, order: Tensor, whole: int) -> Tensor:
    """Twice what is kept, so that channels keep their mean; 1 where an image keeps all of them.

    Args:
        kept (Tensor): Channels that each view keeps, bool, (V, N, C).
        order (Tensor): Permutation of the N images, long, (N,); the first ``whole`` of it keep all channels.
        whole (int): How many images keep all channels, from 0 to N.

    Returns:
        Tensor: 0, 1 or 2, float, (V N, C), view after view.
    """
    place = order.argsort()  # of each image in the permutation
    return torch.where((place < whole)[:, None], 1.0, 2.0 * kept).flatten(0, 1)
