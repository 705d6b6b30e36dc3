import pytest
import torch
from torch.nn import functional as F

from mmsemi.models.losses.pixel import OhemCrossEntropyLoss, PixelCrossEntropyLoss, masked_mean, pixel_cross_entropy
from mmsemi.models.pseudo_labels import confident_labels, label_accuracy
from mmsemi.structures import PseudoLabel


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


@pytest.mark.parametrize('min_kept', [1, 20, 1000])
def test_ohem_keeps_the_hard_pixels_and_at_least_min_kept(min_kept):
    logits, labels = pixels()
    logits = logits * 3
    labels[0, :2] = 255
    valid = labels != 255
    prob = logits.softmax(1).gather(1, labels.where(valid, 0)[:, None])[:, 0]
    ordered = prob[valid].sort().values
    limit = max(0.7, float(ordered[min(min_kept, len(ordered)) - 1]))
    kept = valid & (prob <= limit)
    expected = -prob[kept].log().mean()
    assert torch.allclose(OhemCrossEntropyLoss(0.7, min_kept)(logits, labels), expected, atol=1e-6)


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


def test_accuracy_counts_only_what_is_counted():
    label, truth = torch.tensor([[[0, 1, 2]]]), torch.tensor([[[0, 2, 2]]])
    assert label_accuracy(label, truth, torch.tensor([[[True, True, False]]])) == 0.5
    assert label_accuracy(label, truth, torch.zeros(1, 1, 3, dtype=torch.bool)) == 0


@pytest.mark.parametrize('arguments', [dict(threshold=1.2), dict(min_kept=0)])
def test_ohem_arguments_out_of_range_are_named(arguments):
    with pytest.raises(ValueError, match='threshold in'):
        OhemCrossEntropyLoss(**arguments)
