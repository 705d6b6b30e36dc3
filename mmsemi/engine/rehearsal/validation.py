"""One image through validation, and a file in the work folder."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.structures import PixelData
from PIL import Image
from torch import Tensor

from mmsemi.datasets.masks import image_size
from mmsemi.engine.utils import segmentor_of

from .parts import alone, channel_problem, words


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
        return [*problems, f'The first image of val_dataloader cannot be loaded: {words(error)}']
    if not isinstance(sample, dict) or 'data_samples' not in sample:
        return [*problems, 'The pipeline of val_dataloader does not end in PackSegInputs; add it.']
    model = segmentor_of(runner)
    if isinstance(sample['inputs'], Tensor) and len(sample['inputs']) != model.student.in_channels:
        problems.append(channel_problem('images of val_dataloader', len(sample['inputs']), model.student.in_channels))
    data = sample['data_samples']
    if 'gt_sem_seg' not in data:
        return [*problems, 'The pipeline of val_dataloader loads no masks; add LoadSegAnnotations to it.']
    names = None
    try:
        names = _metric_names(loop.evaluator, data)
    except Exception as error:
        problems.append(f'The metric (val_evaluator) fails: {words(error)}')
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
    with alone(), _silent(), tempfile.TemporaryDirectory() as folder:
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
            size = image_size(image)
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


def check_work_dir(runner: Runner) -> list[str]:
    """Checkpoints can be written where they will be."""
    try:
        Path(runner.work_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=runner.work_dir, prefix='.rehearsal'):
            return []
    except OSError as error:
        return [f'Nothing can be written to {os.path.abspath(runner.work_dir)} ({error}); name another --work-dir.']
