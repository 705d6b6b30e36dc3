"""Evaluate a checkpoint.

python tools/test.py configs/mllc/mllc_r101_voc.py work_dirs/mllc_r101_voc/epoch_150.pth --branch teacher
python tools/test.py configs/mllc/mllc_r101_voc.py work_dirs/mllc_r101_voc_baseline/epoch_150.pth --baseline
"""

from __future__ import annotations

from mmsemi.apis.launch import build_runner, run
from mmsemi.apis.testing import test_config, test_parser


def main() -> None:
    """Build the runner and evaluate."""
    build_runner(test_config(test_parser().parse_args())).test()


if __name__ == '__main__':
    run(main)
