"""What a run does with the folder it writes into, and with the validation in which it was ended."""

from __future__ import annotations

import copy
import json
import logging
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmsemi.datasets import SemiDataset
from mmsemi.engine import CheckpointError, CheckpointHook, Stopped, checkpoints, choose_train_loop
from mmsemi.engine.hooks.deferred_runtime_info_hook import LEAST_KEPT
from mmsemi.engine.stopping import shield_workers
from tests import tiny_run


class In(Hook):
    """Calls ``action(runner)`` at ``place``, each time or at one iteration."""

    priority = 'LOW'

    def __init__(self, place: str, action, iteration: int | None = None) -> None:
        self.action, self.iteration = action, iteration
        setattr(self, place, self._act)

    def _act(self, runner, *args, **kwargs) -> None:
        if self.iteration is None or runner.iter == self.iteration:
            self.action(runner)


def interrupt(runner) -> None:
    raise KeyboardInterrupt


def terminate(runner) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def train(cfg, *hooks: Hook, **kwargs) -> Runner:
    train.number += 1
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(copy.deepcopy(kwargs))  # which it changes
    cfg.experiment_name = cfg.visualizer.name = f'{cfg.experiment_name}-{train.number}'
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


train.number = 0


def names(folder: Path) -> set[str]:
    return {path.name for path in checkpoints.files(folder)}


def validations(work_dir: Path) -> list[int]:
    files = sorted(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime)
    lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return [line['step'] for line in lines if 'student/mIoU' in line]


@pytest.fixture
def cfg(drawn, tmp_path):
    cfg = tiny_run.config('Supervised', drawn, tmp_path / 'run')
    cfg.train_cfg.val_begin = 99
    return cfg


def test_the_folder_of_another_run_is_refused_or_set_aside_and_nothing_is_deleted(cfg, tmp_path):
    folder = tmp_path / 'run'
    train(cfg)
    there = {path.name: path.read_bytes() for path in checkpoints.files(folder)}
    assert there.keys() == {'epoch_1.pth', 'epoch_2.pth'}
    with pytest.raises(CheckpointError, match=r'holds the checkpoints of another run .*--overwrite'):
        train(cfg)
    assert {path.name: path.read_bytes() for path in checkpoints.files(folder)} == there
    train(cfg, **{'default_hooks.checkpoint.overwrite': True})
    (aside,) = folder.glob('replaced_*')
    assert {path.name: path.read_bytes() for path in checkpoints.files(aside)} == there
    assert (aside / checkpoints.LAST).is_file()


