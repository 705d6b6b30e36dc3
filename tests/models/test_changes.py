"""Changes of intensity against PIL's and kornia's, and many images at once against one at a time."""

import math
import random

import numpy as np
import pytest
import torch
from kornia import enhance
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from mmsemi.models.views.changes import Change, change_images

STRENGTHS: dict[str, tuple[float, ...]] = dict(
    identity=(0.0,),
    autocontrast=(0.0,),
    equalize=(0.0,),
    brightness=(0.05, 0.41, 1.4),
    contrast=(0.05, 0.41, 1.4),
    color=(0.0, 0.41, 1.4),
    sharpness=(0.05, 0.41, 0.95),
    posterize=(4, 6, 7),
    solarize=(1, 120, 255),
    blur=(0.1, 0.9, 2.0),
    hue=(-0.5, -0.1, 0.37),
)


def pictures(height: int = 24, width: int = 20) -> torch.Tensor:
    """Three uint8 images, none of which uses the whole range."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(40, 200, (3, 3, height, width), dtype=torch.uint8, generator=generator)


def by_pil(change: Change, pixels: torch.Tensor) -> torch.Tensor:
    """What PIL makes of one image (3, H, W), uint8."""
    name, strength = change
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    enhanced = dict(
        brightness=ImageEnhance.Brightness,
        contrast=ImageEnhance.Contrast,
        color=ImageEnhance.Color,
        sharpness=ImageEnhance.Sharpness,
    )
    if name in enhanced:
        image = enhanced[name](image).enhance(strength)
    elif name in ('autocontrast', 'equalize'):
        image = getattr(ImageOps, name)(image)
    elif name in ('posterize', 'solarize'):
        image = getattr(ImageOps, name)(image, int(strength))
    elif name == 'blur':
        image = image.filter(ImageFilter.GaussianBlur(strength))
    elif name == 'hue':
        hue, saturation, value = (np.array(channel) for channel in image.convert('HSV').split())
        hue = ((hue.astype(int) + round(strength * 256)) % 256).astype(np.uint8)
        image = Image.merge('HSV', [Image.fromarray(x) for x in (hue, saturation, value)]).convert('RGB')
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


# PIL rounds means and results to levels, and its hue to 256 steps.
@pytest.mark.parametrize(
    'name, levels, mean',
    [
        ('identity', 0, 0),
        ('autocontrast', 1, 0.6),
        ('equalize', 0, 0),
        ('brightness', 1, 0.6),
        ('contrast', 1.6, 0.7),
        ('color', 1.6, 0.7),
        ('sharpness', 1.6, 0.7),
        ('posterize', 0, 0),
        ('solarize', 0, 0),
        ('hue', 16, 2),
    ],
)
def test_a_change_is_that_of_pil(name, levels, mean):
    for strength in STRENGTHS[name]:
        change = Change(name, strength)
        ours = change_images(pictures().float() / 255, [[change]] * 3) * 255
        difference = (ours - torch.stack([by_pil(change, picture) for picture in pictures()])).abs()
        assert difference.max() <= levels + 1e-3 and difference.mean() <= mean + 1e-4, strength


@pytest.mark.parametrize('sigma', [0.1, 0.3, 0.9, 1.5, 2.0])
def test_a_blur_is_pils_away_from_the_border(sigma):
    images = pictures(40, 40)
    ours = change_images(images.float() / 255, [[Change('blur', sigma)]] * 3) * 255
    theirs = torch.stack([by_pil(Change('blur', sigma), image) for image in images])
    difference = (ours - theirs).abs()[:, :, 6:-6, 6:-6]
    # PIL rounds to levels six times.
    assert difference.max() < 3.5 and difference.mean() < 1.2


@pytest.mark.parametrize('sigma', [0.1, 0.5, 1.0, 2.0, 3.3])
def test_a_blur_has_the_variance_of_the_gaussian_and_keeps_the_sum(sigma):
    point = torch.zeros(1, 3, 33, 33, dtype=torch.float64)
    point[:, :, 16, 16] = 1
    blurred = change_images(point, [[Change('blur', sigma)]])[0, 0]
    place = torch.arange(33, dtype=torch.float64) - 16
    assert torch.isclose(blurred.sum(), torch.ones_like(blurred.sum()))
    assert torch.isclose((blurred.sum(1) * place.square()).sum(), torch.tensor(sigma**2, dtype=torch.float64))
    assert torch.allclose(blurred, blurred.T) and torch.allclose(blurred, blurred.flip(0))


@pytest.mark.parametrize(
    'name, by_kornia',
    [
        ('equalize', lambda x, _: enhance.equalize(x)),
        ('brightness', enhance.adjust_brightness_accumulative),
        ('contrast', enhance.adjust_contrast_with_mean_subtraction),
        ('color', enhance.adjust_saturation_with_gray_subtraction),
        ('sharpness', enhance.sharpness),
        ('posterize', lambda x, bits: enhance.posterize(x, bits.int())),
        ('solarize', lambda x, level: enhance.solarize(x, level / 255)),
        ('hue', lambda x, turns: enhance.adjust_hue(x, 2 * math.pi * turns)),
    ],
)
def test_a_change_is_that_of_kornia(name, by_kornia):
    images = pictures().double() / 255
    for strength in STRENGTHS[name]:
        ours = change_images(images, [[Change(name, strength)]] * 3)
        theirs = by_kornia(images, torch.full((3,), float(strength), dtype=torch.float64))
        assert torch.allclose(ours, theirs, atol=1e-7), strength


def test_gray_pixels_and_channels_of_one_value_stay_as_they_are():
    flat = torch.full((1, 3, 8, 8), 0.3)
    flat[:, 1] = 0.7
    for name in ('autocontrast', 'equalize'):
        assert torch.allclose(change_images(flat, [[Change(name)]]), flat)
    gray = torch.rand(1, 1, 8, 8).expand(-1, 3, -1, -1)
    assert torch.allclose(change_images(gray, [[Change('hue', 0.3), Change('color', 0.2)]]), gray)


def drawn_orders(batch: int, most: int, seed: int) -> list[list[Change]]:
    draw = random.Random(seed)
    names = [draw.choices(list(STRENGTHS), k=draw.randint(0, most)) for _ in range(batch)]
    return [[Change(name, draw.choice(STRENGTHS[name])) for name in each] for each in names]


@pytest.mark.parametrize('most', [1, 3, 6])
@pytest.mark.parametrize('seed', range(4))
def test_each_image_gets_its_own_changes_in_its_own_order(most, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(17, 3, 12, 10, generator=generator, dtype=torch.float64)
    orders = drawn_orders(17, most, seed)
    before = images.clone()
    together = change_images(images, orders)
    assert torch.equal(images, before)
    for image, order, ours in zip(images, orders, together, strict=True):
        alone = image[None]
        for change in order:
            alone = change_images(alone, [[change]])
        assert torch.allclose(ours, alone[0], atol=1e-12)
    assert together.min() >= 0 and together.max() <= 1


@pytest.mark.parametrize('seed', range(4))
def test_a_chain_of_changes_is_that_of_pil_one_image_at_a_time(seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(20, 230, (12, 3, 24, 20), dtype=torch.uint8, generator=generator)
    # What stretches or cuts the range makes of a level that was rounded away several.
    smooth = ('brightness', 'contrast', 'color', 'sharpness', 'identity')
    orders = [[change for change in order if change.name in smooth] for order in drawn_orders(12, 6, seed)]
    ours = change_images(images.float() / 255, orders) * 255
    for image, order, changed in zip(images, orders, ours, strict=True):
        for change in order:
            image = by_pil(change, image)
        assert (changed - image).abs().max() <= 1.6 * (len(order) + 1)


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_images_of_other_channels_have_no_color(channels):
    images = torch.rand(5, channels, 8, 8)
    colored = [[Change('hue', 0.3), Change('color', 0.0)]] * 5
    assert torch.equal(change_images(images, colored), images)
    rest = [[Change(name, STRENGTHS[name][1])] for name in ('brightness', 'contrast', 'sharpness', 'posterize', 'blur')]
    changed = change_images(images, rest)
    assert changed.shape == images.shape and ((changed - images).abs().amax((1, 2, 3)) > 0).all()


def test_without_changes_the_images_are_copied():
    images = torch.rand(2, 3, 4, 4)
    for orders in ([[], []], [[Change('identity')], []]):
        changed = change_images(images, orders)
        assert torch.equal(changed, images) and changed.data_ptr() != images.data_ptr()
