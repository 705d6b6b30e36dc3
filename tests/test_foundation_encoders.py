"""Every method over DINOv2, and UniMatch V2 over other encoders: a step, a resumed run, an exported network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmsemi.apis.launch import prepare_config
from mmsemi.models.state import StepState
from mmsemi.registry import MODELS
from mmsemi.structures import Mix, Streams
from tests import tiny_run
from tests.models.test_dinov2 import narrow
from tests.project import ROOT, project_files, without_weights
from tests.test_training import Kill, saved, train
from tests.tools.test_export import PLAIN_MMSEG, export

DINOV2 = [path.stem for path in project_files('configs/*/*_dinov2-[sbl]_dpt_*.py')]
METHODS = (
    'supervised', 'fixmatch', 'mean_teacher', 'unimatch', 'mllc', 'esl', 'dssn', 'corrmatch', 'augseg', 'ael', 'u2pl',
    'unimatch_v2',
)  # fmt: skip
ON_VOC = [f'{mpmc}{method}_dinov2-s_dpt_voc' for method in METHODS for mpmc in ('', 'mpmc_')]


def config(name: str) -> Config:
    """A config of the project, fit for this machine."""
    (path,) = project_files(f'configs/*/{name}.py')
    cfg = without_weights(Config.fromfile(path))
    prepare_config(cfg, launcher='none')
    return cfg


def test_every_method_is_there_alone_and_with_mpmc():
    assert set(ON_VOC) <= set(DINOV2)
    published = {f'unimatch_v2_dinov2-{s}_dpt_{d}' for s in 'sbl' for d in ('voc', 'cityscapes', 'ade20k', 'coco')}
    assert published | set(ON_VOC) == set(DINOV2)


@pytest.mark.parametrize('name', ON_VOC)
def test_all_methods_have_one_network_one_schedule_and_the_same_images(name):
    cfg, reference = config(name), config('unimatch_v2_dinov2-s_dpt_voc')
    supervised = 'supervised' in name
    assert cfg.model.student == reference.model.student
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'crop_size', 'val_dataloader', 'val_evaluator'):
        assert cfg[key] == reference[key], key
    loader, theirs = cfg.train_dataloader, reference.train_dataloader
    assert loader.dataset == theirs.dataset and loader.sampler.labeled == theirs.sampler.labeled == 4
    assert loader.sampler.unlabeled == (0 if supervised else 4)
    assert loader.batch_size == loader.sampler.labeled + loader.sampler.unlabeled
    assert cfg.auto_scale_lr.base_batch_size == 4 * loader.batch_size
    assert [plugin.type for plugin in cfg.model.get('plugins', [])] == (['MPMC'] if name.startswith('mpmc') else [])


# Classes, crop, epochs, labeled and unlabeled images of one of four processes, labeled images.
PUBLISHED = {
    'voc': (21, 518, 60, 4, '1/8'), 'cityscapes': (19, 798, 180, 2, '1/8'), 'ade20k': (150, 518, 60, 2, 2526),
    'coco': (81, 518, 20, 4, '1/32'),
}  # fmt: skip


@pytest.mark.parametrize('data', PUBLISHED)
@pytest.mark.parametrize('size', 'sbl')
def test_unimatch_v2_trains_as_published(size, data):
    cfg = config(f'unimatch_v2_dinov2-{size}_dpt_{data}')
    classes, crop, epochs, images, labeled = PUBLISHED[data]
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer == dict(type='AdamW', lr=5e-6, betas=(0.9, 0.999), weight_decay=0.01)
    factors = cfg.optim_wrapper.paramwise_cfg
    others = ('decode_head', 'auxiliary_head', 'heads.')
    assert factors == dict(custom_keys={name: dict(lr_mult=40.0) for name in others})
    [poly] = cfg.param_scheduler
    assert (poly.type, poly.power, poly.eta_min, poly.convert_to_iter_based) == ('PolyLR', 0.9, 0, True)
    assert (cfg.train_cfg.max_epochs, cfg.model.student.decode_head.num_classes) == (epochs, classes)
    assert tuple(cfg.crop_size) == tuple(cfg.model.data_preprocessor.size) == (crop, crop)
    loader = cfg.train_dataloader
    assert (loader.sampler.labeled, loader.sampler.unlabeled, loader.batch_size) == (images, images, 2 * images)
    assert cfg.auto_scale_lr.base_batch_size == 8 * images and loader.dataset.labeled == labeled
    model, hook = cfg.model, cfg.default_hooks.teacher
    assert (model.type, model.threshold, model.dropout, model.dropout_share) == (
        'UniMatchV2',
        0.95,
        'complementary',
        0.5,
    )
    assert hook == dict(type='EMATeacherHook', momentum=0.996) and model.data_preprocessor.num_strong == 2
    student = model.student
    assert student.backbone.out_indices == {'l': (4, 11, 17, 23)}.get(size, (2, 5, 8, 11))
    loss = student.decode_head.loss_decode
    if data == 'cityscapes':
        assert (loss.type, loss.threshold) == ('OhemCrossEntropyLoss', 0.7)
        assert loss.min_kept == pytest.approx(0.157, abs=1e-3)
        window = dict(mode='slide', crop_size=(798, 798), stride=(532, 532), average='probabilities')
        assert student.test_cfg == window
    else:
        assert loss == dict(type='PixelCrossEntropyLoss') and student.test_cfg == dict(mode='whole')


def test_weight_decay_is_on_all_parameters_and_the_encoder_learns_at_a_fortieth():
    cfg = config('unimatch_v2_dinov2-s_dpt_voc')
    cfg.model.student = narrow()
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    assert {group['weight_decay'] for group in groups} == {0.01} and len(groups) == 2
    encoder = {id(p) for p in model.student.segmentor.backbone.parameters()}
    rates = {group['lr']: {id(p) for p in group['params']} for group in groups}
    assert rates[5e-6] == encoder
    assert rates[2e-4] == {id(p) for p in model.student.parameters()} - encoder


def few_layers(cfg: Config) -> None:
    """Four narrow layers of the encoder, read by as many inputs of the decoder, at the config's own crop."""
    network = cfg.model.student
    network.backbone.update(
        arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32), out_indices=(0, 1, 2, 3)
    )
    network.decode_head.update(in_channels=[16] * 4, embed_dims=16, post_process_channels=[4, 8, 16, 32])
    for head in cfg.model.get('heads', {}).values():
        if head.get('source') == 'backbone':
            head.in_channels = 16


