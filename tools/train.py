"""Train a segmentor.

python tools/train.py configs/mllc/mllc_r101_voc.py
python tools/train.py configs/mllc/mllc_r101_voc.py --batch 8 8 --amp
python tools/train.py configs/mllc/mllc_r101_voc.py --baseline
bash tools/dist_train.sh configs/mllc/mllc_r101_voc.py 4
"""

from __future__ import annotations

import argparse
import sys

from mmsemi.apis.acceleration import add_acceleration_arguments, complete_amp
from mmsemi.apis.batch import add_batch_arguments, count_processes, tell_batch
from mmsemi.apis.launch import add_arguments, build_runner, load_config, run
from mmsemi.apis.resuming import add_resume_arguments, set_resume


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a segmentor')
    parser.add_argument('config', help='config file')
    add_resume_arguments(parser)
    add_acceleration_arguments(parser)
    add_batch_arguments(parser)
    add_arguments(parser)
    return parser.parse_args(complete_amp(sys.argv[1:]))


def main() -> None:
    """Build the runner and train."""
    args = parse_args()
    cfg = load_config(args)
    set_resume(cfg, args.resume, args.overwrite)
    runner = build_runner(cfg)
    if args.baseline:
        runner.logger.info(f'Supervised baseline of {args.config}: its network, crop, schedule and loss, labels alone.')
    tell_batch(cfg, count_processes(args.launcher), runner.logger)
    runner.train()


if __name__ == '__main__':
    run(main)
