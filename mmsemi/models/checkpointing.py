"""Activation checkpointing: blocks of a backbone are computed again in the backward pass, not kept for it.

``model.student.backbone.with_cp=True`` of OpenMMLab's backbones means this. Theirs fails where a network is run several
times a step on several processes, as every method here does, and counts the batch twice in running statistics; and not
every backbone has it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute_blocks(backbone: nn.Module) -> list[nn.Module]:
    """Keep, of each block, no more than its input: what it computes is computed again when its gradient is wanted.

    Results, gradients and batch statistics are those of a backbone without it. Blocks are the modules for which
    OpenMMLab has ``with_cp``; where there are none, the members of lists of modules of one class.

    Args:
        backbone (nn.Module): Any network; its blocks' ``forward`` is replaced.

    Returns:
        list[nn.Module]: The blocks.

    Raises:
        ValueError: If it has no such blocks.
    """
    blocks = _outermost(backbone, lambda module, _: hasattr(module, 'with_cp')) or _outermost(backbone, _is_repeated)
    if not blocks:
        raise ValueError(
            f'model.student.backbone.with_cp=True: {type(backbone).__name__} has no repeated blocks that could be '
            'computed again; leave it out.'
        )
    for block in blocks:
        block.forward = partial(_recomputed, block)
    return blocks


def _outermost(parent: nn.Module, is_block: Any) -> list[nn.Module]:
    found = []
    for module in parent.children():
        found += [module] if is_block(module, parent) else _outermost(module, is_block)
    return found


def _is_repeated(module: nn.Module, parent: nn.Module) -> bool:
    containers = (nn.Sequential, nn.ModuleList)
    if not isinstance(parent, containers) or isinstance(module, containers) or not any(module.children()):
        return False
    return sum(type(other) is type(module) for other in parent) > 1


def _recomputed(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if not torch.compiler.is_compiling():  # where a compiler does it, statistics are written once anyway
        kwargs['context_fn'] = partial(_contexts, block)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def _contexts(block: nn.Module) -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
    """Around the first computation, and around the second."""
    return contextlib.nullcontext(), _statistics_stay(block)


@contextlib.contextmanager
def _statistics_stay(block: nn.Module) -> Iterator[None]:
    """The batch was counted in running statistics the first time: now its share in them is 0."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, torch.zeros_like(norm.num_batches_tracked)
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
