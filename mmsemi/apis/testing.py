"""Evaluation, in Python and on the command line: ``mmsemi test``, ``tools/test.py``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config

from .evaluation import set_outputs, set_tta
from .launch import UsageError, add_arguments, build_runner, load_config


def test_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line of evaluation."""
    parser = argparse.ArgumentParser(prog, description='Evaluate a checkpoint')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint of mmsemi, or of the same segmentor in plain mmseg')
    parser.add_argument('--branch', choices=['student', 'teacher'], help='default: what the config says')
    parser.add_argument('--show-dir', help='folder for images with the prediction painted over them')
    parser.add_argument(
        '--out', help='folder for the predictions, PNG files of class ids under the relative paths of the images'
    )
    parser.add_argument('--tta', action='store_true', help='average over the scales and flips of tta_pipeline')
    add_arguments(parser)
    return parser


def test_config(args: argparse.Namespace) -> Config:
    """The config that the arguments of :func:`test_parser` ask for.

    Raises:
        UsageError: If there is no such checkpoint.
    """
    cfg = load_config(args)
    if '://' not in args.checkpoint and not Path(args.checkpoint).is_file():
        raise UsageError(f'The checkpoint {args.checkpoint} does not exist.')
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.branch:
        cfg.merge_from_dict({'model.test_cfg.predict_on': args.branch})
    set_outputs(cfg, args.show_dir, args.out)
    if args.tta:
        set_tta(cfg)
    return cfg


def test(
    config: str,
    checkpoint: str,
    branch: str | None = None,
    out: str | None = None,
    show_dir: str | None = None,
    tta: bool = False,
    work_dir: str | None = None,
    options: dict | None = None,
    baseline: bool = False,
    trust_checkpoint: bool = False,
) -> dict[str, float]:
    """Evaluate, in this process.

    Args:
        config (str): A config file, or the name of one of mmsemi.
        checkpoint (str): Of mmsemi, or of the same segmentor in plain mmseg.
        branch (str, optional): 'student' or 'teacher'. Defaults to what the config says.
        out (str, optional): Folder for masks, PNG files of class ids.
        show_dir (str, optional): Folder for painted images.
        tta (bool): Average over scales and mirror images. Defaults to False.
        work_dir (str, optional): Where the log goes. Defaults to ``work_dirs/<name of the config>``.
        options (dict, optional): Keys of the config, with dots, and what they shall be.
        baseline (bool): The checkpoint is of the config's supervised baseline. Defaults to False.
        trust_checkpoint (bool): Let checkpoints hold more than data. Defaults to False.

    Returns:
        dict[str, float]: The metrics by name.

    Raises:
        UsageError, ValueError, OSError, RuntimeError: If it cannot be done; the message says what to change.
    """
    args = test_parser().parse_args([config, checkpoint])
    vars(args).update(
        branch=branch,
        out=out,
        show_dir=show_dir,
        tta=tta,
        work_dir=work_dir,
        cfg_options=options,
        baseline=baseline,
        trust_checkpoint=trust_checkpoint,
    )
    return build_runner(test_config(args)).test()
