import pytest
import torch
from torch.nn import functional as F

from mmsemi.models.losses.pixel import (
    OhemCrossEntropyLoss,
    PixelCrossEntropyLoss,
    logit_distance,
    masked_mean,
    pixel_cross_entropy,
)
from mmsemi.models.pseudo_labels import class_aware_labels, confident_labels, label_accuracy
from mmsemi.structures import PseudoLabel
from tests.oracles import dssn as oracle


def pixels(batch=2, classes=4, size=6, dtype=torch.float64):
    torch.manual_seed(0)
    logits = torch.randn(batch, classes, size, size, dtype=dtype)
    labels = torch.randint(0, classes, (batch, size, size))
    return logits, labels


def test_pixel_cross_entropy_sums_over_kept_and_divides_by_valid_pixels():
    logits, labels = pixels()
    weight, valid = torch.rand(labels.shape, dtype=torch.float64), torch.rand(labels.shape) > 0.3
    total = 0.0
    for b, y, x in valid.nonzero().tolist():
        total -= weight[b, y, x] * logits[b, :, y, x].log_softmax(0)[labels[b, y, x]]
    ours = pixel_cross_entropy(logits, PseudoLabel(labels, weight), valid)
    assert torch.allclose(ours, total / valid.sum(), atol=1e-10)


def test_no_valid_pixel_gives_zero_and_a_gradient_without_nan():
    logits, labels = pixels()
    logits.requires_grad_()
    loss = pixel_cross_entropy(logits, PseudoLabel(labels, torch.ones(labels.shape)), torch.zeros_like(labels).bool())
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_masked_mean_ignores_infinities_outside_the_mask():
    assert masked_mean(torch.tensor([1.0, float('inf')]), torch.tensor([True, False])) == 1


def test_supervised_cross_entropy_averages_over_labeled_pixels():
    logits, labels = pixels()
    labels[0, :3] = 255
    ours = PixelCrossEntropyLoss(loss_weight=0.4)(logits, labels)
    assert torch.allclose(ours, 0.4 * F.cross_entropy(logits, labels, ignore_index=255), atol=1e-10)


def test_only_ignored_pixels_give_zero():
    logits, labels = pixels()
    assert PixelCrossEntropyLoss()(logits, torch.full_like(labels, 255)) == 0


@pytest.mark.parametrize('share', [1e-6, 0.1, 0.5, 0.95, 1.0])
def test_ohem_keeps_the_hard_pixels_and_at_least_the_share_min_kept(share):
    logits, labels = pixels()
    logits = logits * 3
    labels[0, :2] = 255
    valid = labels != 255
    min_kept = max(1, round(share * labels.numel()))
    prob = logits.softmax(1).gather(1, labels.where(valid, 0)[:, None])[:, 0]
    ordered = prob[valid].sort().values
    limit = max(0.7, float(ordered[min(min_kept, len(ordered)) - 1]))
    kept = valid & (prob <= limit)
    expected = -prob[kept].log().mean()
    assert torch.allclose(OhemCrossEntropyLoss(0.7, share)(logits, labels), expected, atol=1e-10)


def test_ohem_of_ignored_pixels_alone_is_zero_and_so_is_its_gradient():
    logits, labels = pixels()
    logits.requires_grad_()
    loss = OhemCrossEntropyLoss()(logits, torch.full_like(labels, 255))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_ohem_weighs_pixels_and_classes():
    logits, labels = pixels()
    weight, per_class = torch.rand(labels.shape, dtype=logits.dtype), [0.5, 2.0, 1.0, 3.0]
    criterion = OhemCrossEntropyLoss(0.4, 0.1, class_weight=per_class, loss_weight=0.4).double()
    kept = criterion.hard_pixels(logits, labels)
    loss = -logits.log_softmax(1).gather(1, labels[:, None])[:, 0] * weight * torch.tensor(per_class)[labels]
    assert 0 < kept.sum() < kept.numel()
    assert torch.allclose(criterion(logits, labels, weight), 0.4 * loss[kept].mean(), atol=1e-10)


def test_confident_labels_keep_what_reaches_the_threshold_of_its_class():
    logits, _ = pixels()
    prob = logits.softmax(1)
    valid = torch.rand(prob.shape[0], *prob.shape[2:]) > 0.2
    thresholds = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    pseudo = confident_labels(logits, thresholds, valid)
    confidence, label = prob.max(1)
    for b, y, x in torch.ones_like(valid).nonzero().tolist():
        expected = bool(valid[b, y, x]) and bool(confidence[b, y, x] >= thresholds[label[b, y, x]])
        assert bool(pseudo.weight[b, y, x]) == expected
    assert torch.equal(pseudo.label, label)


def padded(shape):
    """A mask with padding in one image and none in another."""
    valid = torch.ones(shape, dtype=torch.bool)
    valid[0, -2:] = False
    return valid


