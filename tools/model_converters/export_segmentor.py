"""Take the segmentor out of a checkpoint of mmsemi: a checkpoint and a config that plain mmseg loads.

    python tools/model_converters/export_segmentor.py work_dirs/mllc_r50_voc/epoch_150.pth export/mllc --branch teacher

The same as ``mmsemi export``; it lives in ``mmsemi/apis/export.py``.
"""

from __future__ import annotations

import sys

from mmsemi.apis.cli import export
from mmsemi.apis.launch import run

if __name__ == '__main__':
    run(lambda: export(sys.argv[1:]))
