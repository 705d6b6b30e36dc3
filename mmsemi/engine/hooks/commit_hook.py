"""Base of the hooks that fold into the model's state what a step observed."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsemi.engine.utils import segmentor_of, steps_now
from mmsemi.models.state import StepState


class CommitHook(Hook):
    """Commit every state of one kind after the optimizer step that observed it.

    Raises:
        ValueError: Before training, if the model keeps no such state.
    """

    priority = 'HIGH'
    kind: type[StepState] | tuple[type[StepState], ...]
    """What is committed."""
    name: str
    """What a user calls it."""

    def before_train(self, runner: Runner) -> None:
        """Find the states."""
        model = segmentor_of(runner)
        self._states = [module for module in model.modules() if isinstance(module, self.kind)]
        if not self._states:
            raise ValueError(
                f'{type(self).__name__} needs {self.name}, but {type(model).__name__} keeps none; remove it from '
                'default_hooks.'
            )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Fold in the step's observations, once all passes that it gathers gradients of are done."""
        done = steps_now(runner)
        for state in self._states:
            if done:
                state.commit()
            else:
                state.end_pass()
