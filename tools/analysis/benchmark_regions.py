"""Launches, time and peak memory of CorrMatch's region propagation, beside the same shape by shape on the pixels.

Shapes are made of random smooth rows, labels of blobs. Launches are torch's operations but for views; memory is what
their results hold at most at a time, besides the inputs (what an operation needs inside of itself is not seen).

    python tools/analysis/benchmark_regions.py
    python tools/analysis/benchmark_regions.py --crop 801 --images 2 --classes 19 --device cuda
"""

from __future__ import annotations

import argparse
import statistics
import time
import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmsemi.models.modules.regions import binary_shapes, packed_shapes, region_propagation, write_shape
from mmsemi.structures import PseudoLabel

MIB = 2**20


class Watch(TorchDispatchMode):
    """Counts launches, and the bytes that living results hold."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.held = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not any(x.alias_info is not None and not x.alias_info.is_write for x in function._schema.returns):
            self.launches += function.overloadpacket.__name__ != '_unsafe_view'
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage(), given)
        return result

    def _hold(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known | given:
            self.known.add(key)
            self.held += size
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.held -= size


def one_by_one(
    pseudo: PseudoLabel, rows: Tensor, allowed: Tensor, threshold: Tensor, num_classes: int, align_corners: bool
) -> PseudoLabel:
    """Algorithm 1 as it stands, for a batch: every shape is resized, counted and written on the pixels."""
    label, confident = pseudo.label.flatten(1), pseudo.weight.flatten(1) > 0
    written = torch.zeros_like(confident)
    for row in rows.split(1, 1):
        shape = (binary_shapes(row, tuple(allowed.shape[1:]), align_corners)[:, 0] & allowed).flatten(1)
        label, wrote = write_shape(label, shape, shape & confident, threshold, num_classes)
        written = written | wrote
    maps = label.view_as(pseudo.label), torch.where(written.view_as(allowed), 1, pseudo.weight)
    return PseudoLabel(*maps)


def in_bytes(
    pseudo: PseudoLabel, rows: Tensor, allowed: Tensor, threshold: Tensor, num_classes: int, align_corners: bool
) -> PseudoLabel:
    """What CorrMatch runs."""
    return region_propagation(pseudo, packed_shapes(rows, allowed, align_corners), threshold, num_classes)


def case(args: argparse.Namespace) -> tuple:
    """Arguments of either form; as many shapes act as in training: most of those that have a leading class."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    size, positions = (args.crop, args.crop), -(-args.crop // 8)
    blobs = lambda x, size: F.interpolate(x, size=size, mode='bilinear')  # noqa: E731
    label = blobs(draw(args.images, args.classes, 7, 7), size).argmax(1)
    confident = blobs(draw(args.images, 1, 9, 9), size)[:, 0] > -1.2
    rows = blobs(draw(args.images, args.shapes, 5, 5), (positions, positions)).exp()
    tensors = label, confident.float(), rows, torch.ones_like(confident), torch.tensor(args.threshold)
    label, weight, rows, allowed, threshold = (x.to(args.device) for x in tensors)
    return PseudoLabel(label, weight), rows, allowed, threshold, args.classes, args.crop % 8 == 1


def measure(form: Callable, arguments: tuple, repeat: int) -> tuple[int, float, float, PseudoLabel]:
    """Launches, seconds, peak MiB and the result."""
    with Watch() as watch:
        result = form(*arguments)
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        form(*arguments)
        if arguments[1].is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return watch.launches, statistics.median(seconds), watch.peak / MIB, result


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--crop', type=int, nargs='+', default=[321, 513, 801], help='sides of the crops in pixels')
    parser.add_argument('--images', type=int, nargs='+', default=[2], help='images a batch')
    parser.add_argument('--shapes', type=int, default=128)
    parser.add_argument('--classes', type=int, default=21)
    parser.add_argument('--threshold', type=float, default=0.5)
    parser.add_argument('--repeat', type=int, default=3, help='timed calls, of which the median is shown')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1, help='threads of a CPU')
    return parser.parse_args(arguments)


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    args = parse_args(arguments)
    torch.set_num_threads(args.threads)
    print(f'{args.shapes} shapes, {args.classes} classes, {args.device}')
    print(f'{"crop":>5}{"images":>8}{"":>14}{"launches":>10}{"ms":>9}{"peak MiB":>10}')
    for crop in args.crop:
        for images in args.images:
            arguments = case(argparse.Namespace(**{**vars(args), 'crop': crop, 'images': images}))
            rows = {name: measure(form, arguments, args.repeat) for name, form in FORMS.items()}
            for name, (launches, seconds, peak, _) in rows.items():
                print(f'{crop:5}{images:8}{name:>14}{launches:10}{1e3 * seconds:9.1f}{peak:10.1f}', flush=True)
            (*_, first), (*_, second) = rows.values()
            if not torch.equal(first.label, second.label) or not torch.equal(first.weight, second.weight):
                raise SystemExit('The two forms disagree.')
            ratios = [a / b for a, b in zip(*(row[:2] for row in rows.values()), strict=True)]
            print(f'{"":13}{"one to bytes":>14}{ratios[0]:10.1f}{ratios[1]:9.2f}')


FORMS = {'one by one': one_by_one, 'in bytes': in_bytes}


if __name__ == '__main__':
    main()
