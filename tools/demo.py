"""The first run: draw the embedded data set, train the supervised baseline and a semi-supervised method, compare them.

    python tools/demo.py --method mllc

writes everything under ``work_dirs/demo``, a picture included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.patches import Patch
from mmengine.config import Config
from PIL import Image

from mmsemi.apis.children import available_cores
from mmsemi.apis.launch import UsageError, find_config, quiet, run
from mmsemi.apis.runs import Run, find_tool, last_line, start_tool, train_all
from mmsemi.engine import checkpoints
from mmsemi.registry import DATASETS
from mmsemi.visualization.paint import colored

METHODS = {
    'mllc': 'MLLC',
    'fixmatch': 'FixMatch',
    'mean_teacher': 'MeanTeacher',
    'augseg': 'AugSeg',
    'unimatch': 'UniMatch',
    'dssn': 'DSSN',
    'esl': 'ESL',
    'u2pl': 'U2PL',
    'corrmatch': 'CorrMatch',
    'unimatch_v2': 'UniMatch V2',
    'prevmatch': 'PrevMatch',
    'ael': 'AEL',
}
BASELINE = 'supervised'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train and compare on generated images')
    parser.add_argument('--method', choices=[*METHODS, 'all'], default='mllc', help='what to compare with supervised')
    parser.add_argument('--seed', type=int, default=0, help="for the network's start and the draw of labeled images")
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every training')
    return parser.parse_args()


def config_of(method: str) -> str:
    """Config of a method on the embedded data set."""
    return f'configs/{method}/{method}_r18_shapes.py'


def draw_data(root: Path) -> None:
    """Generate the data set, unless it is there."""
    subprocess.run([sys.executable, str(find_tool('dataset_converters/make_shapes.py')), str(root)], check=True)


def evaluate(training: Run, predictions: Path) -> float:
    """Evaluate the last checkpoint, write its predictions as PNG files, and return mIoU in percent."""
    checkpoint = checkpoints.last(training.work_dir)
    work_dir = training.work_dir / 'test'
    work_dir.mkdir(exist_ok=True)
    log = work_dir / 'console.log'
    arguments = [training.config, checkpoint, '--work-dir', str(work_dir), '--out', str(predictions)]
    if start_tool('test.py', arguments, training.options, log, available_cores()).wait():
        raise UsageError(f'the evaluation of {training.name} failed: {last_line(log)} (all it printed is in {log})')
    return json.loads(sorted(work_dir.glob('*/*.json'))[-1].read_text())['mIoU']


def print_table(runs: list[Run], scores: list[float], minutes: float) -> None:
    """Print a row for each method, which ends with its mIoU in percent."""
    names = [METHODS.get(one.name, one.name) for one in runs]
    dataset = Config.fromfile(find_config(config_of(BASELINE))).train_dataloader.dataset
    unlabeled = ['used' if name != BASELINE else 'not used' for name in names]
    print(f'\nTrained together in {minutes:.1f} minutes on {dataset.labeled} labeled images.\n')
    print('method       | unlabeled images | s/iteration | gain   | mIoU (%)')
    print('-------------|------------------|-------------|--------|---------')
    for name, use, one, score in zip(names, unlabeled, runs, scores, strict=True):
        gain = f'{score - scores[0]:+.2f}'
        print(f'{name:<12} | {use:<16} | {one.seconds_per_iteration():<11.3f} | {gain:<6} | {score:.2f}')


def image_score(predicted: np.ndarray, truth: np.ndarray, classes: int) -> float:
    """Mean IoU of one image in percent, over the classes that its truth or its prediction shows."""
    from mmseg.evaluation import IoUMetric

    overlap, union, *_ = IoUMetric.intersect_and_union(torch.tensor(predicted), torch.tensor(truth), classes, 255)
    return 100 * float((overlap / union)[union > 0].mean()) if (union > 0).any() else 0.0


def draw_picture(root: Path, predictions: dict[str, Path], out: Path, count: int = 6) -> None:
    """Save images, their ground truth and each method's prediction side by side, with each image's score.

    Images are in the order of what the last method gains on the first, from the largest gain to the largest loss, with
    those between at equal steps.

    Args:
        root (Path): The data set.
        predictions (dict[str, Path]): Folder of PNG files of each method, by its name.
        out (Path): File to write.
        count (int): Number of validation images. Defaults to 6.
    """
    names = (root / 'ImageSets/Segmentation/val.txt').read_text(encoding='utf-8').split()
    with quiet():
        meta = DATASETS.get('ShapesDataset').METAINFO
    palette = np.array(meta['palette'], dtype=np.uint8)
    truths = {name: np.array(Image.open(root / 'SegmentationClass' / f'{name}.png')) for name in names}
    masks = {name: [np.array(Image.open(folder / f'{name}.png')) for folder in predictions.values()] for name in names}
    scores = {name: [image_score(mask, truths[name], len(palette)) for mask in masks[name]] for name in names}
    ordered = sorted(names, key=lambda name: scores[name][0] - scores[name][-1])
    shown = [ordered[round(place)] for place in np.linspace(0, len(ordered) - 1, min(count, len(ordered)))]
    columns = ['image', 'ground truth', *predictions]
    figure, axes = pyplot.subplots(
        len(shown),
        len(columns),
        figsize=(2.1 * len(columns), 2.3 * len(shown) + 0.8),
        squeeze=False,
        layout='constrained',
    )
    for number, (row, name) in enumerate(zip(axes, shown, strict=True)):
        row[0].imshow(Image.open(root / 'JPEGImages' / f'{name}.jpg'))
        for axis, label in zip(row[1:], [truths[name], *masks[name]], strict=True):
            axis.imshow(colored(label, meta['palette']))
        told = ['', '', *(f'{score:.1f}' for score in scores[name])]
        if len(predictions) > 1:
            told[-1] += f' ({scores[name][-1] - scores[name][0]:+.1f})'
        for axis, column, text in zip(row, columns, told, strict=True):
            axis.set_title(f'{column}\n{text}' if number == 0 else text, fontsize=10)
    for axis in axes.flat:
        axis.axis('off')
    classes = zip(meta['classes'], palette / 255, strict=True)
    patches = [Patch(facecolor=color, label=name, edgecolor='gray') for name, color in classes]
    patches.append(Patch(facecolor='white', label='ignored', edgecolor='gray'))
    figure.legend(handles=patches, loc='outside lower center', ncols=5, frameon=False)
    figure.savefig(out, dpi=100)
    pyplot.close(figure)


def main() -> None:
    """Draw, train, evaluate, compare."""
    args = parse_args()
    methods = [BASELINE, *(METHODS if args.method == 'all' else [args.method])]
    options = [*args.cfg_options, f'randomness.seed={args.seed}', f'train_dataloader.dataset.seed={args.seed}']
    root = Path(Config.fromfile(find_config(config_of(BASELINE))).data_root)
    draw_data(root)

    runs = [Run(method, config_of(method), args.work_dir / method, options) for method in methods]
    print(f'training {", ".join(methods)}; what they print is in {args.work_dir}/*/console.log', flush=True)
    started = time.monotonic()
    train_all(runs, jobs=min(len(runs), available_cores()))
    minutes = (time.monotonic() - started) / 60

    folders = {METHODS.get(one.name, one.name): one.work_dir / 'predictions' for one in runs}
    scores = [evaluate(one, folder) for one, folder in zip(runs, folders.values(), strict=True)]
    picture = args.work_dir / 'predictions.png'
    draw_picture(root, folders, picture)
    print_table(runs, scores, minutes)
    print(f'\nimages with their mIoU, from the largest gain to the largest loss: {picture}')


if __name__ == '__main__':
    run(main)
