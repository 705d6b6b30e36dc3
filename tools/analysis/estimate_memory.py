"""How much GPU memory a step of training takes, and the largest batch that usual GPUs hold; no GPU is needed.

    python tools/analysis/estimate_memory.py mllc/mllc_r101_voc.py
    python tools/analysis/estimate_memory.py corrmatch/corrmatch_r101_cityscapes.py --batch 2 2 --amp bf16

The step runs on torch's meta device, where tensors have sizes and no values, and a book is kept of what is alive: what
operations return, what is kept for the backward pass, the gradients that flow. The parts are those of the fullest
moment. Batches are what one process takes. Not in it, but left free on a GPU when batches are told: 1 GiB for CUDA and
the workspaces of its libraries, and 5 % of its memory for what lies between the pieces that are used.
"""

from __future__ import annotations

import argparse
import tempfile

from mmsemi.apis.launch import UsageError, load_config, run
from mmsemi.apis.options import OptionsAction


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--batch',
        type=int,
        nargs=2,
        metavar=('L', 'U'),
        help="labeled and unlabeled images of one process, by default the config's",
    )
    parser.add_argument('--crop', type=int, help="side of the crops in pixels, by default the config's")
    parser.add_argument(
        '--amp',
        nargs='?',
        choices=('bf16', 'fp16'),
        const='bf16',
        help='networks compute in half precision, by default in bf16',
    )
    parser.add_argument('--processes', type=int, default=1, help='that exchange gradients; each takes the batch')
    parser.add_argument('--gpu', type=float, nargs='+', metavar='GB', help='GPUs to tell the largest batch of')
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='override config keys'
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Estimate and print."""
    args = parse_args(arguments)
    for name in ('crop', 'processes'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f'--{name} must be at least 1, not {getattr(args, name)}.')
    from mmsemi.apis.memory import CARDS, Estimator, report  # which takes seconds, too long for --help

    # Of one process here, and not of all; and of a GPU, which this machine may lack.
    batch, precision, args.batch = args.batch, args.amp or 'float32', None
    args.launcher, args.local_rank = 'none', 0
    with tempfile.TemporaryDirectory() as args.work_dir:
        cfg = load_config(args)
    sampler = cfg.train_dataloader.sampler
    labeled, unlabeled = batch or (sampler.labeled, sampler.get('unlabeled') or 0)
    needed = 1 if cfg.model.data_preprocessor.num_strong else 0
    if labeled < 1 or unlabeled < needed:
        raise UsageError(
            f'--batch needs at least 1 labeled and {needed} unlabeled images for {cfg.model.type}, not {labeled} and '
            f'{unlabeled}.'
        )
    estimator = Estimator(cfg, precision, args.processes, (args.crop, args.crop) if args.crop else None)
    estimate = estimator(labeled, unlabeled)
    cards = args.gpu or CARDS
    height, width = estimator.crop
    print(f'{args.config}: {labeled} labeled + {unlabeled} unlabeled crops of {height} x {width}, {precision}')
    print(report(estimate, cards, estimator.largest(labeled, unlabeled, cards)))


if __name__ == '__main__':
    run(main)