def test_a_run_goes_on_from_the_newest_whole_checkpoint_without_last_checkpoint_and_elsewhere(cfg, tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        train(cfg, In('after_train_iter', interrupt, 3), **{'default_hooks.checkpoint.by_epoch': False})
    folder = (tmp_path / 'run').rename(tmp_path / 'moved')
    (folder / checkpoints.LAST).unlink()
    (folder / 'iter_3.pth').write_bytes(b'')
    (folder / 'iter_9.pth').write_text('foreign')
    losses = tiny_run.Losses()
    train(cfg, losses, resume=True, work_dir=str(folder))
    assert len(losses.steps) == 2
    log = ''.join(path.read_text() for path in folder.glob('*/*.log'))
    assert 'Passed over: The checkpoint' in log and 'iter_3.pth is empty' in log and 'iter_9.pth' in log
    assert (folder / 'iter_9.pth').read_text() == 'foreign'


def test_nothing_to_go_on_from_is_said_and_starts_from_scratch(cfg, tmp_path):
    losses = tiny_run.Losses()
    train(cfg, losses, resume=True)
    assert len(losses.steps) == 4
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert 'holds no checkpoint to go on from; training starts from scratch' in log.read_text()


def test_going_on_from_an_older_checkpoint_sets_the_later_ones_aside(cfg, tmp_path):
    train(cfg)
    train(cfg, resume=True, load_from=str(tmp_path / 'run/epoch_1.pth'))
    (aside,) = (tmp_path / 'run').glob('superseded_*')
    assert names(aside) == {'epoch_2.pth'} and names(tmp_path / 'run') == {'epoch_1.pth', 'epoch_2.pth'}


def test_weights_alone_are_not_gone_on_from(cfg, tmp_path):
    train(cfg, **{'train_cfg.max_epochs': 1})
    content = checkpoints.read(tmp_path / 'run/epoch_1.pth')
    content.pop('optimizer')
    checkpoints.write(content, tmp_path / 'weights.pth')
    with pytest.raises(CheckpointError, match=r'no state of a training .*load_from'):
        train(cfg, resume=True, load_from=str(tmp_path / 'weights.pth'), work_dir=str(tmp_path / 'other'))


def test_the_best_checkpoint_goes_on_bit_for_bit(cfg, tmp_path):
    validated = {'train_cfg.val_begin': 1}
    train(cfg, **validated)
    (best,) = (path for path in checkpoints.files(tmp_path / 'run') if path.name.startswith('best_'))
    straight = checkpoints.read(tmp_path / 'run/epoch_2.pth')
    assert best.name.endswith('epoch_1.pth') or best.name.endswith('epoch_2.pth')
    assert set(checkpoints.read(best)) == set(straight)
    if checkpoints.read(best)['meta']['epoch'] == 1:
        rest = tmp_path / 'rest'
        train(cfg, resume=True, load_from=str(best), work_dir=str(rest), **validated)
        again = checkpoints.read(rest / 'epoch_2.pth')
        assert all(torch.equal(again['state_dict'][name], value) for name, value in straight['state_dict'].items())


def test_one_kept_checkpoint_and_the_best_are_all_there_is(cfg, tmp_path):
    options = {'default_hooks.checkpoint.max_keep_ckpts': 1, 'train_cfg.val_begin': 1}
    train(cfg, **options)
    kept = names(tmp_path / 'run')
    assert len(kept) == 2 and 'epoch_2.pth' in kept and any(name.startswith('best_student_mIoU') for name in kept)
    for name in kept:
        torch.load(tmp_path / 'run' / name, weights_only=True)


def test_a_checkpoint_by_the_clock_is_replaced_by_the_next(cfg, tmp_path):
    seen = []
    look = In('before_train_iter', lambda runner: seen.append(names(tmp_path / 'run')))
    train(cfg, look, **{'default_hooks.checkpoint.every_minutes': 1e-6})
    assert seen == [set(), {'iter_1.pth'}, {'epoch_1.pth'}, {'epoch_1.pth', 'iter_3.pth'}]
    assert names(tmp_path / 'run') == {'epoch_1.pth', 'epoch_2.pth'}
    with pytest.raises(ValueError, match='every_minutes must be above 0'):
        CheckpointHook(every_minutes=0)


@pytest.mark.parametrize('end', [interrupt, terminate], ids=['killed', 'stopped'])
def test_a_run_that_ends_in_its_last_validation_is_validated_when_it_goes_on(end, cfg, tmp_path):
    options = {'train_cfg.val_begin': 1, 'train_cfg.val_interval': 2}
    # Without a checkpoint at the end of an epoch, the one who is stopped writes one.
    if end is terminate:
        options['default_hooks.checkpoint.interval'] = 9
        options['default_hooks.checkpoint.save_last'] = False
    with pytest.raises(Stopped if end is terminate else KeyboardInterrupt):
        train(cfg, In('before_val_iter', end), **options)
    assert not validations(tmp_path / 'run')
    train(cfg, resume=True, **options)
    assert validations(tmp_path / 'run') == [4]
    assert any(name.startswith('best_') for name in names(tmp_path / 'run'))
    train(cfg, resume=True, **options)
    assert validations(tmp_path / 'run') == [4], 'what was validated is not validated again'


def test_a_run_by_iterations_goes_on_in_the_middle_of_an_epoch_bit_for_bit(cfg, tmp_path):
    options = {'train_cfg': dict(_delete_=True, type='ResumableIterLoop', max_iters=5, val_interval=99)}
    options.update({'default_hooks.checkpoint.by_epoch': False, 'default_hooks.checkpoint.max_keep_ckpts': -1})
    losses, rest = tiny_run.Losses(), tiny_run.Losses()
    train(cfg, losses, **options)
    assert len({str(step) for step in losses.steps}) == 5
    other = str(tmp_path / 'rest')
    train(cfg, rest, resume=True, load_from=str(tmp_path / 'run/iter_3.pth'), work_dir=other, **options)
    assert rest.steps == losses.steps[3:]
    a, b = (checkpoints.read(tmp_path / name / 'iter_5.pth') for name in ('run', 'rest'))
    assert all(torch.equal(b['state_dict'][name], value) for name, value in a['state_dict'].items())


@pytest.mark.parametrize(
    ('asked', 'loop'),
    [
        (dict(by_epoch=True, max_epochs=2), 'ResumableEpochLoop'),
        (dict(by_epoch=False, max_iters=2), 'ResumableIterLoop'),
        (dict(type='EpochBasedTrainLoop', max_epochs=2), 'ResumableEpochLoop'),
        (dict(type='Mine', max_epochs=2), 'Mine'),
    ],
)
def test_training_goes_on_in_the_middle_of_an_epoch_however_its_loop_was_named(asked, loop):
    cfg = Config(dict(train_cfg=asked))
    choose_train_loop(cfg)
    assert cfg.train_cfg.type == loop and 'by_epoch' not in cfg.train_cfg


def test_accumulated_gradients_are_waited_for(cfg, tmp_path):
    options = {'optim_wrapper.accumulative_counts': 2, 'default_hooks.checkpoint.every_minutes': 1e-6}
    with pytest.raises(Stopped):
        train(cfg, In('before_train_iter', terminate, 2), **options)
    assert (tmp_path / 'run' / checkpoints.LAST).read_text() == 'iter_4.pth\n'


def test_a_training_that_ends_within_accumulated_passes_has_its_last_checkpoint(cfg, tmp_path):
    # The optimizer steps at the last iteration, with what it has gathered.
    options = {'train_cfg': dict(_delete_=True, type='ResumableIterLoop', max_iters=5, val_interval=99)}
    options.update({'optim_wrapper.accumulative_counts': 4, 'default_hooks.checkpoint.by_epoch': False})
    train(cfg, **options, **{'default_hooks.checkpoint.interval': 100})
    assert 'iter_5.pth' in names(tmp_path / 'run')


def test_the_images_of_a_run_are_listed_once_for_all_its_checkpoints(cfg, monkeypatch):
    asked = []
    listed = SemiDataset.unlabeled_ids.fget
    monkeypatch.setattr(SemiDataset, 'unlabeled_ids', property(lambda self: asked.append(1) or listed(self)))
    train(cfg, **{'default_hooks.checkpoint.every_minutes': 1e-6})
    assert len(asked) == 1


def test_a_message_hub_stays_small_and_plain(cfg, tmp_path):
    runner = train(cfg, **{'train_cfg.max_epochs': 1})
    history = runner.message_hub.log_scalars['train/loss']
    for _ in range(3 * LEAST_KEPT):
        history.update(1.0)
    assert len(history.data[0]) == LEAST_KEPT
    hub = checkpoints.read(tmp_path / 'run/epoch_1.pth')['message_hub']
    assert isinstance(hub['log_scalars']['train/loss']['log'], list)


def test_what_cannot_be_plain_is_left_out_of_the_hub_and_named_elsewhere(caplog):
    state = dict(log_scalars={}, runtime_info=dict(a=1, b=Path('x')), resumed_keys=dict(a=True, b=True))
    logging.getLogger('mmengine').propagate = True
    assert checkpoints.plain_hub(state)['runtime_info'] == dict(a=1)
    with pytest.raises(TypeError, match=r'checkpoint\.meta\.where\[0\] is a PosixPath'):
        checkpoints.plain(dict(meta=dict(where=[Path('x')])))


def test_workers_obey_no_signal_but_that_of_their_own_process():
    loader = DataLoader(range(64), batch_size=1, num_workers=2)
    shield_workers(loader)
    batches = iter(loader)
    first = [int(next(batches)) for _ in range(4)]
    workers = [worker.pid for worker in batches._workers]
    subprocess.run(['sh', '-c', f'kill -TERM {workers[0]}; kill -USR1 {workers[1]}'], check=True)
    assert first + [int(batch) for batch in batches] == list(range(64))
    processes = DataLoader(range(8), num_workers=1)
    shield_workers(processes)
    batches = iter(processes)
    next(batches)
    (worker,) = batches._workers
    worker.terminate()
    worker.join(20)
    assert not worker.is_alive()
