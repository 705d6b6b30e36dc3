"""What is no network computes in full precision, whatever autocast says and however large half-precision inputs are.

Every function of losses, pseudo-labels, thresholds, sampling, resizing and views, and every state, is run on what a
network in half precision would hand it, and must give what it gives for these numbers in float32 outside of autocast.
CPU autocast knows float16, too: a product that would overflow on a GPU overflows here.
"""

import copy
from functools import partial

import pytest
import torch
from torch import nn

import mmsemi.models.state as states
from mmsemi.models.state.step_state import StepState
from tests.models import test_tracing as traced

ROOMS = ('losses', 'state', 'pseudo_labels', 'thresholds', 'sampling', 'resizing', 'precision', 'views')
NETWORK = [traced.LOGITS, traced.OTHER, traced.FEATURES, traced.NODES]
"""What a network hands out; probabilities, weights and labels are made of it in full precision."""
LARGE = 1e3


def room(case: partial) -> str:
    """Where a function lives below mmsemi.models."""
    return traced.subject(case).__module__.removeprefix('mmsemi.models.').split('.')[0]


CASES = [case for case in traced.CASES if room(case) in ROOMS]


def comes_from_a_network(value) -> bool:
    """Whether an argument is what a network hands out, or a view of it."""
    storage = isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr()
    return any(storage == each.untyped_storage().data_ptr() for each in NETWORK)


def call(function, arguments, half: torch.dtype, dtype: torch.dtype) -> list[torch.Tensor]:
    """The tensors that come out, with the network's outputs made large, rounded to ``half`` and given as ``dtype``."""
    torch.manual_seed(0)
    given = [(x * LARGE / x.abs().max()).to(half).to(dtype) if comes_from_a_network(x) else x for x in arguments]
    return traced.tensors_of(function(*given))


def agrees(function, arguments, half: torch.dtype) -> None:
    """On half-precision inputs, inside and outside of autocast, the same as on float32 outside of it."""
    expected = call(function, arguments, half, torch.float32)
    outside = call(function, arguments, half, half)
    with torch.autocast('cpu', dtype=half):
        inside = call(function, arguments, half, half)
    for ours in (inside, outside):
        assert len(ours) == len(expected)
        for a, b in zip(ours, expected, strict=True):
            assert a.dtype == b.dtype and a.dtype not in (torch.float16, torch.bfloat16)
            assert not b.is_floating_point() or b.isfinite().all()
            torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('case', CASES, ids=lambda case: traced.subject(case).__qualname__)
def test_a_function_computes_in_full_precision(case, half):
    agrees(case.func, case.args, half)


C, D = traced.C, traced.D
MEMBERS = (traced.LABEL[:, None] == torch.arange(C)[:, None, None]) & traced.VALID[:, None]
POOLED, PRESENT = traced.FEATURES.mean((2, 3))[:, None].expand(-1, C, -1), MEMBERS.flatten(2).any(2)
NETWORK.append(POOLED)


def observed(state: StepState, *arguments) -> list[torch.Tensor]:
    """The buffers of a state, and what it hands out, after a step."""
    state = copy.deepcopy(state)
    state.observe(*arguments)
    handed = list(state.upcoming()) if hasattr(state, 'upcoming') else []
    state.commit()
    return handed + [buffer.clone() for buffer in state.buffers()]


def parts(features: torch.Tensor) -> list[torch.Tensor]:
    """The same of part prototypes, which observe masks; and the parts that they then give to pixels."""
    state = states.PartPrototypes(C, 2, D)
    state.value.copy_(torch.randn(C * 2, D))
    state.seen.fill_(True)
    members = state.members(state.assign(features, traced.LABEL, traced.VALID, traced.VALID))
    state.observe_members(features, members)
    state.commit()
    return [members, *state.buffers()]


STATES = {
    'Prototypes': partial(observed, states.Prototypes(C, D), traced.FEATURES, traced.LABEL, traced.VALID),
    'PartPrototypes': partial(parts, traced.FEATURES),
    'FeatureQueues': partial(observed, states.FeatureQueues(C, 5, D), POOLED, PRESENT),
    'ClassQueues': partial(observed, states.ClassQueues([9] * C, D, 7), traced.FEATURES, MEMBERS),
    'ClassConfidence': partial(observed, states.ClassConfidence(C), traced.LOGITS, traced.LABEL),
    'DynamicThreshold': partial(observed, states.DynamicThreshold(C, (6, 5)), traced.LOGITS, traced.VALID),
}


@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', STATES)
def test_a_state_takes_in_full_precision_what_it_observes(name, half):
    case = STATES[name]
    agrees(case.func, case.args, half)


def test_every_state_is_asked():
    kinds = {name for name, kind in vars(states).items() if isinstance(kind, type) and issubclass(kind, nn.Module)}
    assert kinds - {'StepState'} == set(STATES)


def test_sums_over_many_pixels_do_not_overflow():
    """2,000 pixels of 60: 120,000, where float16 ends at 65,504."""
    state = states.Prototypes(2, 3)
    with torch.autocast('cpu', dtype=torch.float16):
        state.observe(torch.full((1, 3, 40, 50), 60.0, dtype=torch.float16), torch.zeros(1, 40, 50, dtype=torch.long))
    assert torch.equal(state.pending[0], torch.tensor([120_000.0, 120_000.0, 120_000.0, 2_000.0]))


def test_a_product_in_half_precision_would_be_seen():
    product = partial(lambda x: x[0, 0].T @ x[0, 0], traced.FEATURES)
    for half in (torch.float16, torch.bfloat16):
        with pytest.raises(AssertionError):
            agrees(product.func, product.args, half)
