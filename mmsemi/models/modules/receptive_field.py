"""Which pixels of the input a location of a feature map sees, computed from the layers on the way to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
        shared (int): So many neighbours see what the first of them sees, from location 0 on. Defaults to 1.
    """

    jump: float = 1.0
    first: float = 0.0
    last: float = 0.0
    shared: int = 1

    @property
    def size(self) -> float:
        """Number of pixels in a field."""
        return self.last - self.first + 1

    @property
    def middle(self) -> float:
        """Middle of the field of location 0; not finite after a global pooling."""
        even = self.evenly()
        return (even.first + even.last) / 2

    def evenly(self) -> Extent:
        """The narrowest fields that hold these, one for each location."""
        return Extent(self.jump, self.first - (self.shared - 1) * self.jump, self.last)

    def through(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Extent:
        """The field behind a convolution or a pooling."""
        if (kernel, stride, padding) == (1, 1, 0):
            return self
        x = self.evenly()
        first = x.first - padding * x.jump
        last = x.last + (dilation * (kernel - 1) - padding) * x.jump
        return Extent(x.jump * stride, first, last)

    def transposed(self, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Extent:
        """A field that holds the one behind a transposed convolution; that one, where its windows tile the output.

        Output ``o`` sees the inputs from ``(o + padding - dilation * (kernel - 1)) / stride`` to
        ``(o + padding) / stride``.
        """
        if (kernel, padding, dilation) == (stride, 0, 1):
            return Extent(self.jump / stride, self.first, self.last, self.shared * stride)
        x = self.evenly()
        first = x.first + (padding - dilation * (kernel - 1)) / stride * x.jump
        return Extent(x.jump / stride, first, x.last + padding / stride * x.jump)

    def resized(self, before: int, after: int, align_corners: bool, reach: int) -> Extent:
        """A field that holds the one behind interpolation between ``reach`` + 1 points, from one length to another."""
        if align_corners and after > 1:
            step, offset = (before - 1) / (after - 1), 0.0
        else:
            step, offset = before / after, before / after / 2 - 0.5
        x = self.evenly()
        first = x.first + (offset - reach) * x.jump
        last = x.last + (offset + reach) * x.jump
        return Extent(x.jump * step, first, last)

    def shifted(self, locations: int) -> Extent:
        """The field behind ``locations`` more (or, negative, fewer) at the start."""
        if not locations:
            return self
        x = self.evenly()
        return Extent(x.jump, x.first - locations * x.jump, x.last - locations * x.jump)

    def windows(self, locations: int, pixels: int, device: torch.device | str = 'cpu') -> tuple[Tensor, Tensor]:
        """First pixel and end (exclusive) of each location's field within the image, long, (locations,)."""
        place = torch.arange(locations, dtype=torch.float64, device=device)
        if self.shared > 1:
            place = place - place % self.shared
        place = place * self.jump
        # Rounded down by the conversion to whole numbers.
        first = (place + self.first).clamp(0, pixels)
        end = (place + (self.last + 1)).ceil().clamp(0, pixels)
        return first.long(), end.long()

    def nearest(self, locations: int, pixels: int, device: torch.device | str = 'cpu') -> Tensor:
        """The location in whose field's middle each pixel lies most nearly (of two, the first), long, (pixels,)."""
        middle = self.middle
        place = torch.arange(pixels, dtype=torch.float64, device=device)
        if math.isfinite(middle):
            index = ((place - middle) / self.jump - 0.5).ceil()
        else:
            index = ((place + 0.5) * locations / pixels).floor()
        return index.clamp(0, locations - 1).long()

    def middles(self, locations: int, pixels: int, device: torch.device | str = 'cpu') -> Tensor:
        """The pixel in the middle of each location's field, long, (locations,)."""
        middle = self.middle
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
    network: Callable[[Tensor], Tensor], size: tuple[int, int], device: torch.device | str = 'cpu', channels: int = 3
) -> Field:
    """Trace an image through ``network``, in evaluation mode, and add up what its layers see.

    Convolutions and poolings widen the field by their kernel, stride, dilation and padding; where paths meet, it is
    what any of them sees; a global pooling sees everything. Attention counts as no layer: a token of a transformer
    stands for the pixels of its patch, and a map stands for itself whatever gate of a global pooling multiplies it.
    The fields are exact but for resizing, overlapping windows of transposed convolutions and paths that meet slightly
    out of step, behind which they hold the exact ones.

    Args:
        network (Callable): From an image (1, channels, H, W) to a feature (1, D, h, w), by torch functions.
        size (tuple[int, int]): Height and width of the image; what resizing does depends on it.
        device (torch.device | str): Of the image. On 'meta', with the network there too, nothing is computed. Defaults
            to 'cpu'.
        channels (int): Of the image. Defaults to 3.

    Returns:
        Field: The fields of the feature's locations.

    Raises:
        ValueError: If a layer that is not known skips pixels.
    """
    image = torch.zeros(1, channels, *size, device=device)
    image.seen = (Extent(), Extent())
    with _Tracer(size):
        feature = network(image)
    for extent, locations, side in zip(feature.seen, feature.shape[2:], size, strict=True):
        # The last location may reach over the edge, and windows without padding end before it.
        if math.isfinite(extent.last) and abs(extent.jump * locations - side) > max(side / 4, extent.jump):
            raise ValueError(
                f'The receptive fields of {locations} locations in a row lie {extent.jump:g} pixels apart in an image '
                f'of {side}: a layer on the way skips pixels in a way that is not known here.'
            )
    return feature.seen


class _Tracer(TorchFunctionMode):
    """Notes on every tensor what its locations see."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        seen = [x.seen for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and hasattr(x, 'seen')]
        if seen:
            if getattr(function, '__name__', '') in _PRODUCTS:
                seen = [field for field in seen if all(math.isfinite(x.last) for x in field)] or seen
            field = tuple(_union(paths, side) for paths, side in zip(zip(*seen, strict=True), self.size, strict=True))
            rule = _RULES.get(function)
            if rule is not None:
                field = rule(field, args, kwargs, result)
            for x in tree_leaves(result):
                if isinstance(x, Tensor):
                    x.seen = field
        return result


_PRODUCTS = {'mul', 'mul_', 'multiply', 'multiply_'}
"""Where a factor that sees everything is a gate (squeeze and excitation)."""


def _union(paths: Sequence[Extent], pixels: int) -> Extent:
    """The narrowest field that holds what each path sees, all along an image of ``pixels``.

    Paths in less than half of the finest's steps (attention's keys) do not count.
    """
    finite = [x for x in paths if math.isfinite(x.last)]
    finest = min((x.jump for x in finite), default=paths[0].jump)
    if len(finite) < len(paths):
        return Extent(finest, -math.inf, math.inf)
    near = [x for x in paths if x.jump < 2 * finest]
    if len({(x.jump, x.shared) for x in near}) > 1:
        near = [x.evenly() for x in near]
    unions = []
    for jump in {x.jump for x in near}:
        # How far the paths are out of step in the end.
        drifts = [(x.jump - jump) * pixels / finest for x in near]
        first = min(x.first + min(drift, 0) for x, drift in zip(near, drifts, strict=True))
        last = max(x.last + max(drift, 0) for x, drift in zip(near, drifts, strict=True))
        unions.append(Extent(jump, first, last, near[0].shared))
    return min(unions, key=lambda x: (x.size, x.jump))


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _argument(args: tuple, kwargs: dict, place: int, name: str, default: Any) -> Any:
    value = args[place] if len(args) > place else kwargs.get(name, default)
    return default if value is None or value == [] or value == () else value


def _sliding(along: Callable, steps: int | None = 1, **places: int) -> Callable:
    """A rule for windows whose settings have these places among the arguments; their size may be that of a weight.

    Args:
        along (Callable): Method of :class:`Extent`.
        steps (int, optional): Stride unless given; None: the window's size.
        **places (int): Of 'kernel_size', 'stride', 'padding' and 'dilation'.
    """

    def rule(field: Field, args: tuple, kwargs: dict, result: Any) -> Field:
        def setting(name: str, default: Any) -> Any:
            return _argument(args, kwargs, places[name], name, default) if name in places else default

        kernel = _pair(setting('kernel_size', None) or args[1].shape[2:])
        stride, dilation = _pair(setting('stride', steps or kernel)), _pair(setting('dilation', 1))
        padding = setting('padding', 0)
        if isinstance(padding, str):
            padding = [d * (k - 1) // 2 if padding == 'same' else 0 for k, d in zip(kernel, dilation, strict=True)]
        return tuple(map(along, field, kernel, stride, _pair(padding), dilation))

    return rule


def _global_pooling(field: Field, args: tuple, kwargs: dict, result: Any) -> Field:
    return tuple(Extent(x.jump, -math.inf, math.inf) for x in field)


def _reduction(field: Field, args: tuple, kwargs: dict, result: Tensor) -> Field:
    axes = _argument(args, kwargs, 1, 'dim', ())
    pooled = args[0].ndim == 4 and isinstance(axes, Sequence) and {axis % 4 for axis in axes} == {2, 3}
    return _global_pooling(field, args, kwargs, result) if pooled else field


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
    return tuple(x.shifted(n) for x, n in zip(field, shifts, strict=True))


_POOLING = dict(steps=None, kernel_size=1, stride=2, padding=3)
_RULES: dict[Callable, Callable] = {
    **dict.fromkeys((torch.conv2d, F.conv2d), _sliding(Extent.through, stride=3, padding=4, dilation=5)),
    **dict.fromkeys(
        (torch.conv_transpose2d, F.conv_transpose2d), _sliding(Extent.transposed, stride=3, padding=4, dilation=7)
    ),
    **dict.fromkeys((torch.max_pool2d, F.max_pool2d), _sliding(Extent.through, **_POOLING, dilation=4)),
    F.avg_pool2d: _sliding(Extent.through, **_POOLING),
    F.unfold: _sliding(Extent.through, kernel_size=1, dilation=2, padding=3, stride=4),
    **dict.fromkeys((F.adaptive_avg_pool2d, F.adaptive_max_pool2d), _global_pooling),
    **dict.fromkeys((torch.mean, torch.Tensor.mean, torch.amax, torch.Tensor.amax), _reduction),
    F.interpolate: _interpolation,
    F.pad: _padding,
}
