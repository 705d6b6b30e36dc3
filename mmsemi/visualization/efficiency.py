"""What labels are worth: scores against the number of labeled images."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

from matplotlib import pyplot


def draw_efficiency(
    found: dict[str, dict[int, list[float]]], path: str | Path, ceiling: dict[str, list[float]] | None = None
) -> None:
    """Draw a curve for each method: its mean over seeds, every seed a dot.

    Args:
        found (dict): Scores in percent of each seed, by method, then by number of labeled images.
        path (str | Path): The PNG file.
        ceiling (dict, optional): Scores of what had all labels, by its name: dashed lines.
    """
    figure, axis = pyplot.subplots(figsize=(6.4, 4.2), layout='constrained')
    for number, (name, of_budgets) in enumerate(found.items()):
        budgets = sorted(of_budgets)
        color = pyplot.get_cmap('tab10')(number % 10)
        axis.plot(budgets, [statistics.mean(of_budgets[n]) for n in budgets], color=color, label=name, linewidth=1.6)
        dots = [(n, value) for n in budgets for value in of_budgets[n]]
        axis.plot(*zip(*dots, strict=True), 'o', color=color, markersize=3.5, alpha=0.7)
    for name, values in (ceiling or {}).items():
        axis.axhline(statistics.mean(values), color='0.5', linestyle='--', linewidth=1.2, label=name)
    axis.set_xscale('log')
    ticks = sorted({n for of_budgets in found.values() for n in of_budgets})
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.minorticks_off()
    axis.set_xlabel('labeled images')
    axis.set_ylabel('mIoU in percent')
    axis.grid(alpha=0.3)
    figure.legend(frameon=False, loc='outside upper center', ncols=2)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