def crops(cfg: Config, num_strong: int) -> Streams:
    """Views of the config's crop and batch without content."""
    sampler = cfg.train_dataloader.sampler
    size, labeled, unlabeled = tuple(cfg.crop_size), sampler.labeled, sampler.unlabeled
    images = torch.empty(unlabeled, 3, *size)
    valid = torch.ones(unlabeled, *size, dtype=torch.bool)
    return Streams(
        torch.empty(labeled, 3, *size),
        torch.zeros(labeled, *size, dtype=torch.long),
        images,
        (images,) * num_strong,
        valid,
        tuple(Mix(torch.zeros_like(valid)) for _ in range(num_strong)),
        unlabeled_gt=torch.zeros(unlabeled, *size, dtype=torch.long),
    )


def moved(streams: Streams, move) -> Streams:
    """The batch with ``move`` applied to its tensors."""
    tensors = {name: move(getattr(streams, name)) for name in ('labeled', 'labels', 'weak', 'valid', 'unlabeled_gt')}
    mixes = tuple(Mix(move(mix.mask)) for mix in streams.mix)
    return Streams(**tensors, strong=tuple(map(move, streams.strong)), mix=mixes)


def imagined(model: nn.Module, imagine) -> None:
    """Put tensors without values in the place of a model's."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(imagine(parameter), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = imagine(buffer)


@pytest.mark.parametrize('name', ON_VOC)
def test_a_step_at_the_published_crop_runs_on_an_imagined_device_in_float32_and_bf16(name):
    cfg = config(name)
    few_layers(cfg)
    model = MODELS.build(cfg.model).train()
    streams = crops(cfg, model.data_preprocessor.num_strong)
    with FakeTensorMode():

        def imagine(x):
            return torch.empty(x.shape, dtype=x.dtype)

        imagined(model, imagine)
        for half in (False, True):
            with torch.autocast('cpu', torch.bfloat16, enabled=half):
                losses = model.loss(moved(streams, imagine))
            total, _ = model.parse_losses(losses)
            total.backward()
            for state in model.modules():
                if isinstance(state, StepState):
                    state.commit()
            assert all(value.ndim == 0 for value in losses.values())
            missing = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert not missing


def small_run(root: Path, work_dir: Path) -> Config:
    """UniMatch V2 on the embedded data set with narrow layers, in crops of four patches."""
    cfg = tiny_run.config('UniMatchV2', root, work_dir)
    cfg.model.student = narrow()
    cfg.model.student.decode_head.num_classes = 8
    cfg.model.data_preprocessor.size = (56, 56)
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == 'RandomCrop':
            step.crop_size = (56, 56)
    cfg.custom_imports = dict(imports=['mmsemi.models.backbones'], allow_failed_imports=False)
    return cfg


def test_a_run_resumes_bit_for_bit_and_its_network_leaves_to_plain_mmseg(drawn, tmp_path):
    straight, broken = (small_run(drawn, tmp_path / name) for name in ('straight', 'broken'))
    train(straight)
    with pytest.raises(KeyboardInterrupt):
        train(broken, Kill(3))
    train(broken, resume=True, experiment_name=f'{broken.experiment_name}-again')
    a, b = (saved(tmp_path / name, 2)['state_dict'] for name in ('straight', 'broken'))
    assert a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())
    assert any(not torch.equal(value, b[key.replace('teacher', 'student')]) for key, value in a.items())

    path = tmp_path / 'straight/epoch_2.pth'
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['meta']['dataset_meta'] = dict(classes=('a', 'b'), palette=[[0, 0, 0], [1, 1, 1]])
    state = checkpoint['state_dict']
    state['teacher.segmentor.decode_head.conv_seg.weight'].normal_()
    torch.save(checkpoint, path)
    export.export(str(path), tmp_path / 'out')
    # 50 x 61 pixels are not made of whole patches.
    image = np.random.default_rng(0).integers(0, 256, (50, 61, 3), dtype=np.uint8)
    image[:, 30:] //= 8
    Image.fromarray(image).save(tmp_path / 'image.png')
    model = MODELS.build(straight.model)
    model.load_state_dict(state)
    model.eval().predict_on = 'teacher'
    with torch.no_grad():
        pixels = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
        data = model.data_preprocessor(dict(inputs=[pixels]), training=False)
        expected = model.predict(data['inputs'])[0].pred_sem_seg.data[0]
    torch.save(expected, tmp_path / 'expected.pt')
    assert len(expected.unique()) > 1
    script = tmp_path / 'plain.py'
    script.write_text(PLAIN_MMSEG)
    names = [str(tmp_path / 'out'), str(tmp_path / 'image.png'), str(tmp_path / 'expected.pt')]
    result = subprocess.run([sys.executable, str(script), *names], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def test_a_network_of_patches_becomes_onnx(tmp_path):
    pytest.importorskip('onnxscript', reason='needs onnx and onnxscript')
    runtime = pytest.importorskip('onnxruntime')
    network = MODELS.build(narrow())
    network.eval()
    images = torch.randn(1, 3, 50, 61)

    class Scores(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network.encode_decode(x, [{}])

    torch.onnx.export(Scores(), (images,), str(tmp_path / 'network.onnx'), dynamo=True)
    session = runtime.InferenceSession(str(tmp_path / 'network.onnx'))
    (scores,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert torch.allclose(torch.from_numpy(scores), network.encode_decode(images, [{}]), atol=1e-4)


@pytest.mark.parametrize('kind', ['dinov3', 'convnext'])
def test_encoders_of_timm_step_and_evaluate(kind):
    timm = pytest.importorskip('timm', reason="needs timm: pip install 'mmsemi[timm]'")
    assert timm.list_models('*dinov3*')
    names = dict(dinov3='unimatch_v2_dinov3-s_dpt_voc', convnext='unimatch_v2_convnext-t_upernet_voc')
    cfg = config(names[kind])
    network = cfg.model.student
    if kind == 'dinov3':
        network.backbone.update(embed_dim=24, depth=4, num_heads=2, out_indices=(0, 1, 2, 3))
        network.decode_head.update(
            in_channels=[24] * 4, embed_dims=24, post_process_channels=[4, 8, 16, 32], channels=8
        )
    else:
        network.backbone.update(model_name='convnext_tiny', pretrained=False, dims=(4, 8, 12, 16), depths=(1, 1, 1, 1))
        network.decode_head.update(in_channels=[4, 8, 12, 16], channels=8)
    cfg.model.data_preprocessor.size = cfg.crop_size = (64, 64)
    cfg.train_dataloader.sampler.update(labeled=2, unlabeled=2)
    model = MODELS.build(cfg.model).train()
    streams = crops(cfg, 2)
    for view in (streams.labeled, streams.weak):
        view.normal_()
    total, log = model.parse_losses(model.loss(streams))
    total.backward()
    assert all(value.isfinite() for value in log.values())
    learning = [p for p in model.student.parameters() if p.requires_grad]
    assert sum(p.grad is not None for p in learning) == len(learning)
    model.eval()
    with torch.no_grad():
        meta = dict(img_shape=(50, 70), ori_shape=(50, 70), pad_shape=(50, 70))
        assert model.encode_decode(torch.randn(1, 3, 50, 70), [meta]).shape == (1, 21, 50, 70)


def test_weights_with_a_licence_of_their_own_are_off_by_default():
    for path in project_files('configs/_base_/models/*dinov3*.py'):
        assert Config.fromfile(path).network.backbone.pretrained is False
        assert 'DINOv3 License' in path.read_text() or './dpt_dinov3-s.py' in path.read_text()


def test_a_run_of_the_config_itself_starts(drawn, tmp_path):
    """The Runner builds all that the config of ViT-S names, but for its data."""
    cfg = small_run(drawn, tmp_path)
    runner = Runner.from_cfg(cfg)
    assert isinstance(runner.model.student.segmentor, MODELS.get('PatchEncoderDecoder'))
    assert SimpleNamespace(**cfg.model.student).type == 'PatchEncoderDecoder' and (ROOT / 'configs').is_dir()
