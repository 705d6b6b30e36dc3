"""Configs compared over seeds: ``mmsemi compare``, ``tools/analysis/compare.py``."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from .launch import BASELINE_SUFFIX, UsageError, find_config
from .runs import METRICS, Run, available_cores, train_all

BRANCHES = ('student', 'teacher')


def compare_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line of comparisons."""
    parser = argparse.ArgumentParser(prog, description='Compare configs over seeds')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='the first is what the others are compared with')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument(
        '--baseline', action='store_true', help="compare with the first config's supervised baseline, trained too"
    )
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every training')
    parser.add_argument('--jobs', type=int, default=min(2, available_cores()), help='trainings at the same time')
    parser.add_argument('--branch', choices=BRANCHES, help='show this branch alone, where a method has it')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/compare'))
    return parser


def plan(
    configs: Sequence[str], seeds: Sequence[int], options: list[str], work_dir: Path, baseline: bool = False
) -> dict[str, list[Run]]:
    """One run for each config and seed, by the config's name; ``baseline``: in front those of the first's baseline."""
    runs: dict[str, list[Run]] = {}
    asked = [(config, '', []) for config in configs]
    if baseline:
        asked.insert(0, (configs[0], BASELINE_SUFFIX, ['--baseline']))
    for config, suffix, flags in asked:
        name = Path(find_config(config)).stem + suffix
        if name in runs:
            raise UsageError(f'Two configs are called {name}; give one of them another name.')
        runs[name] = [
            Run(
                f'{name}/seed{seed}',
                config,
                work_dir / name / f'seed{seed}',
                [*options, f'randomness.seed={seed}', f'train_dataloader.dataset.seed={seed}'],
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
    """A Markdown table, a row for each method's branch. Gains are over the first config's last branch."""
    head = ['method', 'branch', *(f'seed {seed}' for seed in seeds), 'mean ± spread', 'gain', 's/iteration']
    rows, reference = [], None
    for name, of_seeds in runs.items():
        found = {b: values for b in BRANCHES if (values := scores(of_seeds, b))}
        reference = reference or statistics.mean(list(found.values())[-1])
        if branch in found:
            found = {branch: found[branch]}
        seconds = statistics.median(one.seconds_per_iteration() for one in of_seeds)
        for b, values in found.items():
            mean = statistics.mean(values)
            spread = f'{statistics.stdev(values):.2f}' if len(values) > 1 else 'unknown'
            cells = [name, b, *(f'{value:.2f}' for value in values), f'{mean:.2f} ± {spread}']
            rows.append([*cells, f'{mean - reference:+.2f}', f'{seconds:.3f}'])
    return '\n'.join(f'| {" | ".join(row)} |' for row in [head, ['---'] * len(head), *rows])


def compare(
    configs: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    baseline: bool = False,
    cfg_options: Sequence[str] = (),
    jobs: int | None = None,
    branch: str | None = None,
    work_dir: str | Path = 'work_dirs/compare',
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

    Returns:
        str: A Markdown table, which is printed, too.

    Raises:
        UsageError: If a training fails, or two configs have one name.
    """
    runs = plan(configs, seeds, list(cfg_options), Path(work_dir), baseline)
    missing = [one for of_seeds in runs.values() for one in of_seeds if not one.is_finished()]
    if missing:
        train_all(missing, min(2, available_cores()) if jobs is None else jobs)
    found = table(runs, seeds, branch)
    print(f'mIoU (mDice on ACDC) in percent; spread is the standard deviation over {len(seeds)} seeds.\n')
    print(found)
    return found
