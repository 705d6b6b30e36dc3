"""The supervised baseline of every config: the method's network, crop, loss and schedule, and nothing of the method."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmsemi.apis import launch
from mmsemi.apis.baseline import make_baseline
from mmsemi.apis.launch import prepare_config
from mmsemi.registry import HOOKS, MODELS
from tests import tiny_run
from tests.project import ROOT, project_files, without_weights
from tests.test_configs import uninitialised  # noqa: F401
from tests.test_method_configs import differing
from tests.tools.test_launch import arguments

CONFIGS = project_files('configs/[!_]*/*.py')
# What of a baseline may differ from the method: what the method does with unlabeled images, and what its rate counts.
OF_THE_METHOD = (
    'model.',
    'default_hooks.',
    'custom_hooks',
    'train_dataloader.batch_size',
    'train_dataloader.sampler.unlabeled',
    'train_dataloader.sampler.pace',
    'auto_scale_lr.base_batch_size',
)
METHOD_HOOKS = {'teacher', 'prototypes', 'threshold', 'confidence'}


def baseline(path) -> tuple[Config, Config]:
    """A method's config and its baseline's."""
    method = Config.fromfile(path)
    derived = copy.deepcopy(method)
    make_baseline(derived)
    return method, derived


@pytest.fixture(scope='module')
def pairs() -> dict[str, tuple[Config, Config]]:
    return {path.relative_to(ROOT).as_posix(): baseline(path) for path in CONFIGS}


def test_a_baseline_differs_from_its_method_in_nothing_else(pairs):
    for name, (method, derived) in pairs.items():
        changed = differing(method._cfg_dict, derived._cfg_dict)
        assert all(key.startswith(OF_THE_METHOD) for key in changed), name
        assert derived.model.student == method.model.student, name
        assert {key for key in changed if key.startswith('default_hooks.')} <= {
            'default_hooks.checkpoint.save_best',
            *(f'default_hooks.{hook}' for hook in METHOD_HOOKS),
        }, name
        views = dict(derived.model.data_preprocessor, strong=None, num_strong=0, cutmix=None)
        assert derived.model == dict(type='Supervised', student=method.model.student, data_preprocessor=views), name
        kept = ('size', 'mean', 'std', 'bgr_to_rgb')
        assert all(views[key] == method.model.data_preprocessor[key] for key in kept), name


def test_a_baseline_learns_as_many_labeled_images_in_as_many_iterations_at_the_rate_that_is_meant_for_them(pairs):
    for name, (method, derived) in pairs.items():
        before, after = method.train_dataloader.sampler, derived.train_dataloader.sampler
        assert (after.labeled, after.unlabeled) == (before.labeled, 0), name
        assert derived.train_dataloader.batch_size == before.labeled, name
        assert after.get('pace', after.labeled) == (before.unlabeled or before.labeled), name
        images = before.labeled + before.unlabeled
        base = method.auto_scale_lr.base_batch_size * before.labeled / images
        assert derived.auto_scale_lr.base_batch_size == base, name


def test_a_baseline_keeps_the_students_best_checkpoint_and_no_hook_of_the_method(pairs):
    for name, (_, derived) in pairs.items():
        assert derived.default_hooks.checkpoint.save_best in ('student/mIoU', 'student/mDice'), name
        assert not METHOD_HOOKS & derived.default_hooks.keys(), name


def test_every_baseline_builds(pairs, uninitialised):  # noqa: F811
    built = []
    for name, (_, derived) in pairs.items():
        derived = without_weights(copy.deepcopy(derived))
        prepare_config(derived, launcher='none')
        # Many configs share a baseline.
        if derived.model not in built:
            model = MODELS.build(derived.model)
            assert type(model).__name__ == 'Supervised' and model.branches == ('student',), name
            assert not len(model.plugins) and not model.student.heads, name
            built.append(derived.model)
        for key, hook in derived.default_hooks.items():
            assert key == 'visualization' or HOOKS.build(hook), name


def test_a_plugin_or_another_host_makes_no_other_baseline(pairs):
    for name, (_, derived) in pairs.items():
        if name.startswith('configs/mpmc/mpmc_') and 'supervised' not in name and 'shapes' not in name:
            inherited = re.search(r"^_base_ = '\.\./(\w+/[\w-]+\.py)'", (ROOT / name).read_text(), re.MULTILINE)
            if inherited is None or name.endswith('mpmc_mean_teacher_r101_cityscapes.py'):
                continue  # MPMC's tables 5 and 6 have a protocol of their own
            host = pairs.get(f'configs/{inherited[1]}')
            assert host is None or not differing(derived._cfg_dict, host[1]._cfg_dict), name


def test_the_baseline_of_supervised_is_itself(pairs):
    method, derived = pairs['configs/supervised/supervised_r101_voc.py']
    assert not differing(method._cfg_dict, derived._cfg_dict)


@pytest.mark.parametrize(('method', 'mpmc'), [('MLLC', True), ('ESL', False), ('CorrMatch', False), ('AEL', True)])
def test_a_baseline_trains_as_long_as_its_method_and_is_validated(method, mpmc, drawn, tmp_path):
    cfg = tiny_run.config(method, drawn, tmp_path, mpmc=mpmc)
    make_baseline(cfg)
    losses = tiny_run.Losses()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(losses)
    runner.train()
    assert len(losses.steps) == 4 and tiny_run.are_finite(losses.steps)
    assert {name for step in losses.steps for name in step} == {'loss', 'sup.loss_ce'}
    state = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)['state_dict']
    assert all(name.startswith('student.segmentor.') or name == 'epoch' for name in state)


def test_loss_weights_of_the_method_are_none_of_the_baselines():
    _, derived = baseline(ROOT / 'configs/unimatch/unimatch_r18_shapes.py')
    assert MODELS.build(derived.model).sup_weight == 1


def test_hooks_of_the_user_stay_and_those_of_the_method_go_wherever_they_stand():
    cfg = Config.fromfile(ROOT / 'configs/mean_teacher/mean_teacher_r18_shapes.py')
    cfg.default_hooks.my_teacher = dict(type='EMATeacherHook', momentum=0.5)
    cfg.default_hooks.checkpoint.save_best = ['teacher/mIoU', 'student/mIoU']
    cfg.custom_hooks = [dict(type='EmptyCacheHook'), dict(type='EMATeacherHook')]
    make_baseline(cfg)
    assert 'my_teacher' not in cfg.default_hooks and cfg.custom_hooks == [dict(type='EmptyCacheHook')]
    assert cfg.default_hooks.checkpoint.save_best == ['student/mIoU', 'student/mIoU']


def test_the_flag_derives_it_into_a_folder_of_its_own():
    options = {'train_dataloader.dataset.labeled': 92, 'model.student.decode_head.dropout_ratio': 0.2}
    args = arguments('unimatch/unimatch_r101_voc.py', cfg_options=options, baseline=True, batch=[8, 16])
    cfg = launch.load_config(args)
    assert cfg.model.type == 'Supervised' and cfg.work_dir == 'work_dirs/unimatch_r101_voc_baseline'
    assert cfg.train_dataloader.dataset.labeled == 92 and cfg.model.student.decode_head.dropout_ratio == 0.2
    sampler = cfg.train_dataloader.sampler
    assert (sampler.labeled, sampler.unlabeled, sampler.pace) == (8, 0, 16)
    assert launch.load_config(arguments('unimatch/unimatch_r101_voc.py')).model.type == 'UniMatch'
    args.work_dir = 'mine'
    assert launch.load_config(args).work_dir == 'mine'
