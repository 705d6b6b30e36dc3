import numpy as np
import pytest
import torch
from PIL import Image

from mmsemi.structures import Mix, PseudoLabel, Seen, Streams
from mmsemi.visualization import panels
from mmsemi.visualization.paint import overlay, save_labels, shown

PALETTE = [[0, 0, 0], [255, 0, 0], [0, 255, 0]]
CLASSES = ('ground', 'leaf', 'stone')


def seen(images: int = 3, truth: bool = True, strong: int = 1) -> Seen:
    view = torch.arange(images * 3 * 8 * 8).float().view(images, 3, 8, 8) % 7 - 3
    labels = torch.arange(images * 64).view(images, 8, 8) % 3
    streams = Streams(
        labeled=torch.zeros(2, 3, 8, 8),
        labels=torch.zeros(2, 8, 8, dtype=torch.long),
        weak=view,
        strong=(view,) * strong,
        valid=torch.ones(images, 8, 8, dtype=torch.bool),
        mix=tuple(Mix(torch.zeros(images, 8, 8, dtype=torch.bool)) for _ in range(strong)),
        unlabeled_gt=labels if truth else None,
    )
    pseudo = PseudoLabel(labels, (labels != 1).float())
    return Seen(streams, pseudo, {'guide': labels, 'strong_0': labels})


def columns(of: Seen, most: int = 2) -> dict[str, list[np.ndarray]]:
    return panels._columns(of, PALETTE, lambda batch: panels._levels(batch[:most], 0, 1, False), most)


def test_ignored_pixels_of_pseudo_labels_are_white_and_others_have_their_classes_colors():
    found = columns(seen())['pseudo-label']
    labels = np.arange(64).reshape(8, 8) % 3
    expected = np.array(PALETTE)[labels]
    expected[labels == 1] = 255
    assert np.array_equal(found[0], expected) and len(found) == 2


def test_what_exists_is_drawn_and_nothing_else():
    names = list(columns(seen()))
    assert names == [
        'weak view',
        'ground truth',
        "weak view's prediction",
        'pseudo-label',
        'strong view',
        "strong view's prediction",
    ]
    assert 'ground truth' not in columns(seen(truth=False))
    assert {'strong view 1', 'strong view 2'} < set(columns(seen(strong=2)))
    assert list(columns(seen(images=0))) == ['labeled image', 'ground truth']


def test_images_are_as_they_were_before_normalisation():
    levels = torch.randint(0, 256, (2, 3, 5, 4)).float()
    mean, std = torch.tensor([120.0, 110, 100]).view(3, 1, 1), torch.tensor([50.0, 60, 70]).view(3, 1, 1)
    found = panels._levels(((levels - mean) / std).double(), mean.double(), std.double(), False)
    assert np.abs(found[0].astype(int) - levels[0].permute(1, 2, 0).numpy()).max() <= 1
    blue_first = panels._levels(levels, 0, 1, True)
    assert np.array_equal(blue_first[0], levels[0].flip(0).permute(1, 2, 0).numpy())
    gray = panels._levels(levels[:, :1], 0, 1, False)
    assert gray[0].shape == (5, 4, 3) and (gray[0] == gray[0][..., :1]).all()


def test_a_picture_is_written_with_a_methods_own_maps(tmp_path):
    of = seen()
    of.maps = {'doubt': torch.full((3, 4, 4), torch.nan), 'count': torch.rand(3, 8, 8), 'classes': of.pseudo.label}
    picture = panels.draw_step(of, 0.0, 1.0, CLASSES, PALETTE, tmp_path / 'deep/step.png')
    with Image.open(tmp_path / 'deep/step.png') as image:
        assert picture.shape == (image.height, image.width, 3)
    assert (picture == 255).mean() < 0.8


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('shape', [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_images_of_any_kind_can_be_shown(dtype, shape):
    top = 255 if dtype == np.uint8 else 4000
    image = np.random.default_rng(0).integers(0, top, shape).astype(dtype)
    found = shown(image)
    assert found.shape == (4, 5, 3) and found.dtype == np.uint8
    if dtype == np.uint8:
        last = image.reshape(4, 5, -1)
        expected = last[..., 2::-1] if last.shape[2] >= 3 else last[..., :1]
        assert (found == expected).all()
    else:
        assert found.max() >= 200


def test_painting_in_bands_is_painting(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (700, 9, 3), dtype=np.uint8)
    labels = np.random.default_rng(1).choice([0, 1, 2, 255], (700, 9)).astype(np.uint8)
    found = overlay(image, labels, PALETTE, 0.25)
    mixed = 0.75 * image + 0.25 * np.array([*PALETTE, [0, 0, 0]])[np.minimum(labels, 3)]
    assert np.array_equal(found, np.where((labels == 255)[..., None], image, mixed.round()))
    save_labels(tmp_path / 'mask.png', labels, PALETTE)
    assert np.array_equal(np.array(Image.open(tmp_path / 'mask.png')), labels)
