"""Train a segmentor.

python tools/train.py configs/mllc/mllc_r101_voc.py
python tools/train.py configs/mllc/mllc_r101_voc.py --batch 8 8 --amp
python tools/train.py configs/mllc/mllc_r101_voc.py --baseline
bash tools/dist_train.sh configs/mllc/mllc_r101_voc.py 4
"""

from __future__ import annotations

import sys

from mmsemi.apis.launch import run
from mmsemi.apis.training import parse_training, run_training

if __name__ == '__main__':
    run(lambda: run_training(parse_training(sys.argv[1:])))
