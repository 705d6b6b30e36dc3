"""Wrong arguments of the commands end with status 2 and a sentence; so do folders that `mmsemi init` cannot use."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmsemi.apis.launch import load_config
from mmsemi.apis.project import known
from tests.wrong_input.project import ROOT, refused

FOLDERS = ('--images', 'images', '--masks', 'masks', '--val-images', 'val/images', '--val-masks', 'val/masks')
NO_WORKERS = [
    f'{part}_dataloader.{key}' for part in ('train', 'val') for key in ('num_workers=0', 'persistent_workers=False')
]
ARGUMENTS = {
    'config that is not': (['train', 'nowhere.py'], 'The config nowhere.py does not exist'),
    'misspelt config': (['train', 'fixmatch/fixmach_r18_shapes.py'], 'did you mean', 'fixmatch_r18_shapes.py'),
    'no config': (['train'], 'config'),
    'unknown flag': (['train', 'config.py', '--epochs', '3'], 'unrecognized', '--epochs'),
    'batch of one number': (['train', 'config.py', '--batch', '4'], '--batch'),
    'batch without labels': (['train', 'config.py', '--batch', '0', '4'], 'one labeled image or more'),
    'batch without the others': (['train', 'config.py', '--batch', '4', '0'], 'needs unlabeled images'),
    'resume from nothing': (['train', 'config.py', '--resume', 'x.pth'], 'The checkpoint x.pth does not exist'),
    'AMP of no precision': (['train', 'config.py', '--amp', 'int8'], 'int8'),
    'launcher without a GPU': (['train', 'config.py', '--launcher', 'slurm'], 'needs a GPU'),
    'test of no checkpoint': (['test', 'config.py', 'x.pth'], 'The checkpoint x.pth does not exist'),
    'test of no branch': (['test', 'config.py', 'x.pth', '--branch', 'both'], '--branch'),
    'check of no config': (['check', 'nowhere.py'], 'does not exist'),
    'check of wrong classes': (
        ['check', 'config.py', '--cfg-options', 'network.decode_head.num_classes=9'],
        'num_classes=9',
        '3 classes',
    ),
    'comparison of no config': (['compare', 'nowhere.py'], 'does not exist'),
    'comparison of one with itself': (['compare', 'config.py', 'config.py'], 'Two configs are called config'),
    'prediction from nothing': (['predict', 'x.pth', 'images', 'out'], 'x.pth'),
    'export of nothing': (['export', 'x.pth', 'out'], 'x.pth'),
    'init without masks': (['init', '--images', 'images', '--out', 'p'], '--masks'),
    'init of no folder': (['init', '--images', 'none', '--masks', 'masks', '--out', 'p'], 'The folder none does not'),
    'init of no masks': (['init', '--images', 'images', '--masks', 'none', '--out', 'p'], 'The folder none does not'),
    'init over a project': (['init', *FOLDERS, '--out', '.'], 'exists; remove it'),
    'half a validation': (['init', *FOLDERS[:6], '--out', 'p'], '--val-images and --val-masks belong together'),
    'validation of all': (['init', *FOLDERS[:4], '--val', '1.5', '--out', 'p'], '--val must lie between 0 and 1'),
    'unknown method': (['init', *FOLDERS, '--method', 'fixmach', '--out', 'p'], '--method fixmach is unknown'),
    'unknown network': (['init', *FOLDERS, '--network', 'resnet', '--out', 'p'], '--network resnet is unknown'),
    'method without unlabeled images': (
        ['init', *FOLDERS, '--method', 'mllc', '--out', 'p'],
        'learns from unlabeled images',
        '--unlabeled',
    ),
    'memory of nothing': (['init', *FOLDERS, '--gpu-memory', '0', '--out', 'p'], '--gpu-memory must be above 0'),
    'one class': (['init', *FOLDERS, '--classes', 'sky', '--out', 'p'], 'at least two classes'),
    'a class twice': (['init', *FOLDERS, '--classes', 'sky,sky,road', '--out', 'p'], 'sky is there twice'),
    'too few names': (['init', *FOLDERS, '--classes', 'sky,road', '--out', 'p'], 'names 2'),
    'no file of classes': (['init', *FOLDERS, '--classes', 'classes.txt', '--out', 'p'], 'classes.txt does not exist'),
}  # fmt: skip


@pytest.mark.parametrize('case', ARGUMENTS)
def test_a_wrong_argument_is_refused(case, project):
    arguments, *says = ARGUMENTS[case]
    refused(project.run(*arguments), *says)


# Folders of init


def change(function):
    """Change each mask of training and validation."""

    def apply(project) -> None:
        for part in ('', 'val'):
            project.change_mask(function, part)

    return apply


def rename_masks(project) -> None:
    for path in list((project.root / 'masks').iterdir()):
        path.rename(path.with_name(f'other_{9 - int(path.stem)}.png'))


def save_as_jpeg(project) -> None:
    rng = np.random.default_rng(0)
    for part in ('', 'val'):
        for path in list((project.root / part / 'masks').iterdir()):
            noisy = rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)
            Image.fromarray(noisy).save(path.with_suffix('.jpg'))
            path.unlink()


def cut_images(project) -> None:
    for path in (project.root / 'images').iterdir():
        path.write_bytes(path.read_bytes()[:200])


PROJECTS = {
    'masks of other names': (rename_masks, 'No mask in', 'rename them alike'),
    'masks with smoothed edges': (save_as_jpeg, 'saved as JPEG or with smoothed edges'),
    'void alone': (change(lambda mask: np.full_like(mask, 255)), 'which is ignored'),
    'one id': (change(np.zeros_like), 'there is one class'),
    'images that are cut off': (cut_images, 'None of the 3 pairs', 'cut off'),
    'masks of another size': (change(lambda mask: mask[:-2]), 'None of the 3 pairs', '40 x 34'),
    'no mask': (lambda project: [path.unlink() for path in (project.root / 'masks').iterdir()], 'holds no masks'),
}


@pytest.mark.parametrize('case', PROJECTS)
def test_folders_that_make_no_project_are_refused(case, project):
    spoil, *says = PROJECTS[case]
    spoil(project)
    refused(project.run('init', *FOLDERS, '--out', 'p'), *says)
    assert not Path('p').exists()


def test_masks_of_0_and_255_are_mapped_by_init_and_train(project):
    change(lambda mask: ((mask > 0) * 255).astype(np.uint8))(project)
    status, text = project.run('init', *FOLDERS, '--unlabeled', 'unlabeled', '--method', 'fixmatch', '--out', 'p')
    assert status == 0 and '255 is taken as the second class' in text
    project.config = project.root / 'p/config.py'
    assert project.train(*NO_WORKERS)[0] is None


SETTINGS = {
    'mllc': {'graph_supervision': 1.0, 'unsup_warmup': 100},  # an epoch is one step, there are 300: a third of them
    'u2pl': {'low_rank': 2},
    'corrmatch': {'num_shapes': 4},
    'fixmatch': {},
}


@pytest.mark.parametrize('method', SETTINGS)
def test_init_writes_what_a_method_needs_on_few_classes_small_crops_and_own_data(method, project):
    status, text = project.run('init', *FOLDERS, '--unlabeled', 'unlabeled', '--method', method, '--out', 'p')
    assert status == 0, text
    project.config = project.root / 'p/config.py'
    own = Config.fromfile(project.config).model
    assert {key: own[key] for key in SETTINGS[method]} == SETTINGS[method]
    assert project.train(*NO_WORKERS)[0] is None


KINDS = {
    'empty': lambda path: path.write_bytes(b''),
    'cut': lambda path: path.write_bytes(path.read_bytes()[:300]),
    'dot': lambda path: Image.new('RGB', (1, 1)).save(path),
    'gray': lambda path: Image.fromarray(np.random.default_rng(0).integers(0, 256, (36, 40), np.uint8)).save(path),
    'palette': lambda path: Image.open(path).convert('P').save(path),
    'alpha': lambda path: Image.open(path).convert('RGBA').save(path),
    '16 bit': lambda path: Image.fromarray(np.arange(1440, dtype=np.uint16).reshape(36, 40)).save(path),
}
LEFT_OUT = {'empty': 'is empty', 'cut': 'cut off', 'dot': '1 x 1 pixels'}


def test_images_of_every_kind_are_used_or_left_out_as_documented(project):
    for name, spoil in KINDS.items():
        path = project.root / 'unlabeled' / f'{name} ä 图.png'
        shutil.copy(project.root / 'unlabeled/0.png', path)
        spoil(path)
    turned = Image.open(project.root / 'images/0.png').rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(project.root / 'unlabeled/turned.jpg', exif=exif)
    status, text = project.run('init', *FOLDERS, '--unlabeled', 'unlabeled', '--method', 'fixmatch', '--out', 'p')
    assert status == 0, text
    listed = Path('p/lists/unlabeled.txt').read_text(encoding='utf-8')
    for name in KINDS:
        assert (name in listed) == (name not in LEFT_OUT), name
        assert name not in LEFT_OUT or LEFT_OUT[name] in Path('p/fingerprint.json').read_text(encoding='utf-8')
    project.config = project.root / 'p/config.py'
    assert project.train(*NO_WORKERS)[0] is None


# As processes


def process(folder: Path, *command: str) -> subprocess.CompletedProcess:
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.run(
        [sys.executable, '-W', 'ignore', *command], cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize(
    'command',
    [
        ('-m', 'mmsemi', 'train', 'nowhere.py'),
        ('-m', 'mmsemi', 'frain'),
        (str(ROOT / 'tools/misc/new_project.py'), '--images', 'none', '--masks', 'masks', '--out', 'p'),
        (str(ROOT / 'tools/train.py'), 'config.py', '--cfg-options', 'model.threshold=95'),
    ],
    ids=['train', 'no command', 'new_project', 'tools'],
)
def test_the_same_holds_for_processes(command, project):
    result = process(project.root, *command)
    assert result.returncode == 2 and 'error: ' in result.stderr and 'Traceback (most' not in result.stderr


@pytest.mark.parametrize('word', ['init', 'check', 'train', 'test', 'compare', 'predict', 'browse', 'plot', 'export'])
def test_every_command_tells_its_arguments(word, project):
    status, text = project.run(word, '--help')
    assert status == 0 and f'usage: mmsemi {word}' in text


@pytest.mark.parametrize(
    ('shape', 'dtype', 'says'),
    [
        ((36, 40), np.uint8, "color_type = 'grayscale'  # images have 1 channel of 8 bits"),
        ((36, 40, 4), np.uint8, "color_type = 'unchanged'  # images have 4 channels of 8 bits"),
        ((36, 40), np.uint16, "color_type = 'unchanged'  # images have 1 channel of 16 bits"),
    ],
    ids=['gray', '4 bands', '16 bits'],
)
def test_init_says_how_other_images_are_read_and_they_train(shape, dtype, says, project):
    rng = np.random.default_rng(0)
    for part in ('images', 'unlabeled', 'val/images'):
        for path in (project.root / part).iterdir():
            Image.fromarray(rng.integers(0, np.iinfo(dtype).max, shape, dtype)).save(path)
    status, text = project.run('init', *FOLDERS, '--unlabeled', 'unlabeled', '--method', 'fixmatch', '--out', 'p')
    assert status == 0, text
    project.config = project.root / 'p/config.py'
    assert says in project.config.read_text()
    assert project.train(*NO_WORKERS)[0] is None


@pytest.mark.parametrize(
    ('arguments', 'rate'),
    [
        (('--method', 'mllc'), 1e-3),
        (('--method', 'supervised'), 1e-3),
        (('--method', 'mllc', '--gpu-memory', '40'), 1e-3),
        (('--method', 'supervised', '--gpu-memory', '40'), 1e-3),
        (('--method', 'mllc', '--gpu-memory', '2.6'), 12 / 16 * 1e-3),
        (('--method', 'mllc', '--network', 'deeplabv3plus_r50'), 1e-3 / 2),
    ],
)
def test_the_rate_follows_the_images_of_a_step_by_the_one_mechanism(arguments, rate, project):
    status, text = project.run('init', *FOLDERS, '--unlabeled', 'unlabeled', *arguments, '--out', 'p')
    assert status == 0, text
    path = str(project.root / 'p/config.py')
    cfg = load_config(argparse.Namespace(config=path, cfg_options={}, work_dir=None, launcher='none', local_rank=0))
    sampler, settings = cfg.train_dataloader.sampler, cfg.auto_scale_lr
    images = sampler.labeled + sampler.unlabeled
    assert settings.enable
    assert cfg.optim_wrapper.optimizer.lr * images / settings.base_batch_size == pytest.approx(rate)


@pytest.mark.parametrize('method', known('methods'))
def test_every_method_gets_to_training_by_the_config_that_init_writes(method, project):
    change(lambda mask: np.minimum(mask, 1))(project)  # two classes are the fewest
    status, text = project.run('init', *FOLDERS, '--unlabeled', 'unlabeled', '--method', method, '--out', 'p')
    assert status == 0, text
    project.config = project.root / 'p/config.py'
    assert len(project.config.read_text().splitlines()) <= 40
    status, text = project.train(*NO_WORKERS)
    assert status is None, text[-1500:]
