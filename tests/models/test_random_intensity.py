"""The law by which changes of intensity are drawn, and what they cost."""

import pytest
import torch

from mmsemi.models import RandomIntensity
from mmsemi.models.views.changes import change_images
from tests.launches import Launches

NAMES = [
    'identity', 'autocontrast', 'equalize', 'blur', 'contrast', 'brightness', 'color', 'sharpness', 'posterize',
    'solarize', 'hue',
]  # fmt: skip


def test_images_get_one_to_three_different_changes_all_equally_likely():
    torch.manual_seed(0)
    drawn = RandomIntensity().orders(6000)
    for count in (1, 2, 3):
        assert abs(sum(len(each) == count for each in drawn) / 6000 - 1 / 3) < 0.03
    assert all(len({change.name for change in each}) == len(each) for each in drawn), 'no change twice'
    for place in range(3):
        names = [each[place].name for each in drawn if len(each) > place]
        assert all(abs(names.count(name) / len(names) - 1 / 11) < 0.02 for name in NAMES)


def test_changes_may_repeat_by_key():
    torch.manual_seed(0)
    drawn = RandomIntensity(max_ops=2, repeat=True).orders(6000)
    pairs = [each for each in drawn if len(each) == 2]
    assert abs(len(pairs) / 6000 - 0.5) < 0.03
    assert abs(sum(first.name == second.name for first, second in pairs) / len(pairs) - 1 / 11) < 0.02


def strengths(name: str, **kwargs) -> torch.Tensor:
    torch.manual_seed(0)
    drawn = RandomIntensity(max_ops=11, **kwargs).orders(4000)
    return torch.tensor([change.strength for order in drawn for change in order if change.name == name])


@pytest.mark.parametrize('name', ['contrast', 'brightness', 'color', 'sharpness'])
def test_factors_are_uniform_and_take_something_away(name):
    drawn = strengths(name)
    assert 0.05 <= drawn.min() < 0.06 and 0.94 < drawn.max() <= 0.95
    assert torch.allclose(drawn.histc(4, 0.05, 0.95) / len(drawn), torch.full((4,), 0.25), atol=0.03)


def test_bits_levels_turns_and_widths_follow_their_ranges():
    bits = strengths('posterize')
    assert torch.allclose(
        torch.stack([(bits == n).float().mean() for n in (4, 5, 6, 7)]), torch.tensor(0.25), atol=0.03
    )
    levels = strengths('solarize')
    assert (
        torch.equal(levels, levels.round()) and levels.min() <= 3 and levels.min() >= 1 and 253 <= levels.max() <= 255
    )
    assert strengths('solarize', solarize_threshold=(7, 8)).unique().tolist() == [7, 8]
    turns = strengths('hue')
    assert torch.allclose(turns.histc(4, -0.5, 0.5) / len(turns), torch.full((4,), 0.25), atol=0.03)
    outer = strengths('hue', hue=(0.2, 0.3)).abs()
    assert outer.min() >= 0.2 and outer.max() <= 0.3
    widths = strengths('blur')
    assert 0.1 <= widths.min() < 0.12 and 1.98 < widths.max() <= 2.0


def test_the_most_changes_are_a_key():
    torch.manual_seed(0)
    assert {len(each) for each in RandomIntensity(max_ops=1).orders(50)} == {1}
    assert {len(each) for each in RandomIntensity(max_ops=5).orders(200)} == {1, 2, 3, 4, 5}


def test_the_views_are_the_images_with_the_changes_that_were_drawn():
    images = torch.rand(6, 3, 16, 16)
    torch.manual_seed(3)
    view = RandomIntensity()(images)
    torch.manual_seed(3)
    assert torch.equal(view, change_images(images, RandomIntensity().orders(6)))


def test_24_images_cost_at_most_200_launches():
    images = torch.rand(24, 3, 16, 16)
    counts = []
    for seed in range(40):
        torch.manual_seed(seed)
        with Launches() as launches:
            RandomIntensity()(images)
        counts.append(launches.count)
    assert max(counts) <= 200 and sum(counts) / len(counts) <= 140


def test_views_stay_images_change_each_image_on_its_own_and_leave_the_weak_view():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 24, 24).expand(30, -1, -1, -1).contiguous()
    before = images.clone()
    strong = RandomIntensity()(images)
    assert strong.shape == images.shape and strong.min() >= 0 and strong.max() <= 1
    assert len({tuple(image.flatten()[:50].tolist()) for image in strong}) > 25
    assert torch.equal(images, before)


def test_a_view_is_a_function_of_the_seed():
    images = torch.rand(3, 3, 16, 16)
    views = []
    for _ in range(2):
        torch.manual_seed(4)
        views.append(RandomIntensity()(images))
    assert torch.equal(*views)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(max_ops=0), r'max_ops must lie in \[1, 11\]'),
        (dict(max_ops=12), r'max_ops must lie in \[1, 11\]'),
        (dict(blur_sigma=(0, 2.0)), 'blur_sigma must be an ascending range above 0'),
        (dict(factor=(0.9, 0.1)), 'factor must be an ascending range'),
        (dict(posterize_bits=(4, 9)), r'posterize_bits must be an ascending range within \[1, 8\]'),
        (dict(solarize_threshold=(1, 300)), 'solarize_threshold must be'),
        (dict(hue=(0, 0.6)), 'hue must be'),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomIntensity(**arguments)
