"""One step of a model on the meta device."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.runner import Runner
from torch import Tensor, nn

from mmsemi.engine.utils import sampler_of, segmentor_of
from mmsemi.structures import Mix, Streams

from .parts import alone, same_draws, words


def try_step(runner: Runner) -> list[str]:
    """One step of the model at the crop and batch of training, on the meta device."""
    model, sampler = segmentor_of(runner), sampler_of(runner.train_dataloader)
    labeled, unlabeled = getattr(sampler, 'labeled', 1), getattr(sampler, 'unlabeled', 1)
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        # Statistics are those of all processes' images.
        labeled, unlabeled = labeled * get_world_size(), unlabeled * get_world_size()
    if not labeled:
        return []
    try:
        on_meta = meta_copy(model)
    except Exception as error:
        return [f'The model cannot be rehearsed: {words(error)}']
    on_meta.train()
    streams = meta_streams(model, labeled, unlabeled)
    with alone(), _tracked(on_meta) as current, same_draws():
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
                return [f'{begin} {type(model).__name__}: {words(error)}{_mend(error)}']
            name, module, shape = where
            begin += f' model.{name} ({type(module).__name__})'
            key, wanted = _width_of(module)
            if shape and wanted and len(shape) > 1 and (got := shape[-1 if key == 'in_features' else 1]) != wanted:
                return [
                    f'{begin}: its width {key}={wanted} does not fit what it reads, which has {got} channels; correct '
                    'in_channels there, or what it reads.'
                ]
            return [f'{begin}: {words(error)}{_mend(error)}']
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
