import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg import registry as mmseg_registry
from PIL import Image

from mmsemi.apis import export
from mmsemi.apis.launch import UsageError, find_config, prepare_config
from mmsemi.apis.predict import predict
from mmsemi.registry import MODELS
from tests.apis import trained

# Where mmsemi cannot be imported: load, predict, and write the config once more.
PLAIN_MMSEG = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'mmsemi':
            raise ImportError('mmsemi is not here')

sys.meta_path.insert(0, Absent())
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model

out, image, expected = sys.argv[1:]
model = init_model(out + '.py', out + '.pth', device='cpu')
result = inference_model(model, image)
assert torch.equal(result.pred_sem_seg.data[0], torch.load(expected)), 'another prediction'
assert model.dataset_meta['classes'] == ('a', 'b'), model.dataset_meta
Config.fromfile(out + '.py').dump(out + '_dumped.py')
"""


def save(config: str, path: Path, **options) -> Path:
    """A checkpoint of an untrained model whose teacher is not its student, as a run would save it."""
    cfg = Config.fromfile(find_config(config))
    cfg.merge_from_dict(options)
    model = MODELS.build(cfg.model)
    for parameter in model.teacher.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    meta = dict(cfg=cfg.pretty_text, dataset_meta=dict(classes=('a', 'b'), palette=[[0, 0, 0], [1, 1, 1]]), epoch=1)
    torch.save(dict(meta=meta, state_dict=model.state_dict()), path)
    return path


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return save('mean_teacher/mean_teacher_r18_shapes.py', tmp_path / 'epoch_1.pth')


def test_a_unet_of_one_channel_is_exported(tmp_path):
    cfg = Config.fromfile(find_config('unimatch/unimatch_unet_acdc.py'))
    model = MODELS.build(cfg.model)
    meta = dict(cfg=cfg.pretty_text, dataset_meta=dict(classes=tuple('abcd'), palette=[[0, 0, 0]] * 4), epoch=1)
    torch.save(dict(meta=meta, state_dict=model.state_dict()), tmp_path / 'epoch_1.pth')
    export.export(str(tmp_path / 'epoch_1.pth'), tmp_path / 'out')
    plain = Config.fromfile(tmp_path / 'out.py')
    assert (plain.model.backbone.type, plain.model.decode_head.type) == ('UNetEncoder', 'UNetHead')
    assert plain.model.data_preprocessor.mean == [0.0] and plain.test_pipeline[0].color_type == 'grayscale'
    with DefaultScope.overwrite_default_scope('mmseg'):
        exported = mmseg_registry.MODELS.build(plain.model).eval()
    exported.load_state_dict(torch.load(tmp_path / 'out.pth')['state_dict'])
    image = torch.rand(1, 1, 32, 48)
    prepare_config(cfg, launcher='none')
    ours = MODELS.build(cfg.model).eval()
    ours.load_state_dict(model.state_dict())
    assert torch.allclose(exported(image), ours.student(image).logits, atol=1e-6)


INFERENCER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'mmsemi':
            raise ImportError('mmsemi is not here')

sys.meta_path.insert(0, Absent())
import numpy as np
from mmseg.apis import MMSegInferencer

out, image, classes = sys.argv[1:]
inferencer = MMSegInferencer(model=out + '.py', weights=out + '.pth', device='cpu', show_progress=False)
result = inferencer(image, return_vis=True, out_dir=out + '_seen', img_out_dir='vis', pred_out_dir='pred')
np.save(out + '.npy', result['predictions'])
assert list(inferencer.visualizer.dataset_meta['classes']) == classes.split(','), inferencer.visualizer.dataset_meta
assert result['visualization'].shape[2] == 3
"""


def listed(root: Path, longest: int | None) -> Config:
    """A config as ``mmsemi init`` writes it: its data set and a transform of it are not mmseg's."""
    (root / 'config.py').write_text(
        f"""
_base_ = [
    'mmsemi::_base_/models/deeplabv3plus_r18w16.py',
    'mmsemi::_base_/datasets/listed.py',
    'mmsemi::_base_/schedules/adamw_small.py',
    'mmsemi::_base_/methods/mean_teacher.py',
]
classes = ('a', 'b')
crop_size = (65, 65)
longest_side = {longest}
"""
    )
    return Config.fromfile(root / 'config.py')


