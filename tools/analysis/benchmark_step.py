"""Where the time of a training step goes, beside the floor: bare forwards and backwards of the same networks.

    python tools/analysis/benchmark_step.py unimatch/unimatch_r50_voc.py --crop 321 --batch 2 2
    python tools/analysis/benchmark_step.py mllc/mllc_r50_voc.py --crop 321 512 800 --batch 1 1 --amp bf16
    python tools/analysis/benchmark_step.py mllc/mllc_r101_voc.py --device cuda --repeats 20

A step is what training does with a batch that the workers have delivered: loading runs beside it and is not counted.
The batch is one of random uint8 crops, so that no data set is needed; weights are random.

- data: the views, by the preprocessor on the device (normalising, strong views, CutMix boxes).
- student, teacher forward: a segmentor's backbone, neck and heads, and the convolutions and linear layers of auxiliary
  heads. What else an auxiliary head computes (a graph, a correlation) is no network time.
- pseudo-labels, losses: everything else in the model's ``loss``. Operations without gradient make labels, thresholds
  and mixed views, or tell the log; those with gradient are losses, upsampling the scores included. What an auxiliary
  head computes beside its layers goes to the losses in the student, to the pseudo-labels in the teacher.
- backward: what it takes beyond that of the floor is overhead.
- optimizer; EMA and hooks: all hooks of the config that act before or after an iteration.

The floor repeats the step's calls of these networks, in the same grouping, mode and precision, on the inputs and with
the output gradients that they had in a step. Steps and floors take turns, and so do the crops where several are given;
the overhead is the median over pairs, for machines are noisy. With one thread on a CPU, the default there, time is the
process's CPU time, which other programs disturb least; else it is wall time, on CUDA the device's own.

Watching every operation keeps the host busy, for which a GPU may wait. On CUDA a line above the table so tells what
steps take that are not watched, and their peak memory: what tensors took, and what torch then held of the device.

Where the config has plugins (MPMC), a line tells how much longer its step takes than the same step without them. With
--amp networks compute in half precision, in the floor too; gradients are not scaled.

Overhead is all that is not network time, in percent of the floor: everything but the forward passes of networks, and
the floor's part of the backward pass. The last line counts the optimizer's step as overhead, the line before it does
not: a supervised trainer has one too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmsemi.apis.launch import UsageError, build_runner, load_config, run
from mmsemi.apis.memory import forget_weights
from mmsemi.apis.options import OptionsAction
from mmsemi.engine.optim_wrapper import keep_depthwise_in_float32
from mmsemi.engine.step_timing import PHASES, Call, Clock, Instruments, replay
from mmsemi.models.state import StepState
from mmsemi.registry import LOOPS

HALVES = {'fp16': 'float16', 'bf16': 'bfloat16'}
LABEL_BLOCK = 32
"""Side of the blocks of one class in the synthetic labels."""


WARMUP, UNWATCHED = 5, 20
"""Steps on CUDA before and while they are timed without being watched."""


class Unwatched(NamedTuple):
    """Seconds of steps on CUDA that were not watched, the most bytes of their tensors, and those that torch held."""

    seconds: list[float]
    peak: int
    reserved: int

    def __str__(self) -> str:
        peak, reserved = self.peak / 2**30, self.reserved / 2**30
        return (
            f'not watched: {1e3 * statistics.median(self.seconds):.1f} ms a step; at most {peak:.2f} GiB of tensors, '
            f'{reserved:.2f} GiB held'
        )


@LOOPS.register_module(force=True)
class BenchmarkLoop(EpochBasedTrainLoop):
    """Steps of training on one synthetic batch, each followed by its floor."""

    def __init__(self, runner: Runner, dataloader: dict, max_epochs: int, device: str, **options) -> None:
        crops = SyntheticCrops(**dataloader, num_classes=runner.model.num_classes)
        super().__init__(runner, DataLoader(crops, batch_size=len(crops), collate_fn=pseudo_collate), max_epochs)
        self.device = torch.device(device)
        self.clock = Clock(self.device, options['threads'])
        if self.device.type == 'cpu':
            runner.model = revert_sync_batchnorm(runner.model)
        if self.clock.on_cuda:
            runner.model.cpu()  # mmengine has moved it already, and what it takes is part of the peak
            torch.cuda.empty_cache()
            self._others = torch.cuda.memory_allocated(self.device), torch.cuda.memory_reserved(self.device)
        runner.model.to(self.device)
        self.amp = options['amp']
        self.steps: list[dict[str, float]] = []
        self.floors: list[dict[str, float]] = []

    def run(self) -> nn.Module:
        """Get ready; the first step only warms up and is recorded for the floor."""
        model = self.runner.model.train()
        for state in model.modules():
            if isinstance(state, StepState):
                # As in the middle of a run: what may be seen was seen, and no hook prepares it from a data set.
                for buffer in state.buffers():
                    if buffer.dtype == torch.bool:
                        buffer.fill_(True)
        if self.amp:
            self._use_half_precision(getattr(torch, HALVES[self.amp]))
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        (batch,) = self.dataloader
        self.unwatched = self._take_unwatched_steps(batch) if self.clock.on_cuda else None
        self.instruments = Instruments(model, self.clock)
        self._instrument(model)
        self.instruments.calls = []
        self._step(batch)
        calls, self.instruments.calls = self.instruments.calls, None
        for call in calls:
            call.keep_gradients()
        self._floor(calls)
        self._batch, self._calls = batch, calls
        return model

    def _take_unwatched_steps(self, batch: dict) -> Unwatched:
        """Steps in a row as training takes them, after some in which libraries choose their kernels."""
        for _ in range(WARMUP):
            self._step(batch)
        torch.cuda.reset_peak_memory_stats(self.device)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(UNWATCHED + 1)]
        events[0].record()
        for event in events[1:]:
            self._step(batch, read=False)
            event.record()
        torch.cuda.synchronize(self.device)
        return Unwatched(
            [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)],
            torch.cuda.max_memory_allocated(self.device) - self._others[0],
            torch.cuda.memory_reserved(self.device) - self._others[1],
        )

    def measure(self) -> None:
        """Time a step and its floor."""
        self.steps.append(self._step(self._batch))
        self.floors.append(self._floor(self._calls))

    def _use_half_precision(self, half: torch.dtype) -> None:
        """Let autocast be on wherever the optimizer's wrapper would have it."""
        context = self.runner.optim_wrapper.optim_context
        if self.device.type == 'cpu':
            keep_depthwise_in_float32(self.runner.model)

        @contextmanager
        def with_autocast(model: nn.Module) -> Iterator[None]:
            with context(model), torch.autocast(self.device.type, half):
                yield

        self.runner.optim_wrapper.optim_context = with_autocast

    def _instrument(self, model: nn.Module) -> None:
        """Mark where the parts of ``train_step`` end."""
        loss, backward = model.loss, self.runner.optim_wrapper.backward

        def marked_loss(*args, **kwargs):
            with self.instruments.charging():
                return loss(*args, **kwargs)

        def marked_backward(*args, **kwargs):
            self.clock.mark('losses')
            backward(*args, **kwargs)
            self.clock.mark('backward')

        model.loss, self.runner.optim_wrapper.backward = marked_loss, marked_backward
        model.data_preprocessor.register_forward_hook(lambda *_: self.clock.mark('data'))

    def _step(self, batch: dict, read: bool = True) -> dict[str, float]:
        """Take a step; where the clock is not read, the host goes on while the device works."""
        runner = self.runner
        self.clock.mark()
        runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=batch)
        self.clock.mark('EMA and hooks')
        outputs = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
        self.clock.mark('optimizer')
        runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=batch, outputs=outputs)
        self.clock.mark('EMA and hooks')
        self._iter += 1
        return self.clock.seconds() if read else {}

    def _floor(self, calls: list[Call]) -> dict[str, float]:
        self.clock.mark()
        with self.instruments, self.runner.optim_wrapper.optim_context(self.runner.model):
            replay(calls, self.clock)
        self.runner.optim_wrapper.zero_grad()
        return self.clock.seconds()


