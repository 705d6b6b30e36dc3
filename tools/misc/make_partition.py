r"""Draw a partition of a config's data set and write it to list files.

    python tools/misc/make_partition.py configs/mllc/mllc_r101_voc.py --labeled 1/8 --seed 0 --out-dir splits/voc/1_8

writes ``labeled.txt`` and ``unlabeled.txt``, one id a line, which ``SemiDataset`` reads back:

    --cfg-options train_dataloader.dataset.labeled=splits/voc/1_8/labeled.txt \
                  train_dataloader.dataset.unlabeled=splits/voc/1_8/unlabeled.txt
"""

from __future__ import annotations

import argparse
import os
import sys

from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmsemi.apis.options import OptionsAction, merge_options
from mmsemi.datasets import SemiDataset, write_list
from mmsemi.registry import DATASETS


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Draw a partition and write it to list files.')
    parser.add_argument('config', help='a config whose train_dataloader.dataset is a SemiDataset')
    parser.add_argument('--labeled', help="fraction ('1/8') or count (92); default: what the config says")
    parser.add_argument('--seed', type=int, help='seed of the draw; default: what the config says')
    parser.add_argument('--require-all-classes', action='store_true', help='the labeled images show every class')
    parser.add_argument('--out-dir', required=True, help='folder for labeled.txt and unlabeled.txt')
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionsAction, help='override keys of the config: key=value ...'
    )
    return parser.parse_args()


def build_dataset(args: argparse.Namespace) -> SemiDataset:
    """Build the config's data set with the partition that is asked for.

    Raises:
        ValueError: If the config trains on another kind of data set.
    """
    config = Config.fromfile(args.config)
    if args.cfg_options:
        merge_options(config, args.cfg_options)
    init_default_scope('mmsemi')
    dataset = config.get('train_dataloader', {}).get('dataset', {})
    if dataset.get('type') not in ('SemiDataset', 'mmsemi.SemiDataset'):
        raise ValueError(
            f'{args.config}: train_dataloader.dataset must be a SemiDataset, but is {dataset.get("type")}.'
        )
    overrides = {'labeled': args.labeled, 'seed': args.seed, 'require_all_classes': args.require_all_classes or None}
    dataset.update({key: value for key, value in overrides.items() if value is not None})
    return DATASETS.build(dataset)


def main() -> None:
    """Draw, write, and print what was drawn."""
    args = parse_args()
    try:
        dataset = build_dataset(args)
        dataset.full_init()
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f'make_partition: {error}')

    for stream, ids in (('labeled', dataset.labeled_ids), ('unlabeled', dataset.unlabeled_ids)):
        path = os.path.join(args.out_dir, f'{stream}.txt')
        write_list(path, ids)
        print(f'{path}: {len(ids)} {stream} images')
    coverage = dataset.class_coverage()
    width = max(len(name) for name in coverage)
    print('Labeled images that show each class:')
    for name, count in coverage.items():
        print(f'  {name:<{width}}  {count}')


if __name__ == '__main__':
    main()
