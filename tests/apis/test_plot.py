"""Features of pixels by class, from a checkpoint to the picture."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmsemi.apis.launch import UsageError
from mmsemi.apis.network import load_network
from mmsemi.apis.plot import gather_features, plot
from mmsemi.registry import DATASETS
from tests import tiny_run
from tests.apis.trained import save


@pytest.fixture
def checkpoint(drawn, tmp_path) -> str:
    return str(save(tiny_run.config('MeanTeacher', drawn, tmp_path / 'run'), tmp_path / 'epoch_1.pth'))


def test_features_are_those_before_the_classifier_at_pixels_of_their_class(checkpoint, drawn, monkeypatch):
    network = load_network(checkpoint)
    dataset = DATASETS.build(tiny_run.config('MeanTeacher', drawn, drawn / 'run').val_dataloader.dataset)
    rows, labels = gather_features(network.model, dataset, 8)
    assert rows.shape == (len(labels), network.model.decode_head.conv_seg.in_channels)
    shown = {int(label) for sample in dataset for label in sample['data_samples'].gt_sem_seg.data.unique()} - {255}
    assert set(labels) <= shown and 0 in labels
    assert all((labels == label).sum() <= 8 * len(dataset) for label in shown)
    # What the classifier makes of a row is what the network says of its pixel.
    classifier = network.model.decode_head.conv_seg
    scores = torch.from_numpy(rows) @ classifier.weight[:, :, 0, 0].T + classifier.bias
    caught = []
    classifier.register_forward_hook(lambda module, inputs, output: caught.append(output[0].flatten(1).T))
    again, _ = gather_features(network.model, dataset, 8)
    assert np.array_equal(rows, again)
    every = torch.cat(caught)
    assert torch.cdist(scores, every, compute_mode='donot_use_mm_for_euclid_dist').min(1).values.max() < 1e-3


def test_the_command_draws_features_of_the_runs_own_validation_images(checkpoint, tmp_path, capsys):
    path = plot([], features=checkpoint, out=str(tmp_path / 'features.png'), branch='student')
    with Image.open(path) as image:
        assert image.width > 500
    assert 'pixels of validation images' in capsys.readouterr().out


def test_a_checkpoint_without_validation_images_is_told(drawn, tmp_path):
    cfg: Config = tiny_run.config('MeanTeacher', drawn, tmp_path / 'run')
    cfg.pop('val_dataloader')
    path = save(cfg, tmp_path / 'epoch_1.pth')
    with pytest.raises(UsageError, match=r'names no validation images \(val_dataloader\)'):
        plot([], features=str(path), out=str(tmp_path / 'x.png'))
