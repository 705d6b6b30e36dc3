"""Curves of runs: losses, thresholds, quality of pseudo-labels, scores."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import numpy as np
from matplotlib import pyplot

_SCORES = ('mIoU', 'mDice')
_QUALITY = ('confident', 'accuracy', 'accuracy_confident', 'pseudo/')
_OTHER = ('time', 'data_time', 'lr', 'base_lr', 'memory', 'iter', 'epoch', 'step', 'eta')


def read_scalars(run: str | Path) -> dict[str, list[tuple[float, float]]]:
    """What a run wrote to its ``scalars.json``: (step, value) by name; a run that was resumed is one curve.

    Args:
        run (str | Path): Folder of the run.

    Raises:
        FileNotFoundError: If it has no such file.
    """
    files = sorted(Path(run).glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'{run} is no folder of a run: it has no */vis_data/scalars.json.')
    points: dict[str, dict[float, float]] = defaultdict(dict)
    step = 0.0
    for file in files:
        for line in file.read_text(encoding='utf-8').splitlines():
            record = json.loads(line) if line.strip() else {}
            # Validation writes its epoch as step; it belongs behind the last iteration.
            step = float(record.get('iter', step))
            for name, value in record.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    points[name][step] = float(value)
    return {name: sorted(values.items()) for name, values in points.items()}


def draw_runs(runs: Sequence[str | Path], path: str | Path) -> None:
    """Draw what several runs measured into one PNG file: a panel for each loss, threshold, quality and score.

    Args:
        runs (Sequence[str | Path]): Folders of runs.
        path (str | Path): The file.

    Raises:
        FileNotFoundError: If a folder is none of a run.
        ValueError: If the runs have written nothing yet.
    """
    curves = {_name_of(run, runs): read_scalars(run) for run in runs}
    panels = _panels(sorted({name for found in curves.values() for name in found}))
    if not panels:
        raise ValueError(f'{runs[0]} has written no losses and no scores yet.')
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4.2 * columns, 2.7 * rows + 0.6), squeeze=False, layout='constrained'
    )
    colors = pyplot.get_cmap('tab10')
    for axis, (title, names) in zip(axes.flat, panels.items(), strict=False):
        for number, found in enumerate(curves.values()):
            for style, name in zip(('-', '--', ':', '-.'), names, strict=False):
                if name in found:
                    steps, values = np.array(found[name]).T
                    smooth = _smoothed(values) if 'loss' in name else values
                    mark = 'o' if len(steps) == 1 else None
                    axis.plot(steps, smooth, style, marker=mark, color=colors(number % 10), linewidth=1.2)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel('iteration', fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(panels) :]:
        axis.axis('off')
    handles = [pyplot.Line2D([], [], color=colors(i % 10), label=name) for i, name in enumerate(curves)]
    figure.legend(handles=handles, loc='outside lower center', ncols=min(4, len(handles)), frameon=False, fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _name_of(run: str | Path, runs: Sequence[str | Path]) -> str:
    """The folder's name; its whole path where another run has the same."""
    run = Path(run)
    return str(run) if sum(Path(other).name == run.name for other in runs) > 1 else run.name or str(run)


def _panels(names: Sequence[str]) -> dict[str, list[str]]:
    """Which curves share a panel, by its title: the branches' scores do."""
    panels: dict[str, list[str]] = {}
    for name in names:
        if name.split('/')[-1] in _OTHER or name in _OTHER:
            continue
        last = name.split('/')[-1]
        if last in _SCORES:
            panels.setdefault(f'{last}: student —, teacher - -', []).append(name)
        elif 'loss' in name or 'threshold' in name or any(part in name for part in _QUALITY):
            panels[name] = [name]
    return panels


def _smoothed(values: np.ndarray, share: float = 0.6) -> np.ndarray:
    """Exponential moving average that starts at the first value."""
    result, current = np.empty_like(values), values[0]
    for i, value in enumerate(values):
        current = share * current + (1 - share) * value
        result[i] = current
    return result


def draw_features(
    features: np.ndarray, labels: np.ndarray, classes: Sequence[str], palette: Sequence, path: str | Path
) -> None:
    """Draw features in two dimensions (t-SNE), each in the color of its class.

    Args:
        features (np.ndarray): (N, D).
        labels (np.ndarray): Class of each, (N,).
        classes (Sequence[str]): Names.
        palette (Sequence): Their colors.
        path (str | Path): PNG file to write.

    Raises:
        ValueError: If there are fewer than five features.
    """
    from sklearn.manifold import TSNE

    if len(features) < 5:
        raise ValueError(f't-SNE needs five features at least; there are {len(features)}.')
    places = TSNE(perplexity=min(30, (len(features) - 1) / 3), init='pca', random_state=0).fit_transform(features)
    figure, axis = pyplot.subplots(figsize=(7, 6), layout='constrained')
    for number in np.unique(labels):
        chosen = labels == number
        color = [np.array(palette[number]) / 255]
        axis.scatter(*places[chosen].T, s=8, c=color, edgecolors='gray', linewidths=0.2, label=classes[number])
    axis.set_xticks([])
    axis.set_yticks([])
    figure.legend(loc='outside right center', frameon=False, fontsize=8, markerscale=2)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
