import re

import pytest
import torch

from tests.tools.test_runs import load_tool

benchmark = load_tool('analysis/benchmark_regions.py')


def test_both_forms_are_measured_and_agree(capsys):
    threads = torch.get_num_threads()
    benchmark.main(['--crop', '33', '32', '--images', '2', '--shapes', '24', '--classes', '3', '--repeat', '1'])
    torch.set_num_threads(threads)
    rows = re.findall(r'^ +(\d+) +2 +(one by one|in bytes) +(\d+) +[\d.]+ +[\d.]+$', capsys.readouterr().out, re.M)
    assert [row[:2] for row in rows] == [(crop, form) for crop in ('33', '32') for form in ('one by one', 'in bytes')]
    assert int(rows[0][2]) > int(rows[1][2])


def test_forms_that_disagree_end_the_benchmark(monkeypatch):
    monkeypatch.setitem(benchmark.FORMS, 'in bytes', lambda pseudo, *_: pseudo)
    with pytest.raises(SystemExit, match='The two forms disagree'):
        benchmark.main(['--crop', '33', '--shapes', '24', '--classes', '3', '--repeat', '1'])


def test_memory_is_what_living_results_hold():
    x = torch.zeros(1000)
    with benchmark.Watch() as watch:
        y = x + 1
        y = y + 1
        del y
        z = (x.view(10, 100) + 1).sum()
    assert watch.peak == 2 * 4000 and watch.held == z.element_size() and watch.launches == 4
