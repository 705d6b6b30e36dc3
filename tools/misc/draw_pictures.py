"""Draw the pictures of the README and of docs/ from two runs on the embedded data set.

    make demo
    python tools/misc/draw_pictures.py work_dirs/demo/supervised work_dirs/demo/mllc

writes docs/images/predictions.png, browse.png and curves.png.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo import draw_picture

from mmsemi.apis.browse import browse
from mmsemi.apis.launch import load_config, run
from mmsemi.apis.plot import plot
from mmsemi.apis.predict import predict
from mmsemi.engine import checkpoints

METHOD = 'configs/mllc/mllc_r18_shapes.py'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Draw the pictures of the documentation')
    parser.add_argument('supervised', help='work folder of supervised_r18_shapes')
    parser.add_argument('method', help='work folder of mllc_r18_shapes')
    parser.add_argument('--out', type=Path, default=Path('docs/images'))
    return parser.parse_args()


def shrink(path: Path, colors: int = 256) -> None:
    """Keep a picture small: a palette serves what has few colors."""
    with Image.open(path) as image:
        small = image.convert('RGB').quantize(colors)
    small.save(path, optimize=True)


def main() -> None:
    """Predict the validation images with both networks, draw, and draw a batch and the curves."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    options = dict(cfg_options=None, work_dir=None, launcher='none', local_rank=0)
    cfg = load_config(SimpleNamespace(config=METHOD, **options))
    root = Path(cfg.data_root)
    with tempfile.TemporaryDirectory() as folder:
        names = (root / 'ImageSets/Segmentation/val.txt').read_text(encoding='utf-8').split()
        images = Path(folder) / 'images.txt'
        images.write_text(
            ''.join(f'{(root / "JPEGImages" / name).resolve()}.jpg\n' for name in names), encoding='utf-8'
        )
        masks = {}
        for title, work_dir in (('supervised, 24 labels', args.supervised), ('MLLC, 24 labels', args.method)):
            masks[title] = predict(str(checkpoints.last(work_dir)), str(images), str(Path(folder) / title))
        draw_picture(root, masks, args.out / 'predictions.png', count=4)
    browse(cfg, str(checkpoints.last(args.method)), str(args.out / 'browse.png'), images=3, seed=1)
    plot([args.supervised, args.method], out=str(args.out / 'curves.png'))
    for name in ('predictions', 'browse', 'curves'):
        shrink(args.out / f'{name}.png')


if __name__ == '__main__':
    run(main)
