"""What would end a run later ends it at the start."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import BaseDataset
from PIL import Image

from mmsemi.engine import PseudoLabelHook, RehearsalHook
from mmsemi.engine.hooks.pseudo_label_hook import count, quality
from mmsemi.engine.rehearsal import check_classes, check_work_dir, try_step, validation
from mmsemi.structures import PseudoLabel, Seen
from tests import tiny


def runner(model, tmp_path, classes: int = tiny.NUM_CLASSES) -> SimpleNamespace:
    dataset = SimpleNamespace(metainfo={'classes': tuple(range(classes))})
    loader = SimpleNamespace(dataset=dataset, sampler=SimpleNamespace(labeled=2, unlabeled=2))
    return SimpleNamespace(model=model, train_dataloader=loader, val_loop=None, work_dir=str(tmp_path))


@pytest.mark.parametrize('method', tiny.METHODS)
def test_a_step_that_works_passes_and_leaves_the_model_as_it_was(method, tmp_path):
    model = tiny.build(method)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert try_step(runner(model, tmp_path)) == []
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_wrong_width_is_told_with_the_module_that_has_it(tmp_path):
    model = tiny.build('MLLC')
    layer = model.student.heads['embedding'].layers
    layer[0].conv.weight = torch.nn.Parameter(torch.zeros(8, 5, 3, 3))
    (problem,) = try_step(runner(model, tmp_path))
    assert 'model.student.heads.embedding' in problem and 'channel' in problem


def test_classes_of_head_and_data_must_agree(tmp_path):
    model = tiny.build('FixMatch')
    assert check_classes(runner(model, tmp_path)) == []
    for other in (tiny.NUM_CLASSES + 1, tiny.NUM_CLASSES - 1):
        (problem,) = check_classes(runner(model, tmp_path, other))
        assert f'has {other} classes' in problem


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    assert check_work_dir(runner(None, tmp_path)) == []
    (tmp_path / 'file').touch()
    (problem,) = check_work_dir(runner(None, tmp_path / 'file'))
    assert 'name another --work-dir' in problem
    assert RehearsalHook.priority == 'VERY_HIGH'


def test_the_quality_of_pseudo_labels_is_counted_over_all_and_over_kept_ones():
    truth, label = torch.tensor([[[0, 0, 1, 255]]]), torch.tensor([[[0, 1, 1, 0]]])
    streams = SimpleNamespace(valid=torch.ones(1, 1, 4, dtype=torch.bool), unlabeled_gt=truth)
    seen = Seen(streams, PseudoLabel(label, torch.tensor([[[1.0, 0.0, 1.0, 1.0]]])))
    found = quality(count(seen, 2), ['a', 'b'])
    assert found['mining_ratio'] == 0.75 and found['accuracy_kept'] == 1.0 and found['mIoU_kept'] == 100.0
    assert found['mIoU'] == pytest.approx(50.0) and found['share_a'] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match='log_interval'):
        PseudoLabelHook(log_interval=0)


def test_validation_images_of_one_batch_have_one_size_as_they_are_read(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter when it is read
    sizes = {'upright': ((20, 16), None), 'turned': ((16, 20), exif), 'lying': ((16, 20), None)}
    for name, (size, tag) in sizes.items():
        Image.new('RGB', size).save(tmp_path / f'{name}.jpg', exif=tag or Image.Exif())

    def problems(*names: str, batch_size: int = 2) -> list[str]:
        paths = [str(tmp_path / f'{name}.jpg') for name in names]
        dataset = BaseDataset(data_root='', pipeline=[], lazy_init=True)
        dataset.load_data_list = lambda: [dict(img_path=path) for path in paths]
        dataset.full_init()
        return validation._mixed_sizes(SimpleNamespace(batch_size=batch_size), dataset)

    assert problems('upright', 'turned') == [] and problems('upright', 'lying', batch_size=1) == []
    for names in (('upright', 'lying'), ('turned', 'lying')):
        (problem,) = problems(*names)
        assert 'has 20 x 16 pixels' in problem and 'lying.jpg 16 x 20; set it to 1' in problem
