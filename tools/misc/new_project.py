"""Look at folders of images and masks and write a config that trains: the same as `mmsemi init`.

python tools/misc/new_project.py --images photos --masks masks --unlabeled more_photos --out project
"""

from __future__ import annotations

import sys

from mmsemi.apis.cli import init
from mmsemi.apis.launch import run

if __name__ == '__main__':
    run(lambda: init(sys.argv[1:]))
