"""Train configs with several seeds and compare what they reach.

    python tools/analysis/compare.py supervised/supervised_r18_shapes.py mllc/mllc_r18_shapes.py --seeds 0 1 2
    python tools/analysis/compare.py unimatch/unimatch_r101_cityscapes.py --baseline
    python tools/analysis/compare.py mllc/mllc_r18_shapes.py --baseline --labels 12 24 48 --picture labels.png

A seed sets the network's start, the order of the data and the draw of labeled images. Runs that have finished are not
trained again, those that were broken off go on from their last checkpoint. The table is Markdown.
"""

from __future__ import annotations

from mmsemi.apis.comparing import class_table, compare, compare_parser, plan, pseudo_table, scores, table
from mmsemi.apis.launch import run

__all__ = ['class_table', 'plan', 'pseudo_table', 'scores', 'table']


def main() -> None:
    """Train what is missing and print the table."""
    compare(**vars(compare_parser().parse_args()))


if __name__ == '__main__':
    run(main)
