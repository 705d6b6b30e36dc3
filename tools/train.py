"""Train a segmentor.

python tools/train.py configs/mllc/mllc_r101_voc.py
python tools/train.py configs/mllc/mllc_r101_voc.py --batch 8 8
python tools/train.py configs/mllc/mllc_r101_voc.py --baseline
bash tools/dist_train.sh configs/mllc/mllc_r101_voc.py 4
"""

from __future__ import annotations

import argparse

from mmengine.config import Config
from mmengine.device import get_device

from mmsemi.apis.batch import add_batch_arguments, count_processes, tell_batch
from mmsemi.apis.launch import UsageError, add_arguments, build_runner, load_config, run
from mmsemi.apis.resuming import add_resume_arguments, set_resume


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a segmentor')
    parser.add_argument('config', help='config file')
    add_resume_arguments(parser)
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    add_batch_arguments(parser)
    add_arguments(parser)
    return parser.parse_args()


def enable_amp(cfg: Config) -> None:
    """Wrap the optimizer for mixed precision."""
    if get_device() == 'cpu':
        raise UsageError('--amp needs a GPU, and this machine has none; leave it out.')
    if cfg.optim_wrapper.get('type', 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise UsageError(f'--amp cannot replace optim_wrapper.type={cfg.optim_wrapper.type}; set it in the config.')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def main() -> None:
    """Build the runner and train."""
    args = parse_args()
    cfg = load_config(args)
    set_resume(cfg, args.resume, args.overwrite)
    if args.amp:
        enable_amp(cfg)
    runner = build_runner(cfg)
    if args.baseline:
        runner.logger.info(f'Supervised baseline of {args.config}: its network, crop, schedule and loss, labels alone.')
    tell_batch(cfg, count_processes(args.launcher), runner.logger)
    runner.train()


if __name__ == '__main__':
    run(main)
