"""The ResNet-101 configs of every method train as METHODS.md and the methods' pages say."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import pytest
from mmengine.config import Config

import mmsemi.models  # noqa: F401
from mmsemi.registry import MODELS
from tests.project import ROOT, project_files


class Schedule(NamedTuple):
    """How a network is trained; rate and weight decay are SGD's, ``heads`` is the factor of all but the backbone."""

    crop: int | tuple[int, int]
    epochs: int
    rate: float
    heads: float
    decay: float
    stride: int
    ohem: float | None = None  # the share of pixels kept at least
    aux: bool = False


# VOC blender and classic share their schedule.
VOC = {
    'supervised_r101': Schedule(512, 80, 1e-3, 10, 1e-4, 16),
    'fixmatch_r101': Schedule(512, 80, 1e-3, 10, 1e-4, 16),
    'mean_teacher_r101': Schedule(512, 80, 1e-3, 10, 1e-4, 16),
    'unimatch_r101': Schedule(321, 80, 1e-3, 10, 1e-4, 16),
    'prevmatch_r101': Schedule(321, 80, 1e-3, 10, 1e-4, 16),
    'corrmatch_r101': Schedule(321, 80, 1e-3, 10, 1e-4, 8),
    'dssn_r101': Schedule(513, 100, 2e-3, 10, 1e-4, 16),
    'esl_r101': Schedule(513, 80, 1e-3, 10, 1e-4, 8),
    'mllc_r101': Schedule(512, 150, 1e-3, 10, 1e-4, 16),
    'mllc_dlv2-r101': Schedule(321, 150, 1e-3, 1, 5e-4, 8),
    'augseg_r101': Schedule(513, 80, 1e-3, 10, 1e-4, 16),
    'ael_r101': Schedule(513, 80, 1e-3, 10, 1e-4, 8),
    'u2pl_r101': Schedule(513, 80, 1e-3, 10, 1e-4, 8),
}
VOC_513 = {name: VOC[name]._replace(crop=513) for name in ('corrmatch_r101', 'unimatch_r101')}
CITYSCAPES = {
    'supervised_r101': Schedule(800, 100, 1e-2, 1, 5e-4, 16),
    'fixmatch_r101': Schedule(800, 100, 1e-2, 1, 5e-4, 16),
    'mean_teacher_r101': Schedule(800, 100, 1e-2, 1, 5e-4, 16),
    'unimatch_r101': Schedule(801, 240, 5e-3, 1, 1e-4, 16, ohem=200_000 / (2 * 801**2)),
    'corrmatch_r101': Schedule(801, 240, 5e-3, 1, 1e-4, 8, ohem=100_000 / (2 * 801**2)),
    'dssn_r101': Schedule(801, 240, 5e-3, 1, 1e-4, 16, ohem=100_000 / 801**2),
    'esl_r101': Schedule(769, 200, 1e-2, 10, 5e-4, 8, ohem=100_000 / (2 * 769**2), aux=True),
    'mllc_r101': Schedule(800, 100, 1e-2, 1, 5e-4, 16),
    'mllc_dlv2-r101': Schedule((256, 512), 100, 4e-3, 1, 5e-4, 8),
    'augseg_r101': Schedule(800, 240, 1e-2, 1, 5e-4, 16, ohem=100_000 / (4 * 800**2)),
    'ael_r101': Schedule(801, 200, 1e-2, 10, 5e-4, 8, ohem=100_000 / (2 * 769**2), aux=True),
    'u2pl_r101': Schedule(801, 200, 1e-2, 1, 5e-4, 8, ohem=100_000 / (2 * 769**2), aux=True),
}
SCHEDULES = {'voc': VOC, 'voc_513': VOC_513, 'voc_classic': VOC, 'cityscapes': CITYSCAPES}
PATHS = {
    path.stem: path
    for benchmark in SCHEDULES
    for path in project_files(f'configs/*/*r101_{benchmark}.py')
    if path.parent.name != 'mpmc'
}
# Keys of `model`, set in the config or by default, and the momentum of the teacher.
HALVES = {'sup_weight': 0.5, 'unsup_weight': 0.5}
SETTINGS: dict[str, dict[str, Any]] = {
    'supervised': {'momentum': None, 'data_preprocessor.num_strong': 0},
    'fixmatch': {'momentum': None, 'threshold': 0.95, 'unsup_weight': 1.0},
    'mean_teacher': {'momentum': 0.996, 'threshold': 0.95, 'unsup_weight': 1.0},
    'unimatch': {
        'momentum': None, 'threshold': 0.95, 'strong_weight': 0.25, 'feature_weight': 0.5, 'feature_dropout': 0.5,
        'data_preprocessor.num_strong': 2, **HALVES,
    },
    'prevmatch': {
        'momentum': None, 'threshold': 0.95, 'strong_weight': 0.25, 'feature_weight': 0.5, 'feature_dropout': 0.5,
        'data_preprocessor.num_strong': 2, 'length': 8, 'teachers': 3, 'random_number': True,
        'previous_threshold': 0.9, 'previous_weight': 1.0, **HALVES,
    },
    'corrmatch': {
        'momentum': None, 'threshold': 0.85, 'dynamic_threshold': True, 'threshold_momentum': 0.999, 'hard_weight': 0.5,
        'soft_weight': 0.25, 'corr_weight': 0.25, 'sup_corr_share': 0.5, 'soft_loss': 'kl', 'num_shapes': 128,
        'sampling': 'random', 'feature_dropout': 0.5, 'heads.correlation.source': 'backbone', 'region_threshold': None,
        'region_cascade': False, 'mix_soft_target': True, **HALVES,
    },
    'dssn': {
        'momentum': 0.996, 'threshold': 0.92, 'class_ratio': 0.96, 'contrast_weight': 0.01, 'label_weight': 0.25,
        'normalize_logits': True, 'contrast_pixels': 'same', 'maxima_of': 'image', 'low_level_start': 0.0,
        'loss_scale': 1.0, 'feature_dropout': 0.5, 'data_preprocessor.num_strong': 2,
    },
    'esl': {
        'momentum': 0.99, 'threshold': 0.95, 'dominant_mass': 0.95, 'top_n': None, 'soft_weight': 0.2,
        'contrast_weight': 0.1, 'parts': 5, 'prototype_momentum': 0.99, 'queue_length': 256, 'negatives': 255,
        'temperature': 0.5, 'anchor_ratio': 0.1, 'heads.projector.out_channels': 512, 'heads.projector.num_convs': 2,
        'heads.projector.hidden_channels': 256,
        'data_preprocessor.strong': None, 'data_preprocessor.padding': 'mean',
        'data_preprocessor.cutmix': dict(type='FixedAreaCutMix', sides='width', prob=0.5),
    },
    'mllc': {
        'momentum': 0.99, 'threshold': 0.95, 'slg_weight': 0.1, 'clg_weight': 1.0, 'intra_weight': 0.5,
        'temperature': 0.1, 'prototype_momentum': 0.99, 'unsup_weight': 1.0, 'unsup_warmup': 1,
        'heads.embedding.out_channels': 256, 'heads.graph.num_layers': 2, 'heads.graph.num_neighbors': 20,
        'heads.graph.gamma': 1.0, 'heads.graph.alpha': 0.2,
    },
    'augseg': {
        'momentum': 0.999, 'copy_epochs': 1, 'threshold': 0.95, 'unsup_weight': 1.0,
        'label_prob': None, 'label_box': dict(type='BetaCutMix', beta=(8, 2)),
        'data_preprocessor.strong': dict(type='RandomIntensity', max_ops=3),
        'data_preprocessor.cutmix': dict(type='BetaCutMix', beta=(4, 4)), 'data_preprocessor.padding': 'mean',
    },
    'ael': {
        'momentum': 0.99, 'threshold': 0.0, 'confidence_momentum': 0.999, 'copy_paste_prob': 0.5,
        'sampling_power': 0.5, 'confidence_power': 2.0, 'labeled_weight': 1.0, 'adaptive_cutmix': True,
        'min_area': 0.005, 'paste_classes': 1, 'paste_scale': (0.2, 1.0), 'normalised_by': 'image',
        'sampled_by': 'teacher', 'forget_absent': False, 'joint_pass': True, 'data_preprocessor.strong': None,
        'data_preprocessor.cutmix': dict(type='FixedAreaCutMix', sides='logarithm', prob=1.0),
        'data_preprocessor.padding': 'mean',
    },
    'u2pl': {
        'momentum': 0.99, 'copy_epochs': 1, 'unsup_start': 1, 'unsup_warmup': 0.0, 'unreliable': 0.2,
        'dynamic_partition': True, 'confident': None, 'threshold': 0.3, 'low_rank': 3, 'high_rank': 20,
        'queries': 256, 'negatives': 50, 'temperature': 0.5, 'queue_length': 30000, 'background_length': 50000,
        'contrast_weight': 1.0, 'heads.representation.out_channels': 256,
        'data_preprocessor.strong': None, 'data_preprocessor.padding': 'mean',
        'data_preprocessor.cutmix': dict(type='FixedAreaCutMix', sides='width', prob=0.5),
    },
}  # fmt: skip
ON_CITYSCAPES: dict[str, dict[str, Any]] = {
    'unimatch': {'threshold': 0.0},
    'corrmatch': {'threshold': 0.0, 'dynamic_threshold': False, 'region_threshold': 0.85},
    'u2pl': {'copy_epochs': 0, 'unsup_start': 0},
    'augseg': {'threshold': 0.0, 'momentum': 0.996},
    'ael': {'paste_classes': 3},
    'fixmatch': {'threshold': 0.0},
    'mean_teacher': {'threshold': 0.0},
}


