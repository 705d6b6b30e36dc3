import random
from collections import Counter

import pytest
import torch

from mmsemi.models import BetaCutMix, CutMix, FixedAreaCutMix, StrongView
from mmsemi.models.views.cutmix import box_masks, centred_boxes
from mmsemi.structures import Mix, PseudoLabel
from tests.launches import Launches


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


def by_rejection(draw: random.Random, height: int, width: int, area: tuple, aspect: tuple) -> tuple[int, ...]:
    """The released loop: the area once, aspect and corner until the box fits."""
    size = draw.uniform(*area) * height * width
    while True:
        ratio = draw.uniform(*aspect)
        w, h = int((size / ratio) ** 0.5), int((size * ratio) ** 0.5)
        x, y = draw.randrange(width), draw.randrange(height)
        if x + w <= width and y + h <= height:
            return y, y + h, x, x + w


@pytest.mark.parametrize(
    'height, width, area, aspect',
    [
        (8, 7, (0.2, 0.9), (0.3, 1 / 0.3)),
        (9, 9, (0.02, 0.4), (0.3, 1 / 0.3)),
        (6, 14, (0.4, 0.4), (0.2, 4.0)),
        (7, 7, (0.95, 1.0), (0.5, 2.0)),
        (8, 8, (0.1, 0.5), (1.0, 1.0)),
    ],
)
def test_boxes_follow_the_rejection_law_of_the_released_code(height, width, area, aspect):
    """Shapes and corners of boxes, box by box: images so small that each box is drawn often."""
    draw, count = random.Random(0), 40_000
    theirs = Counter(by_rejection(draw, height, width, area, aspect) for _ in range(count))
    torch.manual_seed(0)
    ours = Counter(map(tuple, CutMix(1.0, area, aspect).boxes(count, height, width, 'cpu').tolist()))
    for counter in (ours, theirs):
        assert all(
            top >= 0 and bottom <= height and left >= 0 and right <= width for top, bottom, left, right in counter
        )
    for feature in (
        lambda box: box,
        lambda box: (box[1] - box[0], box[3] - box[2]),
        lambda box: (box[0], box[2]),
        lambda box: (box[1] == height, box[3] == width),
    ):
        first, second = Counter(), Counter()
        for counter, source in ((first, ours), (second, theirs)):
            for box, times in source.items():
                counter[feature(box)] += times
        # Pearson's statistic of two samples of one law: its degrees of freedom in the mean.
        cells = first.keys() | second.keys()
        statistic = sum((first[cell] - second[cell]) ** 2 / (first[cell] + second[cell]) for cell in cells)
        freedom = max(len(cells) - 1, 1)
        assert statistic < freedom + 4 * (2 * freedom) ** 0.5, (statistic, freedom)


def test_every_image_gets_a_box_however_large():
    torch.manual_seed(0)
    mask = CutMix(prob=1.0, area=(0.9, 0.9))(2000, 33, 33, 'cpu').mask
    assert (mask.flatten(1).double().mean(1) > 0.8).all()


@pytest.mark.parametrize('height, width', [(16, 16), (9, 14)])
def test_a_box_of_half_the_image_has_a_uniform_width(height, width):
    torch.manual_seed(0)
    boxes = FixedAreaCutMix(prob=1.0).boxes(20_000, height, width, 'cpu')
    h, w = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    assert torch.equal(h, (height * width / 2 / w.double()).round().long())
    least = width // 2 + 1
    assert torch.allclose((w.bincount()[least:width]) / len(w), torch.tensor(1 / (width - least)), atol=0.02)
    assert w.min() == least and w.max() == width - 1
    for start, room in ((boxes[:, 0], height - h), (boxes[:, 2], width - w)):
        assert start.min() == 0 and torch.equal((start - room).max(), torch.tensor(0)), 'anywhere, the border included'
        assert abs((start == 0).double().mean() - (1 / (room + 1.0)).mean()) < 0.01


def test_a_box_of_half_the_image_has_a_log_uniform_height():
    torch.manual_seed(0)
    boxes = FixedAreaCutMix(sides='logarithm', prob=1.0).boxes(20_000, 200, 100, 'cpu').double()
    height, width = (boxes[:, 1] - boxes[:, 0]) / 200, (boxes[:, 3] - boxes[:, 2]) / 100
    assert (height * width - 0.5).abs().max() < 0.02
    shares = height.log().histc(5, -0.6932, 0) / len(height)
    assert torch.allclose(shares, torch.full_like(shares, 0.2), atol=0.02)
    assert boxes.min() == 0 and boxes[:, 1].max() == 200 and boxes[:, 3].max() == 100


