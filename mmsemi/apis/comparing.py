"""Configs compared over seeds: ``mmsemi compare``, ``tools/analysis/compare.py``."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from .children import available_cores
from .launch import BASELINE_SUFFIX, UsageError, find_config
from .runs import METRICS, Run, train_all

BRANCHES = ('student', 'teacher')
ALL_LABELS_SUFFIX = '_all_labels'


def compare_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line of comparisons."""
    parser = argparse.ArgumentParser(prog, description='Compare configs over seeds')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='the first is what the others are compared with')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument(
        '--baseline', action='store_true', help="compare with the first config's supervised baseline, trained too"
    )
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every training')
    parser.add_argument('--jobs', type=int, help='trainings at the same time; default: 2, or 1 on one core')
    parser.add_argument(
        '--all-labels', action='store_true', help='train the first config with all labels too: what share of that gap?'
    )
    parser.add_argument('--from-logs', action='store_true', help='train nothing: the table of what was trained')
    parser.add_argument('--branch', choices=BRANCHES, help='show this branch alone, where a method has it')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/compare'))
    return parser


def plan(
    configs: Sequence[str],
    seeds: Sequence[int],
    options: list[str],
    work_dir: Path,
    baseline: bool = False,
    all_labels: bool = False,
) -> dict[str, list[Run]]:
    """One run for each config and seed, by the config's name.

    ``baseline``: in front those of the first's baseline. ``all_labels``: behind what is then first the same with the
    masks of all images of its data set, for as many epochs.
    """
    runs: dict[str, list[Run]] = {}
    asked = [(config, '', [], []) for config in configs]
    if baseline:
        asked.insert(0, (configs[0], BASELINE_SUFFIX, ['--baseline'], []))
    if all_labels:
        config, suffix, flags, _ = asked[0]
        every = ['train_dataloader.dataset.labeled=1/1', 'train_dataloader.dataset.candidates=None']
        asked.insert(1, (config, suffix + ALL_LABELS_SUFFIX, flags, every))
    for config, suffix, flags, labels in asked:
        name = Path(find_config(config)).stem + suffix
        if name in runs:
            raise UsageError(f'Two configs are called {name}; give one of them another name.')
        runs[name] = [
            Run(
                f'{name}/seed{seed}',
                config,
                work_dir / name / f'seed{seed}',
                [*options, *labels, f'randomness.seed={seed}', f'train_dataloader.dataset.seed={seed}'],
                flags,
            )
            for seed in seeds
        ]
    return runs


def scores(runs: Sequence[Run], branch: str) -> list[float] | None:
    """The final mIoU, or mDice, of each run's branch; None where the method has no such branch."""
    finals = [run.validations()[-1] for run in runs if run.validations()]
    if len(finals) < len(runs):
        raise UsageError(f'{runs[0].name} and its like were not validated; lower train_cfg.val_interval.')
    for key in (branch + metric for metric in METRICS):
        if all(key in final for final in finals):
            return [final[key] for final in finals]
    return None


def table(runs: dict[str, list[Run]], seeds: Sequence[int], branch: str | None = None) -> str:
    """A Markdown table, a row for each method's branch.

    Gains are over the first config's last branch, seed by seed: their mean, and behind ± its standard error. Where it
    was trained with all labels too, the last column but one tells what share of that gap the mean gain closes.
    """
    head = ['method', 'branch', *(f'seed {seed}' for seed in seeds), 'mean ± spread', 'gain']
    found = {name: {b: scored for b in BRANCHES if (scored := scores(of_seeds, b))} for name, of_seeds in runs.items()}
    first = list(next(iter(found.values())).values())[-1]
    every = next((list(of.values())[-1] for name, of in found.items() if name.endswith(ALL_LABELS_SUFFIX)), None)
    gap = statistics.mean(every) - statistics.mean(first) if every else None
    head += [*(['of the gap'] if gap else []), 's/iteration']
    rows = []
    for name, of_seeds in runs.items():
        seconds = statistics.median(one.seconds_per_iteration() for one in of_seeds)
        for b, values in found[name].items():
            if branch in found[name] and b != branch:
                continue
            gains = [value - start for value, start in zip(values, first, strict=True)]
            cells = [name, b, *(f'{value:.2f}' for value in values), _with(values, len(values) ** 0.5, '.2f')]
            cells.append(_with(gains, 1, '+.2f') if values is not first else '')
            if gap:
                cells.append(f'{100 * statistics.mean(gains) / gap:.0f} %' if values is not first else '')
            rows.append([*cells, f'{seconds:.3f}'])
    return '\n'.join(f'| {" | ".join(row)} |' for row in [head, ['---'] * len(head), *rows])


def _with(values: Sequence[float], factor: float, form: str) -> str:
    """The mean, and ``factor`` times its standard error."""
    if len(values) < 2:
        return f'{statistics.mean(values):{form}}'
    error = factor * statistics.stdev(values) / len(values) ** 0.5
    return f'{statistics.mean(values):{form}} ± {error:.2f}'


def compare(
    configs: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    baseline: bool = False,
    cfg_options: Sequence[str] = (),
    jobs: int | None = None,
    branch: str | None = None,
    work_dir: str | Path = 'work_dirs/compare',
    all_labels: bool = False,
    from_logs: bool = False,
) -> str:
    """Train configs with several seeds, what is not trained yet, and compare what they reach.

    A seed sets the network's start, the order of the data and the draw of labeled images. Runs that have finished are
    not trained again, those that were broken off go on from their last checkpoint.

    Args:
        configs (Sequence[str]): The first is what the others are compared with.
        seeds (Sequence[int]): Defaults to (0, 1, 2).
        baseline (bool): Compare with the first config's supervised baseline, trained too. Defaults to False.
        cfg_options (Sequence[str]): ``'KEY=VALUE'`` for every training.
        jobs (int, optional): Trainings at the same time. Defaults to 2, or 1 on one core.
        branch (str, optional): Show this branch alone, where a method has it.
        work_dir (str | Path): Folder of all runs. Defaults to ``work_dirs/compare``.
        all_labels (bool): Train what the others are compared with on all labels, too. Defaults to False.
        from_logs (bool): Train nothing. Defaults to False.

    Returns:
        str: A Markdown table, which is printed, too.

    Raises:
        UsageError: If a training fails or, ``from_logs``, is missing, or two configs have one name.
    """
    runs = plan(configs, seeds, list(cfg_options), Path(work_dir), baseline, all_labels)
    missing = [one for of_seeds in runs.values() for one in of_seeds if not one.is_finished()]
    if from_logs:
        absent = [one.name for one in missing if not one.has_ended()]
        if absent:
            raise UsageError(f'--from-logs: not trained to the end under {work_dir}: {", ".join(absent)}.')
        for one in missing:
            print(f'note: {one.name} was trained by another config or with other options', file=sys.stderr)
    elif missing:
        train_all(missing, min(2, available_cores()) if jobs is None else jobs)
    found = table(runs, seeds, branch)
    print(
        f'mIoU (mDice on ACDC) in percent; spread is the standard deviation over {len(seeds)} seeds. Gains are those '
        'of the same seeds: their mean ± its standard error.\n'
    )
    print(found)
    return found