def of(name: str) -> tuple[Config, str, str]:
    """A config, what of its name stands before the benchmark, and the benchmark."""
    network, benchmark = name.split('r101_')
    return Config.fromfile(PATHS[name]), f'{network}r101', benchmark


def setting(cfg: Config, key: str) -> Any:
    """A key of the model, as configured or by default."""
    if key in ('momentum', 'copy_epochs'):
        return cfg.default_hooks.get('teacher', {}).get(key)
    node, kind = cfg.model, MODELS.get(cfg.model.type)
    *outer, last = key.split('.')
    for part in outer:
        node = node[part]
        kind = MODELS.get(node.type) if 'type' in node else None
    if last in node:
        return node[last]
    signatures = (inspect.signature(base.__init__).parameters for base in kind.__mro__)
    return next(parameters[last].default for parameters in signatures if last in parameters)


def output_stride(student: dict) -> int:
    """Of a ResNet: its stem's 4 and the strides of its stages."""
    stride = 4
    for step in student['backbone']['strides']:
        stride *= step
    return stride


@pytest.mark.parametrize('name', PATHS)
def test_a_config_trains_as_documented(name):
    cfg, network, benchmark = of(name)
    row = SCHEDULES[benchmark][network]
    crop = row.crop if isinstance(row.crop, tuple) else (row.crop, row.crop)
    assert tuple(cfg.crop_size) == tuple(cfg.model.data_preprocessor.size) == crop
    [cropping] = [x for x in cfg.train_dataloader.dataset.pipeline if x.type == 'RandomCrop']
    assert tuple(cropping.crop_size) == crop

    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9) and cfg.train_cfg.max_epochs == row.epochs
    assert (optimizer.lr, optimizer.weight_decay) == (row.rate, row.decay)
    factors = cfg.optim_wrapper.get('paramwise_cfg', {}).get('custom_keys', {})
    assert {key: value.lr_mult for key, value in factors.items()} == (
        dict.fromkeys(('decode_head', 'auxiliary_head', 'heads.'), 10) if row.heads == 10 else {}
    )
    [schedule] = cfg.param_scheduler
    assert (schedule.type, schedule.power, schedule.eta_min, schedule.convert_to_iter_based) == ('PolyLR', 0.9, 0, True)

    student = cfg.model.student
    assert student.backbone.depth == 101 and output_stride(student) == row.stride
    if 'dlv2' in network:
        assert tuple(student.decode_head.dilations) == (6, 12, 18, 24)
    else:
        assert tuple(student.decode_head.dilations) == {16: (1, 6, 12, 18), 8: (1, 12, 24, 36)}[row.stride]
    assert student.decode_head.num_classes == (19 if benchmark == 'cityscapes' else 21)
    loss = student.decode_head.loss_decode
    if row.ohem is None:
        assert loss == dict(type='PixelCrossEntropyLoss')
    else:
        assert loss == dict(type='OhemCrossEntropyLoss', threshold=0.7, min_kept=pytest.approx(row.ohem))
    assert ('auxiliary_head' in student) == row.aux
    if row.aux:
        assert student.auxiliary_head.loss_decode == dict(loss, loss_weight=0.4)
        assert (student.auxiliary_head.in_index, student.auxiliary_head.num_classes) == (2, 19)
    slides = benchmark == 'cityscapes' and 'dlv2' not in network
    assert student.test_cfg.mode == ('slide' if slides else 'whole')
    assert not slides or tuple(student.test_cfg.crop_size) == crop


