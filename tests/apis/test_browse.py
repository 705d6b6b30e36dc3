"""What a step shows to those who look, and that they change nothing."""

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from PIL import Image

from mmsemi.apis.browse import browse, watch_step
from mmsemi.apis.images import fit_images
from mmsemi.apis.launch import UsageError
from mmsemi.registry import MODELS
from tests import tiny_run

SHOWN = {
    'MLLC': {'label before the graph', 'label after the graph'},
    'ESL': {'dominant classes', 'part of its class'},
    'CorrMatch': {'shapes over a pixel', 'label of the mixed view'},
}


@pytest.fixture(scope='module')
def batch(tmp_path_factory) -> dict:
    """Two labeled and two unlabeled images with their ground truth, as the loader gives them."""
    root = tmp_path_factory.mktemp('data')
    cfg = tiny_run.config('FixMatch', root, root / 'run')
    cfg.train_dataloader.dataset.unlabeled_gt = True
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope('mmsemi'):
        return next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))


def model_of(method: str, drawn, **kwargs):
    torch.manual_seed(0)
    model = MODELS.build(tiny_run.config(method, drawn, drawn / 'run', **kwargs).model)
    model.init_weights()
    return model


@pytest.mark.parametrize('mpmc', [False, True])
@pytest.mark.parametrize('method', [method for method in tiny_run.METHOD_FILES if method != 'Supervised'])
def test_those_who_look_see_labels_predictions_and_the_methods_own_maps(method, mpmc, drawn, batch):
    seen = watch_step(model_of(method, drawn, mpmc=mpmc), batch)
    assert seen.pseudo.label.shape == seen.pseudo.weight.shape == (2, 64, 64)
    assert seen.streams.unlabeled_gt is not None
    assert {'guide', 'strong_0', 'labeled'} >= set(seen.predictions) >= {'guide', 'labeled'}
    maps = SHOWN.get(method, set()) | ({'weight by MPMC'} if mpmc else set())
    assert set(seen.maps) == maps
    assert all(len(values) == 2 and values.ndim == 3 for values in seen.maps.values())


def test_maps_are_what_their_names_say(drawn, batch):
    seen = watch_step(model_of('MLLC', drawn, mpmc=True), batch)
    assert torch.equal(seen.maps['label before the graph'], seen.predictions['guide'])
    assert torch.equal(seen.maps['label after the graph'], seen.pseudo.label)
    # All of its pixels count, whatever their confidence, but for what the plugin doubts.
    weight = seen.maps['weight by MPMC']
    assert torch.equal(seen.pseudo.weight[seen.streams.valid], weight[seen.streams.valid])
    assert weight[~seen.streams.valid].isnan().all()

    model = model_of('ESL', drawn)
    seen = watch_step(model, batch)
    assert torch.equal(seen.maps['dominant classes'], (seen.pseudo.prob > 0).sum(1).float())
    parts = seen.maps['part of its class']
    known = parts[~parts.isnan()]
    assert ((known >= 1) & (known <= model.part_prototypes.parts)).all()


@pytest.mark.parametrize('method', tiny_run.METHOD_FILES)
def test_looking_changes_no_loss(method, drawn, batch):
    def losses(watching: bool) -> dict[str, torch.Tensor]:
        model = model_of(method, drawn)
        model.train()
        model.watching = watching
        torch.manual_seed(1)
        np.random.seed(1)
        found = model.loss(**model.data_preprocessor(batch, training=True))
        assert (model.seen is not None) is watching
        return found

    plain, watched = losses(False), losses(True)
    assert plain.keys() == watched.keys()
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


def test_nothing_is_drawn_up_where_nobody_looks(drawn, batch, monkeypatch):
    for method in SHOWN:
        model = model_of(method, drawn, mpmc=True)
        monkeypatch.setattr(model, 'show', lambda *args, **maps: pytest.fail('made a map') if maps else None)
        model.train()
        model.loss(**model.data_preprocessor(batch, training=True))


@pytest.mark.parametrize('method', ['MLLC', 'Supervised'])
def test_a_batch_is_drawn_without_training(method, drawn, tmp_path, capsys):
    cfg = tiny_run.config(method, drawn, tmp_path / 'run')
    path = browse(cfg, None, str(tmp_path / 'look'))
    assert path == tmp_path / 'look/browse.png'
    with Image.open(path) as image:
        assert image.width > 300
    assert f'drew a batch of {method} with an untrained network' in capsys.readouterr().out
    assert not (tmp_path / 'run').exists()


def test_a_network_of_gray_images_is_looked_at_as_it_was_trained(drawn, tmp_path):
    def gray():
        cfg = tiny_run.config('FixMatch', drawn, tmp_path / 'run')
        cfg.train_dataloader.dataset.pipeline[0].color_type = 'grayscale'
        cfg.model.student.backbone.pop('in_channels', None)
        return cfg

    trained = gray()
    fit_images(trained)
    model = MODELS.build(trained.model)
    assert model.student.in_channels == 1
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'gray.pth')
    assert browse(gray(), str(tmp_path / 'gray.pth'), str(tmp_path / 'x.png')).is_file()


def test_a_checkpoint_that_is_missing_or_of_another_network_is_named(drawn, tmp_path):
    cfg = tiny_run.config('MLLC', drawn, tmp_path / 'run')
    with pytest.raises(UsageError, match=r'none.pth does not exist'):
        browse(cfg, str(tmp_path / 'none.pth'), str(tmp_path / 'x.png'))
    torch.save({'state_dict': {}}, tmp_path / 'other.pth')
    with pytest.raises(UsageError, match='is of another network than MLLC of this config'):
        browse(cfg, str(tmp_path / 'other.pth'), str(tmp_path / 'x.png'))
    with pytest.raises(UsageError, match='--images must be 1 or more'):
        browse(cfg, None, str(tmp_path / 'x.png'), images=0)
    assert not (tmp_path / 'x.png').exists()
