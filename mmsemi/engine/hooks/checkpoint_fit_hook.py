"""A checkpoint of another architecture is refused in one sentence."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmsemi.engine.utils import is_training, segmentor_of
from mmsemi.registry import HOOKS


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compare a checkpoint with the model before it is loaded.

    To go on with a run or to evaluate it, a checkpoint of mmsemi must fit as a whole. To start another training
    (``load_from``), one without a teacher, such as a supervised network's, must hold the segmentor: it starts every
    branch, and heads that it lacks are named and start anew. So does a plain mmseg checkpoint, which must hold every
    tensor of the segmentor, in its shape; parts that the student lacks (an auxiliary head) are left out.

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
        """Check the keys and shapes of what was read, and let it start every branch."""
        state = checkpoint.get('state_dict', checkpoint)
        state = {key.removeprefix('module.'): value for key, value in state.items()}
        model = segmentor_of(runner)
        own = model.state_dict()
        starts = is_training(runner) and not getattr(runner, '_resume', False)
        if starts and not any(key.startswith(('backbone.', 'teacher.')) for key in state):
            state = _of_every_branch(model, own, state)
            if 'state_dict' in checkpoint:
                checkpoint['state_dict'] = state
            else:
                checkpoint.clear()
                checkpoint.update(state)
            own = {key: value for key, value in own.items() if '.segmentor.' in key or key in state}
        if self.strict:
            _compare(model, own, state)
        if starts:
            _name_heads(runner, model, state)


def _of_every_branch(model: nn.Module, own: dict, state: dict) -> dict:
    """What a checkpoint says of the student, for each branch; what the model does not have in that shape is left out,
    but for the segmentor's, of which the user should know.
    """
    if not any(key.startswith('student.') for key in state):
        raise ValueError(
            'The checkpoint of load_from holds neither a network of mmsemi (student.…) nor one of mmseg (backbone.…); '
            'weights of a backbone alone are given by network.pretrained (model.student.pretrained).'
        )
    found = {}
    for key, value in state.items():
        if not key.startswith('student.'):
            continue
        fits = key in own and own[key].shape == value.shape
        for branch in model.branches if fits or '.segmentor.' in key else ():
            found[branch + key.removeprefix('student')] = value
    return found


def _compare(model: nn.Module, own: dict, state: dict) -> None:
    """Refuse a checkpoint that does not fit."""
    plain = any(key.startswith('backbone.') for key in state)
    if plain:
        prefix = 'student.segmentor.'
        own = {key.removeprefix(prefix): value for key, value in own.items() if key.startswith(prefix)}
    missing = [key for key in own if key not in state]
    unexpected = [] if plain else [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and own[key].shape != state[key].shape]
    problems = [
        f'{len(keys)} keys are {what} (first: {keys[0]})'
        for what, keys in (('missing', missing), ('unexpected', unexpected), ('of another shape', reshaped))
        if keys
    ]
    if problems:
        raise ValueError(
            f'The checkpoint does not fit this {type(model).__name__}: {", ".join(problems)}; use the config it was '
            'trained with, or default_hooks.checkpoint_fit.strict=False to load what fits.'
        )


def _name_heads(runner: Runner, model: nn.Module, state: dict) -> None:
    """Say which heads a checkpoint lacks."""
    heads = model.student.heads
    new = [name for name in heads if not any(key.startswith(f'student.heads.{name}.') for key in state)]
    new = [name for name in new if heads[name].state_dict()]
    if new:
        runner.logger.warning(f'The checkpoint has no head {", ".join(new)}: what it lacks starts anew.')
