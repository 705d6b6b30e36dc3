"""What would end a run later ends it at the start: each part of training and validation is tried once, in small.

Nothing is computed: the model's step runs on the meta device, where tensors have shapes and no values.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.structures import PixelData
from PIL import Image
from torch import Tensor, nn

from mmsemi.structures import Mix, Streams

from .utils import segmentor_of


class RehearsalError(ValueError):
    """All that a rehearsal found, each a sentence with the key and the mend.

    Args:
        problems (list[str]): The sentences.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__('\n'.join(problems))
        self.problems = problems


def rehearse(runner: Runner) -> None:
    """Try what a run will do, on the first rank.

    Args:
        runner (Runner): Ready to train.

    Raises:
        RehearsalError: If any part fails; the message has a sentence for each.
    """
    if not is_main_process():
        return
    problems: list[str] = []
    for part in (check_classes, try_training_images, try_step, try_validation, check_work_dir):
        problems += part(runner)
    if problems:
        raise RehearsalError(problems)


# Classes


def check_classes(runner: Runner) -> list[str]:
    """Hold the number of classes that the decode head scores against those of the data."""
    model = segmentor_of(runner)
    head = model.student.segmentor.decode_head
    problems = []
    for key, dataset in _datasets(runner):
        classes = dataset.metainfo.get('classes')
        if classes and len(classes) != head.num_classes:
            problems.append(
                f'model.student.decode_head.num_classes={head.num_classes}, but the data of {key} has {len(classes)} '
                f'classes; set num_classes={len(classes)} (network.decode_head.num_classes in most configs).'
            )
    return problems[:1]


def _datasets(runner: Runner) -> Iterator[tuple[str, Any]]:
    yield 'train_dataloader', runner.train_dataloader.dataset
    if runner.val_loop is not None:
        yield 'val_dataloader', runner.val_dataloader.dataset


# Training images


def try_training_images(runner: Runner) -> list[str]:
    """Load and transform one image of each stream, and look at what comes out."""
    dataset = runner.train_dataloader.dataset
    problems = []
    first = {'labeled': 0, 'unlabeled': dataset.num_labeled}
    for stream, index in first.items():
        if index >= len(dataset):
            continue
        try:
            sample = dataset[index, 0]
        except Exception as error:
            problems.append(f'The {stream} images cannot be loaded: {_words(error)}')
            continue
        problems += _check_sample(sample, stream)
    return problems


def _check_sample(sample: dict, stream: str) -> list[str]:
    pixels = sample.get('inputs')
    if not isinstance(pixels, Tensor):
        return [
            f'The pipeline of the {stream} images does not end in PackSegInputs; add it to train_dataloader.dataset.'
            'pipeline.'
        ]
    if stream == 'labeled' and 'gt_sem_seg' not in sample['data_samples']:
        return ['The pipeline of the labeled images loads no masks; add LoadSegAnnotations behind LoadImageFromFile.']
    return []


# The step


def try_step(runner: Runner) -> list[str]:
    """One step of the model at the crop and batch of training, on the meta device."""
    model, sampler = segmentor_of(runner), runner.train_dataloader.sampler
    labeled, unlabeled = getattr(sampler, 'labeled', 1), getattr(sampler, 'unlabeled', 1)
    try:
        on_meta = meta_copy(model)
    except Exception as error:
        return [f'The model cannot be rehearsed: {_words(error)}']
    on_meta.train()
    streams = meta_streams(model, labeled, unlabeled)
    with _alone(), _tracked(on_meta) as current:
        try:
            on_meta(streams, None, mode='loss')
        except Exception as error:
            where = current()
            place = f'model.{where[0]} ({where[1]})' if where else type(model).__name__
            height, width = model.data_preprocessor.size
            return [f'A step at the crop {height} x {width} fails in {place}: {_words(error)}']
    return []


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of a model whose tensors are on the meta device; nothing of the model is copied or changed."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to('meta'), parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to('meta')
    return copy.deepcopy(model, memo)


