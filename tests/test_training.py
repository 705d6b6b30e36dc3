"""Whole runs of every config of the embedded data set: losses are finite, and they resume bit for bit."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsemi.engine import Stopped
from tests import tiny_run


class Kill(Hook):
    """Ends the run in an iteration: as abruptly as Python can, or by a signal, which lets it finish the iteration."""

    def __init__(self, iteration: int, number: signal.Signals | None = None) -> None:
        self.iteration = iteration
        self.number = number

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 != self.iteration:
            return
        if self.number is None:
            raise KeyboardInterrupt
        os.kill(os.getpid(), self.number)


def train(cfg, *hooks: Hook, **kwargs) -> None:
    cfg = copy.deepcopy(cfg)
    cfg.update(kwargs)
    runner = Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()


def saved(work_dir: Path, epoch: int) -> dict:
    return torch.load(work_dir / f'epoch_{epoch}.pth', weights_only=True)


@pytest.mark.parametrize('mpmc', [False, True], ids=['alone', 'with MPMC'])
@pytest.mark.parametrize('method', tiny_run.METHOD_FILES)
def test_losses_are_finite_and_a_killed_run_resumes_to_the_end_of_a_straight_one_bit_for_bit(
    method, mpmc, drawn, tmp_path
):
    straight = tiny_run.config(method, drawn, tmp_path / 'straight', mpmc=mpmc)
    losses = tiny_run.Losses()
    train(straight, losses)
    assert len(losses.steps) == 4 and tiny_run.are_finite(losses.steps)
    named = set().union(*losses.steps)
    assert method == 'Supervised' or any(name.startswith('unsup.loss') for name in named)
    assert ('sup.loss_patch' in named) == mpmc

    # With MPMC, which keeps all the state that the method has alone, the run is stopped in the middle of an epoch.
    broken = tiny_run.config(method, drawn, tmp_path / 'broken', workers=0 if mpmc else 2, mpmc=mpmc)
    with pytest.raises(Stopped if mpmc else KeyboardInterrupt):
        train(broken, Kill(3, signal.SIGTERM if mpmc else None))
    if mpmc:
        assert (tmp_path / 'broken/last_checkpoint').read_text() == 'iter_3.pth\n'
    rest = tiny_run.Losses()
    train(broken, rest, resume=True, experiment_name=f'{broken.experiment_name}-again')
    assert rest.steps == losses.steps[3 if mpmc else 2 :]
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
    shutil.rmtree(tmp_path)  # all these checkpoints together would be gigabytes


def test_both_branches_are_evaluated_and_the_log_names_what_it_should(drawn, tmp_path):
    train(tiny_run.config('MLLC', drawn, tmp_path / 'run', epochs=1))
    (scalars,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    logged = set().union(*lines)
    assert {'student/mIoU', 'teacher/mIoU', 'sup.loss_ce', 'unsup.loss_slg', 'unsup.loss_clg', 'lr'} <= logged
    assert {'unsup.confident', 'unsup.threshold'} <= logged
    assert list((tmp_path / 'run').glob('best_teacher_mIoU_epoch_1.pth'))


def test_the_console_is_spared_the_weight_initialisation(drawn, tmp_path, capfd):
    train(tiny_run.config('FixMatch', drawn, tmp_path / 'run', epochs=1))
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


def test_a_loss_that_is_not_finite_stops_after_the_last_good_checkpoint(drawn, tmp_path):
    cfg = tiny_run.config('FixMatch', drawn, tmp_path / 'run')
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