@pytest.mark.parametrize('share', [0.1, 0.5, 0.8])
def test_the_fixed_area_is_a_key(share):
    for sides in ('width', 'logarithm'):
        mask = FixedAreaCutMix(share, sides, prob=1.0)(500, 64, 48, 'cpu').mask
        assert (mask.flatten(1).double().mean(1) - share).abs().max() < 0.03


@pytest.mark.parametrize('a, b', [(4, 4), (8, 2), (1, 1)])
def test_shares_of_boxes_follow_the_beta_law(a, b):
    torch.manual_seed(0)
    boxes = BetaCutMix(beta=(a, b), shared=False).boxes(20_000, 800, 600, 'cpu')
    top, bottom, left, right = boxes.unbind(1)
    whole = (top > 0) & (bottom < 800) & (left > 0) & (right < 600)
    height, width = (bottom - top)[whole] / 800, (right - left)[whole] / 600
    assert ((height - width).abs() <= 2 / 800 + 2 / 600).all(), "of the image's aspect"
    assert torch.equal((bottom - top)[whole] % 2, torch.zeros_like(top[whole])), 'half a side to either side'
    # Of how many boxes a side is too large to lie within the image depends on it; the small ones tell the law.
    small = (height * width < 0.05).double().sum() / len(top)
    law = 1 - torch.distributions.Beta(a, b).sample((200_000,)).double()
    side = law.sqrt()
    fits = ((1 - side).clamp(min=0) / 0.875).square()  # centres lie in the last seven eighths
    fits = torch.where(side / 2 < 0.125, ((1 - 0.125 - side / 2) / 0.875).square(), fits)
    assert abs(small - (fits * (law < 0.05)).mean()) < 0.01


def test_centres_lie_in_the_last_seven_eighths_and_boxes_are_cut_at_the_border():
    boxes = centred_boxes(torch.tensor([0.75]), torch.tensor([0, 5, 15]), torch.tensor([15, 8, 2]), 16, 16)
    assert boxes.tolist() == [[0, 4, 11, 16], [1, 9, 4, 12], [11, 16, 0, 6]]
    torch.manual_seed(0)
    boxes = BetaCutMix(beta=(30, 1), shared=False).boxes(20_000, 64, 64, 'cpu').double()
    centres = torch.stack([boxes[:, :2].mean(1), boxes[:, 2:].mean(1)])
    assert centres.min() >= 8 and abs(centres.mean() - (8 + 63) / 2) < 0.5


def test_one_share_serves_a_batch_or_each_image_has_its_own():
    torch.manual_seed(0)
    for shared, most in ((True, 1), (False, 6)):
        boxes = BetaCutMix(shared=shared).boxes(6, 1000, 1000, 'cpu')
        whole = boxes[(boxes[:, ::2] > 0).all(1) & (boxes[:, 1::2] < 1000).all(1)]
        assert 1 <= len({(box[1] - box[0]).item() for box in whole}) <= most
    shares = [float(BetaCutMix(prob=1)(64, 100, 100, 'cpu').mask.float().mean()) for _ in range(200)]
    assert torch.tensor(shares).std() > 0.08, 'a new share for each batch'


def test_boxes_of_a_beta_law_come_with_their_probability():
    torch.manual_seed(0)
    for law in (BetaCutMix(prob=0.3, shared=False), FixedAreaCutMix(prob=0.3), CutMix(prob=0.3)):
        assert abs(law(4000, 12, 12, 'cpu').mask.flatten(1).any(1).float().mean() - 0.3) < 0.03


@pytest.mark.parametrize('law', [CutMix(), FixedAreaCutMix(), FixedAreaCutMix(sides='logarithm'), BetaCutMix()])
def test_a_mask_is_true_inside_of_its_box(law):
    torch.manual_seed(0)
    law.prob = 1.0
    boxes = law.boxes(20, 12, 9, 'cpu')
    masks = box_masks(boxes, 12, 9)
    for (top, bottom, left, right), mask in zip(boxes.tolist(), masks, strict=True):
        expected = torch.zeros(12, 9, dtype=torch.bool)
        expected[top:bottom, left:right] = True
        assert torch.equal(mask, expected)


def test_probability_zero_mixes_nothing():
    for law in (CutMix, FixedAreaCutMix, BetaCutMix):
        assert not law(prob=0)(8, 16, 16, 'cpu').mask.any()


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


