"""Configs compared over seeds: ``mmsemi compare``, ``tools/analysis/compare.py``."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .children import available_cores
from .label_efficiency import efficiency, efficiency_table, plan_budgets
from .launch import BASELINE_SUFFIX, UsageError, find_config
from .runs import MARKS, METRICS, PSEUDO, Run, train_all
from .tables import markdown, with_error, with_spread

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
    parser.add_argument(
        '--pseudo-labels', action='store_true', help='a second table: how good pseudo-labels were during training'
    )
    parser.add_argument('--classes', action='store_true', help='a further table: the score of each class')
    parser.add_argument(
        '--vary',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help="train the first config with each of these, too: an ablation; several keys at once are joined by '&'",
    )
    parser.add_argument(
        '--labels', nargs='+', type=int, default=[], metavar='N', help='compare over these numbers of labeled images'
    )
    parser.add_argument('--picture', type=Path, help='with --labels: a PNG file of scores against them')
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
    vary: Sequence[str] = (),
) -> dict[str, list[Run]]:
    """One run for each config and seed, by the config's name.

    ``baseline``: in front those of the first's baseline. ``all_labels``: behind what is then first the same with the
    masks of all images of its data set, for as many epochs. ``vary``: behind all the first config once more for each of
    these, with this option, or these joined by '&'.
    """
    runs: dict[str, list[Run]] = {}
    asked = [(config, '', [], []) for config in configs]
    asked += [(configs[0], f'_{_short(option)}', [], option.split('&')) for option in vary]
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


def _short(option: str) -> str:
    """'KEY=VALUE' by the last word of each key, as a part of a name."""
    return '_'.join(f'{key.rpartition(".")[2]}={value}' for key, _, value in _pairs(option)).replace('/', '-')


def _pairs(option: str) -> list[tuple[str, str, str]]:
    return [one.partition('=') for one in option.split('&')]


def scores(runs: Sequence[Run], branch: str) -> list[float] | None:
    """The final mIoU, or mDice, of each run's branch; None where the method has no such branch."""
    finals = [run.validations()[-1] for run in runs if run.validations()]
    if len(finals) < len(runs):
        raise UsageError(f'{runs[0].name} and its like were not validated; lower train_cfg.val_interval.')
    for key in (branch + metric for metric in METRICS):
        if all(key in final for final in finals):
            return [final[key] for final in finals]
    return None


def of_branches(runs: Sequence[Run], branch: str | None = None) -> dict[str, list[float]]:
    """Scores of the branches that a method has; of ``branch`` alone where it has that one."""
    found = {b: scored for b in BRANCHES if (scored := scores(runs, b))}
    return {branch: found[branch]} if branch in found else found


def judged_by(runs: Sequence[Run], branch: str | None = None) -> tuple[str, list[float]]:
    """The branch by which a method is judged, and its scores: ``branch`` where it has that one, else its last."""
    return list(of_branches(runs, branch).items())[-1]


def table(runs: dict[str, list[Run]], seeds: Sequence[int], branch: str | None = None) -> str:
    """A Markdown table, a row for each method's branch.

    Gains are over the first config's last branch, seed by seed: their mean, and behind ± its standard error. Where it
    was trained with all labels too, and they helped, the last column but one tells what share of that gap the mean gain
    closes.
    """
    head = ['method', 'branch', *(f'seed {seed}' for seed in seeds), 'mean ± spread', 'gain']
    found = {name: of_branches(of_seeds) for name, of_seeds in runs.items()}
    first = list(next(iter(found.values())).values())[-1]
    every = next((list(of.values())[-1] for name, of in found.items() if name.endswith(ALL_LABELS_SUFFIX)), None)
    gap = statistics.mean(every) - statistics.mean(first) if every else 0.0
    head += [*(['of the gap'] if gap > 0 else []), 's/iteration']
    rows = []
    for name, of_seeds in runs.items():
        seconds = statistics.median(one.seconds_per_iteration() for one in of_seeds)
        for b, values in found[name].items():
            if branch in found[name] and b != branch:
                continue
            gains = [value - start for value, start in zip(values, first, strict=True)]
            cells = [name, b, *(f'{value:.2f}' for value in values), with_spread(values)]
            cells.append(with_error(gains) if values is not first else '')
            if gap > 0:
                cells.append(f'{100 * statistics.mean(gains) / gap:.0f} %' if values is not first else '')
            rows.append([*cells, f'{seconds:.3f}'])
    return markdown(head, rows)


def pseudo_table(runs: dict[str, list[Run]]) -> str:
    """A Markdown table of the quality of pseudo-labels during training, means over the seeds.

    A row for each method that followed them (``default_hooks.pseudo_labels`` and
    ``train_dataloader.dataset.unlabeled_gt``).

    Raises:
        UsageError: If none did.
    """
    head = ['method', *(f'{what} at {mark:.0%}' for mark in MARKS for what in ('mIoU', 'kept', 'right'))]
    rows = []
    for name, of_seeds in runs.items():
        followed = [found for one in of_seeds if (found := one.pseudo_labels())]
        if not followed:
            continue
        cells = [name]
        for at_mark in zip(*followed, strict=True):
            score, kept, right = (statistics.mean(found[key] for found in at_mark) for key in PSEUDO)
            cells += [f'{score:.1f}', f'{100 * kept:.1f} %', f'{100 * right:.1f} %']
        rows.append(cells)
    if not rows:
        raise UsageError(
            '--pseudo-labels: no run followed them; train with default_hooks.pseudo_labels.type=PseudoLabelHook '
            'train_dataloader.dataset.unlabeled_gt=True.'
        )
    return markdown(head, rows)


