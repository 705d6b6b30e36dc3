"""The changes of intensity against PIL's, and the law by which they are drawn."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from mmsemi.models import RandomIntensity

NAMES = [
    'identity', 'autocontrast', 'equalize', 'blur', 'contrast', 'brightness', 'color', 'sharpness', 'posterize',
    'solarize', 'hue',
]  # fmt: skip
STRENGTHS = torch.tensor([0.0, 0.41, 0.95])


def pictures() -> torch.Tensor:
    """Three uint8 images, none of which uses the whole range."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(40, 200, (3, 3, 24, 20), dtype=torch.uint8, generator=generator)


def by_pil(change) -> torch.Tensor:
    """Images in [0, 1] that PIL changed; ``change`` takes an image and its strength in [0, 1)."""
    changed = []
    for picture, strength in zip(pictures(), STRENGTHS.tolist(), strict=True):
        image = change(Image.fromarray(picture.permute(1, 2, 0).numpy()), strength)
        changed.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(changed).float() / 255


def factor(strength: float) -> float:
    return 0.05 + 0.9 * strength


@pytest.mark.parametrize(
    'name, change, levels',
    [
        ('identity', lambda image, u: image, 0),
        # PIL rounds its means and its results to levels.
        ('autocontrast', lambda image, u: ImageOps.autocontrast(image), 1),
        ('equalize', lambda image, u: ImageOps.equalize(image), 0),
        ('contrast', lambda image, u: ImageEnhance.Contrast(image).enhance(factor(u)), 1.6),
        ('brightness', lambda image, u: ImageEnhance.Brightness(image).enhance(factor(u)), 1),
        ('color', lambda image, u: ImageEnhance.Color(image).enhance(factor(u)), 1.6),
        ('sharpness', lambda image, u: ImageEnhance.Sharpness(image).enhance(factor(u)), 1.6),
        ('posterize', lambda image, u: ImageOps.posterize(image, 4 + int(5 * u)), 0),
        ('solarize', lambda image, u: ImageOps.solarize(image, math.ceil(1 + 255 * u)), 0),
    ],
)
def test_a_change_is_that_of_pil(name, change, levels):
    ours = RandomIntensity().operations[name](pictures().float() / 255, STRENGTHS)
    assert (ours - by_pil(change)).abs().max() <= (levels + 1e-3) / 255


def test_blur_is_a_gaussian_of_the_drawn_width():
    images = torch.zeros(3, 3, 25, 25)
    images[:, :, 12, 12] = 1
    ours = RandomIntensity().operations['blur'](images, STRENGTHS)
    for image, strength in zip(ours, STRENGTHS.tolist(), strict=True):
        sigma = 0.1 + 1.9 * strength
        weights = [[math.exp(-((y - 12) ** 2 + (x - 12) ** 2) / (2 * sigma**2)) for x in range(25)] for y in range(25)]
        weights = torch.tensor(weights)
        inside = weights * ((torch.arange(25) - 12).abs() <= 6) * ((torch.arange(25) - 12).abs() <= 6)[:, None]
        assert torch.allclose(image, (inside / inside.sum()).expand_as(image), atol=1e-5)


def test_hue_turns_the_color_circle_to_either_side():
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(3, 3, 2, 2)
    turn = RandomIntensity(hue=(0.0, 1 / 3)).operations['hue']
    ours = turn(red, torch.tensor([0.0, 0.5, 1.0]))[:, :, 0, 0]
    assert torch.allclose(ours, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), atol=1e-5)
    far = RandomIntensity(hue=(0.5, 0.5)).operations['hue'](red, STRENGTHS)[:, :, 0, 0]
    assert torch.allclose(far, torch.tensor([0.0, 1.0, 1.0]).expand(3, 3), atol=1e-5), 'half a turn: the complement'


def test_channels_of_one_value_stay_as_they_are():
    flat = torch.full((2, 3, 8, 8), 0.3)
    for name in ('autocontrast', 'equalize'):
        assert torch.allclose(RandomIntensity().operations[name](flat, torch.rand(2)), flat)


def record(view: RandomIntensity, batch: int) -> list[list[tuple[str, float]]]:
    """Which changes each image gets, in order, and how strongly."""
    drawn: list[list[tuple[str, float]]] = [[] for _ in range(batch)]

    def recorder(name):
        def change(images, strengths):
            for image, strength in zip(images, strengths.tolist(), strict=True):
                drawn[round(image[0, 0, 0].item() * batch)].append((name, strength))
            return images

        return change

    view.operations = {name: recorder(name) for name in view.operations}
    view((torch.arange(batch) / batch).view(-1, 1, 1, 1).expand(-1, 3, 2, 2))
    return drawn


def test_images_get_one_to_three_different_changes_all_equally_likely():
    torch.manual_seed(0)
    batch = 6000
    drawn = record(RandomIntensity(), batch)
    for count in (1, 2, 3):
        assert abs(sum(len(each) == count for each in drawn) / batch - 1 / 3) < 0.03
    assert all(len({name for name, _ in each}) == len(each) for each in drawn), 'no change twice'
    for place in range(3):
        names = [each[place][0] for each in drawn if len(each) > place]
        assert all(abs(names.count(name) / len(names) - 1 / 11) < 0.02 for name in NAMES)
    strengths = torch.tensor([strength for each in drawn for _, strength in each])
    counts = strengths.histc(4, 0, 1) / len(strengths)
    assert torch.allclose(counts, torch.full((4,), 0.25), atol=0.02)


def test_the_most_changes_are_a_key():
    torch.manual_seed(0)
    assert {len(each) for each in record(RandomIntensity(max_ops=1), 50)} == {1}
    assert {len(each) for each in record(RandomIntensity(max_ops=5), 200)} == {1, 2, 3, 4, 5}


def test_views_stay_images_change_each_image_on_its_own_and_leave_the_weak_view():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 24, 24).expand(30, -1, -1, -1).contiguous()
    before = images.clone()
    strong = RandomIntensity()(images)
    assert strong.shape == images.shape and strong.min() >= 0 and strong.max() <= 1
    assert len({tuple(image.flatten()[:50].tolist()) for image in strong}) > 25
    assert torch.equal(images, before)


def test_a_view_is_a_function_of_the_seed():
    images = pictures().float() / 255
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
