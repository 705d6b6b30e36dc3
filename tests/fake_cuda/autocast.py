"""What autocast does on a GPU, for a device without values: torch's own lists, and kernels in Python.

Torch's kernels of autocast ask a tensor in C++ whether it is on a GPU, which those here are not. The lists of what they
cast are in a header that every installation has.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves, tree_map_only

HEADER = Path(torch.__file__).parent / 'include/ATen/autocast_mode.h'
_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)


def operators(header: str) -> dict[str, list[tuple[str, str]]]:
    """Names and overloads of what autocast casts, by policy: 'lower', 'full', 'full_dtype' or 'promote'."""
    macros = dict(
        lower='AT_FORALL_LOWER_PRECISION_FP',
        full='AT_FORALL_FP32',
        full_dtype='AT_FORALL_FP32_SET_OPT_DTYPE',
        promote='AT_FORALL_PROMOTE',
    )
    found = {}
    for policy, macro in macros.items():
        body = re.search(rf'#define {macro}\(_\)((?:.*\\\n)*.*\n)', header)
        entries = re.finditer(r'_\((\w+)(?:, (\w+))?\)', body[1] if body else '')
        found[policy] = [(entry[1], entry[2] or 'default') for entry in entries]
    # Joined and stacked tensors have one type; these have kernels of their own in torch.
    found['promote'] += [('cat', 'default'), ('stack', 'default')]
    found['refused'] = [('binary_cross_entropy', 'default')]
    return found


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    eligible = isinstance(x, FakeTensor) and x.is_floating_point() and x.dtype != torch.float64
    return x.to(dtype) if eligible and x.dtype != dtype else x


def _dtype(policy: str, args: tuple, kwargs: dict) -> torch.dtype | None:
    """What floating-point arguments become, or None if they stay."""
    if policy == 'lower':
        return torch.get_autocast_dtype('cuda')
    if policy == 'promote':
        types = {x.dtype for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.is_floating_point()}
        return torch.float32 if torch.float32 in types else None
    return None if policy == 'full_dtype' and kwargs.get('dtype') is not None else torch.float32


def _kernel(operator: Callable, policy: str, *args: Any, **kwargs: Any) -> Any:
    if policy == 'refused':
        raise RuntimeError(f'{operator} is unsafe to autocast')
    with torch._C._ExcludeDispatchKeyGuard(_KEYS):
        dtype = _dtype(policy, args, kwargs)
        if dtype is not None:
            args, kwargs = tree_map_only(Tensor, partial(_cast, dtype=dtype), (args, kwargs))
        return operator(*args, **kwargs)


@contextlib.contextmanager
def autocast_kernels() -> Iterator[None]:
    """Within it ``torch.autocast('cuda', ...)`` casts tensors of the device without values."""
    library = torch.library.Library('aten', 'IMPL', 'AutocastCUDA')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # that a kernel is replaced
            for policy, names in operators(HEADER.read_text()).items():
                for name, overload in names:
                    operator = getattr(getattr(torch.ops.aten, name, None), overload, None)
                    if operator is not None:
                        schema = name if overload == 'default' else f'{name}.{overload}'
                        library.impl(schema, partial(_kernel, operator, policy), allow_override=True)
        yield
    finally:
        library._destroy()
