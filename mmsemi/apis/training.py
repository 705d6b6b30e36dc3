"""Training, in Python and on the command line: ``mmsemi train``, ``tools/train.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmengine.runner import Runner

from .acceleration import add_acceleration_arguments, apply_acceleration_arguments, complete_amp
from .batch import add_batch_arguments, count_processes, tell_batch
from .launch import add_arguments, build_runner, load_config
from .resuming import add_resume_arguments, set_resume


def train_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line of training."""
    parser = argparse.ArgumentParser(prog, description='Train a segmentor')
    parser.add_argument('config', help='config file')
    add_resume_arguments(parser)
    add_acceleration_arguments(parser)
    add_batch_arguments(parser)
    add_arguments(parser)
    return parser


def parse_training(arguments: Sequence[str], prog: str | None = None) -> argparse.Namespace:
    """Read the command line of training."""
    return train_parser(prog).parse_args(complete_amp(arguments))


def run_training(args: argparse.Namespace) -> Runner:
    """Do what the arguments of :func:`train_parser` ask for."""
    cfg = load_config(args)
    apply_acceleration_arguments(cfg, args)
    set_resume(cfg, args.resume, args.overwrite)
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
    amp: str | bool | None = None,
    compile: bool = False,
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
        amp (str | bool, optional): Mixed precision: True, or which, as ``--amp`` takes it.
        compile (bool): Compile the networks. Defaults to False.
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
        amp='auto' if amp is True else amp or None,
        compile=compile,
        batch=batch,
        auto_scale_lr=auto_scale_lr,
        baseline=baseline,
        trust_checkpoint=trust_checkpoint,
    )
    return run_training(args)
