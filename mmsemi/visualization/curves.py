"""Curves of runs: losses, thresholds, quality of pseudo-labels, scores."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import numpy as np
from matplotlib import pyplot

_SCORES = ('mIoU', 'mDice')
_BY_CLASS = ('IoU', 'Dice')
_STYLES = {'student': '-', 'teacher': '--'}
_QUALITY = ('confident', 'accuracy')
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
            try:
                record = json.loads(line) if line.strip() else {}
            except json.JSONDecodeError:
                continue  # half written where the run was killed
            # What is no line of training belongs behind its last iteration, whatever validation counts by.
            step = float(record.get('iter', max(step, record.get('step', step))))
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
    runs = list(dict.fromkeys(os.path.normpath(run) for run in runs))
    curves = dict(zip(_names(runs), map(read_scalars, runs), strict=True))
    panels = _panels(sorted({name for found in curves.values() for name in found}))
    if not panels:
        raise ValueError(f'{runs[0]} has written no losses and no scores yet.')
    shares = {name: _shares(found) for name, found in curves.items()}
    shares = {name: found for name, found in shares.items() if found}
    used = len(panels) + len(shares)
    columns = min(3, used)
    rows = math.ceil(used / columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4.2 * columns, 2.7 * rows + 0.6), squeeze=False, layout='constrained'
    )
    colors = pyplot.get_cmap('tab10')
    for axis, (title, names) in zip(axes.flat, panels.items(), strict=False):
        for number, found in enumerate(curves.values()):
            for name in names:
                if name in found:
                    style = _STYLES.get(name.split('/')[0], '-')
                    steps, values = np.array(found[name]).T
                    smooth = _smoothed(values) if 'loss' in name else values
                    mark = 'o' if len(steps) == 1 else None
                    axis.plot(steps, smooth, style, marker=mark, color=colors(number % 10), linewidth=1.2)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel('iteration', fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis, (name, found) in zip(list(axes.flat)[len(panels) :], shares.items(), strict=False):
        _draw_shares(axis, f'classes of kept labels: {name}', found)
    for axis in list(axes.flat)[used:]:
        axis.axis('off')
    handles = [pyplot.Line2D([], [], color=colors(i % 10), label=name) for i, name in enumerate(curves)]
    figure.legend(handles=handles, loc='outside lower center', ncols=min(4, len(handles)), frameon=False, fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _names(runs: Sequence[str]) -> list[str]:
    """The folders' names, with as many of the folders above as tell them apart."""
    parts = [Path(run).parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(part[-depth:]) for part in parts]
        if len(set(names)) == len(runs):
            break
    return names


def _panels(names: Sequence[str]) -> dict[str, list[str]]:
    """Which curves share a panel, by its title: the branches' scores do. Scores come first, losses last."""
    scores: dict[str, list[str]] = {}
    quality, losses = {}, {}
    for name in names:
        last = name.split('/')[-1]
        if last in _OTHER or last.startswith('share_') or any(last.startswith(f'{part}_') for part in _BY_CLASS):
            continue
        if name.startswith('pseudo/'):
            quality[f'{name} of labels' if last in _SCORES else name] = [name]
        elif last in _SCORES:
            branch = name.split('/')[0]
            scores.setdefault(f'{last}: student —, teacher - -' if branch in _STYLES else last, []).append(name)
        elif 'loss' in name:
            losses[name] = [name]
        elif 'threshold' in name or any(part in name for part in _QUALITY):
            quality[name] = [name]
    return {**scores, **quality, **losses}


def _shares(found: dict[str, list[tuple[float, float]]]) -> dict[str, list[tuple[float, float]]]:
    """Of what a run wrote, the share of each class among the labels that were kept, by class."""
    start = 'pseudo/share_'
    return {name[len(start) :]: points for name, points in found.items() if name.startswith(start)}


def _draw_shares(axis: pyplot.Axes, title: str, found: dict[str, list[tuple[float, float]]]) -> None:
    """One above the other, so that all together are 1."""
    steps = np.array(next(iter(found.values())))[:, 0]
    values = [np.interp(steps, *np.array(points).T) for points in found.values()]
    colors = pyplot.get_cmap('tab20')
    axis.stackplot(steps, values, labels=list(found), colors=[colors(i % 20) for i in range(len(found))])
    axis.set_title(title, fontsize=9)
    axis.set_xlabel('iteration', fontsize=8)
    axis.tick_params(labelsize=7)
    axis.set_ylim(0, 1)
    axis.legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize=6, frameon=False, ncols=1 + len(found) // 14)


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
