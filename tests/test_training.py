"""Whole runs: they resume bit for bit, and two ranks do what one would."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.hooks import Hook
from mmengine.model.wrappers import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmsemi import engine
from tests import tiny, tiny_run

GROUPS = dict(type='GN', num_groups=2)


class Kill(Hook):
    """Ends the run as abruptly as Python can."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration:
            raise KeyboardInterrupt


def train(cfg, kill_at: int | None = None, **kwargs) -> Runner:
    cfg = copy.deepcopy(cfg)
    cfg.update(kwargs)
    runner = Runner.from_cfg(cfg)
    if kill_at:
        runner.register_hook(Kill(kill_at))
    runner.train()
    return runner


def saved(work_dir: Path, epoch: int) -> dict:
    return torch.load(work_dir / f'epoch_{epoch}.pth', weights_only=False)


@pytest.mark.parametrize('plugins', [[], [tiny.MPMC]], ids=['alone', 'with MPMC'])
@pytest.mark.parametrize('method', tiny.METHODS)
def test_a_killed_and_resumed_run_equals_a_straight_one_bit_for_bit(method, plugins, tmp_path):
    straight = tiny_run.config(method, tmp_path, tmp_path / 'straight', workers=0, plugins=plugins)
    train(straight)
    broken = tiny_run.config(method, tmp_path, tmp_path / 'broken', workers=0 if plugins else 2, plugins=plugins)
    with pytest.raises(KeyboardInterrupt):
        train(broken, kill_at=3)
    train(broken, resume=True, experiment_name='again')
    a, b = saved(tmp_path / 'straight', 2), saved(tmp_path / 'broken', 2)
    assert a['state_dict'].keys() == b['state_dict'].keys()
    different = [key for key, value in a['state_dict'].items() if not torch.equal(value, b['state_dict'][key])]
    assert not different
    state, other = a['optimizer']['state'], b['optimizer']['state']
    assert all(torch.equal(state[i][k], other[i][k]) for i in state for k in state[i] if torch.is_tensor(state[i][k]))
    if method == 'MLLC':
        assert all(a['state_dict'][f'prototypes.{k}.value'].abs().sum() > 0 for k in (0, 1))
    if method == 'U2PL':
        assert 0 < a['state_dict']['progress'] < 1 and a['state_dict']['queues.pushed'].sum() > 0
    if method == 'ESL':
        assert a['state_dict']['part_prototypes.seen'].any() and a['state_dict']['queues.pushed'].sum() > 0


