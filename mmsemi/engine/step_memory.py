"""How much memory a training step takes, without taking it: the step on the meta device, and a book of what is alive.

Tensors on the meta device have shapes and storages, but no bytes. What operations return, what autograd keeps for the
backward pass and the gradients that flow between its nodes are entered when they appear and struck out when they die.
What an operation needs inside of itself, until it returns, is not seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from mmsemi.structures import Streams

from .step_timing import networks_of, tensors_in

PARTS = ('images', 'student', 'teacher', 'heads', 'losses', 'backward', 'gradients')
"""Whose memory it is: the views; the passes of the student's and of the teacher's network; auxiliary heads;
pseudo-labels, losses and whatever else a method computes; gradients of all that; gradients of parameters."""

# What autocast does on a GPU, by torch's own list: in half precision; in full; with a result in full.
_HALF = {
    'conv1d', 'conv2d', 'conv3d', 'conv_transpose1d', 'conv_transpose2d', 'conv_transpose3d', 'linear', 'matmul',
    '__matmul__', '__rmatmul__', 'mm', 'mv', 'bmm', 'addmm', 'addmv', 'addbmm', 'baddbmm', 'einsum', 'prelu',
    'scaled_dot_product_attention', 'multi_head_attention_forward',
}  # fmt: skip
_FULL = {
    'cross_entropy', 'nll_loss', 'kl_div', 'mse_loss', 'l1_loss', 'smooth_l1_loss', 'binary_cross_entropy_with_logits',
    'cosine_similarity', 'layer_norm', 'group_norm', 'normalize', 'norm', 'exp', 'expm1', 'log', 'log1p', 'log2',
    'log10', 'pow', '__pow__', 'rsqrt', 'reciprocal', 'softplus', 'cdist', 'dist',
}  # fmt: skip
_FULL_RESULT = {'softmax', 'log_softmax', 'sum', 'prod', 'cumsum', 'cumprod'}


@dataclass
class StepMemory:
    """Bytes at a step's fullest moment.

    Args:
        parts (dict[str, int]): All but what was there before (parameters, buffers, the optimizer's state), by part.
        saved (int): What was kept for the backward pass, parameters aside, when it began.
    """

    parts: dict[str, int] = field(default_factory=dict)
    saved: int = 0

    @property
    def peak(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


def step_memory(model: nn.Module, streams: Streams, amp: torch.dtype | None = None) -> StepMemory:
    """One forward and backward pass of a method; parameters have their gradients then, the optimizer's step is left
    out.

    Args:
        model (nn.Module): A :class:`SemiSegmentor` in training mode; on the meta device nothing is computed.
        streams (Streams): Its views, on the model's device.
        amp (torch.dtype, optional): What networks compute in, as autocast does it on a GPU; float32 by default. Needs a
            model on the meta device.
    """
    book = _Book(next(model.parameters()).device)
    for tensor in (*model.parameters(), *model.buffers()):
        book.leave_out(tensor)
    with book.part('images'):
        book.enter(list(vars(streams).values()))
        book.enter([mix.mask for mix in streams.mix])
    # The mode acts where autocast is on; it is the CPU's, for the meta device has none.
    autocast = nullcontext() if amp is None else torch.autocast('cpu', amp)
    with _parts_of(model, book), _Results(book), _Autocast(amp) if amp else nullcontext() as cast:
        with book.part('losses'), autocast, saved_tensors_hooks(book.keep, lambda kept: kept):
            loss = model.parse_losses(model.loss(streams))[0]
        if cast:
            cast.forget()
        saved = book.kept()
        with book.part('backward'):
            for node in _nodes(loss):
                _watch(node, book)
            loss.backward()
    return StepMemory({part: book.fullest[part] for part in PARTS}, saved)


class _Book:
    """Living storages, each with its size, and what they hold by part."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.held: Counter[str] = Counter()
        self.total = self.most = 0
        self.fullest: Counter[str] = Counter()
        self._own: list[torch.UntypedStorage] = []
        self._living: dict[int, tuple[str, int]] = {}
        self._kept: set[int] = set()
        self._parts = ['losses']

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Within it, what is new belongs to this part."""
        self.enter_part(name)
        yield
        self.leave_part()

    def enter_part(self, name: str) -> None:
        self._parts.append(name)

    def leave_part(self) -> None:
        self._parts.pop()

    def leave_out(self, tensor: Tensor) -> None:
        """Of what was there before, nothing is counted."""
        storage = tensor.untyped_storage()
        self._own.append(storage)
        self._living[id(storage)] = ('', 0)

    def enter(self, values: Any) -> None:
        """Count the tensors among ``values`` that are new."""
        if isinstance(values, Tensor):
            self._enter(values)
        elif isinstance(values, (tuple, list, dict)):
            for tensor in tensors_in(values):
                self._enter(tensor)

    def _enter(self, tensor: Tensor) -> None:
        if tensor.device != self.device:
            return
        # Python's object of a storage lives as long as the storage.
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._living:
            return
        part, size = self._parts[-1], storage.nbytes()
        self._living[key] = (part, size)
        weakref.finalize(storage, self._strike, key).atexit = False
        self.held[part] += size
        self.total += size
        if self.total > self.most:
            self.most, self.fullest = self.total, self.held.copy()

    def _strike(self, key: int) -> None:
        part, size = self._living.pop(key)
        self._kept.discard(key)
        self.held[part] -= size
        self.total -= size

    def keep(self, tensor: Tensor) -> Tensor:
        """What autograd keeps of a tensor."""
        self.enter(tensor)
        self._kept.add(id(tensor.untyped_storage()))
        # Not itself: a tensor that is kept by what made it would never die.
        return tensor.detach()

    def kept(self) -> int:
        """Bytes that are kept for the backward pass."""
        return sum(self._living.get(key, ('', 0))[1] for key in self._kept)

    def is_gradient(self, parameter: nn.Parameter) -> None:
        """Count a parameter's gradient as one."""
        storage = parameter.grad.untyped_storage()
        self._enter(parameter.grad)
        part, size = self._living[id(storage)]
        self._living[id(storage)] = ('gradients', size)
        self.held[part] -= size
        self.held['gradients'] += size


class _Results(TorchFunctionMode):
    """Enters what operations return."""

    def __init__(self, book: _Book) -> None:
        super().__init__()
        self.book = book

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.book.enter(result)
        return result


class _Autocast(TorchFunctionMode):
    """What autocast does on a GPU, for tensors on the meta device, where there is none."""

    def __init__(self, half: torch.dtype) -> None:
        super().__init__()
        self.half = half
        self._weights: dict[int, Tensor] = {}

    def forget(self) -> None:
        """Let the weights go that were converted."""
        self._weights.clear()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, '__name__', '')
        if torch.is_autocast_enabled('cpu'):
            if name in _HALF:
                args, kwargs = tree_map_only(Tensor, partial(self._cast, self.half), (tuple(args), kwargs))
            elif name in _FULL:
                args, kwargs = tree_map_only(Tensor, partial(self._cast, torch.float32), (tuple(args), kwargs))
            elif name in _FULL_RESULT and args[0].dtype == self.half and kwargs.get('dtype') is None:
                kwargs = {**kwargs, 'dtype': torch.float32}
        return function(*args, **kwargs)

    def _cast(self, dtype: torch.dtype, x: Tensor) -> Tensor:
        if x.dtype not in (torch.float32, self.half) or x.dtype == dtype or x.device.type != 'meta':
            return x
        if not (x.is_leaf and x.requires_grad):
            return x.to(dtype)
        # As torch does, a weight is converted once a step.
        if id(x) not in self._weights:
            self._weights[id(x)] = x.to(dtype)
        return self._weights[id(x)]


