"""How many images a step takes in all, and what the learning rate is meant for."""

from __future__ import annotations

import argparse
import logging

import pytest
from mmengine.config import Config

from mmsemi.apis.batch import (
    Batch,
    add_batch_arguments,
    apply_batch_arguments,
    count_processes,
    scale_rate,
    set_batch,
    tell_batch,
)
from mmsemi.apis.launch import UsageError, build_runner
from tests import tiny_run


def config(labeled: int = 2, unlabeled: int = 2, base: int | None = 16, **optim_wrapper) -> Config:
    """As much of a config as matters here."""
    return Config(
        dict(
            model=dict(type='MLLC' if unlabeled else 'Supervised'),
            train_dataloader=dict(batch_size=labeled + unlabeled, sampler=dict(labeled=labeled, unlabeled=unlabeled)),
            optim_wrapper=dict(optimizer=dict(lr=0.001), **optim_wrapper),
            **({} if base is None else dict(auto_scale_lr=dict(enable=False, base_batch_size=base))),
        )
    )


def loader(cfg: Config) -> tuple[int, int, int]:
    sampler = cfg.train_dataloader.sampler
    return sampler.labeled, sampler.unlabeled, cfg.train_dataloader.batch_size


@pytest.mark.parametrize(('processes', 'own'), [(1, 8), (2, 4), (4, 2), (8, 1)])
def test_batch_counts_images_in_all_and_is_divided_over_processes(processes, own):
    cfg = config()
    set_batch(cfg, 8, 8, processes)
    assert loader(cfg) == (own, own, 2 * own) and Batch.of(cfg, processes).total == 16


def test_accumulated_passes_share_the_batch_too():
    cfg = config(accumulative_counts=2)
    set_batch(cfg, 8, 16, 2)
    assert loader(cfg) == (2, 4, 6) and Batch.of(cfg, 2).total == 24


@pytest.mark.parametrize(
    ('batch', 'processes', 'sentence'),
    [
        ((8, 8), 3, r'--batch 8 8: .* over 3 processes; give multiples of 3, for example --batch 9 9'),
        ((8, 6), 4, r'--batch 8 6: .* for example --batch 8 8'),
        ((0, 8), 1, 'one labeled image or more'),
        ((8, -8), 1, 'no fewer than 0'),
        ((8, 0), 1, r'MLLC needs unlabeled images, too; say --batch 8 8'),
    ],
)
def test_batches_that_cannot_be_are_refused_and_left_alone(batch, processes, sentence):
    cfg = config()
    with pytest.raises(UsageError, match=sentence):
        set_batch(cfg, *batch, processes)
    assert loader(cfg) == (2, 2, 4)


def test_where_labels_alone_are_learned_the_unlabeled_images_make_epochs_as_long():
    cfg = config(unlabeled=0)
    set_batch(cfg, 8, 16, 4)
    assert loader(cfg) == (2, 0, 2) and cfg.train_dataloader.sampler.pace == 4
    set_batch(cfg, 8, 0, 4)
    assert cfg.train_dataloader.sampler.pace is None


@pytest.mark.parametrize(
    ('launcher', 'variable'), [('pytorch', 'WORLD_SIZE'), ('slurm', 'SLURM_NTASKS'), ('mpi', 'OMPI_COMM_WORLD_SIZE')]
)
def test_processes_are_counted_before_they_have_met(launcher, variable, monkeypatch):
    monkeypatch.setenv(variable, '4')
    assert (count_processes(launcher), count_processes('none')) == (4, 1)


def told(cfg: Config, processes: int, caplog) -> logging.LogRecord:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tell_batch(cfg, processes, logging.getLogger('told'))
    [record] = caplog.records
    return record


def test_the_log_says_the_images_in_all_and_what_the_rate_is_meant_for(caplog):
    record = told(config(), 4, caplog)
    assert record.levelname == 'INFO' and '16 images in all (2 labeled + 2 unlabeled on 4 processes)' in record.message
    assert 'for which the learning rate of 0.001 is meant' in record.message
    assert '16 images in all' in told(config(accumulative_counts=4), 1, caplog).message
    assert (
        told(config(base=None), 1, caplog).message
        == 'A step takes 4 images in all (2 labeled + 2 unlabeled on one process).'
    )


def test_where_they_differ_the_log_warns_with_the_mends(caplog):
    record = told(config(), 1, caplog)
    assert record.levelname == 'WARNING' and 'takes 4 images in all' in record.message
    assert 'is meant for 16. Start with --batch 8 8 to take as many, or --auto-scale-lr to scale it to 0.00025.' in (
        record.message
    )
    assert '--batch' not in told(config(), 3, caplog).message, '8 do not divide over 3'
    assert '--batch 8 0 ' in told(config(unlabeled=0, base=8), 2, caplog).message
    paced = config(unlabeled=0, base=8)
    set_batch(paced, 2, 4, 1)
    assert '--batch 8 16 ' in told(paced, 1, caplog).message
    assert '--batch 4 12 ' in told(config(labeled=1, unlabeled=3), 2, caplog).message


@pytest.mark.parametrize('passes', [1, 2])
def test_auto_scale_lr_scales_by_the_images_of_an_optimizer_step(passes, caplog, drawn, tmp_path):
    cfg = tiny_run.config('FixMatch', drawn, tmp_path)
    cfg.auto_scale_lr.base_batch_size = 16
    cfg.optim_wrapper.accumulative_counts = passes
    scale_rate(cfg, True)
    total = 4 * passes
    assert f'is meant for 16 and is scaled to {0.003 * total / 16:g}' in told(cfg, 1, caplog).message
    runner = build_runner(cfg)
    runner.optim_wrapper = wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(wrapper, runner.auto_scale_lr)
    assert [group['lr'] for group in wrapper.optimizer.param_groups] == [pytest.approx(0.003 * total / 16)]
    assert runner.cfg.auto_scale_lr.base_batch_size == 16, 'the config of the work folder means what it says'


def test_a_rate_that_is_meant_for_nothing_cannot_be_scaled():
    with pytest.raises(UsageError, match=r'--auto-scale-lr needs auto_scale_lr\.base_batch_size'):
        scale_rate(config(base=None), True)
    scale_rate(config(base=None), False)


def test_the_flags_are_those_of_the_command_line():
    parser = argparse.ArgumentParser()
    add_batch_arguments(parser)
    args = parser.parse_args(['--batch', '8', '8', '--auto-scale-lr'])
    args.launcher = 'none'
    cfg = config()
    apply_batch_arguments(cfg, args)
    assert loader(cfg) == (8, 8, 16) and cfg.auto_scale_lr.enable
    untouched = config()
    apply_batch_arguments(untouched, argparse.Namespace(launcher='none'))
    assert untouched._cfg_dict == config()._cfg_dict
