"""Training, in Python and on the command line: ``mmsemi train``, ``tools/train.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner

from .batch import add_batch_arguments, count_processes, tell_batch
from .launch import UsageError, add_arguments, build_runner, load_config
from .resuming import add_resume_arguments, set_resume


def train_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line of training."""
    parser = argparse.ArgumentParser(prog, description='Train a segmentor')
    parser.add_argument('config', help='config file')
    add_resume_arguments(parser)
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    add_batch_arguments(parser)
    add_arguments(parser)
    return parser


def enable_amp(cfg: Config) -> None:
    """Wrap the optimizer for mixed precision.

    Raises:
        UsageError: If there is no GPU, or the config has another wrapper.
    """
    if get_device() == 'cpu':
        raise UsageError('--amp needs a GPU, and this machine has none; leave it out.')
    if cfg.optim_wrapper.get('type', 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise UsageError(f'--amp cannot replace optim_wrapper.type={cfg.optim_wrapper.type}; set it in the config.')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def run_training(args: argparse.Namespace) -> Runner:
    """Do what the arguments of :func:`train_parser` ask for."""
    cfg = load_config(args)
    set_resume(cfg, args.resume, args.overwrite)
    if args.amp:
        enable_amp(cfg)
    runner = build_runner(cfg)
    if args.baseline:
        runner.logger.info(f'Supervised baseline of {args.config}: its network, crop, schedule and loss, labels alone.')
    tell_batch(cfg, count_processes(args.launcher), runner.logger)
    runner.train()
    return runner


def train(
    config: str,
    work_dir: str | None = None,
    options: dict | None = None,
    resume: str | bool | None = None,
    overwrite: bool = False,
    amp: bool = False,
    batch: Sequence[int] | None = None,
    auto_scale_lr: bool = False,
    baseline: bool = False,
    trust_checkpoint: bool = False,
) -> Runner:
    """Train, in this process.

    Args:
        config (str): A config file, or the name of one of mmsemi.
        work_dir (str, optional): Where logs and checkpoints go. Defaults to ``work_dirs/<name of the config>``.
        options (dict, optional): Keys of the config, with dots, and what they shall be.
        resume (str | bool, optional): A checkpoint to go on from, or True for the newest of ``work_dir``.
        overwrite (bool): Move another run's checkpoints aside. Defaults to False.
        amp (bool): Mixed precision. Defaults to False.
        batch (tuple[int, int], optional): Labeled and unlabeled images of a step, in all.
        auto_scale_lr (bool): Scale the learning rate by them. Defaults to False.
        baseline (bool): Train the config's supervised baseline. Defaults to False.
        trust_checkpoint (bool): Let checkpoints hold more than data. Defaults to False.

    Returns:
        Runner: When training has ended.

    Raises:
        UsageError, ValueError, OSError, RuntimeError: If it cannot be done; the message says what to change.
    """
    args = train_parser().parse_args([config])
    vars(args).update(
        work_dir=work_dir,
        cfg_options=options,
        resume='auto' if resume is True else resume or None,
        overwrite=overwrite,
        amp=amp,
        batch=batch,
        auto_scale_lr=auto_scale_lr,
        baseline=baseline,
        trust_checkpoint=trust_checkpoint,
    )
    return run_training(args)
