"""Labels at another size come from the pixels nearest to where scores of that size lie."""

import pytest
import torch
from torch.nn import functional as F

from mmsemi.models.resizing import resize_labels


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size', [(8, 13), (9, 12), (65, 101), (1, 1), (33, 50)])
@pytest.mark.parametrize('dtype', [torch.long, torch.bool, torch.float32])
def test_a_label_comes_from_the_pixel_nearest_to_its_place(size, align_corners, dtype):
    height, width = 33, 50
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width).expand(height, width)
    # Interpolation of a ramp tells the place; at the border that of align_corners=False stops at the last pixel.
    ramps = torch.stack([rows, columns]).double()[None]
    places = F.interpolate(ramps, size, mode='bilinear', align_corners=align_corners)[0]
    for number, place in zip((rows, columns), places, strict=True):
        taken = resize_labels(number[None], size, align_corners)[0]
        assert (taken - place).abs().max() <= 0.5 + 1e-6
    label = (rows * width + columns) % 5
    resized = resize_labels(label.to(dtype)[None], size, align_corners)
    assert resized.dtype == dtype and resized.shape == (1, *size)
    index = resize_labels((rows * width + columns)[None], size, align_corners)[0]
    assert torch.equal(resized[0], label.flatten()[index].to(dtype))


def test_of_a_crop_of_8k_plus_1_every_eighth_pixel_is_taken():
    label = torch.arange(33 * 33).view(1, 33, 33)
    assert torch.equal(resize_labels(label, (5, 5), align_corners=True), label[:, ::8, ::8])


def test_at_its_own_size_nothing_changes():
    label = torch.arange(12).view(1, 3, 4)
    assert resize_labels(label, (3, 4), align_corners=True) is label
