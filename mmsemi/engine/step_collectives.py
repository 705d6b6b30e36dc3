"""What processes exchange in a step of training, seen from outside of the methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from .step_timing import tensors_in

_WATCHED = (
    'all_reduce', 'all_gather', 'all_gather_into_tensor', 'all_gather_object', 'all_to_all', 'all_to_all_single',
    'broadcast', 'broadcast_object_list', 'gather', 'gather_object', 'reduce', 'reduce_scatter',
    'reduce_scatter_tensor', 'scatter',
)  # fmt: skip


@dataclass(frozen=True)
class Exchange:
    """One collective.

    Args:
        name (str): torch's name of it; 'gradients' for a bucket of parameters' gradients.
        size (int): Bytes that a process gives; of objects, 0.
        seconds (float): How long the process was in it; 0 where it did not wait.
    """

    name: str
    size: int
    seconds: float = 0.0


@contextmanager
def watched_collectives() -> Iterator[list[Exchange]]:
    """Within it, whatever this process exchanges through torch's functions is noted; gradients are not
    (:func:`watch_gradients`).
    """
    found: list[Exchange] = []

    def noted(name: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
        # What is given: of a gathering the second, after the place for what comes.
        given = args[1:2] if name.startswith(('all_gather', 'all_to_all', 'reduce_scatter')) else args[:1]
        size = sum(x.numel() * x.element_size() for x in tensors_in(given)) or _size_by_name(kwargs)
        start = time.perf_counter()
        result = function(*args, **kwargs)
        found.append(Exchange(name, size, 0.0 if kwargs.get('async_op') else time.perf_counter() - start))
        return result

    patches = [
        mock.patch.object(distributed, name, partial(noted, name, getattr(distributed, name)))
        for name in _WATCHED
        if hasattr(distributed, name)
    ]
    for patch in patches:
        patch.start()
    try:
        yield found
    finally:
        for patch in patches:
            patch.stop()


def _size_by_name(kwargs: dict) -> int:
    given = next((kwargs[name] for name in ('input_tensor', 'input', 'tensor') if name in kwargs), None)
    return sum(x.numel() * x.element_size() for x in tensors_in(given))


def watch_gradients(wrapped: DistributedDataParallel) -> list[Exchange]:
    """Note the buckets in which a wrapped model's gradients are averaged, which is done as without being watched.

    A bucket's time runs from when it is full until it is averaged: other buckets and the backward pass go on meanwhile.
    """
    found: list[Exchange] = []

    def average(state, bucket):  # without types, which torch compares and cannot as strings
        start, buffer = time.perf_counter(), bucket.buffer()
        buffer.div_(distributed.get_world_size())

        def done(future: torch.futures.Future) -> Tensor:
            size = buffer.numel() * buffer.element_size()
            found.append(Exchange('gradients', size, time.perf_counter() - start))
            return future.value()[0]

        # By another name than `distributed.all_reduce`, which may be watched too.
        return distributed.distributed_c10d.all_reduce(buffer, async_op=True).get_future().then(done)

    wrapped.register_comm_hook(None, average)
    return found


@contextmanager
def watched_norms(model: nn.Module) -> Iterator[list[Exchange]]:
    """Within it, what SyncBN would exchange in the place of each batch norm that runs in training mode is noted: in
    the forward pass sums, squares and a count, in the backward pass two sums.
    """
    found: list[Exchange] = []

    def note(norm: _BatchNorm, inputs: tuple, output: Tensor) -> None:
        if norm.training:
            found.append(Exchange('SyncBN forward', 4 * (2 * norm.num_features + 1)))
            if output.requires_grad:
                found.append(Exchange('SyncBN backward', 4 * 2 * norm.num_features))

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    handles = [norm.register_forward_hook(note) for norm in norms]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
