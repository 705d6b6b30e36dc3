"""Evaluate a checkpoint.

python tools/test.py configs/mllc/mllc_r101_voc.py work_dirs/mllc_r101_voc/epoch_150.pth --branch teacher
python tools/test.py configs/mllc/mllc_r101_voc.py work_dirs/mllc_r101_voc_baseline/epoch_150.pth --baseline
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmsemi.apis.evaluation import set_outputs, set_tta
from mmsemi.apis.launch import UsageError, add_arguments, build_runner, load_config, run


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint of mmsemi, or of the same segmentor in plain mmseg')
    parser.add_argument('--branch', choices=['student', 'teacher'], help='default: what the config says')
    parser.add_argument('--show-dir', help='folder for images with the prediction painted over them')
    parser.add_argument(
        '--out', help='folder for the predictions, PNG files of class ids under the relative paths of the images'
    )
    parser.add_argument('--tta', action='store_true', help='average over the scales and flips of tta_pipeline')
    add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Build the runner and evaluate."""
    args = parse_args()
    cfg = load_config(args)
    if '://' not in args.checkpoint and not Path(args.checkpoint).is_file():
        raise UsageError(f'The checkpoint {args.checkpoint} does not exist.')
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.branch:
        cfg.merge_from_dict({'model.test_cfg.predict_on': args.branch})
    set_outputs(cfg, args.show_dir, args.out)
    if args.tta:
        set_tta(cfg)
    build_runner(cfg).test()


if __name__ == '__main__':
    run(main)