def class_table(runs: dict[str, list[Run]], branch: str | None = None) -> str:
    """A Markdown table of the score of each class, means over the seeds; a row for each method.

    It is that of ``branch`` where a method has it, else of its last branch. A class that a run neither shows nor
    predicts has no score there.

    Raises:
        UsageError: If no log tells of classes.
    """
    found = {}
    for name, of_seeds in runs.items():
        judged, _ = judged_by(of_seeds, branch)
        found[name] = [one.by_class(judged) for one in of_seeds]
    classes = list(dict.fromkeys(label for of_seeds in found.values() for one in of_seeds for label in one))
    if not classes:
        raise UsageError(f'--classes: the logs of {", ".join(found)} have no score of a class.')
    rows = []
    for name, of_seeds in found.items():
        values = ([one[label] for one in of_seeds if label in one] for label in classes)
        rows.append([name, *(f'{statistics.mean(scored):.1f}' if scored else '' for scored in values)])
    return markdown(['method', *classes], rows)


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
    pseudo_labels: bool = False,
    classes: bool = False,
    vary: Sequence[str] = (),
    labels: Sequence[int] = (),
    picture: str | Path | None = None,
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
        all_labels (bool): Train what the others are compared with on all labels, too; with ``labels`` it is a sentence
            below the table and a line in the picture. Defaults to False.
        from_logs (bool): Train nothing. Defaults to False.
        pseudo_labels (bool): Tell how good pseudo-labels were, too. Defaults to False.
        classes (bool): Tell the score of each class, too. Defaults to False.
        vary (Sequence[str]): ``'KEY=VALUE'``, several joined by '&': train the first config with each of these, too.
        labels (Sequence[int]): Train with each of these numbers of labeled images; the table has a column for each.
        picture (str | Path, optional): PNG file in which scores are drawn against these numbers.

    Returns:
        str: A Markdown table, which is printed, too.

    Raises:
        UsageError: If a training fails or, ``from_logs``, is missing, or two configs have one name.
    """
    unclear = [option for option in vary if not all(key and value for key, _, value in _pairs(option))]
    if unclear:
        raise UsageError(f'--vary takes KEY=VALUE, not {unclear[0]!r}.')
    if labels and (pseudo_labels or classes):
        raise UsageError('--labels is a table of its own: leave out --pseudo-labels and --classes.')
    if picture and not labels:
        raise UsageError('--picture draws what --labels compares; give numbers of labeled images.')

    options, work_dir = list(cfg_options), Path(work_dir)

    def planned(options: list[str], folder: Path, all_labels: bool = False) -> dict[str, list[Run]]:
        return plan(configs, seeds, options, folder, baseline, all_labels, vary)

    if labels:
        budgets = plan_budgets(planned, labels, options, work_dir)
        runs = [one for of_configs in budgets.values() for of_seeds in of_configs.values() for one in of_seeds]
        of_all = planned(options, work_dir, True) if all_labels else {}
        every = {name: of_seeds for name, of_seeds in of_all.items() if name.endswith(ALL_LABELS_SUFFIX)}
        _complete(runs + [one for of_seeds in every.values() for one in of_seeds], jobs, work_dir, from_logs)
        found = efficiency(budgets, partial(of_branches, branch=branch))
        ceiling = {name: judged_by(of_seeds, branch)[1] for name, of_seeds in every.items()}
        said = f'mIoU (mDice on ACDC) in percent: mean ± standard deviation over {len(seeds)} seeds.'
        text = markdown(*efficiency_table(found))
        text += ''.join(f'\n\n{name}: {with_spread(values)}.' for name, values in ceiling.items())
        if picture:
            from mmsemi.visualization.efficiency import draw_efficiency

            draw_efficiency(found, picture, ceiling)
    else:
        of_configs = planned(options, work_dir, all_labels)
        _complete([one for of_seeds in of_configs.values() for one in of_seeds], jobs, work_dir, from_logs)
        said = (
            'mIoU (mDice on ACDC) in percent; spread is the standard deviation over '
            f'{len(seeds)} seeds. Gains are those of the same seeds: their mean ± its standard error.'
        )
        text = table(of_configs, seeds, branch)
        if pseudo_labels:
            text += (
                '\n\nPseudo-labels: mIoU of all, share kept, share of the kept that is right, each over the tenth of '
                f'training before, mean over seeds.\n\n{pseudo_table(of_configs)}'
            )
        if classes:
            which = f'{branch} where there is one, else the last' if branch else 'last'
            text += f'\n\nEach class, mean over seeds, of the {which} branch:\n\n{class_table(of_configs, branch)}'
    print(f'{said}\n\n{text}')
    return text


def _complete(runs: Sequence[Run], jobs: int | None, work_dir: Path, from_logs: bool) -> None:
    """Train those that are not finished; with ``from_logs`` all must have ended."""
    missing = [one for one in runs if not one.is_finished()]
    if from_logs:
        absent = [one.name for one in missing if not one.has_ended()]
        if absent:
            raise UsageError(f'--from-logs: not trained to the end under {work_dir}: {", ".join(absent)}.')
        for one in missing:
            print(f'note: {one.name} was trained by another config or with other options', file=sys.stderr)
    elif missing:
        train_all(missing, min(2, available_cores()) if jobs is None else jobs)