@pytest.mark.parametrize('longest', [None, 48])
def test_an_exported_config_runs_in_the_inferencer_of_mmseg(longest, tmp_path, capsys):
    path = trained.save(listed(tmp_path, longest), tmp_path / 'epoch_1.pth', classes=('a', 'b'))
    export.export(str(path), tmp_path / 'out')
    assert 'name folders in test_dataloader.dataset' in capsys.readouterr().out
    image = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    (tmp_path / 'in').mkdir()
    Image.fromarray(image).save(tmp_path / 'in/image.png')
    expected = np.array(Image.open(predict(str(path), str(tmp_path / 'in'), str(tmp_path / 'masks')) / 'image.png'))
    assert expected.shape == (64, 80)

    script = tmp_path / 'infer.py'
    script.write_text(INFERENCER)
    command = [sys.executable, str(script), str(tmp_path / 'out'), str(tmp_path / 'in/image.png'), 'a,b']
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert np.array_equal(np.load(tmp_path / 'out.npy'), expected)


@pytest.mark.parametrize(('side', 'expected'), [(65, True), (64, False)])
def test_an_exported_network_resizes_as_it_was_trained(side, expected, tmp_path):
    options = {'model.data_preprocessor.size': (side, side), 'model.student.backbone.with_cp': True}
    options['model.student.backbone.norm_eval'] = True
    checkpoint = save('mean_teacher/mean_teacher_r18_shapes.py', tmp_path / 'epoch_1.pth', **options)
    export.export(str(checkpoint), tmp_path / 'out', 'teacher')
    model = Config.fromfile(tmp_path / 'out.py').model
    assert model.decode_head.align_corners is expected and not {'with_cp', 'norm_eval'} & model.backbone.keys()


def test_exported_teacher_predicts_the_same_in_plain_mmseg(checkpoint, tmp_path):
    export.export(str(checkpoint), tmp_path / 'out', 'teacher')
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    image[:, 40:] //= 8
    Image.fromarray(image).save(tmp_path / 'image.png')

    model = MODELS.build(export.read_checkpoint(str(checkpoint))[1].model)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)['state_dict'])
    model.eval().predict_on = 'teacher'
    pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
    with torch.no_grad():
        data = model.data_preprocessor(dict(inputs=[pixels]), training=False)
        expected = model.predict(data['inputs'])[0].pred_sem_seg.data[0]
    torch.save(expected, tmp_path / 'expected.pt')
    assert len(expected.unique()) > 1

    script = tmp_path / 'plain.py'
    script.write_text(PLAIN_MMSEG)
    names = [str(tmp_path / 'out'), str(tmp_path / 'image.png'), str(tmp_path / 'expected.pt')]
    result = subprocess.run([sys.executable, str(script), *names], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_exported_config_holds_neither_losses_nor_sources_of_ours_by_name(checkpoint, tmp_path):
    export.export(str(checkpoint), tmp_path / 'out')
    cfg = Config.fromfile(tmp_path / 'out.py')
    assert cfg.model.data_preprocessor.type == 'SegDataPreProcessor'
    assert cfg.model.decode_head.loss_decode.type == 'CrossEntropyLoss'
    assert 'mmsemi' not in cfg.pretty_text
    assert all(step.type != 'LoadSegAnnotations' for step in cfg.test_pipeline)


@pytest.mark.parametrize('branch', ['student', 'teacher'])
def test_exported_network_has_no_trace_of_auxiliary_heads_and_plugins(branch, tmp_path):
    path = save('mpmc/mpmc_mllc_r18_shapes.py', tmp_path / 'epoch_1.pth')
    trained = torch.load(path, weights_only=True)['state_dict']
    for head in ('patch_classifier', 'embedding', 'graph'):
        assert any(key.startswith(f'{branch}.heads.{head}.') for key in trained)
    export.export(str(path), tmp_path / 'out', branch)

    cfg = Config.fromfile(tmp_path / 'out.py')
    with DefaultScope.overwrite_default_scope('mmseg'):
        plain = MODELS.parent.build(cfg.model).state_dict()
    weights = torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict']
    assert weights.keys() == plain.keys()
    assert {key.split('.')[0] for key in weights} == {'backbone', 'decode_head'}
    assert all(torch.equal(value, trained[f'{branch}.segmentor.{key}']) for key, value in weights.items())
    _, *lines = (tmp_path / 'out.py').read_text().splitlines()  # the first one says which tool wrote it
    for word in ('mmsemi', 'mpmc', 'plugin', 'patch_classifier', 'embedding', 'graph', 'prototype', 'teacher'):
        assert not any(word in line.lower() for line in lines), word


@pytest.mark.parametrize(
    ('state', 'branch', 'message'),
    [
        ({'student.segmentor.x': 0}, 'teacher', 'holds no teacher; it has a student'),
        ({'backbone.x': 0}, None, 'not one of mmsemi'),
    ],
)
def test_absent_branch_is_named(state, branch, message):
    with pytest.raises(UsageError, match=message):
        export.choose_branch(state, branch)


@pytest.mark.parametrize('head', ['DeepLabV3PlusHead', 'DeepLabV2Head'])
def test_heads_of_ours_can_leave_alone(head):
    source = export.portable_source(MODELS.get(head))
    assert source is not None
    assert 'mmsemi' not in source
