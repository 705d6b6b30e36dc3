"""The drawn data set: its bytes follow from the seed, its layout is VOC's, its classes are all there and unequal."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsemi.datasets.shapes import ShapesDataset

CONVERTERS = Path(__file__).parents[2] / 'tools' / 'dataset_converters'
TRAIN, VAL, SIZE = 24, 4, 64


@pytest.fixture(scope='module')
def make_shapes():
    """The tool as a module; like a script, it finds its neighbour through the path."""
    sys.path.insert(0, str(CONVERTERS))
    try:
        import make_shapes

        yield make_shapes
    finally:
        sys.path.remove(str(CONVERTERS))


@pytest.fixture(scope='module')
def shapes(make_shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp('shapes')
    assert make_shapes.make_shapes(out, seed=0, train=TRAIN, val=VAL, size=SIZE)
    return out


def contents(out):
    return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob('*') if file.is_file()}


def label_maps(out):
    return np.stack([np.array(Image.open(file)) for file in sorted((out / 'SegmentationClass').glob('train_*.png'))])


def test_same_seed_gives_the_same_bytes(make_shapes, shapes, tmp_path):
    make_shapes.make_shapes(tmp_path, seed=0, train=TRAIN, val=VAL, size=SIZE)
    assert contents(tmp_path) == contents(shapes)


def test_processes_draw_what_one_process_draws(shapes, tmp_path):
    counts = ['--train', str(TRAIN), '--val', str(VAL), '--size', str(SIZE), '--workers', '2']
    subprocess.run([sys.executable, str(CONVERTERS / 'make_shapes.py'), str(tmp_path), *counts], check=True)
    assert contents(tmp_path) == contents(shapes)


def test_another_seed_gives_other_images(make_shapes, shapes, tmp_path):
    make_shapes.make_shapes(tmp_path, seed=1, train=2, val=1, size=SIZE)
    for name in ('JPEGImages/train_00000.jpg', 'SegmentationClass/train_00001.png', 'JPEGImages/val_00000.jpg'):
        assert (tmp_path / name).read_bytes() != (shapes / name).read_bytes()


def test_an_image_does_not_depend_on_how_many_there_are(make_shapes, shapes, tmp_path):
    make_shapes.make_shapes(tmp_path, seed=0, train=3, val=1, size=SIZE)
    few, many = contents(tmp_path), contents(shapes)
    drawn = [name for name in few if name.endswith(('.jpg', '.png'))]
    assert len(drawn) == 8
    assert all(few[name] == many[name] for name in drawn)


def test_train_and_val_share_no_image(shapes):
    images = [(shapes / 'JPEGImages' / f'{split}_00000.jpg').read_bytes() for split in ('train', 'val')]
    assert images[0] != images[1]


@pytest.mark.parametrize(('split', 'count'), [('train', TRAIN), ('val', VAL)])
def test_shapes_dataset_reads_the_layout(shapes, split, count):
    pipeline = [{'type': 'mmseg.LoadImageFromFile'}, {'type': 'mmseg.LoadAnnotations'}]
    dataset = ShapesDataset(data_root=str(shapes), ann_file=f'ImageSets/Segmentation/{split}.txt', pipeline=pipeline)
    assert len(dataset) == count
    sample = dataset[count - 1]
    assert sample['img'].shape == (SIZE, SIZE, 3)
    assert sample['gt_seg_map'].shape == (SIZE, SIZE)


def test_classes_and_palette_are_those_of_the_dataset(make_shapes, shapes):
    from shapes_painters import CLASSES, PALETTE

    assert ShapesDataset.METAINFO['classes'] == CLASSES
    assert [tuple(color) for color in ShapesDataset.METAINFO['palette']] == list(PALETTE)
    with Image.open(shapes / 'SegmentationClass' / 'train_00000.png') as mask:
        assert mask.mode == 'P'
        assert mask.getpalette()[: 3 * len(PALETTE)] == [value for color in PALETTE for value in color]


def test_every_label_is_a_class_or_void_and_every_class_appears(shapes):
    assert set(np.unique(label_maps(shapes))) == {*range(len(ShapesDataset.METAINFO['classes'])), 255}


def test_void_is_thin_and_lies_between_different_things(shapes):
    maps = label_maps(shapes)
    assert 0.01 < (maps == 255).mean() < 0.2


def test_frequencies_are_unequal(make_shapes):
    """Counted on the choice of things alone, because few images would not tell 20 % from 27 %."""
    from shapes_painters import KINDS

    drawn = [set(make_shapes.things(make_shapes.image_rng(0, 'train', i))) for i in range(400)]
    share = [np.mean([label in image for image in drawn]) for label in range(1, len(KINDS) + 1)]
    assert share == sorted(share, reverse=True)
    assert share[0] > 3 * share[-1] > 0


def test_the_same_data_is_kept_and_other_data_is_drawn_anew(make_shapes, tmp_path):
    assert make_shapes.make_shapes(tmp_path, train=2, val=1, size=SIZE)
    image = tmp_path / 'JPEGImages' / 'train_00000.jpg'
    before = image.read_bytes()
    assert not make_shapes.make_shapes(tmp_path, train=2, val=1, size=SIZE)
    assert make_shapes.make_shapes(tmp_path, seed=5, train=1, val=1, size=SIZE)
    assert image.read_bytes() != before
    assert len(list((tmp_path / 'JPEGImages').iterdir())) == 2
    assert json.loads((tmp_path / 'shapes.json').read_text())['seed'] == 5


def test_a_broken_off_run_is_finished(make_shapes, tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(make_shapes, 'write_one', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make_shapes.make_shapes(tmp_path, train=1, val=1, size=SIZE)
    assert make_shapes.make_shapes(tmp_path, train=1, val=1, size=SIZE)


def test_command_line_says_what_it_wrote(tmp_path):
    command = [sys.executable, str(CONVERTERS / 'make_shapes.py'), str(tmp_path), '--train', '1', '--val', '1']
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert outputs[0] == f'wrote 1 training and 1 validation images of 96 x 96 pixels in {tmp_path}\n'
    assert outputs[1].startswith('kept the 1 training')
