"""Few parameter groups instead of one a parameter."""

from __future__ import annotations

import logging

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmsemi.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SemiOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with parameters of equal options in one group and frozen ones (the teacher) left out.

    mmengine makes one group for each parameter, which the optimizer and the schedulers then walk one by one, and logs
    each.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        # mmengine asks `add_params` only where a paramwise option is set; this one is its default.
        super().__init__(optim_wrapper_cfg, {'bypass_duplicate': False, **(paramwise_cfg or {})})

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs) -> None:
        """Collect the groups of ``module`` and merge them once all are there."""
        if prefix:
            super().add_params(params, module, prefix=prefix, **kwargs)
            return
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            collected: list[dict] = []
            super().add_params(collected, module, prefix=prefix, **kwargs)
        finally:
            logger.setLevel(level)
        merged: dict[tuple, dict] = {}
        for group in collected:
            trained = [parameter for parameter in group['params'] if parameter.requires_grad]
            options = {name: value for name, value in group.items() if name != 'params'}
            if trained:
                merged.setdefault(tuple(sorted(options.items())), {**options, 'params': []})['params'] += trained
        params.extend(merged.values())
        for group in merged.values():
            lr = group.get('lr', self.base_lr)
            logger.info(f'{len(group["params"])} parameter tensors learn at a base rate of {lr:g}')
