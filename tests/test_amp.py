"""Every method in mixed precision on a CPU, beside the same steps in float32: real kernels and real autocast."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmsemi.models.state import StepState
from mmsemi.registry import OPTIM_WRAPPERS
from tests import tiny
from tests.models.test_sync_free import hooks_of, model_of

STEPS = 3
in_every_case = pytest.mark.parametrize('plugins', [[], [tiny.MPMC]], ids=['alone', 'with MPMC'])


def wrapped(model: nn.Module, kind: str):
    """The optimizer of a model in a wrapper of this name."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    return OPTIM_WRAPPERS.build(dict(type=kind, optimizer=optimizer))


def train(model: nn.Module, kind: str) -> list[dict[str, float]]:
    """Losses of steps from the workers' batch to the moved states."""
    wrapper = wrapped(model, kind)
    runner = SimpleNamespace(model=model, iter=0, optim_wrapper=wrapper)
    hooks, steps = hooks_of(model, runner), []
    for runner.iter in range(STEPS):
        torch.manual_seed(runner.iter)
        told = model.train_step(tiny.batch(gt=True, seed=runner.iter), wrapper)
        for hook in hooks:
            hook.after_train_iter(runner, runner.iter, None, told)
        steps.append({name: float(value.detach()) for name, value in told.items() if 'loss' in name})
    return steps


@in_every_case
@pytest.mark.parametrize('method', tiny.METHODS)
def test_a_step_in_bfloat16_has_the_losses_of_one_in_float32_and_leaves_no_half_number(method, plugins):
    full = train(model_of(method, plugins), 'OptimWrapper')
    model = model_of(method, plugins)
    half = train(model, 'AutocastOptimWrapper')
    for expected, told in zip(full, half, strict=True):
        assert told.keys() == expected.keys()
        for name, value in expected.items():
            assert told[name] == pytest.approx(value, rel=0.1, abs=0.03), name
    gradients = {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None}
    kept = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
    assert gradients <= {torch.float32} and kept == {torch.float32}
    for state in model.modules():
        if isinstance(state, StepState):
            assert all(buffer.isfinite().all() for buffer in state.buffers())


def test_networks_compute_in_bfloat16_and_views_do_not():
    model, networks, views = model_of('FixMatch'), [], []
    wrapper, (strong,) = wrapped(model, 'AutocastOptimWrapper'), model.data_preprocessor.strong
    model.student.segmentor.decode_head.register_forward_hook(lambda module, args, out: networks.append(out.dtype))

    def watched(images: torch.Tensor) -> torch.Tensor:
        views.append(torch.is_autocast_enabled('cpu'))
        return strong(images)

    model.data_preprocessor.strong = [watched]
    model.train_step(tiny.batch(), wrapper)
    assert set(networks) == {torch.bfloat16} and views == [False]


def test_accumulated_passes_are_in_bfloat16_too():
    model = model_of('MeanTeacher')
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type='AutocastOptimWrapper',
            optimizer=torch.optim.SGD(model.student.parameters(), lr=0.1),
            accumulative_counts=2,
            clip_grad=dict(max_norm=1.0),
        )
    )
    before = next(model.student.parameters()).detach().clone()
    model.train_step(tiny.batch(), wrapper)
    assert torch.equal(before, next(model.student.parameters()))
    model.train_step(tiny.batch(), wrapper)
    assert not torch.equal(before, next(model.student.parameters()))


class _Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        wide = self.wide(x)
        return wide, self.deep(wide), self.grouped(wide)


def test_depthwise_convolutions_of_a_cpu_stay_in_float32():
    model, x = _Depthwise(), torch.randn(1, 3, 5, 5)
    expected = [out.detach() for out in model(x)]
    wrapper = wrapped(model, 'AutocastOptimWrapper')
    for _ in range(2):
        with wrapper.optim_context(model):
            outs = model(x)
    wide, deep, grouped = outs
    assert (wide.dtype, deep.dtype, grouped.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    assert deep.equal(nn.functional.conv2d(wide.float(), model.deep.weight, model.deep.bias, padding=1, groups=8))
    # Outside of a step nothing has changed, and a copy computes with its own weights.
    assert all(out.equal(before) for out, before in zip(model(x), expected, strict=True))
    copied = copy.deepcopy(model)
    nn.init.zeros_(copied.deep.weight)
    nn.init.zeros_(copied.deep.bias)
    assert not copied(x)[1].any() and model(x)[1].any()
