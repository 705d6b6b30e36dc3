"""Gradients that are gathered over several passes: an optimizer step, and all that goes with it, is one step."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmsemi import engine
from mmsemi.models.state import StepState
from mmsemi.structures import Mix, Streams
from tests import tiny
from tests.test_two_ranks import GROUPS, STATES

PASSES, STEPS = 4, 3
# What each pass decides by its own images alone: here it is fixed, or takes all there is.
FIXED = {'MLLC': dict(class_wise=False), 'U2PL': dict(confident=1.0, negatives_from='all', pseudo_weight=0.0)}
WITH_STATE = [method for method, (_, hooks, _) in STATES.items() if hooks]


def part_of(streams: Streams, part: slice) -> Streams:
    """Some labeled and as many unlabeled images, in double precision."""
    return dataclasses.replace(
        streams,
        labeled=streams.labeled[part].double(),
        labels=torch.where(streams.labels == 255, 0, streams.labels)[part],
        weak=streams.weak[part].double(),
        valid=streams.valid[part],
        strong=tuple(view[part].double() for view in streams.strong),
        mix=tuple(Mix(mix.mask[part]) for mix in streams.mix),
    )


def trained(method: str, passes: int, settings: dict, wrapped: bool = False) -> nn.Module:
    """A model after optimizer steps on 8 + 8 images each, taken in so many passes, with the hooks that move its state.

    Args:
        method (str): Name of the method.
        passes (int): Passes of a step.
        settings (dict): Keys of the model.
        wrapped (bool): Whether hooks are let in on the passes, as in a run; else they believe each is a step.
    """
    model = tiny.build(method, norm=GROUPS, student=tiny.segmentor(GROUPS), **settings).double().train()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    wrapper = OptimWrapper(torch.optim.SGD(learning, lr=0.1), accumulative_counts=passes)
    runner = SimpleNamespace(model=model, train_dataloader=tiny.labeled_loader(), iter=0, optim_wrapper=wrapper)
    if not wrapped:
        runner.optim_wrapper = SimpleNamespace()
    hooks = [getattr(engine, name)() for name in STATES[method][1]]
    for hook in hooks:
        hook.before_train(runner)
    for step in range(STEPS):
        streams = tiny.streams_for(model, 8, 8, seed=step, mixed=False)
        for number in range(passes):
            size = 8 // passes
            losses = model.loss(part_of(streams, slice(number * size, (number + 1) * size)))
            wrapper.update_params(model.parse_losses(losses)[0])
            for hook in hooks:
                hook.after_train_iter(runner, runner.iter)
            runner.iter += 1
    return model


@pytest.mark.parametrize('method', WITH_STATE)
def test_four_passes_of_two_and_two_images_leave_the_state_of_one_of_eight_and_eight(method):
    settings = {**STATES[method][0], **FIXED.get(method, {})}
    whole, parts = trained(method, 1, settings, True), trained(method, PASSES, settings, True)
    start = tiny.build(method, norm=GROUPS).double().state_dict()
    kept = {key: value for key, value in whole.state_dict().items() if value.is_floating_point() or 'pushed' in key}
    moved = [key for key, value in kept.items() if not torch.equal(value, start.get(key, value.new_zeros(value.shape)))]
    assert any(key.startswith(STATES[method][2]) for key in moved), 'the steps must move the state'
    for key, value in kept.items():
        torch.testing.assert_close(parts.state_dict()[key], value, rtol=0, atol=1e-8, msg=key)


@pytest.mark.parametrize('method', ['MLLC', 'AEL', 'CorrMatch', 'ESL', 'U2PL'])
def test_a_state_that_moved_in_every_pass_would_be_seen(method):
    settings = {**STATES[method][0], **FIXED.get(method, {})}
    whole, parts = trained(method, 1, settings, True), trained(method, PASSES, settings, False)
    key = next(key for key in whole.state_dict() if key.startswith(STATES[method][2]))
    assert not torch.allclose(parts.state_dict()[key], whole.state_dict()[key], atol=1e-8)


@pytest.mark.parametrize('settings', [dict(), dict(copy_epochs=1), dict(copy_epochs=1, count_copies=True)], ids=str)
def test_the_teachers_warm_up_counts_steps_of_the_optimizer(settings):
    """Two passes a step over an epoch of four passes, as one pass a step over an epoch of two."""
    model, hook = tiny.build('MeanTeacher'), engine.EMATeacherHook(0.9, **settings)

    def momenta(passes: int) -> list[float]:
        wrapper = OptimWrapper(torch.optim.SGD(model.student.parameters(), lr=0.1), accumulative_counts=passes)
        loader = range(2 * passes)
        return [
            hook._momentum_at(SimpleNamespace(iter=iteration, train_dataloader=loader, optim_wrapper=wrapper))
            for iteration in range(passes - 1, 6 * passes, passes)
        ]

    assert momenta(2) == momenta(1) == momenta(3)


def test_every_state_of_every_method_takes_part():
    for method in tiny.METHODS:
        states = [module for module in tiny.build(method).modules() if isinstance(module, StepState)]
        assert not states or method in WITH_STATE
