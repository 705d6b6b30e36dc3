"""What mmengine expects of every OpenMMLab package."""

from __future__ import annotations

import importlib


def register_all_modules(init_default_scope: bool = True) -> None:
    """Import everything that mmsemi and mmseg register.

    Args:
        init_default_scope (bool): Make 'mmsemi' the default scope, for use outside a runner. Defaults to True.
    """
    from mmengine.registry import init_default_scope as set_scope
    from mmseg.utils import register_all_modules as register_mmseg

    register_mmseg(init_default_scope=False)
    for module in ('mmseg.visualization', 'mmsemi.datasets', 'mmsemi.engine', 'mmsemi.models'):
        importlib.import_module(module)
    if init_default_scope:
        set_scope('mmsemi')
