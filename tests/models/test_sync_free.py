"""A step never waits for the device: no value of a tensor comes to the host, and no shape depends on one.

The claim covers the batch's way to the device, ``model.loss``, the backward pass, the EMA and the commits, and on a GPU
the strong views: what they draw for each sample is drawn on the host, which a guard on a CPU cannot tell from values of
the device. Whole runs on a GPU that has no values are in tests/fake_cuda.
"""

import dataclasses
import inspect
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

from mmsemi import engine
from mmsemi.engine.hooks.commit_hook import CommitHook
from mmsemi.models.state.step_state import StepState
from mmsemi.registry import MODELS
from mmsemi.structures import Streams
from tests import tiny
from tests.host_round_trips import HostRoundTrip, no_host_round_trip

X = torch.rand(2, 3)
MASK = X > 0.5
LABEL = torch.tensor([0, 2])
WAITS = dict(
    item=lambda: X[0, 0].item(),
    condition=lambda: 1 if X.sum() > 0 else 0,
    float=lambda: float(X[0, 0]),
    int=lambda: int(LABEL[0]),
    range=lambda: range(LABEL[1]),
    python_index=lambda: [1, 2, 3][LABEL[0]],
    slice=lambda: X[:, LABEL[1] :],
    arange=lambda: torch.arange(LABEL[1]),
    format=lambda: f'{X[0, 0]:.2f}',
    contains=lambda: 1.0 in X,
    equal=lambda: torch.equal(X, X),
    allclose=lambda: torch.allclose(X, X),
    tolist=lambda: LABEL.tolist(),
    numpy=lambda: X.numpy(),
    array=lambda: X.__array__(),
    cpu=lambda: X.cpu(),
    to=lambda: X.to('cpu'),
    to_device=lambda: X.to(device=torch.device('cpu')),
    tensor_of_list=lambda: torch.tensor([1.0, 2.0]),
    as_tensor_of_list=lambda: torch.as_tensor([1.0, 2.0]),
    new_tensor=lambda: X.new_tensor([1.0]),
    index_by_list=lambda: X[[1, 0]],
    index_by_mask=lambda: X[MASK],
    index_by_bytes=lambda: X[MASK.to(torch.uint8)],
    index_by_mask_and_label=lambda: X[MASK[:, 0], LABEL[:1]],
    write_by_mask=lambda: X.clone().__setitem__(MASK, X[0, 0]),
    write_values_by_mask=lambda: X.index_put((MASK,), X.flatten()),
    where=lambda: torch.where(MASK),
    nonzero=lambda: MASK.nonzero(),
    argwhere=lambda: torch.argwhere(MASK),
    masked_select=lambda: X.masked_select(MASK),
    unique=lambda: LABEL.unique(),
    unique_rows=lambda: torch.unique(X, dim=0),
    unique_consecutive=lambda: LABEL.unique_consecutive(),
    unique_consecutive_rows=lambda: torch.unique_consecutive(X, dim=0),
    bincount=lambda: LABEL.bincount(),
    repeat_interleave=lambda: X.repeat_interleave(LABEL, 0),
    multinomial=lambda: torch.multinomial(X, 1),
    inverse=lambda: X[:, :2].inverse(),
)
DOES_NOT_WAIT = dict(
    index_by_label=lambda: X[:, LABEL],
    index_by_number=lambda: X[0, 1:],
    where=lambda: torch.where(MASK, X, 0.0),
    masked_fill=lambda: X.masked_fill(MASK, 0.0),
    gather=lambda: X.gather(1, LABEL[:, None]),
    scatter=lambda: X.new_zeros(3).scatter_add(0, LABEL, X[:, 0]),
    full=lambda: torch.full_like(X, 2.0) * 3 + torch.zeros(3),
    repeat_interleave=lambda: X.repeat_interleave(LABEL, 0, output_size=2),
    cast=lambda: X.to(torch.float64),
    sort=lambda: X.sort().values.topk(2),
)


@pytest.mark.parametrize('what', WAITS)
def test_the_guard_sees_every_way_to_wait(what):
    with pytest.raises(HostRoundTrip), no_host_round_trip():
        WAITS[what]()


