"""Training on the device without values: a config's own runner, loader, hooks, optimizer, some steps, a prediction."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmsemi.apis.acceleration import set_amp
from mmsemi.apis.launch import build_runner
from mmsemi.engine.loops import ResumableEpochLoop
from mmsemi.engine.step_timing import _layers, networks_of, tensors_in
from mmsemi.models.heads import PatchClassifier
from mmsemi.models.state import StepState
from mmsemi.registry import LOOPS
from tests import tiny_run
from tools.analysis.benchmark_step import SyntheticCrops, forget_weights

from .device import CUDA, Record, fake_cuda

PRECISIONS = ('float32', 'fp16', 'bf16')
HALVES = {'fp16': torch.float16, 'bf16': torch.bfloat16}


@dataclass
class Report:
    """What steps on the device showed.

    Args:
        waits, blocking, half (Counter): Those of :class:`Record`, over all steps.
        logged (int): Values that the logger took to the host.
        sent (int): Copies to the device in the last step.
        launches (dict): Operations of the last step: 'forward' outside of networks, 'backward', 'optimizer'.
        peak, resident (int): Bytes, at most and after the step.
        at_peak (dict): Of :class:`Record`.
        unused (list): Names of parameters that learn and got no gradient.
        losses (dict): What the last step told, by name.
        elsewhere (list): Names of parameters and buffers that are not on the device.
        formats (set): Memory formats of the backbone's outputs: whether channels come last.
        types (set): Types of the networks' outputs.
        predicted (str): Where a prediction is.
    """

    waits: Counter = field(default_factory=Counter)
    blocking: Counter = field(default_factory=Counter)
    half: Counter = field(default_factory=Counter)
    logged: int = 0
    sent: int = 0
    launches: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    peak_phase: str = ''
    resident: int = 0
    at_peak: dict[str, int] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    losses: dict[str, Tensor] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)
    formats: set[bool] = field(default_factory=set)
    types: set[torch.dtype] = field(default_factory=set)
    predicted: str = ''


@LOOPS.register_module()
class StepsOnFakeCuda(ResumableEpochLoop):
    """Some steps, watched; no validation.

    Args:
        runner (Runner): The runner.
        dataloader (dict): Config of a loader, or what ``SyntheticCrops`` takes.
        max_epochs (int): Of the schedule.
    """

    record: Record
    report: Report
    steps: int

    def __init__(self, runner: Runner, dataloader: dict, max_epochs: int, **_: Any) -> None:
        if 'sampler' not in dataloader:
            crops = SyntheticCrops(**dataloader, num_classes=runner.model.num_classes)
            dataloader = DataLoader(crops, batch_size=len(crops), collate_fn=pseudo_collate)
        super().__init__(runner, dataloader, max_epochs)

    def run(self) -> nn.Module:
        """Take the steps."""
        model, record, report = self.runner.model, self.record, self.report
        for state in model.modules():
            if isinstance(state, StepState):
                # As in the middle of a run: no hook prepares them from data.
                for buffer in state.buffers():
                    if buffer.dtype == torch.bool:
                        buffer.fill_(True)
        if hasattr(model, 'remember'):
            model.remember()  # an earlier network
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        model.train()
        self._watch(model)
        batch = None
        for number in range(self.steps):
            batch = next(self._batches(number))
            record.restart()
            record.phase = 'before'
            self.run_iter(number, batch)
            for name in ('waits', 'blocking', 'half'):
                getattr(report, name).update(getattr(record, name))
            report.logged += record.logged
        report.sent = record.sent.total()
        apart = ('backward', 'optimizer')
        forward = sum(n for (phase, inside), n in record.launches.items() if phase not in apart and not inside)
        report.launches = {'forward': forward, **{phase: record.launches[phase, False] for phase in apart}}
        report.peak, report.peak_phase, report.at_peak = record.peak, record.peak_phase, dict(record.at_peak)
        report.resident = record.now
        named = [*model.named_parameters(), *model.named_buffers()]
        report.elsewhere = [name for name, tensor in named if tensor.device != CUDA]
        record.phase = 'prediction'
        self._predict(model, batch)
        return model

    def _batches(self, number: int) -> Iterator[dict]:
        for _, batch in self.batches(0, number % len(self.dataloader)):
            yield batch

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """One step; what it told is kept."""
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        outputs = self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)
        self.record.phase = 'states'
        self.report.losses = outputs
        self.runner.call_hook('after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def _watch(self, model: nn.Module) -> None:
        """Tell the record what is going on."""
        record, report, wrapper = self.record, self.report, self.runner.optim_wrapper

        def during(phase: str, function: Any, after: str) -> Any:
            def marked(*args: Any, **kwargs: Any) -> Any:
                record.phase = phase
                result = function(*args, **kwargs)
                record.phase = after
                return result

            return marked

        def step(*args: Any, **kwargs: Any) -> None:
            learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            report.unused = [name for name, parameter in learning if parameter.grad is None]
            stepped(*args, **kwargs)

        stepped = wrapper.step
        model.loss = during('loss', model.loss, 'sum')
        wrapper.backward = during('backward', wrapper.backward, 'optimizer')
        wrapper.step = step
        model.data_preprocessor.forward = during('data', model.data_preprocessor.forward, 'sum')

        def enter(network: nn.Module, *_: Any) -> None:
            record.network = record.network or network

        def leave(network: nn.Module, args: Any, output: Any) -> None:
            if record.network is network:
                record.network = None
                report.types |= {x.dtype for x in tensors_in(output)}

        for name in model.branches:
            branch = getattr(model, name)
            # A patch classifier pools between its layers; of other heads no more than the layers are a network.
            heads = branch.heads.values()
            layers = [x for head in heads for x in ([head] if isinstance(head, PatchClassifier) else _layers(head))]
            for network in [*networks_of(branch.segmentor), *layers]:
                network.register_forward_pre_hook(enter)
                network.register_forward_hook(leave)
            branch.segmentor.backbone.register_forward_hook(self._note_format)
        for network in getattr(model, 'previous', ()):
            for part in networks_of(network):
                part.register_forward_pre_hook(enter)
                part.register_forward_hook(leave)
        # What a method does to features on their way through a network is a part of it.
        for part in ('perturb', 'dropout'):
            if isinstance(getattr(model, part, None), nn.Module):
                getattr(model, part).register_forward_pre_hook(enter)
                getattr(model, part).register_forward_hook(leave)

    def _note_format(self, network: nn.Module, args: Any, output: Any) -> None:
        maps = [x for x in tensors_in(output) if x.ndim == 4 and min(x.shape[1:]) > 1]
        self.report.formats |= {x.is_contiguous(memory_format=torch.channels_last) for x in maps}

    def _predict(self, model: nn.Module, batch: dict) -> None:
        model.eval()
        sample = batch['data_samples'][0].clone()
        shape = tuple(batch['inputs'][0].shape[1:])
        sample.set_metainfo(dict(ori_shape=shape, img_shape=shape))
        (result,) = model.test_step(dict(inputs=[batch['inputs'][0]], data_samples=[sample]))
        self.report.predicted = str(result.pred_sem_seg.data.device)


def take_steps(cfg: Config, precision: str = 'float32', steps: int = 2, by_line: bool = False) -> Report:
    """Train by a config on the device without values.

    Args:
        cfg (Config): Its loader is that of a run, or ``train_dataloader`` is what ``SyntheticCrops`` takes.
        precision (str): One of ``PRECISIONS``.
        steps (int): How many; the last one writes the log, and what the report tells of one step it tells of this one,
            for in the first the optimizer has no state yet. Defaults to 2.
        by_line (bool): Whether to note which line takes how much memory. Defaults to False.
    """
    tiny_run.only_steps(cfg, 'StepsOnFakeCuda', interval=steps)
    cfg.load_from, cfg.resume = None, False
    forget_weights(cfg.model)
    StepsOnFakeCuda.report, StepsOnFakeCuda.steps = Report(), steps
    with contextlib.ExitStack() as stack:
        # Weights have no values that could be set.
        stack.enter_context(mock.patch.object(Runner, '_init_model_weights', lambda self: None))
        stack.enter_context(mock.patch.object(Runner, '_log_env', lambda self, env: None))
        StepsOnFakeCuda.record = stack.enter_context(fake_cuda(by_line))
        if precision != 'float32':
            set_amp(cfg, precision)
        build_runner(cfg).train()
    return StepsOnFakeCuda.report


def small(method: str, drawn: Path, work_dir: Path, mpmc: bool = False) -> Config:
    """The config of the embedded data set, with its images, loader and hooks."""
    return tiny_run.config(method, drawn, work_dir, mpmc=mpmc)


def real(path: str, work_dir: Path, batch: tuple[int, int] | None = None) -> Config:
    """A config at its own size with random crops in place of its data; ``batch`` is by default its own."""
    from mmsemi.apis.config import resolve

    cfg = resolve(Config.fromfile(tiny_run.ROOT / 'configs' / path))
    sampler = cfg.train_dataloader.sampler
    labeled, unlabeled = batch or (sampler.labeled, sampler.get('unlabeled', 0))
    size = tuple(cfg.model.data_preprocessor.size)
    cfg.train_dataloader = dict(labeled=labeled, unlabeled=unlabeled, size=size)
    cfg.default_hooks.pop('rehearsal')  # there are no images to rehearse with
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = cfg.visualizer.name = f'{path}-{work_dir}'.replace('/', '-')
    return cfg
