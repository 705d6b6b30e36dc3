"""Which pixels of the input a location of a feature map sees, computed from the layers on the way to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Extent:
    """Receptive fields along one axis: location ``i`` sees the pixels from ``first + i * jump`` to ``last + i * jump``.

    Padding is seen as pixels outside of the image; after resizing by a fraction, the bounds need not be whole.

    Args:
        jump (float): Pixels between the fields of neighbouring locations.
        first, last (float): Bounds of location 0, inclusive; infinite after a global pooling.
    """

    jump: float = 1.0
    first: float = 0.0
    last: float = 0.0

    @property
    def size(self) -> float:
        """Number of pixels in a field."""
        return self.last - self.first + 1

    def through(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Extent:
        """The field behind a convolution or a pooling."""
        first = self.first - padding * self.jump
        last = self.last + (dilation * (kernel - 1) - padding) * self.jump
        return Extent(self.jump * stride, first, last)

    def resized(self, before: int, after: int, align_corners: bool, reach: int) -> Extent:
        """A field that holds the one behind interpolation between ``reach`` + 1 points, from one length to another."""
        if align_corners and after > 1:
            step, offset = (before - 1) / (after - 1), 0.0
        else:
            step, offset = before / after, before / after / 2 - 0.5
        first = self.first + (offset - reach) * self.jump
        last = self.last + (offset + reach) * self.jump
        return Extent(self.jump * step, first, last)

    def windows(self, locations: int, pixels: int, device: torch.device | str = 'cpu') -> tuple[Tensor, Tensor]:
        """First pixel and end (exclusive) of each location's field within the image, long, (locations,)."""
        place = torch.arange(locations, dtype=torch.float64, device=device) * self.jump
        first = (place + self.first).floor().clamp(0, pixels)
        end = (place + self.last + 1).ceil().clamp(0, pixels)
        return first.long(), end.long()

    def nearest(self, locations: int, pixels: int, device: torch.device | str = 'cpu') -> Tensor:
        """The location in whose field's middle each pixel lies most nearly (of two, the first), long, (pixels,)."""
        middle = (self.first + self.last) / 2
        place = torch.arange(pixels, dtype=torch.float64, device=device)
        if math.isfinite(middle):
            index = ((place - middle) / self.jump - 0.5).ceil()
        else:
            index = ((place + 0.5) * locations / pixels).floor()
        return index.clamp(0, locations - 1).long()

    def middles(self, locations: int, pixels: int, device: torch.device | str = 'cpu') -> Tensor:
        """The pixel in the middle of each location's field, long, (locations,)."""
        middle = (self.first + self.last) / 2
        place = torch.arange(locations, dtype=torch.float64, device=device)
        if math.isfinite(middle):
            index = (place * self.jump + middle).round()
        else:
            index = ((place + 0.5) * pixels / locations).floor()
        return index.clamp(0, pixels - 1).long()


Field = tuple[Extent, Extent]
"""Receptive fields along the height and the width."""


@torch.no_grad()
def receptive_fields(
    network: Callable[[Tensor], Iterable[Tensor]], side: int = 224
) -> list[tuple[Field, tuple[int, ...]]]:
    """Trace an image through ``network``, in evaluation mode, and add up what its layers see.

    Convolutions and poolings widen the field by their kernel, stride, dilation and padding; where paths meet, it is
    what any of them sees; a global pooling sees everything. Attention counts as no layer: a token of a transformer
    stands for the pixels of its patch.

    Args:
        network (Callable): From an image (1, 3, side, side) to features (1, D, h, w), by torch functions.
        side (int): A size that the network takes; patches of 14, 16 and 32 pixels divide the default.

    Returns:
        list[tuple[Field, tuple[int, ...]]]: For each feature the fields of its locations, and its shape.

    Raises:
        ValueError: If a transposed convolution is on the way, whose fields have no common size, or a layer that is not
            known skips pixels.
    """
    image = torch.rand(1, 3, side, side)
    image.seen = (Extent(), Extent())
    with _Tracer():
        features = network(image)
    for feature in features:
        for extent, locations in zip(feature.seen, feature.shape[2:], strict=True):
            if math.isfinite(extent.last) and abs(extent.jump * locations / side - 1) > 0.25:
                raise ValueError(
                    f'The receptive fields of {locations} locations in a row lie {extent.jump:g} pixels apart in an '
                    f'image of {side}: a layer on the way skips pixels in a way that is not known here.'
                )
    return [(feature.seen, tuple(feature.shape)) for feature in features]


