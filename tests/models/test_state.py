"""Prototypes and thresholds: the state that steps leave behind."""

import pytest
import torch
from torch.nn import functional as F

from mmsemi.models.state.memory import Prototypes
from mmsemi.models.thresholds import class_thresholds, image_class_thresholds
from tests.oracles import dssn, mllc as oracle


def observed(seed, classes=(0, 1, 3)):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor(classes)[torch.randint(0, len(classes), (2, 3, 4), generator=generator)]
    labels[0, 0, 0] = 255
    return features, labels


def test_prototypes_equal_the_literal_equations():
    prototypes = Prototypes(4, 5, momentum=0.9).double()
    value, seen = torch.zeros(4, 5, dtype=torch.float64), [False] * 4
    for step in range(3):
        features, labels = observed(step, (0, 1) if step == 0 else (1, 3))
        prototypes.observe(features, labels)
        prototypes.commit()
        for c in range(4):
            pixels = [
                features[b, :, y, x] for b in range(2) for y in range(3) for x in range(4) if labels[b, y, x] == c
            ]
            if pixels:
                mean = torch.stack(pixels).mean(0)
                value[c] = 0.9 * value[c] + 0.1 * mean if seen[c] else mean
                seen[c] = True
    assert torch.allclose(prototypes.value, value, atol=1e-10)
    assert prototypes.seen.tolist() == seen == [True, True, False, True]


def test_several_observations_of_a_step_weigh_by_their_pixels():
    together, apart = Prototypes(4, 5).double(), Prototypes(4, 5).double()
    (a, la), (b, lb) = observed(0), observed(1)
    together.observe(torch.cat([a, b]), torch.cat([la, lb]))
    apart.observe(a, la)
    apart.observe(b, lb)
    together.commit()
    apart.commit()
    assert torch.allclose(together.value, apart.value, atol=1e-12)


def test_padding_and_void_are_left_out():
    features, labels = observed(0)
    valid = torch.rand(labels.shape) > 0.5
    masked, ignored = Prototypes(4, 5).double(), Prototypes(4, 5).double()
    masked.observe(features, labels, valid)
    ignored.observe(features, torch.where(valid, labels, 255))
    masked.commit()
    ignored.commit()
    assert torch.equal(masked.value, ignored.value)


def test_a_commit_without_observation_changes_nothing():
    prototypes = Prototypes(4, 5).double()
    prototypes.observe(*observed(0))
    prototypes.commit()
    before = prototypes.value.clone()
    prototypes.commit()
    assert torch.equal(prototypes.value, before)


def test_momentum_out_of_range_is_named():
    with pytest.raises(ValueError, match='momentum must lie in'):
        Prototypes(2, 2, momentum=1.0)


def test_class_thresholds_equal_eq_9():
    torch.manual_seed(0)
    prob = (4 * torch.randn(2, 4, 5, 6, dtype=torch.float64)).softmax(1)
    valid = torch.rand(2, 5, 6) > 0.3
    rows = prob.permute(0, 2, 3, 1)[valid]
    for sigma in (0.3, 0.7, 0.9):
        counts = [int(((rows.max(1).values > sigma) & (rows.argmax(1) == c)).sum()) for c in range(4)]
        expected = torch.tensor([count / max(counts) * sigma for count in counts], dtype=torch.float64)
        assert torch.allclose(class_thresholds(prob, sigma, valid), expected, atol=1e-10, rtol=0)
        literal = oracle.eq9(rows, sigma)
        assert torch.allclose(class_thresholds(prob, sigma, valid), literal, atol=1e-10, rtol=0)


def test_without_confident_pixels_every_class_keeps_sigma():
    prob = F.softmax(torch.zeros(1, 4, 3, 3), 1)
    assert torch.allclose(class_thresholds(prob, 0.95), torch.full((4,), 0.95))


def test_image_class_thresholds_equal_eq_20_and_21_for_each_image_alone():
    torch.manual_seed(0)
    prob = (4 * torch.randn(3, 4, 5, 6, dtype=torch.float64)).softmax(1)
    prob[1, 2] = prob[1, 2] / 10
    valid = torch.rand(3, 5, 6) > 0.5
    ours = image_class_thresholds(prob, 0.9, 0.8, valid)
    for image, exists, thresholds in zip(prob, valid.flatten(1), ours, strict=True):
        literal = dssn.eq21(dssn.eq20(dssn.rows(image), exists), 0.9, 0.8)
        assert torch.allclose(thresholds, thresholds.new_tensor(literal), atol=1e-12)
    assert torch.equal(image_class_thresholds(prob[1:2], 0.9, 0.8, valid[1:2])[0], ours[1])
    assert ours[1, 2] == prob[1, 2][valid[1]].max(), 'not lowered below tau_low'
