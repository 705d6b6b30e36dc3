"""A large JPEG is decoded smaller where it is shrunk next, and looks as if it had not been."""

import cv2
import numpy as np
import pytest
from PIL import Image

from mmsemi.datasets import LimitSide, LoadReducedImage, LoadSegAnnotations

LONGEST = 120


@pytest.fixture
def photo(tmp_path):
    """Writes a smooth, noisy image of a size and its mask, of four classes; returns where they are."""

    def write(width: int, height: int, suffix: str = '.jpg', turned: bool = False, blob: int = 64) -> dict:
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (height // blob + 1, width // blob + 1, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) + rng.normal(
            0, 8, (height, width, 3)
        )
        exif = Image.Exif()
        if turned:
            exif[274] = 6
        path = tmp_path / f'{width}x{height}{turned}{suffix}'
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, quality=92, exif=exif)
        shown = (height, width) if turned else (width, height)
        mask = np.arange(shown[0] * shown[1], dtype=np.uint64).reshape(shown[::-1]) * 4 // (shown[0] * shown[1])
        Image.fromarray(mask.astype(np.uint8)).save(path.with_suffix('.mask.png'))
        return dict(img_path=str(path), seg_map_path=str(path.with_suffix('.mask.png')), seg_fields=[])

    return write


def load(paths: dict, **kwargs) -> tuple[dict, dict]:
    """What is decoded, and what comes out when it is shrunk."""
    loaded = LoadReducedImage(longest=LONGEST, **kwargs).transform(dict(paths))
    shape = loaded['img'].shape
    limited = LimitSide(longest=LONGEST).transform(LoadSegAnnotations().transform(loaded))
    return shape, limited


@pytest.mark.parametrize('factor', [2, 4, 8])
@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('color_type', ['color', 'grayscale'])
def test_a_photograph_decoded_smaller_is_the_one_that_was_shrunk(photo, factor, turned, color_type):
    paths = photo(factor * 190, factor * 125, turned=turned, blob=factor * 32)
    options = dict(color_type=color_type)
    small, quick = load(paths, **options)
    whole, slow = load(paths, draft=False, **options)
    assert [round(a / b) for a, b in zip(whole[:2], small[:2], strict=True)] == [factor, factor]
    for key in ('img_shape', 'ori_shape', 'scale_factor', 'scale'):
        assert quick[key] == slow[key]
    assert 'full_shape' not in quick
    np.testing.assert_array_equal(quick['gt_seg_map'], slow['gt_seg_map'])
    difference = np.abs(quick['img'].astype(int) - slow['img'])
    assert quick['img'].dtype == np.uint8
    assert 0 < difference.mean() < 1 and difference.max() < 8


@pytest.mark.parametrize(
    'width, height, suffix, options',
    [
        (330, 200, '.jpg', {}),
        (701, 500, '.jpg', {}),
        (700, 500, '.png', {}),
        (700, 500, '.jpg', dict(color_type='unchanged')),
        (700, 500, '.jpg', dict(to_float32=True)),
        (700, 500, '.jpg', dict(draft=False)),
    ],
)
def test_other_images_are_decoded_whole(photo, width, height, suffix, options):
    shape, limited = load(photo(width, height, suffix), **options)
    assert shape[:2] == limited['ori_shape'] == (height, width)
    assert max(limited['img'].shape[:2]) == LONGEST


def test_without_a_limit_images_are_as_they_are(photo):
    loaded = LoadReducedImage().transform(photo(700, 500))
    assert loaded['img'].shape == (500, 700, 3) and 'full_shape' not in loaded


def test_an_unreadable_image_is_an_error_as_without_it(tmp_path):
    broken = tmp_path / 'broken.jpg'
    broken.write_bytes(b'no image')
    said = []
    for kwargs in ({}, dict(draft=False)):
        with pytest.raises(Exception) as error:  # whatever mmcv raises
            _ = LoadReducedImage(longest=LONGEST, **kwargs).transform(dict(img_path=str(broken)))['img'].shape
        said.append(repr(error.value))
    assert said[0] == said[1]
