import pytest
import torch

from mmsemi.models import BetaCutMix, CutMix, StrongView
from mmsemi.structures import Mix, PseudoLabel


def test_boxes_have_the_asked_area_aspect_and_share():
    torch.manual_seed(0)
    mask = CutMix(prob=0.5, area=(0.1, 0.3), aspect=(0.5, 2.0))(4000, 64, 48, 'cpu').mask
    mixed = mask.flatten(1).any(1)
    assert abs(mixed.float().mean() - 0.5) < 0.03
    boxes = mask[mixed]
    height, width = boxes.any(2).sum(1), boxes.any(1).sum(1)
    assert torch.equal(boxes.flatten(1).sum(1), height * width), 'a mask is one full rectangle'
    share = (height * width) / (64 * 48)
    assert share.max() <= 0.3 and share.min() > 0.08
    aspect = height / width
    assert aspect.min() > 0.4 and aspect.max() < 2.3


def test_boxes_follow_the_rejection_law_of_the_released_code():
    """Mean area of boxes drawn until they fit, against a literal loop."""
    import random

    random.seed(0)
    areas = []
    for _ in range(4000):
        while True:
            size, aspect = random.uniform(0.02, 0.4) * 64 * 64, random.uniform(0.3, 1 / 0.3)
            w, h = int((size / aspect) ** 0.5), int((size * aspect) ** 0.5)
            x, y = random.randint(0, 63), random.randint(0, 63)
            if x + w <= 64 and y + h <= 64:
                break
        areas.append(w * h)
    torch.manual_seed(0)
    mask = CutMix(prob=1)(4000, 64, 64, 'cpu').mask
    ours = mask.flatten(1).sum(1).float().mean()
    assert abs(ours / (sum(areas) / len(areas)) - 1) < 0.05


@pytest.mark.parametrize('a, b', [(4, 4), (8, 2), (1, 1)])
def test_shares_of_boxes_follow_the_beta_law_and_boxes_lie_within_the_image(a, b):
    torch.manual_seed(0)
    mask = BetaCutMix(beta=(a, b))(3000, 64, 48, 'cpu').mask
    height, width = mask.any(2).sum(1), mask.any(1).sum(1)
    assert torch.equal(mask.flatten(1).sum(1), height * width), 'a mask is one full rectangle'
    assert ((height / 64 - width / 48).abs() <= 0.5 / 64 + 0.5 / 48 + 1e-6).all(), "of the image's aspect"
    ours = (height * width / (64 * 48)).sort().values
    law = (1 - torch.distributions.Beta(a, b).sample((100_000,))).sort().values
    for quantile in (0.1, 0.5, 0.9):
        assert abs(ours[int(quantile * 3000)] - law[int(quantile * 100_000)]) < 0.025
    top = mask.any(2).to(torch.uint8).argmax(1)
    room = 64 - height
    place = (top / room)[room > 10]
    assert abs(place.mean() - 0.5) < 0.03 and place.min() < 0.05 and place.max() == 1, 'anywhere in the image'


def test_boxes_of_a_beta_law_come_with_their_probability():
    torch.manual_seed(0)
    assert abs(BetaCutMix(prob=0.3)(2000, 8, 8, 'cpu').mask.flatten(1).any(1).float().mean() - 0.3) < 0.03


def test_probability_zero_mixes_nothing():
    assert not CutMix(prob=0)(8, 16, 16, 'cpu').mask.any()
    assert not BetaCutMix(prob=0)(8, 16, 16, 'cpu').mask.any()


def test_labels_are_mixed_with_the_boxes_of_their_images():
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, 1:3, 1:3] = True
    mix = Mix(mask)
    label = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).long()
    prob = torch.nn.functional.one_hot(label, 2).permute(0, 3, 1, 2).float()
    mixed = mix.labels(PseudoLabel(label, label.float(), prob))
    images = mix.images(label[:, None].float())[:, 0]
    assert torch.equal(mixed.label.float(), images) and torch.equal(mixed.weight, images)
    assert torch.equal(mixed.prob.argmax(1).float(), images)
    assert mixed.label[0, 1, 1] == 1 and mixed.label[0, 0, 0] == 0 and (mixed.label[1] == 1).all()


def test_strong_views_stay_images_and_change_each_image_on_its_own():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 24, 24).expand(6, -1, -1, -1).contiguous()
    strong = StrongView(jitter_prob=1.0)(images)
    assert strong.shape == images.shape and strong.min() >= 0 and strong.max() <= 1
    assert len({tuple(image.flatten()[:50].tolist()) for image in strong}) == 6


def test_probability_zero_changes_nothing():
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(StrongView(jitter_prob=0, gray_prob=0, blur_prob=0)(images), images)


@pytest.mark.parametrize(
    'part, message',
    [
        (lambda: CutMix(prob=1.5), 'prob must lie in'),
        (lambda: CutMix(area=(0.5, 0.2)), 'area must be'),
        (lambda: CutMix(aspect=(0, 1)), 'aspect must be'),
        (lambda: BetaCutMix(prob=-0.5), 'prob must lie in'),
        (lambda: BetaCutMix(beta=(0, 2)), 'beta must be two whole numbers'),
        (lambda: BetaCutMix(beta=(0.5, 2)), 'beta must be two whole numbers'),
        (lambda: StrongView(gray_prob=-1), 'gray_prob must lie in'),
        (lambda: StrongView(blur_sigma=(2, 1)), 'blur_sigma must be'),
    ],
)
def test_arguments_out_of_range_are_named(part, message):
    with pytest.raises(ValueError, match=message):
        part()


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_images_without_color_get_brightness_contrast_and_blur(channels):
    torch.manual_seed(0)
    images = 0.3 + 0.3 * torch.rand(64, channels, 12, 12)
    jittered = StrongView(jitter=(0.3, 0.3, 0.5, 0.25), jitter_prob=1, gray_prob=1, blur_prob=0)(images)
    assert jittered.shape == images.shape and jittered.min() >= 0 and jittered.max() <= 1
    # Brightness and contrast are one straight line a sample, the same for all its channels.
    x, y = images.flatten(1), jittered.flatten(1)
    inside = (y > 0) & (y < 1)
    for before, after, kept in zip(x, y, inside, strict=True):
        line = torch.stack([before[kept], torch.ones_like(before[kept])], 1)
        fit = torch.linalg.lstsq(line, after[kept, None]).solution
        assert torch.allclose(line @ fit, after[kept, None], atol=1e-4)
    assert (x - y).abs().mean(1).min() > 0
    assert torch.equal(StrongView(jitter_prob=0, gray_prob=1, blur_prob=0)(images), images)
    blurred = StrongView(jitter_prob=0, blur_prob=1, blur_sigma=(2.0, 2.0))(images)
    assert blurred.shape == images.shape and blurred.var() < 0.1 * images.var()


def test_images_of_three_channels_may_turn_gray():
    torch.manual_seed(0)
    gray = StrongView(jitter_prob=0, gray_prob=1, blur_prob=0)(torch.rand(4, 3, 8, 8))
    assert torch.allclose(gray, gray[:, :1].expand_as(gray))