# Of the ResNet's last stage and the decoder, in the authors' code: dilations of the blocks, last BN of a residual block
# from zero, low-level channels, kernel of the ASPP's bottleneck, channel dropout inside and in front of the classifier.
PLAIN = (None, False, 48, 1, 0.0, 0.1)
NO_DROPOUT = (None, False, 48, 1, 0.0, 0.0)
NETWORKS = {
    'supervised': PLAIN, 'fixmatch': PLAIN, 'mean_teacher': PLAIN, 'mllc': PLAIN, 'esl': PLAIN,
    'unimatch': NO_DROPOUT, 'prevmatch': NO_DROPOUT, 'dssn': NO_DROPOUT, 'corrmatch': NO_DROPOUT,
    'augseg': ((2, 4, 8), True, 48, 1, 0.0, 0.0),
    'u2pl': ((4, 8, 16), True, 256, 3, 0.1, 0.1),
    'ael': ((4, 8, 16), True, 256, 3, 0.1, 0.1),
}  # fmt: skip


@pytest.mark.parametrize('name', [name for name in PATHS if 'dlv2' not in name])
def test_a_config_has_its_authors_network(name):
    cfg, _, _ = of(name)
    backbone, head = cfg.model.student.backbone, cfg.model.student.decode_head
    kernel, inner = head.get('bottleneck_kernel_size', 1), head.get('inner_dropout', 0.0)
    network = (backbone.get('multi_grid'), backbone.zero_init_residual, head.low_level_channels, kernel, inner)
    assert (*network, head.dropout_ratio) == NETWORKS[PATHS[name].parent.name]
    assert head.type == 'DeepLabV3PlusHead' and backbone.contract_dilation


