"""Counts what a GPU would launch."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode

# Views by another name.
_VIEWS = {'detach', '_unsafe_view', 'lift_fresh', 'alias', '_reshape_alias'}


class Launches(TorchDispatchMode):
    """Context that counts operations of torch, but for views: each is at least one kernel on a GPU.

    Attributes:
        count (int): So far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aliases = [result.alias_info for result in function._schema.returns]
        view = any(alias is not None and not alias.is_write for alias in aliases)
        self.count += not view and function.overloadpacket.__name__ not in _VIEWS
        return function(*args, **(kwargs or {}))
