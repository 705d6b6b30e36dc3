import re
import time

import pytest
import torch
from torch import nn

from mmsemi.apis.launch import UsageError
from mmsemi.engine.step_timing import PHASES, Clock, Instruments, replay
from tests import tiny
from tests.tiny_run import METHOD_FILES
from tests.tools.test_runs import load_tool

benchmark = load_tool('analysis/benchmark_step.py')

ROW = re.compile(r'^(.+?)\s+([\d.]+)\s+([\d.]+|-)\s+(-?[\d.]+|-)\s+(-?[\d.]+|-)$')
NETWORKS = {'student forward', 'teacher forward', 'backward'}


def config(method: str) -> str:
    return f'{METHOD_FILES[method]}/{METHOD_FILES[method]}_r18_shapes.py'


@pytest.mark.parametrize('method', METHOD_FILES)
def test_every_method_is_measured_part_by_part(method, capsys):
    threads = torch.get_num_threads()
    unlabeled = '0' if method == 'Supervised' else '2'
    benchmark.main([config(method), '--crop', '64', '--repeats', '1', '--batch', '2', unlabeled])
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert f'2 labeled + {unlabeled} unlabeled crops of 64 x 64' in lines[0]
    rows = {match[1]: match.groups()[1:] for line in lines if (match := ROW.match(line))}
    absent = set() if tiny.build(method).has_teacher else {'teacher forward'}
    assert {*PHASES, 'total'} - rows.keys() <= {*absent, 'pseudo-labels'}
    assert not absent & rows.keys()
    assert {name for name, row in rows.items() if row[1] != '-'} == {*NETWORKS, 'total'} - absent
    parts = [row for name, row in rows.items() if name != 'total']
    assert float(rows['total'][0]) == pytest.approx(sum(float(row[0]) for row in parts), abs=1)
    assert re.fullmatch(r"overhead without the optimizer's step: -?[\d.]+ %", lines[-2])
    assert re.fullmatch(r'overhead: -?[\d.]+ %', lines[-1])


def test_a_plugin_is_compared_with_the_method_alone(capsys):
    threads = torch.get_num_threads()
    benchmark.main(['mpmc/mpmc_fixmatch_r18_shapes.py', '--crop', '64', '--repeats', '1', '--batch', '2', '2'])
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"plugins: -?[\d.]+ % of the method's step without them", lines[1])


def test_crops_are_measured_side_by_side_and_in_half_precision(capsys):
    threads = torch.get_num_threads()
    benchmark.main([config('FixMatch'), '--crop', '48', '64', '--repeats', '1', '--batch', '2', '2', '--amp', 'bf16'])
    torch.set_num_threads(threads)
    titles = [line for line in capsys.readouterr().out.splitlines() if 'labeled' in line]
    assert len(titles) == 2
    for title, side in zip(titles, (48, 64), strict=True):
        assert f'crops of {side} x {side}, cpu, bf16, 1 steps' in title


class OnCuda(Clock):
    """A clock that takes the CPU for a GPU."""

    def __init__(self, device: torch.device, threads: int) -> None:
        super().__init__(device, threads)
        self.on_cuda = True


