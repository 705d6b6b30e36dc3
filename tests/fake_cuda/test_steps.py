"""Every method trains on the device without values: real configs, from the loader's batch to a prediction."""

from __future__ import annotations

import pytest
import torch

from mmsemi.models.device import send
from tests import tiny
from tests.tiny_run import METHOD_FILES

from . import steps
from .budgets import LARGE, LAUNCHES, OPTIMIZER
from .device import why_not
from .steps import HALVES, PRECISIONS, Report, take_steps

pytestmark = [pytest.mark.fake_cuda, pytest.mark.skipif(bool(why_not()), reason=why_not())]


def check(report: Report, precision: str) -> None:
    """What holds for every step on a GPU."""
    assert not report.waits, 'the host waits'
    assert not report.blocking, 'the host waits for a copy'
    assert not report.half, 'what is no network computes in half precision'
    assert not report.unused, 'parameters that learn without a gradient'
    assert not report.elsewhere, 'tensors that were left on the host'
    assert report.logged >= len(report.losses), 'the log has the losses'
    assert report.predicted == 'cuda:0'
    assert report.losses and all(value.device.type == 'cuda' and not value.ndim for value in report.losses.values())
    assert report.sent <= 1 + 2, 'one copy has images and labels, two the numbers that the strong views drew'
    assert True in report.formats, 'channels lie last'
    assert (HALVES.get(precision, torch.float32) in report.types) and (precision != 'float32' or len(report.types) == 1)


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('mpmc', [False, True], ids=['alone', 'with MPMC'])
@pytest.mark.parametrize('method', METHOD_FILES)
def test_a_method_trains_on_a_gpu(method, mpmc, precision, drawn, tmp_path):
    report = take_steps(steps.small(method, drawn, tmp_path, mpmc), precision, steps=1 if mpmc else 2)
    check(report, precision)
    most = LAUNCHES[method]
    assert report.launches['forward'] <= most + (LAUNCHES['MPMC'] if mpmc else 0), report.launches
    assert mpmc or report.launches['optimizer'] <= OPTIMIZER, 'a fused step is few kernels'


# Those of the largest methods and of each kind of network; with all others it takes a minute and a half.
ALWAYS = {
    'supervised/supervised_r101_cityscapes.py',
    'corrmatch/corrmatch_r101_cityscapes.py',
    'u2pl/u2pl_r101_cityscapes.py',
    'mllc/mllc_r101_cityscapes.py',
    'unimatch_v2/unimatch_v2_dinov2-s_dpt_voc.py',
}


@pytest.mark.parametrize(
    'path', [path if path in ALWAYS else pytest.param(path, marks=pytest.mark.slow) for path in LARGE]
)
def test_a_config_at_its_own_size_stays_in_its_budget(path, tmp_path):
    """Two labeled and two unlabeled crops, as one of four processes takes."""
    precision, batch, forward, backward, gib = LARGE[path]
    cfg = steps.real(path, tmp_path, batch)
    if cfg.model.type == 'PrevMatch':
        cfg.model.length = 2  # each earlier network is one more
    report = take_steps(cfg, precision)
    check(report, precision)
    assert report.launches['forward'] <= forward and report.launches['backward'] <= backward, report.launches
    assert report.peak <= gib * 2**30, f'{report.peak / 2**30:.2f} GiB'


def test_every_method_is_there():
    assert LAUNCHES.keys() - {'MPMC'} == METHOD_FILES.keys() == tiny.METHODS.keys()
    kinds = {path.split('/')[0] for path in LARGE}
    assert LARGE.keys() >= ALWAYS
    assert {*METHOD_FILES.values()} - kinds == set()
    assert any('dinov2' in path for path in LARGE)


def wait(cfg, monkeypatch):
    monkeypatch.setattr('mmsemi.models.segmentors.fixmatch.confident_labels', waiting_labels)


def waiting_labels(logits, threshold, valid):
    from mmsemi.models.pseudo_labels import confident_labels

    assert float(logits.detach().max()) < 2
    return confident_labels(logits, threshold, valid)


def block(cfg, monkeypatch):
    monkeypatch.setattr('mmsemi.models.data_preprocessor.send', lambda x, device: send(x, device).to('cpu').to(device))


def half(cfg, monkeypatch):
    monkeypatch.setattr('mmsemi.models.pseudo_labels.full_precision', lambda x: x)
    monkeypatch.setattr('mmsemi.models.precision.full_precision', lambda x: x)
    monkeypatch.setattr('mmsemi.models.losses.at_once.full_precision', lambda x: x * 1)


def idle(cfg, monkeypatch):
    cfg.model.heads = dict(idle=dict(type='ProjectionHead', out_channels=4, norm_cfg=dict(type='BN')))


@pytest.mark.parametrize(
    ('fault', 'message'), [(wait, 'host waits'), (block, 'host waits'), (half, 'half precision'), (idle, 'gradient')]
)
def test_a_step_with_a_fault_is_found(fault, message, drawn, tmp_path, monkeypatch):
    cfg = steps.small('FixMatch', drawn, tmp_path)
    fault(cfg, monkeypatch)
    with pytest.raises(AssertionError, match=message):
        check(take_steps(cfg, 'fp16'), 'fp16')