@pytest.mark.parametrize('least', [0.5, 0.9])
def test_class_aware_labels_equal_the_papers_masks_image_by_image(least):
    logits, _ = pixels()
    logits *= torch.tensor([4.0, 1.0]).view(2, 1, 1, 1)
    valid = padded(logits[:, 0].shape)
    logits[0, 2, -1, -1] = 50
    pseudo = class_aware_labels(logits, 0.8, least, valid)
    kept = 0
    for image, label, weight, exists in zip(logits, pseudo.label, pseudo.weight, valid.flatten(1), strict=True):
        m, t = oracle.cplg(oracle.rows(image).softmax(1), 0.8, least, exists)
        assert torch.equal(label.flatten(), t.argmax(1))
        assert torch.equal(weight.flatten(), (m * t).sum(1) * exists)
        kept += int(weight.sum())
    assert 0 < kept < int(valid.sum())


def test_class_aware_labels_keep_only_what_exceeds_the_threshold():
    logits, _ = pixels()
    assert not class_aware_labels(logits, 1.0, 0.1).weight.any(), 'no pixel exceeds the maximum'
    assert not class_aware_labels(logits, 0.5, 1.0).weight.any(), 'no class is surer than 1'
    nothing = torch.zeros(logits[:, 0].shape, dtype=torch.bool)
    assert not class_aware_labels(logits, 0.5, 0.1, nothing).weight.any(), 'padding is never kept'


CONTRASTS = pytest.mark.parametrize('normalize, literal', [(False, oracle.eq10), (True, oracle.released_contrast)])


@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@CONTRASTS
def test_logit_distance_equals_both_variants_of_the_contrast(normalize, literal, dtype, tolerance):
    first, _ = pixels(dtype=dtype)
    second = first.flip(0) + 0.5
    valid = padded(first[:, 0].shape)
    for mask in (valid, None):
        ours = logit_distance(first, second, mask, normalize)
        rows = oracle.rows(first), oracle.rows(second)
        theirs = literal(*rows, torch.ones_like(valid).flatten() if mask is None else mask.flatten())
        assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance) and ours > 0


@CONTRASTS
def test_gradients_of_both_variants_are_the_oracles_and_reach_both_views(normalize, literal):
    first, _ = pixels(size=3)
    second, valid = first.flip(0) + 0.5, padded((2, 3, 3))
    views = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    ours = torch.autograd.grad(logit_distance(*views, valid, normalize), views)
    rows = oracle.rows(views[0]), oracle.rows(views[1])
    theirs = torch.autograd.grad(literal(*rows, valid.flatten()), views)
    assert all(torch.allclose(a, b, atol=1e-10) and a.any() for a, b in zip(ours, theirs, strict=True))
    assert torch.autograd.gradcheck(lambda a, b: logit_distance(a, b, valid, normalize), views)


def test_standardised_contrast_ignores_scale_and_offset_and_survives_equal_scores():
    first, _ = pixels()
    assert logit_distance(first, 3 * first + 1) < 1e-8 < logit_distance(first, 3 * first + 1, normalize=False)
    flat = torch.zeros_like(first, requires_grad=True)
    logit_distance(flat, first).backward()
    assert flat.grad.isfinite().all()
    assert logit_distance(first, -first) <= 4


def test_contrast_of_half_precision_scores_is_computed_in_full():
    first, _ = pixels(dtype=torch.float32)
    half = (100 * first).to(torch.float16)
    distance = logit_distance(half, -half, normalize=False)
    assert distance.dtype == torch.float32 and torch.isfinite(distance)


def test_class_aware_labels_and_contrast_trace_without_a_graph_break():
    def step(first, second, valid):
        pseudo = class_aware_labels(first, 0.8, 0.5, valid)
        distance = logit_distance(first, second, valid) + logit_distance(first, second, valid, normalize=False)
        return pixel_cross_entropy(second, pseudo, valid) + distance

    first, _ = pixels()
    valid = padded(first[:, 0].shape)
    traced = torch.compile(step, backend='eager', fullgraph=True)
    assert torch.allclose(traced(first, first.flip(0), valid), step(first, first.flip(0), valid))


def test_accuracy_counts_only_what_is_counted():
    label, truth = torch.tensor([[[0, 1, 2]]]), torch.tensor([[[0, 2, 2]]])
    assert label_accuracy(label, truth, torch.tensor([[[True, True, False]]])) == 0.5
    assert label_accuracy(label, truth, torch.zeros(1, 1, 3, dtype=torch.bool)) == 0


@pytest.mark.parametrize('min_kept', [100_000, 1])
def test_ohem_refuses_a_number_of_pixels_and_names_the_share(min_kept):
    with pytest.raises(ValueError, match=f'share of the pixels.* in place of {min_kept} write {min_kept} / '):
        OhemCrossEntropyLoss(min_kept=min_kept)


@pytest.mark.parametrize('arguments', [dict(threshold=1.2), dict(min_kept=0.0), dict(min_kept=1.5)])
def test_ohem_arguments_out_of_range_are_named(arguments):
    with pytest.raises(ValueError, match='threshold in'):
        OhemCrossEntropyLoss(**arguments)