@pytest.mark.parametrize('name', PATHS)
def test_a_config_learns_from_an_eighth_of_the_labels_in_batches_of_8_and_8_on_4_processes(name):
    cfg, network, benchmark = of(name)
    loader = cfg.train_dataloader
    unlabeled = 0 if network == 'supervised_r101' else 2
    assert (loader.sampler.labeled, loader.sampler.unlabeled, loader.batch_size) == (2, unlabeled, 2 + unlabeled)
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=4 * loader.batch_size)
    assert (loader.dataset.labeled, loader.dataset.unlabeled) == ('1/8', 'rest')
    classic = 'ImageSets/Segmentation/train.txt' if benchmark == 'voc_classic' else None
    assert loader.dataset.get('candidates') == classic
    folder = {'cityscapes': 'data/cityscapes'}.get(benchmark, 'data/VOCdevkit/VOC2012')
    assert loader.dataset.dataset.data_root == folder


@pytest.mark.parametrize('name', PATHS)
def test_a_config_has_the_methods_settings(name):
    cfg, _, benchmark = of(name)
    method = PATHS[name].parent.name
    expected = {**SETTINGS[method], **(ON_CITYSCAPES.get(method, {}) if benchmark == 'cityscapes' else {})}
    assert {key: setting(cfg, key) for key in expected} == expected
    assert cfg.model.type.lower() == method.replace('_', '')


def test_the_tables_speak_of_all_configs_and_of_no_others():
    tabled = {f'{network}_{benchmark}' for benchmark, rows in SCHEDULES.items() for network in rows}
    tabled -= {f'{network}_voc_classic' for network in ('fixmatch_r101', 'mean_teacher_r101', 'mllc_dlv2-r101')}
    tabled -= {'prevmatch_r101_voc'}
    assert PATHS.keys() == tabled and {path.parent.name for path in PATHS.values()} == SETTINGS.keys()


def differing(config: Any, other: Any, at: str = '') -> set[str]:
    """Keys in which two configs differ."""
    if isinstance(config, dict) and isinstance(other, dict):
        keys = config.keys() | other.keys()
        return set().union(*(differing(config.get(key), other.get(key), f'{at}.{key}' if at else key) for key in keys))
    return set() if config == other else {at}


@pytest.mark.parametrize('path', project_files('configs/*/*_r50_*.py'), ids=lambda path: path.stem)
def test_a_resnet_50_trains_as_the_resnet_101_does(path):
    cfg, deep = Config.fromfile(path), Config.fromfile(path.with_name(path.name.replace('_r50_', '_r101_')))
    for each in (cfg, deep):
        each.pop('network')  # what configs build the student from
    assert differing(cfg._cfg_dict, deep._cfg_dict) == {'model.student.backbone.depth', 'model.student.pretrained'}
    assert (cfg.model.student.backbone.depth, cfg.model.student.pretrained) == (50, 'open-mmlab://resnet50_v1c')


