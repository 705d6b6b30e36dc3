"""Partitions of a config's data set as list files: ``tools/misc/make_partition.py``."""

from __future__ import annotations

import argparse
import os

from mmengine.registry import init_default_scope

from .launch import quiet, read_with_options
from .options import OptionsAction


def partition_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line of drawing partitions."""
    parser = argparse.ArgumentParser(prog, description='Draw a partition and write it to list files.')
    parser.add_argument('config', help='a config whose train_dataloader.dataset is a SemiDataset')
    parser.add_argument('--labeled', help="fraction ('1/8') or count (92); default: what the config says")
    parser.add_argument('--seed', type=int, help='seed of the draw; default: what the config says')
    parser.add_argument('--require-all-classes', action='store_true', help='the labeled images show every class')
    parser.add_argument('--out-dir', required=True, help='folder for labeled.txt and unlabeled.txt')
    parser.add_argument(
        '--cfg-options', nargs='+', action=OptionsAction, help='override keys of the config: key=value ...'
    )
    return parser


def make_partition(
    config: str,
    out_dir: str,
    labeled: str | int | None = None,
    seed: int | None = None,
    require_all_classes: bool = False,
    cfg_options: dict | None = None,
) -> None:
    """Draw a partition, write ``labeled.txt`` and ``unlabeled.txt``, and print what was drawn.

    Args:
        config (str): A config whose ``train_dataloader.dataset`` is a SemiDataset.
        out_dir (str): Folder to write.
        labeled (str | int, optional): A fraction or a count. Defaults to what the config says.
        seed (int, optional): Of the draw. Defaults to what the config says.
        require_all_classes (bool): Whether the labeled images must show every class. Defaults to False.
        cfg_options (dict, optional): Keys of the config, with dots, and what they shall be.

    Raises:
        ValueError: If the config trains on another kind of data set, or the images cannot be drawn.
        OSError, RuntimeError: If files are missing or cannot be read.
    """
    with quiet():
        from mmsemi.datasets import write_list
        from mmsemi.registry import DATASETS

    cfg, _ = read_with_options(config, cfg_options or {})
    init_default_scope('mmsemi')
    settings = cfg.get('train_dataloader', {}).get('dataset', {})
    if settings.get('type') not in ('SemiDataset', 'mmsemi.SemiDataset'):
        raise ValueError(f'{config}: train_dataloader.dataset must be a SemiDataset, but is {settings.get("type")}.')
    overrides = {'labeled': labeled, 'seed': seed, 'require_all_classes': require_all_classes or None}
    settings.update({key: value for key, value in overrides.items() if value is not None})
    dataset = DATASETS.build(settings)
    dataset.full_init()
    for stream, ids in (('labeled', dataset.labeled_ids), ('unlabeled', dataset.unlabeled_ids)):
        file = os.path.join(out_dir, f'{stream}.txt')
        write_list(file, ids)
        print(f'{file}: {len(ids)} {stream} images')
    coverage = dataset.class_coverage()
    width = max(len(name) for name in coverage)
    print('Labeled images that show each class:')
    for name, count in coverage.items():
        print(f'  {name:<{width}}  {count}')
