"""What a user calls, in Python and on the command line."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_PLACES = {
    'init_project': 'project',
    'check': 'checking',
    'train': 'training',
    'test': 'testing',
    'predict': 'predict',
    'export': 'export',
    'compare': 'comparing',
    'plot': 'plot',
    'browse': 'browse',
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    # Importing mmseg takes seconds, which is too much for a command's --help.
    if name not in _PLACES:
        raise AttributeError(f'mmsemi.apis has no {name}; it has {", ".join(__all__)}.')
    module = import_module(f'{__name__}.{_PLACES[name]}')
    return module if _PLACES[name] == name else getattr(module, name)


class _Callable(ModuleType):
    """A module that is called as the function of its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition('.')[2])(*args, **kwargs)


class _Package(ModuleType):
    """``mmsemi.apis.predict`` is a module and the function in it, whoever imports it first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _PLACES.get(name) == name:
            value.__class__ = _Callable
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
