"""A step never waits for the device: no value of a tensor comes to the host, and no shape depends on one.

The claim covers ``model.loss``, the backward pass, the EMA and the commits. The preprocessor is outside of it: kornia
draws each sample's parameters on the host.
"""

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmsemi import engine
from mmsemi.engine.commit_hook import CommitHook
from mmsemi.models.step_state import StepState
from mmsemi.structures import Mix, Streams
from tests import tiny

# By the names of operators, since their overloads do not matter.
VALUE_ON_HOST = {
    '_local_scalar_dense',  # item, bool, int, float, a tensor as an index or in a range
    'equal',
    'allclose',
    '_linalg_check_errors',
    'multinomial',  # checks the probabilities' range on the host, whatever the device
    'lift_fresh',  # torch.tensor of numbers or lists, new_tensor, an index that is a list: a copy that waits
}
SHAPE_BY_VALUE = {
    'nonzero',  # and torch.where and argwhere of one argument
    'masked_select',
    '_unique2',
    'unique_dim',
    'unique_consecutive',
    'unique_dim_consecutive',
    'bincount',
}
INDEXING = {'index', 'index_put', 'index_put_'}
# Of these nothing reaches the dispatcher on a CPU.
TO_HOST = {'cpu', 'tolist', 'numpy', '__array__'}


class HostRoundTrip(AssertionError):
    """An operation would wait for the device."""


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        by_mask = name in INDEXING and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        repeats = name == 'repeat_interleave' and kwargs.get('output_size') is None
        if name in VALUE_ON_HOST | SHAPE_BY_VALUE or by_mask or repeats:
            raise HostRoundTrip(f'{function}')
        return function(*args, **kwargs)


class _Function(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, '__name__', '')
        to_host = name == 'to' and any(str(x) == 'cpu' for x in (*args[1:], *kwargs.values()))
        if name in TO_HOST or to_host:
            raise HostRoundTrip(f'Tensor.{name}')
        return function(*args, **kwargs)


class no_host_round_trip:
    """Context in which, on a CPU too, whatever would make the host wait for a device raises :class:`HostRoundTrip`."""

    def __enter__(self) -> None:
        self.modes = [_Function(), _Dispatch()]
        for mode in self.modes:
            mode.__enter__()

    def __exit__(self, *error) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(*error)


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


def views(method: str, plugins: Sequence[dict] = ()) -> tuple[nn.Module, Streams]:
    """A model in training and a batch with padding, void labels, CutMix and ground truth for the log."""
    threshold = {} if method == 'Supervised' else dict(threshold=0.2)
    model = tiny.build(method, plugins=list(plugins), **threshold).train()
    streams = tiny.streams_for(model)
    return model, dataclasses.replace(streams, unlabeled_gt=torch.zeros_like(streams.valid).long())


def hooks_of(model: nn.Module, runner: SimpleNamespace) -> list[Hook]:
    """The hooks that move a state after a step; not how a run starts them."""
    hooks: list[Hook] = [engine.FiniteLossHook()]
    if model.has_teacher:
        hooks.append(engine.EMATeacherHook())
        hooks[-1].before_train(runner)
    for name in engine.__all__:
        kind = getattr(engine, name)
        if issubclass(kind, CommitHook) and any(isinstance(module, kind.kind) for module in model.modules()):
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


@pytest.mark.parametrize('plugins', [[], [tiny.MPMC]], ids=['alone', 'with MPMC'])
@pytest.mark.parametrize('method', tiny.METHODS)
def test_a_step_has_no_host_round_trip(method, plugins):
    model, streams = views(method, plugins)
    runner = SimpleNamespace(model=model, iter=0, optim_wrapper=SimpleNamespace())
    hooks = hooks_of(model, runner)
    for _ in range(2):  # before and after the states saw something
        with no_host_round_trip():
            step(model, streams, hooks, runner)


def test_every_state_of_every_method_is_committed_in_that_step():
    for method in tiny.METHODS:
        model, _ = views(method)
        hooks = hooks_of(model, SimpleNamespace(model=model))
        kinds = tuple(hook.kind for hook in hooks if isinstance(hook, CommitHook))
        states = [module for module in model.modules() if isinstance(module, StepState)]
        assert all(any(isinstance(state, kind) for kind in kinds) for state in states), method


def moved(streams: Streams, move) -> Streams:
    """The batch with ``move`` applied to its tensors."""
    tensors = {name: move(getattr(streams, name)) for name in ('labeled', 'labels', 'weak', 'valid', 'unlabeled_gt')}
    mixes = tuple(Mix(move(mix.mask)) for mix in streams.mix)
    return Streams(**tensors, strong=tuple(map(move, streams.strong)), mix=mixes)


def put_on_imagined_gpu(model: nn.Module, imagine) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(imagine(parameter), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = imagine(buffer)


@pytest.mark.parametrize('method', tiny.METHODS)
def test_losses_and_commits_need_no_value_and_no_tensor_of_the_host_on_a_gpu_without_one(method):
    model, streams = views(method)
    with FakeTensorMode():
        # Tensors that have a shape and a device, and no values.
        def imagine(x):
            return torch.empty(x.shape, dtype=x.dtype, device='cuda')

        put_on_imagined_gpu(model, imagine)
        losses = model.loss(moved(streams, imagine))
        for state in model.modules():
            if isinstance(state, StepState):
                state.commit()
    assert all(value.device.type == 'cuda' and value.ndim == 0 for value in losses.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('plugins', [[], [tiny.MPMC]], ids=['alone', 'with MPMC'])
@pytest.mark.parametrize('method', tiny.METHODS)
def test_a_step_on_a_gpu_never_waits(method, plugins):
    model, streams = views(method, plugins)
    model, streams = model.cuda(), moved(streams, torch.Tensor.cuda)
    runner = SimpleNamespace(model=model, iter=0, optim_wrapper=SimpleNamespace())
    hooks = hooks_of(model, runner)
    step(model, streams, hooks, runner)  # libraries may wait when they are first used
    torch.cuda.set_sync_debug_mode('error')
    try:
        step(model, streams, hooks, runner)
    finally:
        torch.cuda.set_sync_debug_mode('default')
