"""Arguments of a training that goes on, or that starts where another one was."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config

from mmsemi.apis.errors import UsageError


def add_resume_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume`` and ``--overwrite``."""
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue a run: from CHECKPOINT, or without it from the newest one in the work folder that can be read',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help="move another run's checkpoints aside that are in the work folder"
    )


def set_resume(cfg: Config, checkpoint: str | None, overwrite: bool = False) -> None:
    """Continue from ``checkpoint``, a path or 'auto'; None starts as the config says.

    Args:
        cfg (Config): Changed in place.
        checkpoint (str, optional): What ``--resume`` got.
        overwrite (bool): Whether the work folder may hold another run's checkpoints.

    Raises:
        UsageError: If there is no such checkpoint, or the work folder holds another run's.
    """
    if checkpoint is not None:
        cfg.resume = True
        cfg.load_from = None if checkpoint == 'auto' else checkpoint
        if cfg.load_from and '://' not in cfg.load_from and not Path(cfg.load_from).is_file():
            raise UsageError(f'The checkpoint {checkpoint} does not exist; correct --resume.')
    hook = cfg.get('default_hooks', {}).get('checkpoint')
    if overwrite and isinstance(hook, dict):
        hook['overwrite'] = True
    if not cfg.get('resume') and isinstance(hook, dict) and not hook.get('overwrite') and not hook.get('out_dir'):
        # The hook says it too, but only after a runner has written its config into the folder.
        there = sorted(Path(cfg.work_dir).glob('*.pth'))
        if there:
            raise UsageError(
                f'{cfg.work_dir} holds the checkpoints of another run ({there[0].name}); go on with --resume, choose '
                'another --work-dir, or move them aside with --overwrite.'
            )