class Event:
    """The moment of an operation that a GPU has done at once."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.time = 0.0

    def record(self) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, later: 'Event') -> float:
        return 1e3 * (later.time - self.time)


def test_on_a_gpu_steps_are_timed_unwatched_too(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, 'Clock', OnCuda)
    monkeypatch.setattr(torch.cuda, 'Event', Event)
    for name in ('synchronize', 'reset_peak_memory_stats', 'empty_cache'):
        monkeypatch.setattr(torch.cuda, name, lambda *args: None)
    # Another loop's model takes 1 GiB of the device; this one's, which the runner has put there, another half.
    there = {'others': 1.0, 'own': 0.5}
    monkeypatch.setattr(nn.Module, 'cpu', lambda self: there.update(own=0.0) or self)
    monkeypatch.setattr(torch.cuda, 'memory_allocated', lambda *args: sum(there.values()) * 2**30)
    for name, gib in (('max_memory_allocated', 3), ('memory_reserved', 4)):
        monkeypatch.setattr(torch.cuda, name, lambda *args, gib=gib: gib * 2**30)
    threads = torch.get_num_threads()
    benchmark.main([config('FixMatch'), '--crop', '32', '--repeats', '1', '--batch', '2', '2', '--device', 'cpu'])
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    told = re.fullmatch(r'not watched: ([\d.]+) ms a step; at most 2.00 GiB of tensors, 0.00 GiB held', lines[1])
    assert told and float(told[1]) > 0
    assert re.fullmatch(r'overhead: -?[\d.]+ %', lines[-1])


def recorded_step(method: str) -> tuple[nn.Module, Instruments]:
    """A model after the loss and backward pass of a step that was watched."""
    kwargs = {} if method == 'Supervised' else dict(threshold=0.2)
    model = tiny.build(method, **kwargs).double().train()
    views = tiny.streams_for(model, 2, 3, mixed=False)
    views.labeled, views.weak = views.labeled.double(), views.weak.double()
    views.strong = tuple(view.double() for view in views.strong)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    instruments = Instruments(model, Clock(torch.device('cpu'), 1))
    instruments.calls = []
    with instruments.charging():
        losses = model.loss(views)
    model.parse_losses(losses)[0].backward()
    for call in instruments.calls:
        call.keep_gradients()
    return model, instruments


@pytest.mark.parametrize('method', tiny.METHODS)
def test_the_floor_learns_every_parameter_from_the_steps_gradients(method):
    model, instruments = recorded_step(method)
    of_step = {name: p.grad.clone() for name, p in model.student.named_parameters() if p.grad is not None}
    model.zero_grad()
    calls, instruments.calls = instruments.calls, None
    for _ in range(2):
        model.zero_grad()
        replay(calls, instruments.clock)
    of_floor = {name: p.grad for name, p in model.student.named_parameters() if p.grad is not None}
    assert of_step.keys() == of_floor.keys()
    if any(getattr(head, 'source', '') == 'decoder' for head in model.student.heads.values()):
        return  # what it reads is inside of the decode head, and so is its gradient
    for name, gradient in of_step.items():
        torch.testing.assert_close(of_floor[name], gradient, rtol=1e-8, atol=1e-10, msg=name)


def test_the_floor_repeats_the_grouping_of_passes():
    def calls(method, of):
        model, instruments = recorded_step(method)
        networks = {getattr(model, name).get_submodule(of): name for name in model.branches}
        return [
            (networks[c.network], len(c.inputs[0][0]), c.with_grad) for c in instruments.calls if c.network in networks
        ]

    together = 2 + 3
    assert calls('FixMatch', 'segmentor.backbone') == [('student', together, True), ('student', 3, True)]
    assert calls('MeanTeacher', 'segmentor.backbone') == [('teacher', 3, False), ('student', together, True)]
    _, instruments = recorded_step('UniMatch')
    levels = [call.inputs[0][0][-1] for call in instruments.calls if isinstance(call.inputs[0][0], (tuple, list))]
    assert [len(level) for level in levels] == [together + 3, 3 + 3], 'perturbed features are in the decoder pass'


def test_the_floor_learns_where_the_step_did():
    model, instruments = recorded_step('MeanTeacher')
    calls, instruments.calls = instruments.calls, None
    learning = []
    for branch in (model.student, model.teacher):
        backbone = branch.segmentor.backbone
        backbone.register_forward_pre_hook(lambda *_: learning.append(torch.is_grad_enabled()))
    replay(calls, instruments.clock)
    assert learning == [False, True]


def test_graphs_are_overhead_and_layers_of_auxiliary_heads_are_not():
    model, instruments = recorded_step('MLLC')
    networks = {call.network for call in instruments.calls}
    heads = model.student.heads
    assert heads['embedding'].layers in networks and heads['graph'].label_mlps[0] in networks
    assert heads['graph'] not in networks and heads['embedding'] not in networks
    spent = instruments.clock.seconds()
    assert all(spent[phase] > 0 for phase in ('student forward', 'teacher forward', 'pseudo-labels', 'losses'))


def test_operations_count_as_losses_if_they_learn():
    model, instruments = recorded_step('MeanTeacher')
    instruments.calls = None
    phases: list[str] = []
    instruments.clock.mark = phases.append
    x, images = torch.ones(2, requires_grad=True), torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    with instruments.charging():
        (x * 2).sum()
        model.teacher(images)
        torch.zeros(2).exp()
    with instruments:  # as in the floor
        x * 2
    changes = [phase for i, phase in enumerate(phases) if i == 0 or phase != phases[i - 1]]
    assert changes == ['losses', 'teacher forward', 'losses', 'teacher forward', 'pseudo-labels']


def test_the_table_tells_medians_and_counts_the_optimizer_in_the_last_line_alone():
    zero = dict.fromkeys(PHASES, 0.0)
    floors = [{**zero, 'student forward': 1.0, 'backward': 1.0}] * 3
    step = {**zero, 'data': 0.1, 'student forward': 1.01, 'backward': 1.2, 'optimizer': 0.2}
    lines = benchmark.table([step, {**step, 'data': 9.0}, step], floors).splitlines()
    rows = {match[1]: match.groups()[1:] for line in lines if (match := ROW.match(line))}
    assert rows['data'] == ('100.0', '-', '100.0', '5.0')
    assert rows['student forward'] == ('1010.0', '1000.0', '-', '-')
    assert rows['backward'] == ('1200.0', '1000.0', '200.0', '10.0')
    assert 'teacher forward' not in rows
    assert rows['total'] == ('2510.0', '2000.0', '500.0', '25.0')
    assert lines[-2:] == ["overhead without the optimizer's step: 15.0 %", 'overhead: 25.0 %']


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['mllc/mllc_r18_shape.py'], 'does not exist; did you mean configs/mllc/mllc_r18_shapes.py'),
        ([config('MLLC'), '--batch', '0', '2'], 'at least 1 labeled and 1 unlabeled crops for MLLC, not 0 and 2'),
        ([config('MLLC'), '--batch', '2', '0'], 'at least 1 labeled and 1 unlabeled crops for MLLC, not 2 and 0'),
        ([config('MLLC'), '--device', 'cuda:99'], 'This machine has no device cuda:99'),
        ([config('MLLC'), '--device', 'gpu'], "--device must be 'cpu', 'cuda'"),
        ([config('MLLC'), '--repeats', '0'], '--repeats must be at least 1, not 0'),
        ([config('MLLC'), '--repeats', '-1'], '--repeats must be at least 1, not -1'),
        ([config('MLLC'), '--crop', '64', '-1'], '--crop must be at least 1, not -1'),
    ],
)
def test_what_cannot_be_measured_is_named(arguments, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        benchmark.main(arguments)


@pytest.mark.parametrize('batch', [['2'], ['2', 'x'], ['1', '2', '3']])
def test_a_batch_of_another_form_is_refused(batch, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([config('MLLC'), '--batch', *batch])
    assert '--batch' in capsys.readouterr().err or len(batch) == 3
