r"""Draw a partition of a config's data set and write it to list files.

    python tools/misc/make_partition.py configs/mllc/mllc_r101_voc.py --labeled 1/8 --seed 0 --out-dir splits/voc/1_8

writes ``labeled.txt`` and ``unlabeled.txt``, one id a line, which ``SemiDataset`` reads back:

    --cfg-options train_dataloader.dataset.labeled=splits/voc/1_8/labeled.txt \
                  train_dataloader.dataset.unlabeled=splits/voc/1_8/unlabeled.txt
"""

from __future__ import annotations

import sys

from mmsemi.apis.partition import make_partition, partition_parser


def main() -> None:
    """Draw, write, and print what was drawn."""
    try:
        make_partition(**vars(partition_parser().parse_args()))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f'make_partition: {error}')


if __name__ == '__main__':
    main()
