"""Write masks of 81 classes for COCO 2017 from the pixel maps of COCO-Stuff.

    python tools/dataset_converters/coco81.py data/coco/stuffthingmaps data/coco/masks

``data/coco/stuffthingmaps`` is the unpacked ``stuffthingmaps_trainval2017.zip`` of COCO-Stuff, with ``train2017`` and
``val2017``; one PNG a map, on which 0 to 90 are things (COCO's category ids less 1, eleven of which no image has), 91
to 181 stuff, 255 unlabeled. In what is written 0 is the background, which is whatever is no thing, and 1 to 80 are the
things in the order of COCO's categories; nothing is ignored. All masks go to one folder, where the published partitions
of UniMatch V2 look for them: ``train2017/000000177254.jpg masks/000000177254.png``.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from mmsemi.apis.launch import UsageError, run

SPLITS = ('train2017', 'val2017')
_ABSENT = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Category ids below 90 that COCO's annotations leave out."""
THINGS = tuple(i for i in range(1, 91) if i not in _ABSENT)
"""COCO's category ids of the 80 things."""


@functools.cache
def table() -> np.ndarray:
    """Class of each id of a pixel map, uint8, (256,): what is no thing is background."""
    classes = np.zeros(256, np.uint8)
    for number, category in enumerate(THINGS, start=1):
        classes[category - 1] = number
    return classes


def convert(source: Path, target: Path) -> None:
    """Write the mask of one pixel map.

    Raises:
        UsageError: If the map is not one of class ids.
    """
    with Image.open(source) as image:
        ids = np.array(image)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise UsageError(f'{source} holds no class ids, one byte a pixel; give the pixel maps of COCO-Stuff.')
    Image.fromarray(table()[ids]).save(target)


def pairs(root: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Every pixel map below ``root``, and where its mask goes.

    Raises:
        UsageError: If neither split is there, or one is empty.
    """
    folders = [root / split for split in SPLITS if (root / split).is_dir()]
    if not folders:
        raise UsageError(
            f'{root} has neither {SPLITS[0]} nor {SPLITS[1]}; unpack stuffthingmaps_trainval2017.zip there.'
        )
    for folder in folders:
        maps = sorted(folder.glob('*.png'))
        if not maps:
            raise UsageError(f'{folder} holds no PNG; unpack stuffthingmaps_trainval2017.zip there.')
        yield from ((path, out / path.name) for path in maps)


def main() -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description='Masks of 81 classes for COCO 2017')
    parser.add_argument('maps', type=Path, help='folder of COCO-Stuff with train2017 and val2017')
    parser.add_argument('out', type=Path, help='folder for the masks')
    parser.add_argument('--workers', type=int, default=8, help='threads')
    args = parser.parse_args()
    todo = list(pairs(args.maps, args.out))
    args.out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max(args.workers, 1)) as pool:
        # Listing the results raises what a thread raised.
        count = len(list(pool.map(lambda pair: convert(*pair), todo)))
    print(f'wrote {count} masks to {args.out}')


if __name__ == '__main__':
    run(main)
