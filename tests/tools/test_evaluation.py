import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmsemi.apis import evaluation
from mmsemi.apis.launch import UsageError
from mmsemi.registry import MODELS
from tests import tiny_run
from tests.tools.test_runs import load_tool

tool = load_tool('test.py')


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Evaluates an untrained MeanTeacher, whose teacher is not its student; gives the scores that were printed."""
    cfg = tiny_run.config('MeanTeacher', tmp_path, tmp_path / 'work')
    cfg.dump(tmp_path / 'config.py')
    model = MODELS.build(cfg.model)
    for name, seed in (('student', 0), ('teacher', 1)):
        torch.manual_seed(seed)
        network = getattr(model, name).segmentor.train()
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the statistics of the one pass below: then no class wins everywhere
        network(torch.randn(2, 3, 40, 50))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'checkpoint.pth')

    def evaluate(*options: str, out: str = 'out') -> list[np.ndarray]:
        arguments = ['test.py', str(tmp_path / 'config.py'), str(tmp_path / 'checkpoint.pth')]
        monkeypatch.setattr(sys, 'argv', [*arguments, '--out', str(tmp_path / out), *options])
        # Runners are known by name in the whole process.
        monkeypatch.setattr(tool, 'build_runner', lambda cfg: build(cfg, f'{tmp_path}-{out}'))
        tool.main()
        assert 'mIoU' in capsys.readouterr().out
        return [np.array(Image.open(path)) for path in sorted((tmp_path / out).rglob('*.png'))]

    build_runner = tool.build_runner

    def build(cfg: Config, name: str):
        cfg.experiment_name = cfg.visualizer.name = name.replace('/', '-')
        return build_runner(cfg)

    return evaluate


def test_the_branch_that_predicts_can_be_chosen(run):
    default, teacher, student = run(out='a'), run('--branch', 'teacher', out='b'), run('--branch', 'student', out='c')
    assert len(default) == 2 and all(mask.dtype == np.uint8 and len(np.unique(mask)) > 1 for mask in default)
    assert all(np.array_equal(a, b) for a, b in zip(default, teacher, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(student, teacher, strict=True))


def test_painted_images_are_written(run, tmp_path):
    run('--show-dir', str(tmp_path / 'shown'))
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 2


def test_augmentation_averages_the_views_of_the_config(run, tmp_path):
    plain = run(out='plain')
    augmented = run('--tta', out='augmented')
    assert [mask.shape for mask in augmented] == [mask.shape for mask in plain]
    assert any((a != b).any() for a, b in zip(augmented, plain, strict=True))

    config = tmp_path / 'config.py'
    cfg = Config.fromfile(config)
    scales, flips = cfg.tta_pipeline[1].transforms[:2]
    scales[:] = [scale for scale in scales if scale.scale_factor == 1]
    flips[:] = [flip for flip in flips if flip.prob == 0]
    cfg.dump(config)
    assert all(np.array_equal(a, b) for a, b in zip(run('--tta', out='one view'), plain, strict=True))


def test_augmentation_scales_what_the_test_pipeline_gives(run, tmp_path):
    config = tmp_path / 'config.py'
    cfg = Config.fromfile(config)
    scales, flips = cfg.tta_pipeline[1].transforms[:2]
    scales[:] = [scale for scale in scales if scale.scale_factor == 1]
    flips[:] = [flip for flip in flips if flip.prob == 0]
    cfg.dump(config)
    whole = run(out='whole')
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='LimitSide', longest=40))
    cfg.dump(config)
    shrunk = run(out='shrunk')
    assert any((a != b).any() for a, b in zip(shrunk, whole, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(run('--tta', out='tta'), shrunk, strict=True))


def test_augmentation_reads_images_and_masks_as_the_test_pipeline_does():
    cfg = Config.fromfile('configs/supervised/supervised_r18_shapes.py')
    load, masks = cfg.test_dataloader.dataset.pipeline[:2]
    load.color_type = 'grayscale'
    evaluation.set_tta(cfg)
    pipeline = cfg.test_dataloader.dataset.pipeline
    assert pipeline[0] == load and pipeline[1].type == 'TestTimeAug' and [masks] in pipeline[1].transforms


def test_two_images_of_one_name_in_two_folders_are_two_masks(run, tmp_path):
    cfg = Config.fromfile(tmp_path / 'config.py')
    dataset = cfg.test_dataloader.dataset
    root = Path(dataset.data_root)
    first, second = (root / dataset.ann_file).read_text().split()
    for folder, suffix in (('JPEGImages', 'jpg'), ('SegmentationClass', 'png')):
        for place, name in (('a', first), ('b', second)):
            (root / folder / place).mkdir()
            (root / folder / f'{name}.{suffix}').rename(root / folder / place / f'one.{suffix}')
    (root / dataset.ann_file).write_text('a/one\nb/one\n')
    run(out='out')
    found = sorted(path.relative_to(tmp_path / 'out').as_posix() for path in (tmp_path / 'out').rglob('*.png'))
    assert found == ['a/one.png', 'b/one.png']


def test_masks_are_written_beside_whatever_hooks_a_config_has():
    cfg = Config(dict(custom_hooks=[dict(type='EmptyCacheHook')]))
    evaluation.set_outputs(cfg, None, 'out')
    assert cfg.custom_hooks == [dict(type='EmptyCacheHook'), dict(type='SaveMasksHook', out='out')]


def test_augmentation_needs_its_pipeline(run, tmp_path):
    config = tmp_path / 'config.py'
    cfg = Config.fromfile(config)
    cfg.pop('tta_pipeline')
    cfg.dump(config)
    with pytest.raises(UsageError, match='--tta needs the key tta_pipeline'):
        run('--tta')


def test_a_checkpoint_that_is_not_there_is_named(run, tmp_path):
    (Path(tmp_path) / 'checkpoint.pth').unlink()
    with pytest.raises(UsageError, match=r'checkpoint.pth does not exist'):
        run()


def test_a_mask_with_an_id_outside_the_classes_is_told_before_anything_is_predicted(run, tmp_path):
    dataset = Config.fromfile(tmp_path / 'config.py').test_dataloader.dataset
    name = (Path(dataset.data_root) / dataset.ann_file).read_text().split()[-1]
    mask = Path(dataset.data_root) / 'SegmentationClass' / f'{name}.png'
    Image.new('L', Image.open(mask).size, 77).save(mask)
    for option in ((), ('--tta',)):
        with pytest.raises(ValueError, match=rf'{name}\.png holds the label id 77, outside the \d classes'):
            run(*option)
    assert not list((tmp_path / 'out').glob('*.png'))


def test_an_image_that_is_missing_is_named_with_the_loader_that_asks_for_it(run, tmp_path):
    dataset = Config.fromfile(tmp_path / 'config.py').test_dataloader.dataset
    name = (Path(dataset.data_root) / dataset.ann_file).read_text().split()[-1]
    (Path(dataset.data_root) / 'JPEGImages' / f'{name}.jpg').unlink()
    with pytest.raises(FileNotFoundError, match=rf'test_dataloader: 1 of 2 images are missing, the first is .*{name}'):
        run()