class _Tracer(TorchFunctionMode):
    """Notes on every tensor what its locations see."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        seen = [x.seen for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and hasattr(x, 'seen')]
        if seen:
            field = _joined(seen)
            rule = _RULES.get(function)
            if rule is not None:
                field = rule(field, args, kwargs, result)
            for x in tree_leaves(result):
                if isinstance(x, Tensor):
                    x.seen = field
        return result


def _joined(fields: list[Field]) -> Field:
    """What any of several paths sees; of paths with unequal jumps (attention's keys) the finest counts."""
    joined = []
    for extents in zip(*fields, strict=True):
        jump = min((x.jump for x in extents if math.isfinite(x.last)), default=extents[0].jump)
        same = [x for x in extents if x.jump == jump or math.isinf(x.last)]
        joined.append(Extent(jump, min(x.first for x in same), max(x.last for x in same)))
    return tuple(joined)


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _argument(args: tuple, kwargs: dict, place: int, name: str, default: Any) -> Any:
    value = args[place] if len(args) > place else kwargs.get(name, default)
    return default if value is None or value == [] or value == () else value


def _convolution(field: Field, args: tuple, kwargs: dict, result: Tensor) -> Field:
    kernel = args[1].shape[2:]
    stride = _pair(_argument(args, kwargs, 3, 'stride', 1))
    dilation = _pair(_argument(args, kwargs, 5, 'dilation', 1))
    padding = _argument(args, kwargs, 4, 'padding', 0)
    if isinstance(padding, str):
        padding = [d * (k - 1) // 2 if padding == 'same' else 0 for k, d in zip(kernel, dilation, strict=True)]
    padding = _pair(padding)
    return tuple(x.through(kernel[i], stride[i], padding[i], dilation[i]) for i, x in enumerate(field))


def _pooling(dilated: bool) -> Callable:
    def rule(field: Field, args: tuple, kwargs: dict, result: Tensor) -> Field:
        kernel = _pair(_argument(args, kwargs, 1, 'kernel_size', 1))
        stride = _pair(_argument(args, kwargs, 2, 'stride', kernel))
        padding = _pair(_argument(args, kwargs, 3, 'padding', 0))
        dilation = _pair(_argument(args, kwargs, 4, 'dilation', 1)) if dilated else (1, 1)
        return tuple(x.through(kernel[i], stride[i], padding[i], dilation[i]) for i, x in enumerate(field))

    return rule


def _unfolding(field: Field, args: tuple, kwargs: dict, result: Tensor) -> Field:
    kernel, dilation, padding, stride = (
        _pair(_argument(args, kwargs, place, name, default))
        for place, name, default in (
            (1, 'kernel_size', 1), (2, 'dilation', 1), (3, 'padding', 0), (4, 'stride', 1)
        )
    )  # fmt: skip
    return tuple(x.through(kernel[i], stride[i], padding[i], dilation[i]) for i, x in enumerate(field))


def _global_pooling(field: Field, args: tuple, kwargs: dict, result: Any) -> Field:
    return tuple(replace(x, first=-math.inf, last=math.inf) for x in field)


def _interpolation(field: Field, args: tuple, kwargs: dict, result: Tensor) -> Field:
    mode = _argument(args, kwargs, 3, 'mode', 'nearest')
    align = bool(_argument(args, kwargs, 4, 'align_corners', False))
    reach = {'nearest': 1, 'nearest-exact': 1, 'bilinear': 1, 'bicubic': 2, 'area': 1}[mode]
    before, after = args[0].shape[2:], result.shape[2:]
    return tuple(x.resized(before[i], after[i], align, reach) for i, x in enumerate(field))


def _padding(field: Field, args: tuple, kwargs: dict, result: Tensor) -> Field:
    amounts = list(_argument(args, kwargs, 1, 'pad', (0,)))
    left = amounts[0::2] + [0, 0]
    shifts = (left[1], left[0])  # from the last axis on
    return tuple(
        replace(x, first=x.first - n * x.jump, last=x.last - n * x.jump) for x, n in zip(field, shifts, strict=True)
    )


def _no_common_size(field: Field, args: tuple, kwargs: dict, result: Any) -> Field:
    raise ValueError(
        'The receptive fields behind a transposed convolution have no common size; take a level before it.'
    )


_RULES: dict[Callable, Callable] = {
    torch.conv2d: _convolution,
    F.conv2d: _convolution,
    torch.max_pool2d: _pooling(dilated=True),
    F.max_pool2d: _pooling(dilated=True),
    F.avg_pool2d: _pooling(dilated=False),
    F.adaptive_avg_pool2d: _global_pooling,
    F.adaptive_max_pool2d: _global_pooling,
    F.unfold: _unfolding,
    F.interpolate: _interpolation,
    F.pad: _padding,
    F.conv_transpose2d: _no_common_size,
}
