import numpy as np
import pytest
from mmseg.datasets import COCOStuffDataset
from PIL import Image

from mmsemi.apis.launch import UsageError
from mmsemi.datasets import COCO81Dataset
from tests.tools.test_runs import load_tool

converter = load_tool('dataset_converters/coco81.py')


def write(path, ids) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(ids, dtype=np.uint8)).save(path)


def run(monkeypatch, *arguments) -> None:
    monkeypatch.setattr('sys.argv', ['coco81.py', *map(str, arguments)])
    converter.main()


def test_things_are_counted_on_and_all_else_is_background(tmp_path, monkeypatch):
    # Person, bicycle, then stop sign (category 13, class 12: street sign is absent), toothbrush (90, 80); stuff: banner
    # (91 on the map), wood (181); unlabeled.
    write(tmp_path / 'maps/train2017/000000000009.png', [[0, 1, 12, 89], [91, 181, 255, 0]])
    write(tmp_path / 'maps/val2017/000000000139.png', np.full((3, 5), 61))  # chair, category 62
    run(monkeypatch, tmp_path / 'maps', tmp_path / 'masks', '--workers', 2)
    mask = np.array(Image.open(tmp_path / 'masks/000000000009.png'))
    assert mask.tolist() == [[1, 2, 12, 80], [0, 0, 0, 1]]
    classes = COCO81Dataset.METAINFO['classes']
    assert [classes[i] for i in (1, 2, 12, 80)] == ['person', 'bicycle', 'stop sign', 'toothbrush']
    assert classes[np.array(Image.open(tmp_path / 'masks/000000000139.png'))[0, 0]] == 'chair'


def test_the_80_classes_are_the_things_of_cocos_list_in_order():
    assert len(converter.THINGS) == 80 and len(COCO81Dataset.METAINFO['classes']) == 81
    assert len(COCO81Dataset.METAINFO['palette']) == 81
    table = converter.table()
    assert [i for i in range(256) if table[i]] == [i - 1 for i in converter.THINGS]
    # mmseg's data set reads the same maps; its clsID_to_trID is 0 to 79 for things.
    assert COCO81Dataset.METAINFO['classes'][1:] == COCOStuffDataset.METAINFO['classes'][:80]


def test_images_and_masks_of_both_splits_find_each_other(tmp_path):
    for split, name in (('train2017', '000000000009'), ('val2017', '000000000139')):
        write(tmp_path / f'{split}/{name}.jpg', np.zeros((4, 4, 3)))
        write(tmp_path / f'masks/{name}.png', np.zeros((4, 4)))
    for split, name in (('train2017', '000000000009'), ('val2017', '000000000139')):
        dataset = COCO81Dataset(data_root=str(tmp_path), data_prefix=dict(img_path=split, seg_map_path='masks'))
        assert len(dataset) == 1 and dataset.get_data_info(0)['seg_map_path'].endswith(f'masks/{name}.png')


def test_what_cannot_be_converted_is_named(tmp_path, monkeypatch):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UsageError, match='neither train2017 nor val2017; unpack'):
        run(monkeypatch, tmp_path / 'empty', tmp_path / 'out')
    (tmp_path / 'empty/val2017').mkdir()
    with pytest.raises(UsageError, match='val2017 holds no PNG'):
        run(monkeypatch, tmp_path / 'empty', tmp_path / 'out')
    write(tmp_path / 'colors/val2017/1.png', np.zeros((4, 4, 3)))
    with pytest.raises(UsageError, match=r'1\.png holds no class ids, one byte a pixel'):
        run(monkeypatch, tmp_path / 'colors', tmp_path / 'out')
