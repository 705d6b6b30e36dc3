"""Features lie where bilinear resizing puts them, or as near as can be, and labels are taken from there."""

from __future__ import annotations

import copy
import re
from functools import cache

import pytest
import torch
from mmengine.config import Config
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mmsemi.apis.launch import prepare_config
from mmsemi.models import resizing
from mmsemi.models.branch import BRANCH_KEYS, Branch
from mmsemi.models.modules.receptive_field import receptive_fields
from mmsemi.models.resizing import aligns_corners, resize_labels
from mmsemi.registry import MODELS
from tests import tiny
from tests.project import ROOT, project_files, without_weights

CONVOLUTIONAL = ('deeplabv3plus_r50', 'deeplabv3plus_r50_os8', 'deeplabv3plus_r50_u2pl', 'deeplabv2_r101')


@pytest.fixture
def uninitialised(monkeypatch) -> None:
    """Large networks are built in a moment where nobody draws their weights."""
    for name in dir(torch.nn.init):
        if name.endswith('_') and not name.startswith('_'):
            monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


def positions(length: int, count: int, align_corners: bool) -> torch.Tensor:
    """Where bilinear resizing of ``count`` points to ``length`` pixels puts them: where it looks for exactly one."""
    place = torch.arange(count, dtype=torch.float64)
    if align_corners:
        return place * (length - 1) / max(count - 1, 1)
    return (place + 0.5) * length / count - 0.5


def test_positions_are_those_of_bilinear_resizing():
    ramp = torch.arange(9.0, dtype=torch.float64)[None, None]
    for align in (False, True):
        fine = F.interpolate(ramp, size=33, mode='linear', align_corners=align)[0, 0]
        where = positions(33, 9, align)
        inside = where[1:-1]
        low = fine[inside.floor().long()]
        high = fine[inside.ceil().long()]
        assert torch.allclose(torch.lerp(low, high, inside.frac()), ramp[0, 0, 1:-1])


@cache
def fields(name: str, crop: tuple[int, int]) -> list:
    """The receptive fields of each level of a network's backbone, and how many locations it has."""
    cfg = Config.fromfile(ROOT / f'configs/_base_/models/{name}.py')
    cfg.model = dict(student=cfg.network)
    cfg.model = without_weights(cfg).model.student
    prepare_config(cfg, launcher='none')
    plain = {key: value for key, value in cfg.model.backbone.items() if key not in BRANCH_KEYS}
    backbone = MODELS.build(plain).to('meta')
    backbone.eval()
    levels = []

    def last(image):
        levels.extend(backbone(image))
        return levels[-1]

    receptive_fields(last, crop, 'meta', cfg.model.backbone.get('in_channels', 3))
    return [(level.seen, level.shape[2:]) for level in levels]


def error(name: str, crop: tuple[int, int], align_corners: bool, strides: tuple[float, ...] = (4, 8, 16)) -> float:
    """How far at most a feature of these strides lies from the pixel in the middle of what it sees."""
    worst = 0.0
    for field, shape in fields(name, crop):
        for extent, length, count in zip(field, crop, shape, strict=True):
            if extent.jump in strides:
                seen = extent.middle + extent.jump * torch.arange(count, dtype=torch.float64)
                worst = max(worst, float((seen - positions(length, count, align_corners)).abs().max()))
    return worst


@pytest.mark.parametrize('name', CONVOLUTIONAL)
@pytest.mark.parametrize('side', [321, 513, 769, 801])
def test_features_of_a_crop_of_8k_plus_1_lie_on_the_pixels_that_resizing_puts_them_on(name, side, uninitialised):
    crop = (side, side)
    strides = {extent.jump for field, _ in fields(name, crop) for extent in field}
    assert strides == ({4, 8, 16} if name == 'deeplabv3plus_r50' else {4, 8})
    assert aligns_corners(crop) and error(name, crop, True) == 0 and error(name, crop, False) > 3


@pytest.mark.parametrize('name', CONVOLUTIONAL)
@pytest.mark.parametrize('side', [512, 800])
def test_features_of_mllcs_crops_err_less_without_aligned_corners(name, side, uninitialised):
    crop = (side, side)
    chosen, other = error(name, crop, False), error(name, crop, True)
    coarsest = 16 if name == 'deeplabv3plus_r50' else 8
    assert not aligns_corners(crop) and chosen == (coarsest - 1) / 2 and other == coarsest - 1


def bases() -> set[tuple[str, str]]:
    """The networks and the data sets that configs put together."""
    found = set()
    for path in project_files('configs/[!_]*/*.py'):
        text = path.read_text()
        for shared in re.findall(r'_base_/([\w-]+)\.py', text):
            text += (ROOT / f'configs/_base_/{shared}.py').read_text()
        named = dict(re.findall(r'/(models|datasets)/([\w.-]+)\.py', text))
        if len(named) == 2:
            # A deeper ResNet has the same strides.
            found.add((named['models'].replace('plus_r101', 'plus_r50'), named['datasets']))
    return found