@pytest.mark.parametrize('what', DOES_NOT_WAIT)
def test_the_guard_lets_pass_what_does_not_wait(what):
    with no_host_round_trip():
        DOES_NOT_WAIT[what]()


def test_the_guard_sees_the_backward_pass():
    class Waits(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * grad.max().item()

    x = X.clone().requires_grad_()
    with no_host_round_trip():
        total = Waits.apply(x).sum()
        with pytest.raises(HostRoundTrip):
            total.backward()


def model_of(method: str, plugins: Sequence[dict] = ()) -> nn.Module:
    """A model in training."""
    threshold = {} if method == 'Supervised' else dict(threshold=0.2)
    return tiny.build(method, plugins=list(plugins), **threshold).train()


def views(model: nn.Module) -> Streams:
    """A batch with padding, void labels, CutMix and ground truth for the log."""
    streams = tiny.streams_for(model)
    return dataclasses.replace(streams, unlabeled_gt=torch.zeros_like(streams.valid).long())


def hooks_of(model: nn.Module, runner: SimpleNamespace) -> list[Hook]:
    """The hooks that move a state after a step; not how a run starts them."""
    hooks: list[Hook] = [engine.FiniteLossHook()]
    if model.has_teacher:
        hooks.append(engine.EMATeacherHook())
        hooks[-1].before_train(runner)
    for name in engine.__all__:
        kind = getattr(engine, name)
        if (
            inspect.isclass(kind)
            and issubclass(kind, CommitHook)
            and any(isinstance(module, kind.kind) for module in model.modules())
        ):
            hooks.append(kind())
            CommitHook.before_train(hooks[-1], runner)
    return hooks


def step(model: nn.Module, streams: Streams, hooks: list[Hook], runner: SimpleNamespace) -> None:
    """What training does between two batches, but for the optimizer."""
    losses = model.loss(streams)
    total, _ = model.parse_losses(losses)
    total.backward()
    for hook in hooks:
        hook.after_train_iter(runner, 0, None, losses)


@pytest.mark.parametrize('cutmix', ['CutMix', 'BetaCutMix', 'FixedAreaCutMix'])
def test_a_batch_goes_to_the_device_without_a_wait(cutmix):
    cfg = {**tiny.PREPROCESSOR, 'strong': None, 'cutmix': dict(type=cutmix), 'num_strong': 2}
    preprocessor = MODELS.build(cfg)
    with no_host_round_trip():
        preprocessor(tiny.batch(gt=True), training=True)


@pytest.mark.parametrize('plugins', [[], [tiny.MPMC]], ids=['alone', 'with MPMC'])
@pytest.mark.parametrize('method', tiny.METHODS)
def test_a_step_has_no_host_round_trip(method, plugins):
    model = model_of(method, plugins)
    streams = views(model)
    runner = SimpleNamespace(model=model, iter=0, optim_wrapper=SimpleNamespace())
    hooks = hooks_of(model, runner)
    for _ in range(2):  # before and after the states saw something
        with no_host_round_trip():
            step(model, streams, hooks, runner)


def test_every_state_of_every_method_is_committed_in_that_step():
    for method in tiny.METHODS:
        model = model_of(method)
        hooks = hooks_of(model, SimpleNamespace(model=model))
        kinds = tuple(hook.kind for hook in hooks if isinstance(hook, CommitHook))
        states = [module for module in model.modules() if isinstance(module, StepState)]
        assert all(any(isinstance(state, kind) for kind in kinds) for state in states), method


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('plugins', [[], [tiny.MPMC]], ids=['alone', 'with MPMC'])
@pytest.mark.parametrize('method', tiny.METHODS)
def test_a_step_on_a_gpu_never_waits(method, plugins):
    model = model_of(method, plugins).cuda()
    batch = tiny.batch(gt=True)
    runner = SimpleNamespace(model=model, iter=0, optim_wrapper=SimpleNamespace())
    hooks = hooks_of(model, runner)
    step(model, model.data_preprocessor(batch, True)['inputs'], hooks, runner)  # libraries wait when first used
    torch.cuda.set_sync_debug_mode('error')
    try:
        step(model, model.data_preprocessor(batch, True)['inputs'], hooks, runner)
    finally:
        torch.cuda.set_sync_debug_mode('default')
