"""Where the time of a training step goes, seen from outside of the methods: module hooks and a mode that watches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

PHASES = (
    'data', 'student forward', 'teacher forward', 'pseudo-labels', 'losses', 'backward', 'optimizer', 'EMA and hooks'
)  # fmt: skip
"""What a step's time goes to, as tools/analysis/benchmark_step.py explains it."""


class Clock:
    """Adds up time by phase; each mark charges what passed since the mark before it.

    Args:
        device (torch.device): Where the model is; on CUDA marks are events of its own stream.
        threads (int): Threads of a CPU; time is that of the process if it is 1, else wall time.
    """

    def __init__(self, device: torch.device, threads: int) -> None:
        self.on_cuda = device.type == 'cuda'
        self._read = time.process_time if threads == 1 else time.perf_counter
        self._marks: list[tuple[str, Any]] = []

    def mark(self, phase: str = '') -> None:
        """Charge the time since the last mark to ``phase``; without one, forget all marks and start anew."""
        if not phase:
            self._marks.clear()
        now = torch.cuda.Event(enable_timing=True) if self.on_cuda else self._read()
        if self.on_cuda:
            now.record()
        self._marks.append((phase, now))

    def seconds(self) -> dict[str, float]:
        """Read and forget the marks."""
        if self.on_cuda:
            torch.cuda.synchronize()
        spent = dict.fromkeys(PHASES, 0.0)
        for (_, before), (phase, now) in zip(self._marks, self._marks[1:], strict=False):
            spent[phase] += before.elapsed_time(now) / 1e3 if self.on_cuda else now - before
        self._marks.clear()
        return spent


@dataclass
class Call:
    """A network's forward pass: what it got, whether it learned, and which gradients its outputs received."""

    network: nn.Module
    phase: str
    inputs: tuple[tuple, dict]
    with_grad: bool
    outputs: Any

    def keep_gradients(self) -> None:
        """Forget the outputs and keep their gradients, once the backward pass is over."""
        self.outputs = [x.grad if x.requires_grad else None for x in tensors_in(self.outputs)]


class Instruments(TorchFunctionMode):
    """Charges the parts of ``model.loss`` to phases, and records the calls of networks while ``calls`` is a list.

    Args:
        model (nn.Module): A :class:`SemiSegmentor`; its networks get hooks.
        clock (Clock): What is marked.
    """

    def __init__(self, model: nn.Module, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.calls: list[Call] | None = None
        self._inside: nn.Module | None = None
        self._head: str = ''
        self._charging = False
        for name, own in (('student', 'losses'), ('teacher', 'pseudo-labels')):
            if name not in model.branches:
                continue
            branch = getattr(model, name)
            for head in branch.heads.values():
                head.register_forward_pre_hook(lambda *_, own=own: self._enter_head(own))
                head.register_forward_hook(lambda *_: self._leave_head())
            for network in [*networks_of(branch.segmentor), *(n for h in branch.heads.values() for n in _layers(h))]:
                network.register_forward_pre_hook(self._enter)
                network.register_forward_hook(partial(self._leave, f'{name} forward'), with_kwargs=True)

    @contextmanager
    def charging(self) -> Iterator[None]:
        """Within it, time goes to phases."""
        self._charging = True
        with self:
            yield
        self._charging = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if self._charging and self._inside is None:
            tensors = tensors_in(result)
            if tensors:
                phase = 'losses' if any(x.requires_grad for x in tensors) else 'pseudo-labels'
                self.clock.mark(self._head or phase)
        return result

    def _enter_head(self, phase: str) -> None:
        self._head = phase

    def _leave_head(self) -> None:
        if self._charging:
            self.clock.mark(self._head)
        self._head = ''

    def _enter(self, network: nn.Module, args: tuple) -> None:
        if self._charging and self._inside is None:
            self._inside = network
            self.clock.mark(self._head or 'losses')

    def _leave(self, phase: str, network: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        if network is not self._inside:
            return None
        self._inside = None
        self.clock.mark(phase)
        if self.calls is None:
            return None
        # Aliases: their gradient is what comes from outside, without what a level gets from those built on it.
        output = tree_map_only(Tensor, lambda x: x.view_as(x), output)
        for x in tensors_in(output):
            if x.requires_grad:
                x.retain_grad()
        self.calls.append(Call(network, phase, as_leaves((args, kwargs)), torch.is_grad_enabled(), output))
        return output


def replay(calls: list[Call], clock: Clock) -> None:
    """Run recorded calls again, forward and backward, and nothing else.

    Parameters gather the same gradients, without what comes through a feature that was tapped inside a decode head.
    """
    outputs, gradients = [], []
    for call in calls:
        args, kwargs = as_leaves(call.inputs)
        with torch.set_grad_enabled(call.with_grad):
            output = call.network(*args, **kwargs)
        clock.mark(call.phase)
        for x, gradient in zip(tensors_in(output), call.outputs, strict=True):
            if gradient is not None:
                outputs.append(x)
                gradients.append(gradient)
    torch.autograd.backward(outputs, gradients)
    clock.mark('backward')


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors of nested containers, in order."""
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def as_leaves(values: Any) -> Any:
    """Nested containers with their tensors cut from the graph, which learn if they did."""
    return tree_map_only(Tensor, lambda x: x.detach().requires_grad_(x.requires_grad), values)


def networks_of(segmentor: nn.Module) -> list[nn.Module]:
    """Backbone, neck and heads of an mmseg segmentor."""
    parts = [getattr(segmentor, name, None) for name in ('backbone', 'neck', 'decode_head', 'auxiliary_head')]
    return [m for part in parts if part is not None for m in (part if isinstance(part, nn.ModuleList) else [part])]


def _layers(head: nn.Module) -> list[nn.Module]:
    """The outermost parts of an auxiliary head that hold convolutions or linear layers."""
    found = []
    for child in head.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            found += _layers(child)
        elif any(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in child.modules()):
            found.append(child)
    return found
