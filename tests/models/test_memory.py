"""What a step keeps until the backward pass: no scores of the crop's size, no features that no one reads."""

import weakref

import pytest
import torch

from mmsemi.models.branch import BranchOutput, of_logits
from mmsemi.models.losses.at_once import with_gradient_at_once
from mmsemi.models.losses.pixel import logit_distance, pixel_cross_entropy
from mmsemi.registry import MODELS
from mmsemi.structures import PseudoLabel
from tests import tiny

B, C, CROP = 2, tiny.NUM_CLASSES, tiny.SIZE


def outputs(seed: int) -> BranchOutput:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(B, C, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    return BranchOutput((), coarse, (CROP, CROP), align_corners=bool(seed))


def saved(run) -> list[tuple[int, ...]]:
    """Shapes of the tensors that a computation keeps for its backward pass, once it is over."""
    kept = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        held = x.detach()
        kept.append(weakref.ref(held))
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = run()
    assert result is not None
    alive = [x for x in (reference() for reference in kept) if x is not None]
    return list({x.data_ptr(): tuple(x.shape) for x in alive}.values())


def are_scores(shape: tuple[int, ...]) -> bool:
    """Whether it is that of class scores at the crop's size, wherever the classes are."""
    return sorted(shape[1:]) == sorted((C, CROP, CROP))


@pytest.mark.parametrize('views', [1, 2])
def test_a_loss_of_logits_has_the_value_and_gradient_of_the_loss_and_keeps_nothing_of_its_size(views):
    out, label = [outputs(seed) for seed in range(views)], torch.randint(0, C, (B, CROP, CROP))
    if views == 1:
        function, given = pixel_cross_entropy, (PseudoLabel(label, torch.rand(label.shape, dtype=torch.float64)),)
    else:
        function, given = logit_distance, (label > 0,)
    ours = of_logits(function, out if views > 1 else out[0], *given)
    plain = function(*(each.logits for each in out), *given)
    assert torch.equal(ours, plain)
    coarse = [each.coarse_logits for each in out]
    for a, b in zip(torch.autograd.grad(ours, coarse), torch.autograd.grad(plain, coarse), strict=True):
        assert torch.equal(a, b) and a.any()
    assert any(are_scores(shape) for shape in saved(lambda: function(*(each.logits for each in out), *given)))
    kept = saved(lambda: of_logits(function, out if views > 1 else out[0], *given))
    assert not any(shape.count(CROP) == 2 for shape in kept)


@pytest.mark.parametrize('method', tiny.METHODS)
def test_a_step_keeps_no_scores_of_the_crops_size(method):
    model = tiny.build(method).train()
    shapes = saved(lambda: model.loss(tiny.streams_for(model, 3, 2)))
    assert shapes and not any(map(are_scores, shapes))


@pytest.mark.parametrize('method', [name for name in tiny.METHODS if MODELS.get(name).has_teacher])
def test_a_teacher_leaves_its_features_only_where_they_are_read(method):
    model, seen = tiny.build(method).train(), []
    adapt = model.adapt_streams
    model.adapt_streams = lambda streams, guides: seen.append(guides) or adapt(streams, guides)
    model.loss(tiny.streams_for(model))
    assert len(seen) == 1 and seen[0]
    for out in seen[0].values():
        assert bool(out.features) == model.guide_features and out.coarse_logits is not None
        assert model.guide_features or not out.taps


def test_a_gradient_at_once_is_the_gradient_and_the_function_runs_once():
    calls = []

    def function(first, second):
        calls.append(torch.is_grad_enabled())
        return (first.exp() * second).sum()

    first, second = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    value = with_gradient_at_once(function, first, second.detach())
    (3 * value).backward()
    assert torch.equal(value, (first.exp() * second).sum()) and calls == [True]
    torch.testing.assert_close(first.grad, 3 * first.detach().exp() * second.detach())
    assert second.grad is None
    with torch.no_grad():
        assert not with_gradient_at_once(function, first, second).requires_grad
    assert torch.autograd.gradcheck(lambda x: with_gradient_at_once(lambda y: y.pow(3).mean(), x), (first,))


@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16], ids=str)
def test_a_gradient_in_half_precision_keeps_its_small_numbers_until_they_are_scaled(half):
    """Each is 1e-8, below what float16 holds; times a scale of 65,536 it is not."""
    scores = torch.ones(2, 3, dtype=half, requires_grad=True)
    with torch.autocast('cpu', half):
        value = with_gradient_at_once(lambda x: 1e-8 * x.sum(), scores)
    (65_536 * value).backward()
    assert value.dtype == torch.float32 and scores.grad.dtype == half
    torch.testing.assert_close(scores.grad.float(), torch.full((2, 3), 65_536e-8), rtol=1e-2, atol=0)


def test_an_input_that_does_not_matter_gets_no_gradient():
    used, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with_gradient_at_once(lambda x, y: x.sum(), used, unused).backward()
    assert used.grad is not None and unused.grad is None
