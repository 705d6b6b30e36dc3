"""A guard that finds, on a CPU too, whatever would make the host wait for a device."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# By the names of operators, since their overloads do not matter.
VALUE_ON_HOST = {
    '_local_scalar_dense',  # item, bool, int, float, a tensor as an index or in a range
    'equal',
    'allclose',
    '_linalg_check_errors',
    'multinomial',  # checks the probabilities' range on the host, whatever the device
    'lift_fresh',  # torch.tensor of numbers or lists, new_tensor, an index that is a list: a copy that waits
}
SHAPE_BY_VALUE = {
    'nonzero',  # and torch.where and argwhere of one argument
    'masked_select',
    '_unique2',
    'unique_dim',
    'unique_consecutive',
    'unique_dim_consecutive',
    'bincount',
}
INDEXING = {'index', 'index_put', 'index_put_'}
# Of these nothing reaches the dispatcher on a CPU.
TO_HOST = {'cpu', 'tolist', 'numpy', '__array__'}


class HostRoundTrip(AssertionError):
    """An operation would wait for the device."""


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        by_mask = name in INDEXING and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        repeats = name == 'repeat_interleave' and kwargs.get('output_size') is None
        if name in VALUE_ON_HOST | SHAPE_BY_VALUE or by_mask or repeats:
            raise HostRoundTrip(f'{function}')
        return function(*args, **kwargs)


class _Function(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, '__name__', '')
        # What does not block cannot be a way to the host: its values might not have arrived there.
        to_host = name == 'to' and any(str(x) == 'cpu' for x in (*args[1:], *kwargs.values()))
        to_host = to_host and not kwargs.get('non_blocking')
        if name in TO_HOST or to_host:
            raise HostRoundTrip(f'Tensor.{name}')
        return function(*args, **kwargs)


class no_host_round_trip:
    """Context in which, on a CPU too, whatever would make the host wait for a device raises :class:`HostRoundTrip`."""

    def __enter__(self) -> None:
        self.modes = [_Function(), _Dispatch()]
        for mode in self.modes:
            mode.__enter__()

    def __exit__(self, *error) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(*error)