def meta_streams(model: nn.Module, labeled: int, unlabeled: int) -> Streams:
    """A batch as the preprocessor makes it, without values."""
    preprocessor = model.data_preprocessor
    height, width = preprocessor.size

    def images(count: int) -> Tensor:
        return torch.empty(count, model.student.in_channels, height, width, device='meta')

    def maps(count: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(count, height, width, dtype=dtype, device='meta')

    strong = preprocessor.num_strong
    return Streams(
        labeled=images(labeled),
        labels=maps(labeled, torch.long),
        weak=images(unlabeled),
        strong=tuple(images(unlabeled) for _ in range(strong)),
        valid=maps(unlabeled, torch.bool),
        mix=tuple(Mix(maps(unlabeled, torch.bool)) for _ in range(strong)),
    )


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Reductions over ranks leave tensors as they are: those on the meta device cannot travel."""
    with (
        mock.patch('mmengine.dist.dist.get_world_size', lambda group=None: 1),
        mock.patch('torch.distributed.is_initialized', lambda: False),
    ):
        yield


@contextlib.contextmanager
def _tracked(model: nn.Module) -> Iterator[Callable[[], tuple[str, str] | None]]:
    """Know which module is running: the name and class of the innermost one."""
    names = {module: name for name, module in model.named_modules()}
    running: list[nn.Module] = []

    def enter(module: nn.Module, *_: Any) -> None:
        running.append(module)

    def leave(module: nn.Module, *_: Any) -> None:
        if running and running[-1] is module:
            running.pop()

    handles = [
        handle
        for module in model.modules()
        for handle in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]

    def current() -> tuple[str, str] | None:
        named = [module for module in running if names.get(module)]
        return (names[named[-1]], type(named[-1]).__name__) if named else None

    try:
        yield current
    finally:
        for handle in handles:
            handle.remove()


# Validation


def try_validation(runner: Runner) -> list[str]:
    """One image through the pipeline of validation, through the metric, and the name that picks the best checkpoint."""
    if runner.val_loop is None:
        return []
    loop = runner.val_loop
    loader, dataset = loop.dataloader, loop.dataloader.dataset
    problems = _mixed_sizes(loader, dataset)
    try:
        sample = dataset[0]
    except Exception as error:
        return [*problems, f'The first image of val_dataloader cannot be loaded: {_words(error)}']
    data = sample['data_samples']
    if 'gt_sem_seg' not in data:
        return [*problems, 'The pipeline of val_dataloader loads no masks; add LoadSegAnnotations to it.']
    names = None
    try:
        names = _metric_names(loop.evaluator, data)
    except Exception as error:
        problems.append(f'The metric (val_evaluator) fails: {_words(error)}')
    if names is not None:
        problems += _check_best(
            runner, [f'{branch}/{name}' for branch in segmentor_of(runner).branches for name in names]
        )
    return problems


def _metric_names(evaluator: Any, data: Any) -> list[str]:
    """Which numbers the metrics give, found out with one image that is predicted as it is labeled."""
    trial = copy.deepcopy(evaluator)
    data = data.clone()
    data.pred_sem_seg = PixelData(data=data.gt_sem_seg.data.clone())
    with _alone(), _silent(), tempfile.TemporaryDirectory() as folder:
        for metric in trial.metrics:
            if getattr(metric, 'output_dir', None):
                metric.output_dir = folder
        trial.process(data_samples=[data], data_batch=None)
        with np.errstate(all='ignore'):
            return list(trial.evaluate(1))


def _check_best(runner: Runner, names: list[str]) -> list[str]:
    hook = next((hook for hook in runner.hooks if getattr(hook, 'save_best', None)), None)
    if hook is None:
        return []
    wanted = hook.save_best if isinstance(hook.save_best, list) else [hook.save_best]
    return [
        f"default_hooks.checkpoint.save_best='{name}' is none of what validation gives; set it to one of "
        f'{", ".join(names)}.'
        for name in wanted
        if name not in names and name != 'auto'
    ]


def _mixed_sizes(loader: Any, dataset: Any) -> list[str]:
    """Images of several sizes do not fit in one batch, unless the pipeline gives them one size."""
    if (loader.batch_size or 1) < 2:
        return []
    fixed = any(
        type(step).__name__ == 'Resize' and not getattr(step, 'keep_ratio', True) and getattr(step, 'scale', None)
        for step in getattr(dataset.pipeline, 'transforms', [])
    )
    if fixed or not hasattr(dataset, 'get_data_info'):
        return []
    first: tuple[tuple[int, int], str] | None = None
    for index in range(len(dataset)):
        path = dataset.get_data_info(index)['img_path']
        with Image.open(path) as image:
            size = image.size
        first = first or (size, path)
        if size != first[0]:
            return [
                f'val_dataloader.batch_size={loader.batch_size} needs images of one size, but {first[1]} has '
                f'{first[0][0]} x {first[0][1]} pixels and {path} {size[0]} x {size[1]}; set it to 1.'
            ]
    return []


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Metrics write tables to the log, which a trial should not."""
    loggers = [MMLogger.get_current_instance(), logging.getLogger()]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# The folder


def check_work_dir(runner: Runner) -> list[str]:
    """Checkpoints can be written where they will be."""
    try:
        Path(runner.work_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=runner.work_dir, prefix='.rehearsal'):
            return []
    except OSError as error:
        return [f'Nothing can be written to {os.path.abspath(runner.work_dir)} ({error}); name another --work-dir.']


def _words(error: Exception) -> str:
    """An error as the end of a sentence."""
    text = ' '.join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        text = f'the key {text} is missing'
    if not text.startswith('The ') and type(error).__module__ == 'builtins' and not isinstance(error, ValueError):
        text = f'{type(error).__name__}: {text}'
    return text if text.endswith(('.', '!')) else f'{text}.'
