"""A GPU without values: tensors on 'cuda' have shape, type, device and memory format, as torch's fake tensors do.

Tensors of the host stay real, so that data come from a real loader and the host's own arithmetic is what it is. C++
takes the others for tensors of the meta device, since its autograd engine would ask for a GPU; Python sees 'cuda:0'.
A mode around all operations writes down what a GPU would have to do, and what would make the host wait: `Record`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import mmengine.device.utils
import torch
import torch._dynamo  # before the patches: it compares signatures
import torch._subclasses.fake_tensor as fake_tensor
import torch.optim.optimizer as optimizer
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .autocast import HEADER, autocast_kernels

ROOT = Path(__file__).resolve().parents[2]
CUDA = torch.device('cuda', 0)
MEMORY = 80 * 2**30
"""Bytes that the device says it has."""

_HALVES = (torch.float16, torch.bfloat16)
_VIEWS = {'detach', '_unsafe_view', 'lift_fresh', 'alias', '_reshape_alias'}
_INDEXING = {'index', 'index_put', '_index_put_impl', 'index_fill', 'masked_scatter'}
_VALUE_ON_HOST = {'_local_scalar_dense', 'item', 'is_nonzero', 'equal', '_linalg_check_errors'}
_SHAPE_BY_VALUE = {
    'nonzero', 'masked_select', '_unique2', 'unique_dim', 'unique_consecutive', 'unique_dim_consecutive', 'bincount',
    'multinomial',
}  # fmt: skip
# Kernels of GPUs want one floating-point type; those of the meta device do not mind.
_ONE_TYPE = {
    'index_copy', 'index_add', 'index_put', '_index_put_impl', 'scatter', 'scatter_add', 'scatter_reduce',
    'index_reduce', 'masked_scatter', 'mm', 'bmm', 'addmm', 'baddbmm', 'convolution', 'lerp', 'dot', 'mv',
    '_embedding_bag',
}  # fmt: skip
# Of these nothing is computed: what is half stays as it is.
_MOVES = {
    '_to_copy', 'copy', 'copy_', 'clone', 'cat', 'stack', 'index', 'index_select', 'gather', 'flip', 'roll', 'repeat',
    'where', 'masked_fill', 'constant_pad_nd', 'sort', 'topk', 'empty', 'empty_like', 'zeros_like', 'zeros',
    'new_zeros', 'new_empty', 'full', 'full_like', 'zero_', 'fill_', 'ones_like', 'new_full', 'fill',
}  # fmt: skip
_LOGGING = ('deferred_runtime_info_hook.py', 'log_processor.py', 'logger_hook.py')


@dataclass
class Record:
    """What a GPU had to do.

    Args:
        phase (str): What is going on, set from outside.
        network (nn.Module, optional): Whose forward pass is running, set from outside.
        waits (Counter): What makes the host wait, by operator and line; not the logger's.
        logged (int): Values that the logger took to the host.
        blocking (Counter): Copies to the device for which the host waits.
        sent (Counter): Copies to the device for which it does not, by phase.
        launches (Counter): Operations, but for views, by phase and by whether a network's forward pass asks for them.
        half (Counter): Arithmetic in half precision outside of networks, by operator and line.
        now, peak (int): Bytes of living storages; the most since ``peak`` was set.
        peak_phase (str): When that was.
        at_peak (dict[str, int]): Bytes at the peak by operator and line; filled where ``by_line``.
        by_line (bool): Whether to fill it, which takes time. Defaults to False.
    """

    phase: str = 'build'
    network: Any = None
    waits: Counter = field(default_factory=Counter)
    logged: int = 0
    blocking: Counter = field(default_factory=Counter)
    sent: Counter = field(default_factory=Counter)
    launches: Counter = field(default_factory=Counter)
    half: Counter = field(default_factory=Counter)
    now: int = 0
    peak: int = 0
    peak_phase: str = ''
    at_peak: dict[str, int] = field(default_factory=dict)
    by_line: bool = False

    def restart(self) -> None:
        """Forget all but what is in memory."""
        self.waits, self.blocking, self.half = Counter(), Counter(), Counter()
        self.sent, self.launches, self.logged = Counter(), Counter(), 0
        self.peak, self.at_peak = self.now, {}


def _frames() -> Iterator[Any]:
    frame = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _line() -> str:
    """The innermost line of the project, or of what it stands on."""
    inner = ''
    for frame in _frames():
        name = frame.f_code.co_filename
        if '/torch/' in name or '/tests/fake_cuda/' in name or name.startswith('<'):
            continue
        inner = inner or f'{name.split("site-packages/")[-1]}:{frame.f_lineno}'
        if name.startswith(f'{ROOT}/mmsemi') or name.startswith(f'{ROOT}/tests'):
            return f'{name[len(str(ROOT)) + 1 :]}:{frame.f_lineno}'
    return inner


class _Watch(TorchDispatchMode):
    """Writes the record, and lets what happens on the host happen."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record
        self._alive: dict[int, tuple] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if any(type(x) is Tensor and x.is_meta for x in tensors):
            # Numbers that C++ wrapped for what it takes for the meta device.
            args, kwargs = tree_map_only(Tensor, _on_device, (args, kwargs))
            tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        wanted = None if kwargs.get('device') is None else torch.device(kwargs['device'])
        if not any(isinstance(x, FakeTensor) for x in tensors) and (wanted is None or wanted.type == 'cpu'):
            with unset_fake_temporarily():
                return function(*args, **kwargs)
        name = function.overloadpacket.__name__
        base = name if name.startswith('__') else name.rstrip('_')
        found, result = self._of_values(base, args, kwargs, tensors)
        if found:
            return result
        self._note_copies(base, args, kwargs, wanted)
        if base in _ONE_TYPE:
            types = sorted({str(x.dtype) for x in tensors if x.is_floating_point() and x.ndim})
            if len(types) > 1:
                raise TypeError(f'{name} gets {" and ".join(types)}, which no GPU takes ({_line()})')
        # Fused steps of optimizers write to what they get; the meta device has none of them.
        out = None if base.startswith('_fused_') else function(*args, **kwargs)
        aliases = [result.alias_info for result in function._schema.returns]
        view = any(alias is not None and not alias.is_write for alias in aliases) or name in _VIEWS
        if not view:
            self._note_launch(name, out)
        return out

    def _of_values(self, base: str, args: tuple, kwargs: dict, tensors: list[Tensor]) -> tuple[bool, Any]:
        """Whether the operation wants a value, which is noted; and what it then gets."""
        masks = (
            [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
            if (base in ('index', 'index_put', '_index_put_impl'))
            else []
        )
        if base in ('index', 'index_put', '_index_put_impl') and not args[0].is_cpu:
            for x in args[1]:
                if x is not None and x.is_cpu:
                    self.record.blocking[f'index of the host, {_line()}'] += 1
        if base == 'repeat_interleave' and kwargs.get('output_size') is None:
            self._wait(base)
        if not (masks or base in _VALUE_ON_HOST | _SHAPE_BY_VALUE):
            return False, None
        self._wait('mask' if masks else base)
        if base in ('_local_scalar_dense', 'item'):
            x = tensors[0]
            return True, True if x.dtype == torch.bool else (1.0 if x.is_floating_point() else 1)
        if base in ('is_nonzero', 'equal'):
            return True, True
        if base == 'nonzero':
            return True, torch.empty(max(1, args[0].numel() // 2), args[0].ndim, dtype=torch.long, device=CUDA)
        if masks and base == 'index':
            return True, args[0].new_empty(max(1, masks[0].numel() // 2), *args[0].shape[masks[0].ndim :])
        return False, None

    def _wait(self, what: str) -> None:
        if any(frame.f_code.co_filename.endswith(_LOGGING) for frame in _frames()):
            self.record.logged += 1
        else:
            self.record.waits[f'{what} in {self.record.phase}, {_line()}'] += 1

    def _note_copies(self, base: str, args: tuple, kwargs: dict, wanted: torch.device | None) -> None:
        if base not in ('_to_copy', 'copy', '_copy_from'):
            if base == 'lift_fresh':
                self.record.blocking[f'numbers of the host, {_line()}'] += 1
            return
        source = args[1] if base == 'copy' else args[0]
        target = args[0].device if base == 'copy' else wanted or args[0].device
        target_type = 'cuda' if target.type == 'meta' else target.type
        if source.device.type == 'cpu' and target_type == 'cuda':
            if kwargs.get('non_blocking') or (base == 'copy' and len(args) > 2 and args[2]):
                self.record.sent[self.record.phase] += 1
            else:
                self.record.blocking[f'copy in {self.record.phase}, {_line()}'] += 1
        elif source.device.type == 'cuda' and target_type == 'cpu':
            self._wait('copy to the host')

    def _note_launch(self, name: str, out: Any) -> None:
        record = self.record
        record.launches[record.phase, record.network is not None] += 1
        made = [x for x in tree_leaves(out) if isinstance(x, FakeTensor)]
        computes = record.network is None and name not in _MOVES and record.phase in ('data', 'loss', 'states')
        if computes and any(x.dtype in _HALVES for x in made):
            record.half[f'{name}, {_line()}'] += 1
        for x in made:
            self._note_storage(x, name)

    def _note_storage(self, x: Tensor, name: str) -> None:
        storage = x.untyped_storage()
        key, record = storage._cdata, self.record
        size = -(-storage.nbytes() // 512) * 512
        if key in self._alive or not size:
            return

        def gone(_: Any) -> None:
            record.now -= self._alive.pop(key)[1]

        line = f'{record.phase}: {name}, {_line()}' if record.by_line else ''
        self._alive[key] = (weakref.ref(storage, gone), size, line)
        record.now += size
        if record.now > record.peak:
            record.peak, record.peak_phase = record.now, record.phase
            if record.by_line:
                record.at_peak = Counter()
                for _, bytes_, where in self._alive.values():
                    record.at_peak[where] += bytes_


def _on_device(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=CUDA) if type(x) is Tensor and x.is_meta else x


def _make_subclass(cls, data, requires_grad=False, *, dispatch_device=False, device_for_backend_keys=None, **kwargs):
    """C++ shall see what it is, a tensor of the meta device, and not what it stands for."""
    on_gpu = device_for_backend_keys is not None and torch.device(device_for_backend_keys).type == 'cuda'
    if cls is FakeTensor and on_gpu:
        dispatch_device = False
    return _MADE(
        cls,
        data,
        requires_grad,
        dispatch_device=dispatch_device,
        device_for_backend_keys=device_for_backend_keys,
        **kwargs,
    )


def _dispatch(self, function, types, args=(), kwargs=None):
    """What C++ wants on the meta device it wants on the GPU."""
    kwargs = dict(kwargs or {})
    if kwargs.get('device') is not None and torch.device(kwargs['device']).type in ('meta', 'cuda'):
        kwargs['device'] = CUDA
    return _DISPATCHED(self, function, types, args, kwargs)


def _format_of_convolution(image: Tensor, weight: Tensor, backend: Any) -> torch.memory_format:
    """cuDNN's choice, which C++ does not make for the meta device: channels last where image or weight have them so."""
    last = any(x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) for x in (image, weight))
    plain = image.is_contiguous() and weight.is_contiguous()
    return torch.channels_last if last and not plain else torch.contiguous_format


_MADE, _DISPATCHED = Tensor._make_subclass, FakeTensorMode.dispatch


@contextlib.contextmanager
def _patched() -> Iterator[None]:
    properties = SimpleNamespace(total_memory=MEMORY, name='no GPU', major=8, minor=0, multi_processor_count=108)
    functions = {
        'is_available': True,
        'device_count': 1,
        'current_device': 0,
        'get_device_name': 'no GPU',
        'get_device_capability': (8, 0),
        'get_device_properties': properties,
        'is_bf16_supported': True,
        'max_memory_allocated': 0,
    }
    functions['get_rng_state'] = torch.get_rng_state()
    nothing = ('set_device', 'synchronize', 'empty_cache', 'reset_peak_memory_stats', 'set_rng_state')
    functions |= dict.fromkeys(nothing)
    with contextlib.ExitStack() as stack:

        def put(target: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(target, name, value, create=name in ('avoid_device_init', 'is_cuda')))

        for name, value in functions.items():
            put(torch.cuda, name, lambda *args, value=value, **kwargs: value)
        put(mmengine.device.utils, 'DEVICE', 'cuda')
        put(Tensor, '_make_subclass', staticmethod(_make_subclass))
        put(Tensor, 'pin_memory', lambda self, *args, **kwargs: self)
        put(FakeTensorMode, 'dispatch', _dispatch)
        put(FakeTensorMode, 'avoid_device_init', True)
        put(FakeTensor, 'is_cuda', property(lambda self: self.device.type == 'cuda'))
        put(torch._C, '_conv_determine_backend_memory_format', _format_of_convolution)
        put(fake_tensor, 'init_gpu_context', lambda device: None)
        put(optimizer, '_foreach_supported_types', [*optimizer._foreach_supported_types, FakeTensor])
        yield


@contextlib.contextmanager
def fake_cuda(by_line: bool = False) -> Iterator[Record]:
    """Within it there is a GPU without values; what it had to do is in the record.

    Args:
        by_line (bool): Whether to note which line takes how much memory. Defaults to False.
    """
    record = Record(by_line=by_line)
    with _patched(), autocast_kernels(), FakeTensorMode(allow_non_fake_inputs=True), _Watch(record):
        yield record


@functools.cache
def why_not() -> str:
    """Why this torch has no GPU without values, '' if it has: private parts of torch may change."""
    parts = inspect.signature(FakeTensorMode.dispatch).parameters
    if list(parts) != ['self', 'func', 'types', 'args', 'kwargs'] or not HEADER.is_file():
        return 'not run with this torch: its fake tensors are others'
    try:
        _probe()
    except Exception as error:
        return f'not run with this torch: {type(error).__name__}: {error}'
    return ''


def _probe() -> None:
    """A convolution in half precision, forward and backward, an optimizer's step and a wait."""
    with fake_cuda() as record:
        layer = torch.nn.Conv2d(3, 4, 3).to('cuda')
        record.restart()
        learning = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9, fused=True)
        image = torch.zeros(2, 3, 8, 8).pin_memory().to('cuda', non_blocking=True)
        with torch.autocast('cuda', torch.bfloat16):
            out = layer(image)
            prob = out.softmax(1)
        prob.sum().backward()
        learning.step()
        gradient = layer.weight.grad
        told = float(prob.detach().sum())
    found = (out.dtype, prob.dtype, gradient.dtype, gradient.device, told, sum(record.waits.values()))
    wanted = (torch.bfloat16, torch.float32, torch.float32, CUDA, 1.0, 1)
    if found != wanted or not record.peak or record.blocking:
        raise RuntimeError(f'{found} in place of {wanted}')
