"""What would end a run later ends it at the start: each part of training and validation is tried once, in small.

Nothing is computed: the model's step runs on the meta device, where tensors have shapes and no values.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import operator
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine.dist import all_gather_object, broadcast_object_list, get_world_size, is_main_process
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.structures import PixelData
from PIL import Image
from torch import Tensor, nn

from mmsemi.datasets.contents import Shown, leaks
from mmsemi.datasets.semi_dataset import seeded
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


def rehearse(runner: Runner, thorough: bool = False, write: bool = True) -> list[str]:
    """Try what a run will do, on the first rank, and look at what was seen of the data on all.

    Args:
        runner (Runner): Ready to train.
        thorough (bool): Whether contents of files are compared however many there are. Defaults to False.
        write (bool): Whether writing to the work folder is tried. Defaults to True.

    Returns:
        list[str]: What the user should know and what does not end the run.

    Raises:
        RehearsalError: On every rank, if any part fails; the message has a sentence for each.
    """
    told = [shown_of_all_ranks(runner), [], []]
    if is_main_process():
        for check in (
            lambda: judge_data(runner, told[0], thorough),
            lambda: (check_classes(runner), []),
            lambda: check_batch(runner),
            lambda: (try_training_images(runner), []),
            lambda: (try_step(runner), []),
            lambda: (try_validation(runner), []),
            lambda: (check_work_dir(runner) if write else [], []),
        ):
            problems, warnings = check()
            told[1] += problems
            told[2] += warnings
    broadcast_object_list(told)
    if told[1]:
        raise RehearsalError(list(dict.fromkeys(told[1])))
    return told[2]


# The data


def shown_of_all_ranks(runner: Runner) -> dict[str, Shown]:
    """What the masks of the 'labeled' and 'validation' images show; each rank has read its share of them."""
    parts = {
        'labeled': getattr(runner.train_dataloader.dataset, 'shown', None),
        'validation': getattr(runner.val_loop, 'shown', None),
    }
    return {
        part: functools.reduce(operator.add, shares)
        for part, own in parts.items()
        if (shares := [share for share in all_gather_object(own) if share is not None])
    }


def judge_data(runner: Runner, shown: dict[str, Shown], thorough: bool = False) -> tuple[list[str], list[str]]:
    """What masks and files say: problems and warnings."""
    problems, warnings = [], []
    for part, of_part in shown.items():
        found = of_part.judge(part)
        problems += found[0]
        warnings += found[1]
    data, loop = runner.train_dataloader.dataset, runner.val_loop
    warnings += [*getattr(data, 'lost', []), *getattr(loop, 'lost', [])]
    judged = loop.dataloader.dataset if loop is not None else None
    if hasattr(data, 'paths') and hasattr(judged, 'get_data_info'):
        paths = [judged.get_data_info(index).get('img_path') for index in range(len(judged))]
        warnings += leaks({**data.paths, 'validation': [path for path in paths if path]}, thorough)
    return problems, list(dict.fromkeys(warnings))


def check_batch(runner: Runner) -> tuple[list[str], list[str]]:
    """What a step takes of either stream: problems and warnings."""
    sampler, model = _sampler(runner), segmentor_of(runner)
    if getattr(sampler, 'labeled', 1) == 0:
        return ['train_dataloader.sampler.labeled=0: nothing says what a class is; set it to 1 or more.'], []
    if getattr(sampler, 'unlabeled', 1) == 0 and type(model).__name__ != 'Supervised':
        return [], [
            f'train_dataloader.sampler.unlabeled=0: of {type(model).__name__} the supervised half alone is trained.'
        ]
    return [], []


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
                f'classes; set num_classes={len(classes)} (network.decode_head.num_classes in most configs), or '
                'correct metainfo.classes.'
            )
    return [*problems[:1], *_check_class_weights(model)]


def _check_class_weights(model: nn.Module) -> list[str]:
    """Losses weigh as many classes as there are."""
    problems = []
    for name, module in model.student.named_modules():
        weights = getattr(module, 'class_weight', None)
        if isinstance(weights, (list, tuple, Tensor)) and len(weights) != model.num_classes:
            problems.append(
                f'model.student.{name.removeprefix("segmentor.")}.class_weight has {len(weights)} numbers, but there '
                f'are {model.num_classes} classes; give one number a class.'
            )
    return problems


def _sampler(runner: Runner) -> Any:
    """What draws the images of a batch."""
    loader = runner.train_dataloader
    return getattr(getattr(loader, 'batch_sampler', None), 'sampler', None) or loader.sampler


def _datasets(runner: Runner) -> Iterator[tuple[str, Any]]:
    yield 'train_dataloader', runner.train_dataloader.dataset
    if runner.val_loop is not None:
        yield 'val_dataloader', runner.val_dataloader.dataset


# Training images


def try_training_images(runner: Runner) -> list[str]:
    """Load and transform one image of each stream, and make a batch of them as a step gets it."""
    dataset, sampler = runner.train_dataloader.dataset, _sampler(runner)
    problems, samples = [], []
    for stream, index in (('labeled', 0), ('unlabeled', dataset.num_labeled)):
        if index >= len(dataset) or not getattr(sampler, stream, 1):
            continue
        try:
            sample = dataset[index, 0]
        except Exception as error:
            problems.append(_load_problem(dataset, index, stream, error))
            continue
        found = _check_sample(sample, stream)
        problems += found
        if not found:
            samples.append(sample)
    return problems + _check_crop(runner) + (_try_batch(segmentor_of(runner), samples) if samples else [])


def _load_problem(dataset: Any, index: int, stream: str, error: Exception) -> str:
    """Why an image cannot be loaded: the transform that fails, if it can be found."""
    if isinstance(error, RuntimeError) and str(error).startswith(('None of the', 'The ')):
        return _words(error)
    results = dataset.get_data_info(index) if hasattr(dataset, 'get_data_info') else None
    pipelines = getattr(dataset, 'pipelines', {})
    key = 'pipeline' if stream == 'labeled' else 'unlabeled_pipeline'
    for step in getattr(pipelines.get(stream), 'transforms', ()) if results else ():
        try:
            with seeded(0):
                results = step(results)
        except Exception as failed:
            name = type(step).__name__
            if stream == 'unlabeled' and 'gt_seg_map' not in results and 'gt_seg_map' in f'{failed!r}':
                return (
                    f'The transform {name} needs a mask, which unlabeled images do not have; leave it out of '
                    'train_dataloader.dataset.unlabeled_pipeline (a pipeline of their own).'
                )
            return f'The {stream} images cannot be loaded: {name} of train_dataloader.dataset.{key}: {_words(failed)}'
    return f'The {stream} images cannot be loaded: {_words(error)}'


def _check_sample(sample: dict, stream: str) -> list[str]:
    pixels = sample.get('inputs') if isinstance(sample, dict) else None
    if not isinstance(pixels, Tensor) or 'data_samples' not in sample:
        return [
            f'The pipeline of the {stream} images does not end in PackSegInputs; add it to train_dataloader.dataset.'
            'pipeline.'
        ]
    if stream == 'labeled' and 'gt_sem_seg' not in sample['data_samples']:
        return ['The pipeline of the labeled images loads no masks; add LoadSegAnnotations behind LoadImageFromFile.']
    return []


def _check_crop(runner: Runner) -> list[str]:
    """Hold what the pipeline crops to against what the preprocessor pads to."""
    size = tuple(segmentor_of(runner).data_preprocessor.size)
    pipelines = getattr(runner.train_dataloader.dataset, 'pipelines', {})
    for step in (step for pipeline in pipelines.values() for step in getattr(pipeline, 'transforms', ())):
        crop = getattr(step, 'crop_size', None) if 'Crop' in type(step).__name__ else None
        if isinstance(crop, (tuple, list)) and tuple(crop) != size:
            what = 'padding would fill the rest' if min(crop) < max(size) else 'they do not fit'
            return [
                f'The pipeline crops images to {tuple(crop)}, but model.data_preprocessor.size={size}: {what}; set '
                'both to one crop (crop_size where the config has it).'
            ]
    return []


def _try_batch(model: nn.Module, samples: list[dict]) -> list[str]:
    """One batch through the preprocessor: what it refuses, and whether the network takes what it gives."""
    inputs, wanted = [sample['inputs'] for sample in samples], model.student.in_channels
    for pixels in inputs:
        if len(pixels) != wanted:
            return [_channel_problem('training images', len(pixels), wanted)]
    preprocessor = model.data_preprocessor
    lowest, highest = min(float(x.double().min()) for x in inputs), max(float(x.double().max()) for x in inputs)
    if lowest < 0 or (preprocessor.max_value and highest > preprocessor.max_value):
        return [
            f'The images hold values from {lowest:g} to {highest:g}, outside of 0 to model.data_preprocessor.'
            f'max_value={preprocessor.max_value}; set max_value to the largest, and shift negative ones when reading.'
        ]
    try:
        with _same_draws():
            preprocessor(dict(inputs=inputs, data_samples=[sample['data_samples'] for sample in samples]), True)
    except Exception as error:
        return [f'model.data_preprocessor cannot take the images: {_words(error)}']
    return []


def _channel_problem(what: str, channels: int, wanted: int) -> str:
    return (
        f'The {what} have {channels} channels, but the network reads {wanted}: set color_type of their '
        "LoadImageFromFile ('color', 'grayscale', 'unchanged'), or model.student.backbone.in_channels="
        f'{channels} with as many numbers in model.data_preprocessor.mean and std.'
    )


@contextlib.contextmanager
def _same_draws() -> Iterator[None]:
    """Random numbers that are drawn inside are drawn again behind it, on all devices."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if on_device is not None:
            torch.cuda.set_rng_state(on_device)