def test_what_a_partner_gives_away_may_be_another_copy():
    mask = torch.tensor([[[True, False]], [[False, True]]])
    images, shown = torch.arange(4.0).view(2, 1, 1, 2), 10 + torch.arange(4.0).view(2, 1, 1, 2)
    mix = Mix(mask, torch.tensor([1, 0]))
    assert mix.images(images, shown).flatten().tolist() == [12, 1, 2, 11]
    assert mix.maps(images[:, 0], shown[:, 0]).flatten().tolist() == [12, 1, 2, 11]
    pseudo, other = (PseudoLabel(x[:, 0].long(), x[:, 0], x) for x in (images, shown))
    mixed = mix.labels(pseudo, other)
    assert mixed.label.flatten().tolist() == [12, 1, 2, 11]
    assert torch.equal(mixed.weight, mixed.label.float()) and torch.equal(mixed.prob[:, 0], mixed.weight)


def test_strong_views_stay_images_and_change_each_image_on_its_own():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 24, 24).expand(6, -1, -1, -1).contiguous()
    strong = StrongView(jitter_prob=1.0)(images)
    assert strong.shape == images.shape and strong.min() >= 0 and strong.max() <= 1
    assert len({tuple(image.flatten()[:50].tolist()) for image in strong}) == 6


def test_probability_zero_changes_nothing():
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(StrongView(jitter_prob=0, gray_prob=0, blur_prob=0)(images), images)


def test_each_image_draws_its_changes_and_the_order_of_its_jitter():
    torch.manual_seed(0)
    orders, jitter = StrongView().orders(6000), ('brightness', 'contrast', 'color', 'hue')
    names = [tuple(change.name for change in order) for order in orders]
    jittered = [order[:4] for order in names if len(order) >= 4]
    assert abs(len(jittered) / 6000 - 0.8) < 0.02
    times = Counter(jittered)
    assert len(times) == 24 and all(abs(count / len(jittered) - 1 / 24) < 0.012 for count in times.values())
    assert all(sorted(order) == sorted(jitter) for order in times)
    rest = [order[4:] if len(order) >= 4 else order for order in names]
    assert set(rest) == {(), ('color',), ('blur',), ('color', 'blur')}
    assert abs(sum('color' in order for order in rest) / 6000 - 0.2) < 0.02
    assert abs(sum('blur' in order for order in rest) / 6000 - 0.5) < 0.02
    for name, low, high in (('brightness', 0.5, 1.5), ('contrast', 0.5, 1.5), ('hue', -0.25, 0.25), ('blur', 0.1, 2.0)):
        drawn = torch.tensor([change.strength for order in orders for change in order if change.name == name])
        assert torch.allclose(drawn.histc(4, low, high) / len(drawn), torch.full((4,), 0.25), atol=0.03)
    gray = {
        order[-1 - (order[-1].name == 'blur')].strength
        for order in orders
        if [c.name for c in order].count('color') > 1
    }
    assert gray == {0.0}


def test_a_strength_below_zero_is_none():
    torch.manual_seed(0)
    orders = StrongView(jitter=(3.0, 0.0, 0.0, 0.0), jitter_prob=1.0, gray_prob=0, blur_prob=0).orders(500)
    strengths = {
        name: [change.strength for order in orders for change in order if change.name == name]
        for name in ('brightness', 'contrast', 'hue')
    }
    assert 0 <= min(strengths['brightness']) < 0.1 and 3.9 < max(strengths['brightness']) <= 4
    assert set(strengths['contrast']) == {1.0} and set(strengths['hue']) == {0.0}


def test_two_strong_views_cost_at_most_200_launches():
    images = torch.rand(8, 3, 16, 16)
    for seed in range(30):
        torch.manual_seed(seed)
        with Launches() as launches:
            StrongView()(images.repeat(2, 1, 1, 1))
        assert launches.count <= 200


@pytest.mark.parametrize(
    'part, message',
    [
        (lambda: CutMix(prob=1.5), 'prob must lie in'),
        (lambda: CutMix(area=(0.5, 0.2)), 'area must be'),
        (lambda: CutMix(aspect=(0, 1)), 'aspect must be'),
        (lambda: CutMix(area=(0.5, 0.9), aspect=(3.0, 4.0)).check(32, 32), r'no box of 0.9 of the image .* 32 x 32'),
        (lambda: CutMix(aspect=(0.1, 0.2)).boxes(1, 64, 16, 'cpu'), r'fits into 64 x 16; set model.data_prep'),
        (lambda: BetaCutMix().check(0, 4), 'images of 0 x 4 have no box'),
        (lambda: FixedAreaCutMix(area=1.0), r'area must lie in \(0, 1\)'),
        (lambda: FixedAreaCutMix(sides='height'), "sides must be 'width' or 'logarithm'"),
        (lambda: FixedAreaCutMix(prob=2), 'prob must lie in'),
        (lambda: StrongView(jitter=(0.5, 0.5, 0.5, 0.6)), 'jitter must be'),
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
