"""Scores against the number of labeled images: ``mmsemi compare --labels``, ``tools/analysis/compare.py --labels``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import UsageError
from .runs import Run
from .tables import with_spread

LABELED = 'train_dataloader.dataset.labeled'


def plan_budgets(
    plan: Callable[[list[str], Path], dict[str, list[Run]]], budgets: Sequence[int], options: list[str], work_dir: Path
) -> dict[int, dict[str, list[Run]]]:
    """For each number of labeled images the runs of a comparison, in a folder of its own.

    Args:
        plan (Callable): From options and a folder to the runs by config.
        budgets (Sequence[int]): Numbers of labeled images.
        options (list[str]): ``'KEY=VALUE'`` of every training.
        work_dir (Path): Above the folders.

    Raises:
        UsageError: If a number is below 1.
    """
    if min(budgets) < 1:
        raise UsageError(f'--labels are numbers of labeled images, 1 or more, not {min(budgets)}.')
    planned = {}
    for budget in sorted(set(budgets)):
        planned[budget] = plan([*options, f'{LABELED}={budget}'], work_dir / f'{budget}_labels')
        for of_seeds in planned[budget].values():
            for one in of_seeds:
                one.name = f'{one.name}, {budget} labels'
    return planned


def efficiency(
    planned: dict[int, dict[str, list[Run]]], scores: Callable[[Sequence[Run]], dict[str, list[float]]]
) -> dict[str, dict[int, list[float]]]:
    """Scores by method and branch, then by number of labeled images, one for each seed.

    Args:
        planned (dict): From :func:`plan_budgets`.
        scores (Callable): From the runs of a method to the scores of each branch.
    """
    found: dict[str, dict[int, list[float]]] = {}
    for budget, runs in planned.items():
        for name, of_seeds in runs.items():
            for branch, values in scores(of_seeds).items():
                found.setdefault(f'{name}, {branch}', {})[budget] = values
    return found


def efficiency_table(found: dict[str, dict[int, list[float]]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table: a row for each method's branch, a column for each number of labeled images."""
    budgets = sorted({budget for of_budgets in found.values() for budget in of_budgets})
    rows = []
    for name, of_budgets in found.items():
        rows.append([*name.rsplit(', ', 1), *(with_spread(of_budgets[budget]) for budget in budgets)])
    return ['method', 'branch', *(f'{budget} labels' for budget in budgets)], rows