COMMON = {
    'CutMix': dict(prob=0.5, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3)),
    'StrongView': dict(
        jitter=(0.5, 0.5, 0.5, 0.25), jitter_prob=0.8, gray_prob=0.2, blur_sigma=(0.1, 2.0), blur_prob=0.5
    ),
    'RandomIntensity': dict(
        max_ops=3, blur_sigma=(0.1, 2.0), factor=(0.05, 0.95), posterize_bits=(4, 7), solarize_threshold=(1, 255),
        hue=(0.0, 0.5),
    ),
}  # fmt: skip


@pytest.mark.parametrize('view', COMMON)
def test_the_views_are_those_of_the_common_ground(view):
    parameters = inspect.signature(MODELS.get(view)).parameters
    assert {key: parameters[key].default for key in COMMON[view]} == COMMON[view]


@pytest.mark.parametrize('name', [name for name in PATHS if not name.startswith('mllc_dlv2')])
def test_the_weak_view_is_that_of_the_common_ground(name):
    cfg, _, _ = of(name)
    steps = {step.pop('type'): dict(step) for step in cfg.train_dataloader.dataset.pipeline}
    assert (steps['RandomScale'], steps['RandomFlip']) == (dict(ratio_range=(0.5, 2.0)), dict(prob=0.5))
    if PATHS[name].parent.name not in ('supervised', 'augseg', 'esl', 'u2pl', 'ael'):
        assert cfg.model.data_preprocessor.strong == dict(type='StrongView')
    if PATHS[name].parent.name not in ('supervised', 'augseg', 'esl', 'u2pl', 'ael'):
        assert cfg.model.data_preprocessor.cutmix == dict(type='CutMix')
        assert cfg.model.data_preprocessor.padding == 'black'


# UniMatch crops 321 on classic alone; tables 5 and 6 have no host among the configs.
HOSTS = {'unimatch_r101_voc': 'unimatch_r101_voc_513'}
TABLES = ('mpmc_supervised_r101_cityscapes', 'mpmc_mean_teacher_r101_cityscapes')


@pytest.mark.parametrize(
    'path',
    [path for path in project_files('configs/mpmc/mpmc_*_r101_*.py') if path.stem not in TABLES],
    ids=lambda path: path.stem,
)
def test_mpmc_beside_a_host_is_the_host_and_the_plugins_defaults(path):
    host = HOSTS.get(path.stem.removeprefix('mpmc_'), path.stem.removeprefix('mpmc_'))
    expected = Config.fromfile(ROOT / 'configs' / host.split('_r101')[0] / f'{host}.py')
    cfg = Config.fromfile(path)
    assert cfg.model.pop('plugins') == [dict(type='MPMC')]
    assert cfg._cfg_dict == expected._cfg_dict


@pytest.mark.parametrize('name', TABLES)
def test_tables_5_and_6_of_mpmc_train_at_its_crop_with_cross_entropy(name):
    cfg = Config.fromfile(ROOT / f'configs/mpmc/{name}.py')
    assert cfg.model.plugins == [dict(type='MPMC')] and cfg.model.student.backbone.depth == 101
    assert cfg.model.type == ('Supervised' if 'supervised' in name else 'MeanTeacher')
    assert tuple(cfg.crop_size) == tuple(cfg.model.data_preprocessor.size) == (801, 801)
    assert cfg.model.student.decode_head.loss_decode == dict(type='PixelCrossEntropyLoss')
    assert (cfg.model.student.decode_head.num_classes, cfg.model.student.test_cfg.crop_size) == (19, (801, 801))
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.lr, optimizer.weight_decay, cfg.train_cfg.max_epochs) == (1e-2, 5e-4, 240)


CAMVID = {
    'mllc': dict(graph_supervision=1.0, unsup_warmup=5, unsup_weight=0.3),
    'ael': dict(unsup_start=5),
    'u2pl': dict(unsup_start=5),
}
"""What a method does otherwise on CamVid, where labels and images differ, than its paper says."""
OF_SMALL_NETWORKS = {'data_preprocessor', 'student', 'heads', 'queue_length', 'background_length', 'keys_per_step'}


@pytest.mark.parametrize('name', CAMVID)
def test_on_camvid_a_method_differs_from_its_paper_in_what_its_page_says(name):
    ours = Config.fromfile(ROOT / f'configs/{name}/{name}_lite0_camvid.py').model
    papers = Config.fromfile(ROOT / f'configs/_base_/methods/{name}.py').model
    compared = ours.keys() - OF_SMALL_NETWORKS
    assert {key: ours[key] for key in compared if papers.get(key) != ours[key]} == CAMVID[name]
