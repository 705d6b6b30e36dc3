"""How much memory of a GPU a config takes, told by any machine: nothing is computed (:mod:`engine.step_memory`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from mmsemi.engine.rehearsal import meta_copy, meta_streams
from mmsemi.engine.step_memory import StepMemory, step_memory
from mmsemi.registry import MODELS
from mmsemi.utils import register_all_modules

from .launch import UsageError, quiet

GIB = 2**30
CARDS = (8, 11, 16, 24, 40, 80)
"""GiB of memory of usual GPUs."""
PRECISIONS = {'float32': None, 'fp16': torch.float16, 'bf16': torch.bfloat16}
CONTEXT = 1.0
"""GiB that CUDA itself and the workspaces of its libraries take; not measured."""
FRAGMENTED = 0.05
"""Share of a GPU's memory that lies between the pieces that are used; not measured."""


@dataclass
class Estimate:
    """Bytes of a training step.

    Args:
        labeled, unlabeled (int): Images of one process and one pass.
        weights (int): Parameters of all branches.
        state (int): Buffers: running statistics, queues, prototypes.
        optimizer (int): The optimizer's state.
        buckets (int): What several processes exchange gradients in.
        step (StepMemory): What comes and goes: activations, gradients.
    """

    labeled: int
    unlabeled: int
    weights: int
    state: int
    optimizer: int
    buckets: int
    step: StepMemory

    @property
    def fixed(self) -> int:
        """What does not depend on the batch."""
        return self.weights + self.state + self.optimizer + self.buckets

    @property
    def total(self) -> int:
        """All of it, at the step's fullest moment."""
        return self.fixed + self.step.peak


class Estimator:
    """Estimates steps of one config at several batches.

    Args:
        cfg (Config): Ready to train (:func:`mmsemi.apis.launch.load_config`); not changed.
        precision (str): What networks compute in, one of ``PRECISIONS``. Defaults to 'float32'.
        processes (int): How many processes share the gradients. Defaults to 1.
        crop (tuple[int, int], optional): Height and width of training crops. Defaults to the config's.

    Raises:
        UsageError: If the precision is unknown.
    """

    def __init__(
        self, cfg: Config, precision: str = 'float32', processes: int = 1, crop: tuple[int, int] | None = None
    ) -> None:
        if precision not in PRECISIONS:
            raise UsageError(f'--amp {precision} is unknown; there are {", ".join(PRECISIONS)}.')
        self.precision, self.processes = precision, processes
        self.model = build_on_meta(cfg, crop)
        self.crop = tuple(self.model.data_preprocessor.size)
        self.optimizer = _optimizer_state(self.model, cfg)

    def __call__(self, labeled: int, unlabeled: int) -> Estimate:
        """Estimate a step of so many images on each process."""
        streams = meta_streams(self.model, labeled, unlabeled)
        step = step_memory(self.model, streams, PRECISIONS[self.precision])
        learned = _size(x for x in self.model.parameters() if x.grad is not None)
        self.model.zero_grad()
        return Estimate(
            labeled,
            unlabeled,
            _size(self.model.parameters()),
            _size(self.model.buffers()),
            self.optimizer,
            learned if self.processes > 1 else 0,
            step,
        )

    def largest(self, labeled: int, unlabeled: int, cards: Sequence[float] = CARDS) -> list[tuple[int, int]]:
        """The largest batches, in the proportion of ``labeled`` to ``unlabeled``, that cards of so many GiB hold.

        Memory is a straight line over the batch: two batches tell it. A batch of (0, 0) means that none fits.
        """
        common = math.gcd(labeled, unlabeled) or 1
        unit = labeled // common, unlabeled // common
        few, more = 2, 4
        low, high = (self(unit[0] * n, unit[1] * n).total for n in (few, more))
        each = (high - low) / (more - few)
        fixed = low - few * each
        counts = [max(0, math.floor((usable(gib) - fixed) / each)) for gib in cards]
        return [(unit[0] * n, unit[1] * n) for n in counts]


def usable(gib: float) -> float:
    """Bytes of a card of ``gib`` GiB that a step may fill."""
    return (gib * (1 - FRAGMENTED) - CONTEXT) * GIB


def build_on_meta(cfg: Config, crop: tuple[int, int] | None = None) -> nn.Module:
    """A config's model in training mode on the meta device; no weights are loaded or initialised.

    Args:
        cfg (Config): Not changed.
        crop (tuple[int, int], optional): Height and width of training crops. Defaults to the config's.
    """
    with quiet():
        register_all_modules(init_default_scope=True)
    settings = Config(dict(model=cfg.model.to_dict())).model
    forget_weights(settings)
    if crop:
        settings.data_preprocessor.size = crop
    return meta_copy(revert_sync_batchnorm(MODELS.build(settings))).train()


def forget_weights(node: Any) -> None:
    """Let no part of a config load weights: their values do not matter here."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'pretrained' or (key == 'init_cfg' and isinstance(value, dict) and 'checkpoint' in value):
                node[key] = None
            forget_weights(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            forget_weights(value)


def _optimizer_state(model: nn.Module, cfg: Config) -> int:
    """Bytes that the optimizer keeps, once it has made a step."""
    settings = {k: v for k, v in cfg.optim_wrapper.to_dict().items() if k in _OPTIMIZER_KEYS}
    settings['optimizer'].pop('fused', None)  # not there on the meta device, and the same state
    optimizer = build_optim_wrapper(model, dict(settings, type='OptimWrapper')).optimizer
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    model.zero_grad()
    kept = (x for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor))
    return _size(x for x in kept if x.is_meta)


_OPTIMIZER_KEYS = ('constructor', 'optimizer', 'paramwise_cfg')


def _size(tensors: Any) -> int:
    """Bytes of tensors, each storage once."""
    storages = {id(s): s for s in (x.untyped_storage() for x in tensors)}
    return sum(s.nbytes() for s in storages.values())


# What is printed


_NAMES = {
    'images': 'images and their views',
    'student': "student's pass",
    'teacher': "teacher's pass",
    'heads': 'auxiliary heads',
    'losses': 'pseudo-labels and losses',
    'backward': 'gradients of activations',
    'gradients': 'gradients of weights',
}


def report(estimate: Estimate, cards: Sequence[float], largest: Sequence[tuple[int, int]]) -> str:
    """The estimate as a table, and the batches that cards hold."""
    rows = [
        ('weights', estimate.weights),
        ('state', estimate.state),
        ('optimizer', estimate.optimizer),
        *([('buckets of several processes', estimate.buckets)] if estimate.buckets else []),
        *((_NAMES[part], size) for part, size in estimate.step.parts.items()),
        ('total', estimate.total),
    ]
    rows.append(('(kept for the backward pass', estimate.step.saved))
    unit, name_of_it = (GIB, 'GiB') if estimate.total > GIB else (2**20, 'MiB')
    lines = [f'{name:30}{size / unit:8.2f} {name_of_it}' for name, size in rows]
    lines[-1] += ')'
    lines.append('')
    lines.append(f'{"GPU":27}' + ''.join(f'{f"{gib:g} GB":>14}' for gib in cards))
    batches = [f'{a} + {b}' if a + b else 'none' for a, b in largest]
    lines.append(f'{"largest batch of a process":27}' + ''.join(f'{text:>14}' for text in batches))
    return '\n'.join(lines)
