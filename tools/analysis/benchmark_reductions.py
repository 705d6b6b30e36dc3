"""What processes exchange in a step of training, in collectives, bytes and time, over gloo on this machine's CPU.

    python tools/analysis/benchmark_reductions.py mllc/mllc_r18_shapes.py u2pl/u2pl_r18_shapes.py --processes 2 4

Random crops, two labeled and two unlabeled ones a process; weights are random. A process gives in a step:

- gradients: each parameter's once, in buckets, while the backward pass goes on.
- others: whatever a method reduces or gathers in its step, and the states that it commits after it.
- SyncBN: what batch norms would exchange on GPUs, counted and not sent: on a CPU they are not synchronised.

'ms of others' is how long a process is in them, the wait for the others included, the median over steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from mmsemi.apis.launch import UsageError, leave, load_config, quiet, run
from mmsemi.apis.memory import forget_weights
from mmsemi.engine.step_collectives import watch_gradients, watched_collectives, watched_norms
from mmsemi.models.state import StepState
from mmsemi.registry import MODELS
from mmsemi.structures import Mix, Streams
from mmsemi.utils import register_all_modules

MIB = 2**20


def random_streams(model: nn.Module, labeled: int, unlabeled: int) -> Streams:
    """A batch of noise, with blocks of one class as labels."""
    preprocessor = model.data_preprocessor
    height, width = preprocessor.size

    def images(count: int) -> torch.Tensor:
        return torch.randn(count, model.student.in_channels, height, width)

    blocks = torch.randint(model.num_classes, (labeled, -(-height // 16), -(-width // 16)))
    labels = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width].contiguous()
    valid = torch.ones(unlabeled, height, width, dtype=torch.bool)
    strong = tuple(images(unlabeled) for _ in range(preprocessor.num_strong))
    mix = tuple(Mix(torch.zeros_like(valid)) for _ in strong)
    return Streams(images(labeled), labels, images(unlabeled), strong, valid, mix)


def work(rank: int, processes: int, name: str, steps: int, folder: str) -> None:
    """Train some steps as one of several processes; the first one prints what it exchanged."""
    torch.set_num_threads(1)
    store = f'file://{folder}/store'
    cfg = load_config(
        argparse.Namespace(config=name, cfg_options=None, work_dir=folder, launcher='none', local_rank=rank)
    )
    distributed.init_process_group(
        'gloo', init_method=store, rank=rank, world_size=processes, timeout=timedelta(minutes=5)
    )
    with quiet():
        register_all_modules(init_default_scope=True)
    forget_weights(cfg.model)
    model = MODELS.build(cfg.model).train()
    states = [module for module in model.modules() if isinstance(module, StepState)]
    for buffer in (buffer for state in states for buffer in state.buffers()):
        if buffer.dtype == torch.bool:
            buffer.fill_(True)  # as in the middle of a run
    wrapped = DistributedDataParallel(model, find_unused_parameters=cfg.get('find_unused_parameters', False))
    gradients = watch_gradients(wrapped)
    streams = random_streams(model, 2, 2 if model.data_preprocessor.num_strong else 0)
    seconds, waits = [], []
    with watched_norms(model) as norms, watched_collectives() as others:
        for _ in range(steps + 1):
            for found in (gradients, norms, others):
                found.clear()
            start = time.perf_counter()
            model.parse_losses(wrapped(streams, mode='loss'))[0].backward()
            model.zero_grad()
            for state in states:
                state.commit()
            seconds.append(time.perf_counter() - start)
            waits.append(sum(x.seconds for x in others))
    if rank == 0:
        cells = [f'{len(found):5} x{sum(x.size for x in found) / MIB:9.3f} MiB' for found in (gradients, others, norms)]
        times = (1e3 * statistics.median(values[1:]) for values in (waits, seconds))
        print(f'{name:44}{processes:3}' + ''.join(cells) + ''.join(f'{ms:10.1f}' for ms in times), flush=True)
    distributed.destroy_process_group()
    leave(0)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', help='config files')
    parser.add_argument('--processes', type=int, nargs='+', default=[2, 4], help='how many processes train')
    parser.add_argument('--steps', type=int, default=5, help='to time, after one that warms up')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    args = parse_args(arguments)
    if min(args.processes) < 2 or args.steps < 1:
        raise UsageError('--processes must be at least 2 and --steps at least 1.')
    columns = ''.join(f'{title:>20}' for title in ('gradients', 'others', 'SyncBN'))
    print(f'{"config":44}{"n":>3}{columns}{"ms of others":>14}{"ms a step":>12}', flush=True)
    for name in args.configs:
        for processes in args.processes:
            with tempfile.TemporaryDirectory() as folder:
                spawn(work, (processes, name, args.steps, folder), nprocs=processes)


if __name__ == '__main__':
    run(main)