# The step


def try_step(runner: Runner) -> list[str]:
    """One step of the model at the crop and batch of training, on the meta device."""
    model, sampler = segmentor_of(runner), _sampler(runner)
    labeled, unlabeled = getattr(sampler, 'labeled', 1), getattr(sampler, 'unlabeled', 1)
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        # Statistics are those of all processes' images.
        labeled, unlabeled = labeled * get_world_size(), unlabeled * get_world_size()
    if not labeled:
        return []
    try:
        on_meta = meta_copy(model)
    except Exception as error:
        return [f'The model cannot be rehearsed: {_words(error)}']
    on_meta.train()
    streams = meta_streams(model, labeled, unlabeled)
    with _alone(), _tracked(on_meta) as current, _same_draws():
        try:
            on_meta(streams, None, mode='loss')
        except Exception as error:
            if _needs_values(error):
                return []
            where = current()
            if where and type(where[1]).__module__.startswith('mmseg.models.losses') and _on_gpu(model):
                return []  # some of these take another way there than where there are no values
            height, width = model.data_preprocessor.size
            begin = f'A step at the crop {height} x {width} fails in'
            if where is None:
                return [f'{begin} {type(model).__name__}: {_words(error)}{_mend(error)}']
            name, module, shape = where
            begin += f' model.{name} ({type(module).__name__})'
            key, wanted = _width_of(module)
            if shape and wanted and len(shape) > 1 and (got := shape[-1 if key == 'in_features' else 1]) != wanted:
                return [
                    f'{begin}: its width {key}={wanted} does not fit what it reads, which has {got} channels; correct '
                    'in_channels there, or what it reads.'
                ]
            return [f'{begin}: {_words(error)}{_mend(error)}']
    return []


