"""CorrMatch against the authors' code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmsemi.models.branch import BranchOutput
from mmsemi.models.modules.regions import binary_shapes, pack_shapes, region_propagation
from mmsemi.models.state import DynamicThreshold
from mmsemi.structures import PseudoLabel, Streams
from tests import tiny
from tests.golden.cases import cases, close, labels, mask, mix, output, tensor, valid

VIEWS = ('labeled', 'weak', 'perturbed', 'strong', 'corr_labeled', 'corr_weak', 'corr_strong')


def allowed(case: dict[str, Any]) -> Tensor:
    """Where shapes may lie, (B, 1, H, W); a case's padding is that of the mixed view."""
    return (valid(case['ignore']) & ~mask(case['cutmix_box']))[:, None]


@cases('corrmatch_regions')
def test_region_propagation(case):
    shapes = mask(case['shapes'])
    if 'rows' in case:
        size = tuple(shapes.shape[2:])
        assert torch.equal(binary_shapes(tensor(case['rows']), size, align_corners=True), shapes)
    pseudo = PseudoLabel(labels(case['labels']), tensor(case['confident']))
    tau = torch.tensor(case['tau'], dtype=torch.float32)
    result = region_propagation(pseudo, pack_shapes(shapes & allowed(case)), tau, case['num_classes'])
    assert torch.equal(result.label, labels(case['expected']['labels']))
    assert torch.equal(result.weight, tensor(case['expected']['confident']))


class Step:
    """A step of CorrMatch whose network hands out a case's scores and whose map has its shapes."""

    def __init__(self, case: dict[str, Any], mix_soft_target: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.logits = {name: tensor(case['logits'][name]).requires_grad_() for name in VIEWS}
        student = tiny.segmentor()
        student['decode_head']['num_classes'] = case['num_classes']
        model = tiny.build(
            'CorrMatch',
            student=student,
            threshold=case['tau'],
            dynamic_threshold=False,
            mix_soft_target=mix_soft_target,
        )
        views = {name: self.view(name) for name in VIEWS[:4]}
        names = {**views, 'guide': views['weak'], 'perturbed_0': views['perturbed'], 'strong_0': views['strong']}
        monkeypatch.setattr(model, 'student_views', lambda streams: names)
        monkeypatch.setattr(model, 'propagated', lambda out: out.heads['propagated'])
        monkeypatch.setattr(model, 'shapes', lambda weak, where: pack_shapes(mask(case['shapes']) & where[:, None]))
        enlarge = model.enlarge
        monkeypatch.setattr(model, 'enlarge', lambda *args: self.note(args[0], enlarge(*args)))
        box, own = mix(case['cutmix_box']), valid(case['ignore'])
        self.valid_mixed = box.maps(own)
        none = torch.zeros(len(own), 3, *own.shape[1:])
        streams = Streams(none, labels(case['ground_truth']), none, (none,), own, (box,))
        self.losses = model.loss(streams)
        self.total = model.parse_losses(self.losses)[0]
        self.losses = {name: value.detach() for name, value in self.losses.items()}

    def view(self, name: str) -> BranchOutput:
        out = output(self.logits[name])
        if f'corr_{name}' in self.logits:
            out.heads['propagated'] = output(self.logits[f'corr_{name}'])
        return out

    def note(self, mixed: PseudoLabel, enlarged: PseudoLabel) -> PseudoLabel:
        self.mixed, self.enlarged = mixed, enlarged
        return enlarged


@pytest.mark.parametrize('mix_soft_target', [False, True], ids=['released target', 'mixed target'])
@cases('corrmatch_losses')
def test_a_step(case, mix_soft_target, monkeypatch):
    step, expected = Step(case, mix_soft_target, monkeypatch), case['expected']
    assert torch.equal(step.valid_mixed, mask(expected['valid_mixed']))
    assert torch.equal(step.mixed.weight > 0, mask(expected['confident_mixed']))
    assert torch.equal(step.enlarged.weight > 0, mask(expected['confident_enlarged']))
    assert torch.equal(step.enlarged.label, labels(expected['labels_mixed_enlarged']))

    kl = expected['kl_if_target_were_mixed' if mix_soft_target else 'kl']
    terms = {
        'sup.loss_ce': 0.5 * expected['loss_x'],
        'sup.corr.loss_ce': 0.5 * expected['loss_x_corr'],
        'unsup.loss_hard': 0.25 * (expected['strong'] + expected['perturbed']),
        'unsup.loss_soft': 0.25 * kl,
        'unsup.loss_corr': 0.125 * (expected['corr_strong'] + expected['corr_weak']),
    }
    assert {name for name in step.losses if 'loss' in name} == set(terms)
    assert all(close(2 * step.losses[name], value) for name, value in terms.items())
    assert close(step.total.detach(), expected['total'] + 0.125 * (kl - expected['kl']))


@cases('corrmatch_losses')
def test_the_gradients_of_a_step(case, monkeypatch):
    step, expected = Step(case, False, monkeypatch), case['expected']
    given = [name for name in VIEWS if f'grad_abs_sum_{name}' in expected]
    gradients = torch.autograd.grad(step.total, [step.logits[name] for name in given])
    assert given
    for name, gradient in zip(given, gradients, strict=True):
        assert close(gradient.abs().sum(), expected[f'grad_abs_sum_{name}']), name


@cases('corrmatch_threshold')
def test_the_threshold(case):
    size = tuple(tensor(case['logits']).shape[-2:])
    moving, latest = (
        DynamicThreshold(case['num_classes'], size, case['start'], momentum) for momentum in (case['momentum'], 0.0)
    )
    expected = (case['expected'][name] for name in ('step_value', 'threshold'))
    for logits, ignore, step_value, threshold in zip(case['logits'], case['ignore'], *expected, strict=True):
        for state in (moving, latest):
            before = state.value.clone()
            state.observe(tensor(logits), valid(ignore))
            state.commit()
        assert close(moving.value, threshold)
        assert torch.equal(latest.value, before) if step_value is None else close(latest.value, step_value)