def test_both_branches_are_evaluated_and_the_log_names_what_it_should(tmp_path):
    train(tiny_run.config('MLLC', tmp_path, tmp_path / 'run', epochs=1))
    (scalars,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    logged = set().union(*lines)
    assert {'student/mIoU', 'teacher/mIoU', 'sup.loss_ce', 'unsup.loss_slg', 'unsup.loss_clg', 'lr'} <= logged
    assert {'unsup.confident', 'unsup.threshold'} <= logged
    assert list((tmp_path / 'run').glob('best_teacher_mIoU_epoch_1.pth'))


def test_the_console_is_spared_the_weight_initialisation(tmp_path, capfd):
    train(tiny_run.config('FixMatch', tmp_path, tmp_path / 'run', epochs=1))
    console = capfd.readouterr()
    assert 'Initialization information' not in console.out + console.err
    assert 'is the same before and after calling `init_weights`' not in console.out + console.err


def test_an_unreadable_unlabeled_image_is_skipped_and_told(tmp_path):
    cfg = tiny_run.config('FixMatch', tmp_path, tmp_path / 'run', epochs=1)
    runner = Runner.from_cfg(cfg)
    dataset = runner.build_dataloader(cfg.train_dataloader, seed=0).dataset
    path = dataset.get_data_info(dataset.num_labeled)['img_path']
    Path(path).write_bytes(b'not an image')
    runner.train()
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert f'Skipped the unlabeled image {path}' in log.read_text() and 'unreadable_images: ' in log.read_text()


def test_a_loss_that_is_not_finite_stops_after_the_last_good_checkpoint(tmp_path):
    cfg = tiny_run.config('FixMatch', tmp_path, tmp_path / 'run')
    runner = Runner.from_cfg(cfg)

    class Break(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
            if runner.iter == 2:
                with torch.no_grad():
                    runner.model.student.segmentor.decode_head.conv_seg.bias.fill_(float('nan'))

    runner.register_hook(Break())
    with pytest.raises(FloatingPointError, match=r'sup.loss_ce.* at iteration 3; .*epoch_1.pth'):
        runner.train()
    assert not (tmp_path / 'run' / 'epoch_2.pth').exists()
    assert all(value.isfinite().all() for value in saved(tmp_path / 'run', 1)['state_dict'].values())


# Two ranks and one


# What a method's step needs, the hooks that move its state, and the state that this must leave behind.
STATES = {
    'Supervised': ({}, [], 'student'),
    'FixMatch': (dict(threshold=0.3), [], 'student'),
    'MeanTeacher': (dict(threshold=0.3), ['EMATeacherHook'], 'teacher'),
    # No random features: ranks draw their own.
    'UniMatch': (dict(threshold=0.3, feature_dropout=0.0), [], 'student'),
    'MLLC': (dict(threshold=0.3), ['EMATeacherHook', 'PrototypeHook'], 'prototypes.0.value'),
    # The same.
    'DSSN': (dict(threshold=0.3, class_ratio=0.8, feature_dropout=0.0), ['EMATeacherHook'], 'teacher'),
    'CorrMatch': (
        dict(threshold=0.3, threshold_momentum=0.5, feature_dropout=0.0, sampling='uniform'),
        ['DynamicThresholdHook'],
        'moving_threshold.value',
    ),
    # No labeled boxes: ranks draw their own.
    'AugSeg': (dict(threshold=0.3, label_prob=0.0), ['EMATeacherHook'], 'teacher'),
    # Nothing random: ranks draw their own.
    'AEL': (
        dict(threshold=0.2, copy_paste_prob=0.0, sampling_power=0.0),
        ['EMATeacherHook', 'ConfidenceHook'],
        'confidence.value',
    ),
    # Random anchors, without a say in what is learned.
    'ESL': (dict(threshold=0.3, contrast_weight=1e-30), ['EMATeacherHook', 'PrototypeHook'], 'queues.value'),
    # The same, and every key is enqueued, since those of a draw differ.
    'U2PL': (
        dict(contrast_weight=1e-30, keys_per_step=600, queue_length=600, background_length=700),
        ['EMATeacherHook', 'PrototypeHook'],
        'queues.value',
    ),
}


def step_through(rank: int, world: int, folder: str) -> None:
    """Take every method, alone and with MPMC, through steps on this rank's part of the batches."""
    torch.set_num_threads(1)
    init_default_scope('mmsemi')
    if world > 1:
        store = f'file://{folder}/store'
        torch.distributed.init_process_group('gloo', init_method=store, rank=rank, world_size=world)
    for method in STATES:
        for plugins in ([], [tiny.MPMC]):
            torch.save(three_steps(rank, world, method, plugins), f'{folder}/{method}-{len(plugins)}-{world}-{rank}.pt')


def three_steps(rank: int, world: int, method: str, plugins: list[dict]) -> tuple[dict, torch.Tensor, float]:
    """The state that three steps leave, the threshold of each, and a number that ranks averaged."""
    arguments, names, _ = STATES[method]
    model = tiny.build(method, norm=GROUPS, plugins=plugins, **arguments).double().train()
    wrapped = MMDistributedDataParallel(model, device_ids=None) if world > 1 else model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    hooks = [getattr(engine, name)() for name in names]
    for hook in hooks:
        hook.before_train(SimpleNamespace(model=wrapped, train_dataloader=tiny.labeled_loader()))
    thresholds = []
    for iteration in range(3):
        streams = tiny.streams_for(model, 4, 4, seed=iteration, mixed=False)
        part = slice(rank * 4 // world, (rank + 1) * 4 // world)
        streams.labels[streams.labels == 255] = 0
        streams.labeled, streams.labels = streams.labeled[part].double(), streams.labels[part]
        streams.weak, streams.valid = streams.weak[part].double(), streams.valid[part]
        streams.strong = tuple(view[part].double() for view in streams.strong)
        for mix in streams.mix:
            mix.mask = mix.mask[part]
        losses = wrapped(streams, mode='loss')
        assert all(value.isfinite().all() for value in losses.values())
        thresholds.append(losses.get('unsup.threshold', torch.zeros(())))
        total, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        runner = SimpleNamespace(model=wrapped, iter=iteration, optim_wrapper=SimpleNamespace())
        for hook in hooks:
            hook.after_train_iter(runner, iteration)
    state = copy.deepcopy(model.state_dict())
    # What ranks gathered apart is averaged at the end of an epoch.
    model.epoch.fill_(rank)
    engine.SyncStatisticsHook().after_train_epoch(SimpleNamespace(model=wrapped))
    return state, torch.stack(thresholds), float(model.epoch)


@pytest.fixture(scope='module')
def stepped(tmp_path_factory) -> Path:
    """Folder of what one process and two ranks left."""
    folder = tmp_path_factory.mktemp('ranks')
    mp.spawn(step_through, (2, str(folder)), nprocs=2)
    step_through(0, 1, str(folder))
    return folder


@pytest.mark.parametrize('plugins', [[], [tiny.MPMC]], ids=['alone', 'with MPMC'])
@pytest.mark.parametrize('method', STATES)
def test_two_ranks_hold_the_state_and_thresholds_of_one_process_with_both_batches(method, plugins, stepped):
    one, thresholds, _ = torch.load(stepped / f'{method}-{len(plugins)}-1-0.pt')
    start = tiny.build(method, norm=GROUPS, plugins=plugins).double().state_dict()
    moved = [key for key, value in one.items() if not torch.equal(value, start[key])]
    assert any(key.startswith(STATES[method][2]) for key in moved), 'the steps must move the state'
    assert not plugins or any('patch_classifier' in key for key in moved)
    assert method not in ('MLLC', 'CorrMatch', 'U2PL') or len(thresholds.unique()) > 1
    for rank in (0, 1):
        state, theirs, statistics = torch.load(stepped / f'{method}-{len(plugins)}-2-{rank}.pt')
        assert statistics == 0.5
        assert torch.allclose(theirs, thresholds, atol=1e-10)
        for key, value in one.items():
            if value.is_floating_point():
                assert torch.allclose(value, state[key], atol=1e-8), key
            else:
                assert torch.equal(value, state[key]), key


def test_every_method_steps_on_two_ranks():
    assert STATES.keys() == tiny.METHODS.keys()
