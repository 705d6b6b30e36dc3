"""A checkpoint of another architecture is refused in one sentence."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsemi.engine.utils import segmentor_of
from mmsemi.registry import HOOKS


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compare a checkpoint with the model before it is loaded.

    A checkpoint of mmsemi must fit as a whole. A plain mmseg checkpoint must hold every tensor of the segmentor, in its
    shape; parts that the student lacks (an auxiliary head) are left out.

    Args:
        strict (bool): False lets any checkpoint pass, for starting from parts of one. Defaults to True.

    Raises:
        ValueError: If it does not fit: how many keys are missing, unexpected or of another shape, and the first of
            each.
    """

    priority = 'VERY_HIGH'

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the keys and shapes of what was read."""
        if not self.strict:
            return
        state = checkpoint.get('state_dict', checkpoint)
        state = {key.removeprefix('module.'): value for key, value in state.items()}
        model = segmentor_of(runner).state_dict()
        plain = any(key.startswith('backbone.') for key in state)
        if plain:
            prefix = 'student.segmentor.'
            model = {key.removeprefix(prefix): value for key, value in model.items() if key.startswith(prefix)}
        missing = [key for key in model if key not in state]
        unexpected = [] if plain else [key for key in state if key not in model]
        reshaped = [key for key in model if key in state and model[key].shape != state[key].shape]
        problems = [
            f'{len(keys)} keys are {what} (first: {keys[0]})'
            for what, keys in (('missing', missing), ('unexpected', unexpected), ('of another shape', reshaped))
            if keys
        ]
        if problems:
            raise ValueError(
                f'The checkpoint does not fit this {type(segmentor_of(runner)).__name__}: {", ".join(problems)}; use '
                'the config it was trained with, or default_hooks.checkpoint_fit.strict=False to load what fits.'
            )
