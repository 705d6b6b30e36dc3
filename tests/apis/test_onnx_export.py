import importlib.util
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmsemi.apis import onnx_export
from mmsemi.apis.export import export
from mmsemi.apis.launch import UsageError
from mmsemi.apis.network import load_network
from tests.apis.trained import save
from tests.models.test_dinov2 import NARROW

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')


def shapes() -> Config:
    return Config.fromfile('configs/mean_teacher/mean_teacher_r18_shapes.py')


def unet() -> Config:
    cfg = Config.fromfile('configs/unimatch/unimatch_unet_acdc.py')
    cfg.model.data_preprocessor.size = (32, 48)
    return cfg


def dinov2() -> Config:
    cfg = Config.fromfile('configs/unimatch_v2/unimatch_v2_dinov2-s_dpt_voc.py')
    network = cfg.model.student
    network.pretrained = None
    network.backbone.update(arch=NARROW, img_size=42, out_indices=(0, 1, 2, 3))
    network.decode_head.update(in_channels=(16,) * 4, embed_dims=16, post_process_channels=[4, 8, 16, 32], channels=8)
    cfg.model.data_preprocessor.size = (56, 70)
    cfg.crop_size = (56, 70)
    return cfg


@pytest.mark.parametrize(
    ('config', 'sizes'),
    [(shapes, [(64, 64), (50, 83)]), (unet, [(32, 48), (64, 16)]), (dinov2, [(56, 70)])],
)
def test_an_onnx_file_scores_images_as_they_are_like_the_network(config, sizes, tmp_path, capsys):
    path = save(config(), tmp_path / 'epoch_1.pth')
    export(str(path), tmp_path / 'out', onnx=True)
    printed = capsys.readouterr().out
    assert 'any batch' in printed and ('any height, any width' in printed) == (len(sizes) > 1)
    assert 'differs from PyTorch by' in printed
    session = onnxruntime.InferenceSession(str(tmp_path / 'out.onnx'), providers=['CPUExecutionProvider'])
    network = load_network(str(path))
    channels = session.get_inputs()[0].shape[1]
    for batch, size in [(1, sizes[0]), (3, sizes[-1])]:
        images = np.random.default_rng(0).integers(0, 256, (batch, channels, *size)).astype(np.float32)
        (scores,) = session.run(['scores'], {'images': images})
        # The preprocessor is given what was read, blue first.
        pixels = list(torch.from_numpy(images[:, ::-1].copy() if channels == 3 else images))
        with torch.no_grad():
            inputs = network.model.data_preprocessor({'inputs': pixels}, False)['inputs']
            expected = network.model.encode_decode(inputs, [dict(img_shape=size)]).numpy()
        assert scores.shape == expected.shape
        assert np.abs(scores - expected).max() <= 1e-3 * max(1, np.abs(expected).max())
    names = json.loads(session.get_modelmeta().custom_metadata_map['classes'])
    assert names == list(network.classes)


@pytest.fixture
def written(monkeypatch) -> list:
    """What the exporter is asked to leave free; nothing is traced."""
    asked = []
    monkeypatch.setattr(onnx_export, '_write', lambda network, images, path, free, classes: asked.append(free))
    return asked


def test_a_file_that_disagrees_is_not_given_away(written, tmp_path, monkeypatch):
    path = save(shapes(), tmp_path / 'epoch_1.pth')
    monkeypatch.setattr(onnx_export, '_difference', lambda network, images, file: 0.1)
    with pytest.raises(UsageError, match=r'at \(64, 64\): its scores differ from those of PyTorch by 1.0e-01'):
        export(str(path), tmp_path / 'out', onnx=True)
    assert written == [('batch', 'height', 'width'), ('batch',), ()]
    assert not (tmp_path / 'out.onnx').exists() and (tmp_path / 'out.pth').exists()


def test_a_network_whose_file_is_wrong_at_another_size_gets_a_fixed_one(written, tmp_path, monkeypatch, capsys):
    path = save(shapes(), tmp_path / 'epoch_1.pth')
    monkeypatch.setattr(onnx_export, '_difference', lambda network, images, file: float(images.shape[2:] != (48, 40)))
    export(str(path), tmp_path / 'out', onnx=True, size=(48, 40))
    assert 'any batch, 48 high, 40 wide' in capsys.readouterr().out
    assert written == [('batch', 'height', 'width'), ('batch',)]


def test_missing_packages_are_named_before_anything_is_written(tmp_path, monkeypatch):
    path = save(shapes(), tmp_path / 'epoch_1.pth')
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'onnxscript' else find(name))
    with pytest.raises(UsageError, match=r"--onnx needs onnxscript; install it: pip install 'mmsemi\[onnx\]'"):
        export(str(path), tmp_path / 'out', onnx=True)
    assert not (tmp_path / 'out.pth').exists()
