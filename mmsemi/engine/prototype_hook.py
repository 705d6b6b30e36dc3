"""Prototypes move after the step that observed them."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsemi.models.memory import Prototypes
from mmsemi.registry import HOOKS

from .utils import segmentor_of


@HOOKS.register_module()
class PrototypeHook(Hook):
    """Commit what the forward pass observed: reduced over ranks, folded into every prototype of the model.

    Raises:
        ValueError: Before training, if the model keeps no prototypes.
    """

    priority = 'HIGH'

    def before_train(self, runner: Runner) -> None:
        """Find the prototypes."""
        model = segmentor_of(runner)
        self._prototypes = [module for module in model.modules() if isinstance(module, Prototypes)]
        if not self._prototypes:
            raise ValueError(
                f'PrototypeHook needs prototypes, but {type(model).__name__} keeps none; remove it from default_hooks.'
            )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Fold in the step's observations."""
        for prototypes in self._prototypes:
            prototypes.commit()