class SyntheticCrops(Dataset):
    """What the workers would deliver: random crops, the labeled ones first, with blocks of one class as labels.

    Args:
        labeled, unlabeled (int): Number of crops.
        size (tuple[int, int]): Their height and width.
        num_classes (int): Number of classes.
    """

    def __init__(self, labeled: int, unlabeled: int, size: tuple[int, int], num_classes: int) -> None:
        self.metainfo = dict(classes=[f'class {label}' for label in range(num_classes)])
        self.num_labeled, self.num_unlabeled, self.size = labeled, unlabeled, size

    def __len__(self) -> int:
        return self.num_labeled + self.num_unlabeled

    def __getitem__(self, index: int) -> dict:
        generator = torch.Generator().manual_seed(index)
        sample = SegDataSample(metainfo=dict(stream='labeled' if index < self.num_labeled else 'unlabeled'))
        if index < self.num_labeled:
            blocks = [-(-side // LABEL_BLOCK) for side in self.size]
            label = torch.randint(len(self.metainfo['classes']), (1, *blocks), generator=generator)
            label = label.repeat_interleave(LABEL_BLOCK, 1).repeat_interleave(LABEL_BLOCK, 2)
            sample.gt_sem_seg = PixelData(data=label[:, : self.size[0], : self.size[1]].contiguous())
        image = torch.randint(256, (3, *self.size), dtype=torch.uint8, generator=generator)
        return dict(inputs=image, data_samples=sample)


def overhead(step: dict[str, float], floor: dict[str, float]) -> dict[str, float]:
    """What is not network time, by phase: all phases but the forward passes, and of the backward pass the excess."""
    return {phase: step[phase] - floor[phase] for phase in PHASES if not phase.endswith('forward')}


def table(steps: list[dict[str, float]], floors: list[dict[str, float]]) -> str:
    """Median times in milliseconds by phase, and the two overheads."""
    overs = [overhead(step, floor) for step, floor in zip(steps, floors, strict=True)]
    bare = statistics.median(sum(floor.values()) for floor in floors)
    lines = [f'{"":18}{"step ms":>10}{"floor ms":>10}{"over ms":>10}{"% of floor":>12}']

    def add_row(name: str, *seconds: list[float]) -> None:
        step, floor, over = (statistics.median(values) if any(values) else None for values in seconds)
        numbers = [None if x is None else 1e3 * x for x in (step, floor, over)]
        numbers.append(None if over is None else 100 * over / bare)
        cells = ['-' if x is None else f'{x:.1f}' for x in numbers]
        lines.append(f'{name:18}{cells[0]:>10}{cells[1]:>10}{cells[2]:>10}{cells[3]:>12}')

    for phase in PHASES:
        if any(step[phase] for step in steps):  # there may be no teacher
            add_row(phase, *([times.get(phase, 0) for times in of_all] for of_all in (steps, floors, overs)))
    add_row('total', *([sum(times.values()) for times in of_all] for of_all in (steps, floors, overs)))

    def percent(without: str = '') -> float:
        """Median over pairs of a step and its floor."""
        pairs = zip(overs, floors, strict=True)
        return 100 * statistics.median((sum(o.values()) - o.get(without, 0)) / sum(f.values()) for o, f in pairs)

    lines.append(f"overhead without the optimizer's step: {percent('optimizer'):.1f} %")
    return '\n'.join([*lines, f'overhead: {percent():.1f} %'])


def check_device(name: str) -> None:
    """Refuse a device that this machine lacks."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device must be 'cpu', 'cuda' or 'cuda:0', 'cuda:1', ..., not '{name}'.") from None
    if device.type != 'cpu' and (device.type != 'cuda' or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f'This machine has no device {name}; choose --device cpu or one that it has.')


def benchmark_config(args: argparse.Namespace, crop: int | None, work_dir: str) -> Config:
    """The config that the command line names, for :class:`BenchmarkLoop`, at one of its crops."""
    args.work_dir, args.launcher, args.local_rank = work_dir, 'none', 0
    batch = args.batch
    # Of this process alone: in training it is of all processes and passes.
    cfg = load_config(argparse.Namespace(**{**vars(args), 'batch': None}))
    forget_weights(cfg.model)
    sampler = cfg.train_dataloader.sampler
    labeled, unlabeled = batch or (sampler.labeled, sampler.unlabeled)
    needed = 1 if cfg.model.data_preprocessor.num_strong else 0
    if labeled < 1 or unlabeled < needed:
        raise UsageError(
            f'--batch needs at least 1 labeled and {needed} unlabeled crops for {cfg.model.type}, not {labeled} and '
            f'{unlabeled}.'
        )
    size = (crop, crop) if crop else tuple(cfg.model.data_preprocessor.size)
    cfg.model.data_preprocessor.size = size
    cfg.train_dataloader = dict(labeled=labeled, unlabeled=unlabeled, size=size)
    options = dict(device=args.device, threads=args.threads, amp=args.amp)
    cfg.train_cfg = dict(type='BenchmarkLoop', max_epochs=cfg.train_cfg.max_epochs, **options)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator', 'test_dataloader', 'test_cfg', 'test_evaluator'):
        cfg[key] = None
    cfg.default_hooks.checkpoint = None
    for hook in ('visualization', 'rehearsal'):  # there are no images to rehearse with
        cfg.default_hooks.pop(hook, None)
    cfg.visualizer.vis_backends = []
    cfg.load_from, cfg.resume, cfg.log_level = None, False, 'ERROR'
    # mmengine knows logs and visualizers by name in the whole process.
    cfg.experiment_name = cfg.visualizer.name = work_dir.replace('/', '-')
    return cfg


class Measured(NamedTuple):
    """The steps of a config at one crop, and those without its plugins where it has some."""

    size: tuple[int, int]
    loop: BenchmarkLoop
    host: BenchmarkLoop | None = None


def measure(args: argparse.Namespace, crops: Sequence[int | None]) -> list[Measured]:
    """Build a model for each crop, and let them take turns."""
    found = []
    with ExitStack() as stack:

        def ready(crop: int | None, plugins: bool) -> tuple[Config, BenchmarkLoop]:
            cfg = benchmark_config(args, crop, stack.enter_context(tempfile.TemporaryDirectory()))
            if not plugins:
                cfg.model.plugins = []
            runner = build_runner(cfg)
            runner.train()
            return cfg, runner.train_loop

        for crop in crops:
            cfg, loop = ready(crop, plugins=True)
            host = ready(crop, plugins=False)[1] if cfg.model.get('plugins') else None
            found.append(Measured(tuple(cfg.train_dataloader.size), loop, host))
        for _ in range(args.repeats):
            for one in found:
                one.loop.measure()
                if one.host:
                    one.host.measure()
    return found


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--crop', type=int, nargs='+', help="sides of the crops in pixels, by default the config's")
    parser.add_argument(
        '--batch', type=int, nargs=2, metavar=('L', 'U'), help="labeled and unlabeled crops, by default the config's"
    )
    parser.add_argument('--amp', choices=tuple(HALVES), help='networks compute in half precision')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='override config keys'
    )
    parser.add_argument('--repeats', type=int, default=5, help='pairs of a step and its floor, after one that warms up')
    parser.add_argument('--threads', type=int, default=1, help='threads of a CPU')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    args = parse_args(arguments)
    check_device(args.device)
    for name in ('repeats', 'threads', 'crop'):
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < 1:
                raise UsageError(f'--{name} must be at least 1, not {value}.')
    torch.set_num_threads(args.threads)
    for one in measure(args, args.crop or [None]):
        loader = one.loop.dataloader.dataset
        print(
            f'{args.config}: {loader.num_labeled} labeled + {loader.num_unlabeled} unlabeled crops of {one.size[0]} x '
            f'{one.size[1]}, {args.device}, {args.amp or "float32"}, {args.repeats} steps'
        )
        if one.host:
            with_plugins, alone = (
                statistics.median(sum(step.values()) for step in loop.steps) for loop in (one.loop, one.host)
            )
            print(f"plugins: {100 * (with_plugins / alone - 1):.1f} % of the method's step without them")
        if one.loop.unwatched:
            print(one.loop.unwatched)
        print(table(one.loop.steps, one.loop.floors))


if __name__ == '__main__':
    run(main)