@cache
def crop_of(dataset: str) -> tuple[int, int]:
    return tuple(Config.fromfile(ROOT / f'configs/_base_/datasets/{dataset}.py').crop_size)


NETWORKS_AND_CROPS = {(network, crop_of(dataset)) for network, dataset in bases()}


@pytest.mark.parametrize(('name', 'crop'), sorted(NETWORKS_AND_CROPS))
def test_every_networks_features_err_least_as_they_are_resized(name, crop, uninitialised):
    strides = tuple({extent.jump for field, _ in fields(name, crop) for extent in field})
    chosen = aligns_corners(crop)
    assert error(name, crop, chosen, strides) <= error(name, crop, not chosen, strides)


def with_auxiliary(**keys) -> dict:
    """The tiny segmentor with two auxiliary heads; the first has these keys."""
    segmentor = tiny.segmentor()
    del segmentor['decode_head']['align_corners']
    head = dict(type='FCNHead', in_channels=32, in_index=2, channels=4, num_convs=1, concat_input=False, num_classes=4)
    segmentor['auxiliary_head'] = [dict(head, **keys), dict(head)]
    return segmentor


def test_all_heads_resize_as_the_crop_asks():
    for crop, expected in (((33, 41), True), ((32, 41), False), ((33, 40), False), (None, False)):
        segmentor = Branch(with_auxiliary(), crop=crop).segmentor
        assert segmentor.align_corners is expected
        heads = [segmentor.decode_head, *segmentor.auxiliary_head]
        assert all(head.align_corners is expected for head in heads)


def test_what_a_head_says_wins_and_the_decode_head_speaks_for_the_others():
    config = with_auxiliary(align_corners=True)
    config['decode_head']['align_corners'] = False
    before = copy.deepcopy(config)
    segmentor = Branch(config, crop=(33, 33)).segmentor
    assert config == before and segmentor.decode_head.align_corners is False
    assert [head.align_corners for head in segmentor.auxiliary_head] == [True, False]


def test_both_branches_of_a_method_and_what_they_hand_out_follow_the_crop():
    student = with_auxiliary()
    for size, expected in ((33, True), (32, False)):
        model = tiny.build('MeanTeacher', student=student, preprocessor=dict(size=(size, size)))
        for branch in (model.student, model.teacher):
            out = branch(torch.zeros(2, 3, size, size))
            assert out.align_corners is branch.segmentor.align_corners is expected
            assert out.split([1, 1])[1].align_corners is expected


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize(('before', 'after'), [(33, 9), (321, 81), (32, 8), (30, 7), (9, 33), (8, 32), (7, 7), (5, 1)])
def test_labels_are_those_of_the_pixel_nearest_to_where_resizing_looks(before, after, align_corners):
    labels = torch.arange(before)[None, :, None].expand(2, before, 3)
    resized = resize_labels(labels, (after, 3), align_corners)
    # A single point stands in the middle.
    expected = (positions(before, after, align_corners and after > 1) + 0.5).floor().long()
    assert resized.dtype == labels.dtype and torch.equal(resized[1, :, 2], expected)
    turned = resize_labels(labels.transpose(1, 2), (3, after), align_corners)
    assert torch.equal(turned.transpose(1, 2), resized)


def test_masks_stay_masks_and_labels_of_aligned_crops_are_every_strides():
    mask = torch.rand(2, 17, 33) > 0.5
    assert torch.equal(resize_labels(mask, (5, 9), True), mask[:, ::4, ::4])
    assert torch.equal(resize_labels(mask[:, :16, :32], (4, 8)), mask[:, 2:16:4, 2:32:4])


class Resizings(TorchFunctionMode):
    """Notes whether bilinear resizings of maps align corners."""

    def __init__(self) -> None:
        super().__init__()
        self.aligned: list[bool] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function is F.interpolate and result.shape != args[0].shape:
            self.aligned.append(bool(args[4] if len(args) > 4 else kwargs.get('align_corners')))
        return result


@pytest.mark.parametrize('mpmc', [False, True], ids=['alone', 'with MPMC'])
@pytest.mark.parametrize('method', tiny.METHODS)
@pytest.mark.parametrize(('size', 'expected'), [(33, True), (32, False)])
def test_whatever_a_step_resizes_lies_as_the_crop_asks(method, mpmc, size, expected, monkeypatch):
    labels = []

    def nearest(before, after, align_corners, device):
        labels.append(align_corners)
        return nearest_pixel(before, after, align_corners, device)

    nearest_pixel = resizing._nearest
    monkeypatch.setattr(resizing, '_nearest', nearest)
    student = tiny.segmentor()
    del student['decode_head']['align_corners']
    plugins = [tiny.MPMC] if mpmc else []
    model = tiny.build(method, student=student, preprocessor=dict(size=(size, size)), plugins=plugins).train()
    streams = model.data_preprocessor(tiny.batch(2, 2), training=True)['inputs']
    with Resizings() as seen:
        model.loss(streams)
    assert seen.aligned and set(seen.aligned) == {expected}
    assert set(labels) <= {expected} and bool(labels) == (method in ('ESL', 'U2PL', 'AEL', 'MLLC'))