def _on_gpu(model: nn.Module) -> bool:
    return next(model.parameters()).is_cuda


def _needs_values(error: Exception) -> bool:
    """Does a part look at values, as some losses of mmseg do, so that it cannot be tried without?"""
    return isinstance(error, NotImplementedError) or any(
        words in str(error) for words in ('meta tensor', 'on meta', 'Meta tensor', 'nonzero', 'data-dependent')
    )


def _width_of(module: nn.Module) -> tuple[str, int | None]:
    """The key that says how wide the input of a layer is, and how wide."""
    return next(
        ((key, getattr(module, key)) for key in ('in_channels', 'in_features', 'num_features') if hasattr(module, key)),
        ('', None),
    )


def _mend(error: Exception) -> str:
    """What to do about errors of torch that do not say so."""
    text = str(error)
    for known, mend in _MENDS.items():
        if known in text:
            return f' {mend}'
    return ''


_MENDS = {
    'more than 1 value per channel': (
        'Batch statistics need more than one image: set train_dataloader.sampler.labeled (and unlabeled) to 2 or more, '
        'or train on several GPUs with SyncBN.'
    ),
    'weight tensor should be defined': (
        'Give class_weight of the loss (model.student.decode_head.loss_decode) one number a class.'
    ),
    'expected input': 'Correct in_channels there, or the widths of what it reads.',
    'normalized_shape': 'Correct the widths there.',
    'mat1 and mat2': 'Correct the widths there.',
    'Sizes of tensors must match': 'Correct the widths or strides there, or the crop (crop_size).',
    'must match the size of tensor': 'Correct the widths or strides there, or the crop (crop_size).',
}


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
def _tracked(model: nn.Module) -> Iterator[Callable[[], tuple[str, nn.Module, tuple[int, ...] | None] | None]]:
    """Know which module is running: the name of the innermost one, itself, and the shape of what it was given."""
    names = {module: name for name, module in model.named_modules()}
    running: list[tuple[nn.Module, tuple[int, ...] | None]] = []

    def enter(module: nn.Module, args: tuple) -> None:
        running.append((module, tuple(args[0].shape) if args and isinstance(args[0], Tensor) else None))

    def leave(module: nn.Module, *_: Any) -> None:
        if running and running[-1][0] is module:
            running.pop()

    handles = [
        handle
        for module in model.modules()
        for handle in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]

    def current() -> tuple[str, nn.Module, tuple[int, ...] | None] | None:
        named = [entry for entry in running if names.get(entry[0])]
        return (names[named[-1][0]], *named[-1]) if named else None

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
    if not isinstance(sample, dict) or 'data_samples' not in sample:
        return [*problems, 'The pipeline of val_dataloader does not end in PackSegInputs; add it.']
    model = segmentor_of(runner)
    if isinstance(sample['inputs'], Tensor) and len(sample['inputs']) != model.student.in_channels:
        problems.append(_channel_problem('images of val_dataloader', len(sample['inputs']), model.student.in_channels))
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