@contextmanager
def _parts_of(model: nn.Module, book: _Book) -> Iterator[None]:
    """Know whose pass it is: networks and heads of a method's branches."""
    handles, seen = [], set()
    for name in model.branches:
        branch = getattr(model, name)
        owned = [(module, name) for module in networks_of(branch.segmentor)]
        owned += [(module, 'heads') for module in branch.heads.values()]
        for module, part in owned:
            if module in seen:  # a frozen encoder is both branches'
                continue
            seen.add(module)
            handles.append(module.register_forward_pre_hook(lambda *_, part=part: book.enter_part(part)))
            handles.append(module.register_forward_hook(lambda *_: book.leave_part(), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _nodes(loss: Tensor) -> list[Node]:
    """All nodes of a backward pass."""
    found: set[Node] = set()
    to_do = [loss.grad_fn]
    while to_do:
        node = to_do.pop()
        if node is not None and node not in found:
            found.add(node)
            to_do += [following for following, _ in node.next_functions]
    return list(found)


def _watch(node: Node, book: _Book) -> None:
    """Enter the gradients that a node hands on."""
    parameter = getattr(node, 'variable', None)
    if parameter is not None:
        node.register_hook(lambda *_: book.is_gradient(parameter))
    else:
        node.register_hook(lambda gradients, _: book.enter(gradients))
