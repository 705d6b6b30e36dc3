"""Time and peak memory of MLLC's graphs, dense and as mmsemi computes them, over the number of pixels n.

Forward and backward together, one image. Dense forms are the paper's equations as they stand, vectorised (matrix
products and masks), and are left out above ``--max-dense`` nodes. On a CPU every measurement has a process of its own,
and memory is the process's peak resident size less its size before the call, when the inputs exist (Linux with glibc
only); on CUDA it is what torch's allocator says. Timings of short calls suffer most from other programs on the machine.

    python tools/analysis/benchmark_label_graph.py
    python tools/analysis/benchmark_label_graph.py --n 4096 8192 --channels 128 --device cuda
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsemi.models.losses.contrastive import intra_image_contrast
from mmsemi.models.modules.graph_ops import knn_affinity, propagate_features

MB = 2**20
M_MMAP_THRESHOLD = -3  # of glibc's mallopt


def dense_class_graph(prob: Tensor, features: Tensor) -> Tensor:
    """W x of MLLC eq. 6, 7 with the n x n matrix."""
    label = prob.argmax(-1)
    affinity = (prob @ prob.transpose(1, 2)) * (label[:, :, None] == label[:, None])
    affinity = affinity.diagonal_scatter(torch.ones_like(affinity[..., 0]), dim1=1, dim2=2)
    scale = affinity.sum(-1, keepdim=True).rsqrt()
    return (scale * affinity * scale.transpose(1, 2)) @ features


def dense_contrast(features: Tensor, label: Tensor) -> Tensor:
    """MLLC eq. 12, first term, with the n x n matrix."""
    similarity = features @ features.transpose(1, 2)
    same = label[:, :, None] == label[:, None]
    return torch.where(same, (similarity - 1).square(), similarity.square()).mean()


def dense_knn(features: Tensor, k: int) -> Tensor:
    """Weights of MLLC eq. 4 with the n x n matrix."""
    unit = F.normalize(features, dim=-1)
    similarity = unit @ unit.transpose(1, 2)
    similarity.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    return similarity.topk(k, dim=-1).values.clamp_min(0)


def make_call(what: str, form: str, n: int, args: argparse.Namespace) -> Callable[[], None]:
    """A function that runs ``what`` forward and backward once, on inputs that exist when this returns."""
    torch.manual_seed(0)
    label = torch.randint(args.classes, (1, n), device=args.device)
    prob = torch.randn(1, n, args.classes, device=args.device)
    prob = (prob + 3 * F.one_hot(label, args.classes)).softmax(-1).requires_grad_()
    features = F.normalize(torch.randn(1, n, args.channels, device=args.device), dim=-1).requires_grad_()
    functions = {
        ('class graph', 'dense'): lambda: dense_class_graph(prob, features),
        ('class graph', 'fast'): lambda: propagate_features(prob, features),
        ('contrast', 'dense'): lambda: dense_contrast(features, label),
        ('contrast', 'fast'): lambda: intra_image_contrast(features, label, args.classes),
        ('knn', 'dense'): lambda: dense_knn(features, args.neighbors),
        ('knn', 'fast'): lambda: knn_affinity(features, args.neighbors)[1],
    }
    function = functions[what, form]

    def call() -> None:
        prob.grad = features.grad = None
        function().square().sum().backward()

    return call


def resident() -> int:
    """Resident size of this process in bytes."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()


def is_cuda(args: argparse.Namespace) -> bool:
    return torch.device(args.device).type == 'cuda'


def measure_seconds(what: str, form: str, n: int, args: argparse.Namespace) -> float:
    """Median time of one call."""
    call = make_call(what, form, n, args)
    call()
    seconds = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        call()
        if is_cuda(args):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure_peak(what: str, form: str, n: int, args: argparse.Namespace) -> float:
    """Most MB that one call holds at a time, besides its inputs."""
    if is_cuda(args):
        call = make_call(what, form, n, args)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MB
    # glibc keeps some freed blocks for later, which ones depends on timing; mapped ones go back to the system at once.
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MB)
    make_call(what, form, 64, args)()  # libraries and thread pools allocate on their first use
    call = make_call(what, form, n, args)
    before = resident()
    call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / MB


def _send(pipe, measure: Callable[..., float], *arguments) -> None:
    if arguments[-1].threads:
        torch.set_num_threads(arguments[-1].threads)
    pipe.send(measure(*arguments))


def alone(measure: Callable[..., float], what: str, form: str, n: int, args: argparse.Namespace) -> float:
    """``measure`` in a forked process, whose peak memory no earlier measurement has raised."""
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, measure, what, form, n, args))
    process.start()
    sender.close()  # so that a process that dies ends the wait below
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f'Measuring {what}, {form}, n = {n} died: not enough memory? Lower --max-dense.') from None
    finally:
        process.join()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--n', type=int, nargs='+', default=[1024, 2048, 4096, 8192, 16384], help='numbers of pixels')
    parser.add_argument('--channels', type=int, default=256, help='channels of the features')
    parser.add_argument('--classes', type=int, default=21)
    parser.add_argument('--neighbors', type=int, default=20)
    parser.add_argument('--repeat', type=int, default=5, help='timed calls, of which the median is shown')
    parser.add_argument('--max-dense', type=int, default=8192, help='largest n for which dense forms are run')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, help="threads of a CPU measurement; by default torch's choice")
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    def run(*arguments) -> tuple[float, float]:
        """Seconds and peak MB."""
        if is_cuda(args):
            return measure_seconds(*arguments), measure_peak(*arguments)
        return alone(measure_seconds, *arguments), alone(measure_peak, *arguments)

    print(
        f'one image, {args.channels} channels, {args.classes} classes, {args.neighbors} neighbours, forward + backward'
    )
    print(f'{"":12}{"n":>7}{"dense ms":>12}{"fast ms":>10}{"speedup":>9}{"dense MB":>11}{"fast MB":>9}')
    speedup, peak = {}, {}
    for what in ('class graph', 'contrast', 'knn'):
        for n in sorted(args.n):
            seconds, peak[what] = run(what, 'fast', n, args)
            dense = f'{"-":>12}', f'{"-":>9}', f'{"-":>11}'
            if n <= args.max_dense:
                dense_seconds, dense_peak = run(what, 'dense', n, args)
                speedup[what] = dense_seconds / seconds
                dense = f'{1e3 * dense_seconds:12.1f}', f'{speedup[what]:9.1f}', f'{dense_peak:11.0f}'
            print(f'{what:12}{n:7}{dense[0]}{1e3 * seconds:10.1f}{dense[1]}{dense[2]}{peak[what]:9.0f}', flush=True)
    # Of the largest n at which both forms, or the fast one alone, ran: 8,192 and 16,384 by default.
    print(f'class graph speedup: {speedup.get("class graph", float("nan")):.1f}')
    print(f'contrast speedup: {speedup.get("contrast", float("nan")):.1f}')
    print(f'knn peak MB: {peak["knn"]:.0f}')


if __name__ == '__main__':
    main()
