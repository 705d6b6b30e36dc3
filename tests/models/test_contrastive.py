"""MLLC's contrastive losses equal eq. 12, in values and in gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from mmsemi.models.losses.contrastive import intra_image_contrast, prototype_contrast
from tests.oracles import mllc as oracle

B, N, C, D = 2, 11, 4, 6
DTYPES = pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.float32, 1e-5)])
VALID = pytest.mark.parametrize('padded', [False, True])
SEEN = torch.tensor([True, False, True, True])


def inputs(dtype: torch.dtype = torch.float64, padded: bool = False, n: int = N):
    """Unit features, labels (255 at padding), prototypes and validity."""
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(B, n, D, generator=generator, dtype=torch.float64), dim=-1)
    labels = torch.randint(C, (B, n), generator=generator)
    prototypes = F.normalize(torch.randn(C, D, generator=generator, dtype=torch.float64), dim=-1)
    valid = torch.rand(B, n, generator=generator) > 0.3 if padded else None
    if padded:
        labels = labels.masked_fill(~valid, 255)
    return features.to(dtype), labels, prototypes.to(dtype), valid


def literal_intra(features, labels, valid):
    images = [
        oracle.eq12_intra(features[b], labels[b], None if valid is None else valid[b]) for b in range(len(features))
    ]
    return sum(images) / len(images)


def literal_prototype(features, labels, prototypes, seen, temperature, valid):
    valid = None if valid is None else valid.flatten()
    return oracle.eq12_prototype(features.flatten(0, 1), labels.flatten(), prototypes, seen, temperature, valid)


def assert_same_gradients(fast, literal, tensors):
    for a, b in zip(torch.autograd.grad(fast, tensors), torch.autograd.grad(literal, tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@DTYPES
@VALID
def test_intra_image_contrast_equals_eq12(dtype, tolerance, padded):
    features, labels, _, valid = inputs(dtype, padded)
    loss = intra_image_contrast(features, labels, C, valid)
    expected = literal_intra(features.double(), labels, valid).to(dtype)
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)


@DTYPES
@VALID
@pytest.mark.parametrize('temperature', [0.1, 1.0])
def test_prototype_contrast_equals_eq12(dtype, tolerance, padded, temperature):
    features, labels, prototypes, valid = inputs(dtype, padded)
    loss = prototype_contrast(features, labels, prototypes, SEEN, temperature, valid)
    literal = literal_prototype(features.double(), labels, prototypes.double(), SEEN, temperature, valid)
    torch.testing.assert_close(loss, literal.to(dtype), rtol=tolerance, atol=tolerance)


@VALID
def test_gradients_equal_eq12s(padded):
    features, labels, prototypes, valid = inputs(padded=padded)
    features.requires_grad_()
    prototypes.requires_grad_()
    assert_same_gradients(
        intra_image_contrast(features, labels, C, valid), literal_intra(features, labels, valid), [features]
    )
    assert_same_gradients(
        prototype_contrast(features, labels, prototypes, SEEN, 0.1, valid),
        literal_prototype(features, labels, prototypes, SEEN, 0.1, valid),
        [features, prototypes],
    )


@VALID
def test_contrastive_losses_pass_gradcheck(padded):
    features, labels, prototypes, valid = inputs(padded=padded, n=5)
    features.requires_grad_()
    prototypes.requires_grad_()
    assert gradcheck(lambda x: intra_image_contrast(x, labels, C, valid), features)
    assert gradcheck(lambda x, p: prototype_contrast(x, labels, p, SEEN, 0.5, valid), (features, prototypes))


def test_intra_image_contrast_is_zero_for_one_direction_per_class_and_one_for_opposite_labels():
    labels = torch.tensor([[0, 0, 1, 1]])
    directions = torch.eye(D)[labels]
    assert intra_image_contrast(directions, labels, C).item() == pytest.approx(0, abs=1e-6)
    assert intra_image_contrast(torch.eye(D)[torch.zeros_like(labels)], torch.arange(4)[None], C).item() == 12 / 16


def test_labels_that_are_no_class_do_not_count():
    features, labels, prototypes, valid = inputs(padded=True)
    for without in (None, torch.ones_like(valid)):
        torch.testing.assert_close(
            intra_image_contrast(features, labels, C, without), intra_image_contrast(features, labels, C, valid)
        )
        torch.testing.assert_close(
            prototype_contrast(features, labels, prototypes, SEEN, 0.1, without),
            prototype_contrast(features, labels, prototypes, SEEN, 0.1, valid),
        )
    labels[~valid] = -1
    assert intra_image_contrast(features, labels, C).isfinite()
    assert prototype_contrast(features, labels, prototypes, SEEN).isfinite()


def test_an_image_without_valid_nodes_adds_zero_to_the_mean():
    features, labels, _, _ = inputs()
    valid = torch.ones(B, N, dtype=torch.bool)
    valid[1] = False
    loss = intra_image_contrast(features, labels, C, valid)
    torch.testing.assert_close(loss, intra_image_contrast(features[:1], labels[:1], C) / 2)


def test_a_batch_without_valid_nodes_gives_zero_and_gradient_zero():
    features, labels, prototypes, _ = inputs()
    features.requires_grad_()
    nothing = torch.zeros(B, N, dtype=torch.bool)
    loss = intra_image_contrast(features, labels, C, nothing) + prototype_contrast(
        features, labels, prototypes, SEEN, 0.1, nothing
    )
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_prototype_contrast_without_prototypes_gives_zero_and_gradient_zero():
    features, labels, prototypes, _ = inputs()
    features.requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=True):
        loss = prototype_contrast(features, labels, torch.zeros_like(prototypes), torch.zeros(C, dtype=torch.bool))
        assert loss.item() == 0
        loss.backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_classes_not_seen_yet_change_nothing():
    features, labels, prototypes, _ = inputs()
    changed = prototypes.clone()
    changed[1] = 50
    torch.testing.assert_close(
        prototype_contrast(features, labels, prototypes, SEEN), prototype_contrast(features, labels, changed, SEEN)
    )


def test_half_precision_is_computed_in_float32_also_under_autocast():
    features, labels, prototypes, _ = inputs(torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16):
        losses = (
            intra_image_contrast(features, labels, C),
            prototype_contrast(features, labels, prototypes, SEEN),
        )
    features, prototypes = features.float(), prototypes.float()
    assert torch.equal(losses[0], intra_image_contrast(features, labels, C))
    assert torch.equal(losses[1], prototype_contrast(features, labels, prototypes, SEEN))
