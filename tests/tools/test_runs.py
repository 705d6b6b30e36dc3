import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from mmsemi.apis import runs
from mmsemi.apis.launch import UsageError
from mmsemi.apis.runs import Run, train_all
from tests.ranks import is_alive

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'supervised/supervised_r18_shapes.py'


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / 'tools' / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compare = load_tool('analysis/compare.py')


def measured(work_dir: Path, final: dict[str, float]) -> Run:
    """A run whose logs say what it reached."""
    run = Run(work_dir.name, CONFIG, work_dir)
    folder = work_dir / '20250101_000000' / 'vis_data'
    folder.mkdir(parents=True)
    steps = [{'loss': 1.0, 'time': seconds, 'step': 1} for seconds in (9.0, 0.5, 0.5)]
    earlier = dict.fromkeys(final, 1.0)
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, [*steps, earlier, final])))
    return run


def test_table_has_mean_spread_and_gain_over_the_first_config(tmp_path):
    runs = {
        'supervised': [measured(tmp_path / f's{i}', {'student/mIoU': 40.0 + i}) for i in range(2)],
        'mllc': [measured(tmp_path / f'm{i}', {'student/mIoU': 43.5, 'teacher/mIoU': 44.0 + 2 * i}) for i in range(2)],
    }
    rows = compare.table(runs, [0, 1]).splitlines()[2:]
    assert rows == [
        '| supervised | student | 40.00 | 41.00 | 40.50 ± 0.71 |  | 0.500 |',
        '| mllc | student | 43.50 | 43.50 | 43.50 ± 0.00 | +3.00 ± 0.50 | 0.500 |',
        '| mllc | teacher | 44.00 | 46.00 | 45.00 ± 1.41 | +4.50 ± 0.50 | 0.500 |',
    ]
    assert len(compare.table(runs, [0, 1], 'teacher').splitlines()) == 4


def test_gains_are_those_of_the_same_seeds_and_a_share_of_what_all_labels_bring(tmp_path):
    def runs_of(name, *values):
        return [measured(tmp_path / f'{name}{i}', {'student/mIoU': value}) for i, value in enumerate(values)]

    runs = {
        'supervised': runs_of('s', 40.0, 50.0, 45.0),
        'supervised_all_labels': runs_of('a', 60.0, 60.0, 60.0),
        'mllc': runs_of('m', 43.0, 54.0, 50.0),
    }
    head, _, *rows = compare.table(runs, [0, 1, 2]).splitlines()
    assert head.endswith('| mean ± spread | gain | of the gap | s/iteration |')
    assert rows[1].endswith('| 60.00 ± 0.00 | +15.00 ± 2.89 | 100 % | 0.500 |')
    assert rows[2].endswith('| 49.00 ± 5.57 | +4.00 ± 0.58 | 27 % | 0.500 |'), 'seeds differ by more than methods'
    one = compare.table({name: of_seeds[:1] for name, of_seeds in runs.items()}, [0]).splitlines()[-1]
    assert one.endswith('| 43.00 | 43.00 | +3.00 | 15 % | 0.500 |')
    runs['supervised_all_labels'] = runs_of('worse', 30.0, 30.0, 30.0)
    assert 'of the gap' not in compare.table(runs, [0, 1, 2]), 'there is none where all labels do not help'


def test_all_labels_are_those_of_all_images_of_the_data_set(tmp_path):
    planned = compare.plan([CONFIG], [0], ['a=1'], tmp_path, baseline=True, all_labels=True)
    assert list(planned) == [
        'supervised_r18_shapes_baseline', 'supervised_r18_shapes_baseline_all_labels', 'supervised_r18_shapes'
    ]  # fmt: skip
    _, [every], _ = planned.values()
    assert every.flags == ['--baseline']
    assert every.options[:3] == [
        'a=1', 'train_dataloader.dataset.labeled=1/1', 'train_dataloader.dataset.candidates=None'
    ]  # fmt: skip


def by_class(work_dir: Path, *validations: dict[str, float]) -> Run:
    """A run whose log has scores of classes at each validation, as the validation loop writes them."""
    run = measured(work_dir, {'student/mIoU': 40.0, 'teacher/mIoU': 50.0})
    with next(work_dir.glob('*/vis_data/scalars.json')).open('a') as file:
        file.write('\n' + '\n'.join(map(json.dumps, validations)))
    return run


def test_scores_of_classes_are_those_of_the_last_validation_and_branch(tmp_path):
    first = {'student/IoU_sky': 1.0, 'student/IoU_a b': 2.0, 'teacher/IoU_sky': 3.0, 'teacher/IoU_a b': 4.0}
    last = {'student/IoU_sky': 5.0, 'student/IoU_a b': 6.0, 'teacher/IoU_sky': 7.0, 'teacher/IoU_a b': 8.0}
    both = {'teacher/IoU_sky': 9.0, 'teacher/Dice_sky': 90.0}
    runs = {
        'mllc': [by_class(tmp_path / 'a', first, last), by_class(tmp_path / 'b', last, both)],
        'unet': [by_class(tmp_path / 'c', {'teacher/Dice_sky': 11.0})],
    }
    assert compare.class_table(runs).splitlines() == [
        '| method | sky | a b |', '| --- | --- | --- |', '| mllc | 8.0 | 8.0 |', '| unet | 11.0 |  |'
    ]  # fmt: skip
    assert '| mllc | 5.0 | 6.0 |' in compare.class_table({'mllc': runs['mllc'][:1]}, 'student')
    with pytest.raises(UsageError, match='--classes: the logs of old have no score of a class'):
        compare.class_table({'old': [measured(tmp_path / 'd', {'student/mIoU': 1.0})]})


def followed(work_dir: Path, total: int, told: dict[int, tuple[float, float, float]]) -> Run:
    """A run whose logs say how good its pseudo-labels were at some steps."""
    run = measured(work_dir, {'student/mIoU': 40.0})
    names = ('pseudo/mIoU', 'pseudo/mining_ratio', 'pseudo/accuracy_kept')
    lines = [{'loss': 1.0, 'step': step, **dict(zip(names, values, strict=True))} for step, values in told.items()]
    with next(work_dir.glob('*/vis_data/scalars.json')).open('a') as file:
        file.write('\n' + '\n'.join(map(json.dumps, [*lines, {'loss': 1.0, 'step': total}])))
    return run


def test_pseudo_labels_are_those_of_the_tenth_before_each_mark(tmp_path):
    told = {
        10: (90.0, 0.9, 0.9), 20: (10.0, 0.1, 0.5), 25: (20.0, 0.3, 0.7), 50: (30.0, 0.5, 0.5), 95: (40.0, 1.0, 1.0)
    }  # fmt: skip
    runs = {
        'supervised': [measured(tmp_path / 's', {'student/mIoU': 1.0})],
        'mllc': [followed(tmp_path / 'a', 100, told), followed(tmp_path / 'b', 100, {30: (50.0, 0.5, 0.5)})],
    }
    assert runs['supervised'][0].pseudo_labels() is None
    quarter, half, end = runs['mllc'][0].pseudo_labels()
    assert (quarter['pseudo/mIoU'], half['pseudo/mIoU'], end['pseudo/mIoU']) == (15.0, 30.0, 40.0)
    head, _, row = compare.pseudo_table(runs).splitlines()
    assert head.startswith('| method | mIoU at 25% | kept at 25% | right at 25% | mIoU at 50%')
    assert row == '| mllc | 32.5 | 35.0 % | 55.0 % | 40.0 | 50.0 % | 50.0 % | 45.0 | 75.0 % | 75.0 % |'
    with pytest.raises(UsageError, match='no run followed them; train with default_hooks'):
        compare.pseudo_table({'supervised': runs['supervised']})


def test_labels_are_compared_each_number_in_its_folder_and_drawn(tmp_path):
    for budget, score in ((23, 30.0), (46, 40.0)):
        for seed in (0, 1):
            run = measured(
                tmp_path / f'{budget}_labels/supervised_r18_shapes/seed{seed}', {'student/mIoU': score + seed}
            )
            run._marker('finished').write_text('')
    picture = tmp_path / 'labels.png'
    arguments = dict(labels=[46, 23], work_dir=tmp_path, from_logs=True, picture=picture)
    table = compare.compare([CONFIG], [0, 1], **arguments)
    assert table.splitlines() == [
        '| method | branch | 23 labels | 46 labels |',
        '| --- | --- | --- | --- |',
        '| supervised_r18_shapes | student | 30.50 ± 0.71 | 40.50 ± 0.71 |',
    ]
    assert Image.open(picture).size[0] > 500

    for seed in (0, 1):
        every = measured(tmp_path / f'supervised_r18_shapes_all_labels/seed{seed}', {'student/mIoU': 60.0 + seed})
        every._marker('finished').write_text('')
    drawn = picture.read_bytes()
    with_all = compare.compare([CONFIG], [0, 1], **arguments, all_labels=True)
    assert with_all.splitlines() == [*table.splitlines(), '', 'supervised_r18_shapes_all_labels: 60.50 ± 0.71.']
    assert picture.read_bytes() != drawn

    with pytest.raises(UsageError, match='seed2, 23 labels'):
        compare.compare([CONFIG], [0, 1, 2], **arguments)
    planned = compare.plan([CONFIG], [0], ['train_dataloader.dataset.labeled=23'], tmp_path)
    assert planned['supervised_r18_shapes'][0].options[0] == 'train_dataloader.dataset.labeled=23'


def test_a_config_is_compared_with_itself_under_other_options(tmp_path):
    asked = ['model.a.rate=1.5', 'model.b=x/y&hooks.c=None']
    planned = compare.plan([CONFIG, 'mllc/mllc_r18_shapes.py'], [0], ['d=1'], tmp_path, vary=asked)
    first = 'supervised_r18_shapes'
    assert list(planned) == [first, 'mllc_r18_shapes', f'{first}_rate=1.5', f'{first}_b=x-y_c=None']
    *_, [one], [other] = planned.values()
    assert one.config == other.config == CONFIG and other.work_dir.parent.parent == tmp_path
    assert one.options[:2] == ['d=1', 'model.a.rate=1.5']
    assert other.options[:3] == ['d=1', 'model.b=x/y', 'hooks.c=None']


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (dict(vary=['a=1', 'b']), "--vary takes KEY=VALUE, not 'b'"),
        (dict(vary=['a=1&']), "--vary takes KEY=VALUE, not 'a=1&'"),
        (dict(labels=[0]), '1 or more, not 0'),
        (dict(labels=[4], pseudo_labels=True), 'leave out --pseudo-labels'),
        (dict(labels=[4], classes=True), 'leave out --pseudo-labels and --classes'),
        (dict(picture='a.png'), '--picture draws what --labels compares'),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, arguments, said):
    with pytest.raises(UsageError, match=said):
        compare.compare([CONFIG], [0], work_dir=tmp_path, **arguments)


def test_a_table_is_made_of_logs_alone(tmp_path, capsys):
    with pytest.raises(UsageError, match=r'--from-logs: not trained to the end under .*: supervised_r18_shapes/seed4'):
        compare.compare([CONFIG], [4], work_dir=tmp_path, from_logs=True)
    run = measured(tmp_path / 'supervised_r18_shapes/seed4', {'student/mIoU': 40.0})
    run._marker('finished').write_text('by an earlier version of the config')
    table = compare.compare([CONFIG], [4], work_dir=tmp_path, from_logs=True)
    assert table.endswith('| supervised_r18_shapes | student | 40.00 | 40.00 |  | 0.500 |')
    assert 'seed4 was trained by another config' in capsys.readouterr().err


def test_tables_of_a_page_are_written_anew_from_logs_or_not_at_all(tmp_path):
    fill_tables = load_tool('analysis/fill_tables.py')
    for seed, score in ((0, 40.0), (1, 42.0)):
        run = measured(tmp_path / f'supervised_r18_shapes/seed{seed}', {'student/mIoU': score})
        run._marker('finished').write_text('')
    asked = f'{CONFIG} --seeds 0 1 --work-dir {tmp_path}'
    page = (
        f'Before\n\n<!-- compare.py {asked} -->\nold\n<!-- compare.py ends -->\n\nbetween\n'
        f'<!-- compare.py {asked} --only table -->\n<!-- compare.py ends -->\nbehind\n'
    )
    filled = fill_tables.fill(page)
    row = '| supervised_r18_shapes | student | 40.00 | 42.00 | 41.00 ± 1.41 |  | 0.500 |'
    assert filled.count(row) == 2 and filled.count('```bash\npython tools/analysis/compare.py') == 1
    assert filled.index('```bash') < filled.index('between'), 'a block that asks for the table alone has no command'
    assert filled.count('Before') == filled.count('between') == filled.count('behind') == 1 and 'old' not in filled
    assert fill_tables.fill(filled) == filled, 'a page that is filled stays as it is'
    with pytest.raises(UsageError, match='seed2'):
        fill_tables.fill(page.replace('0 1 --work', '0 1 2 --work'))
    assert fill_tables.fill('no table') == 'no table'
    folder = tmp_path / 'supervised_r18_shapes'
    cell = f'| ours | <!-- mean of {folder} -->12<!-- end --> |'
    assert fill_tables.fill(cell) == f'| ours | <!-- mean of {folder} -->41.00 ± 1.41<!-- end --> |'
    with pytest.raises(UsageError, match='has no seeds'):
        fill_tables.fill(cell.replace('supervised', 'other'))


def test_seed_sets_network_and_partition(tmp_path):
    (run,) = compare.plan([CONFIG], [3], ['a=1'], tmp_path)['supervised_r18_shapes']
    assert run.options == ['a=1', 'randomness.seed=3', 'train_dataloader.dataset.seed=3']
    assert run.work_dir == tmp_path / 'supervised_r18_shapes' / 'seed3'


def test_the_baseline_of_the_first_config_stands_in_front(tmp_path):
    mllc = 'mllc/mllc_r18_shapes.py'
    planned = compare.plan([mllc, CONFIG], [0], [], tmp_path, baseline=True)
    assert list(planned) == ['mllc_r18_shapes_baseline', 'mllc_r18_shapes', 'supervised_r18_shapes']
    [one], [other], _ = planned.values()
    assert (one.config, one.flags, one.work_dir.parent.name) == (mllc, ['--baseline'], 'mllc_r18_shapes_baseline')
    assert not other.flags and one._fingerprint() != other._fingerprint()


def test_progress_line_has_epoch_time_left_and_latest_scores(tmp_path):
    run = Run('mllc', CONFIG, tmp_path)
    assert 'starting' in run.describe()
    line = '{} - mmengine - INFO - Epoch(train) [{}][50/72]  lr: 1e-3  eta: 0:01:{}  time: 0.2\n'
    score = 'Epoch(val) [1][7/7]    student/mIoU: {}  teacher/mIoU: {}\n'
    run.log.write_text(line.format('x', 1, 30) + score.format(10.5, 11.5) + line.format('y', 2, 20))
    shown = ' '.join(run.describe().split())
    assert shown == 'mllc epoch 2/? left 0:01:20 student mIoU 10.5 teacher mIoU 11.5'


def test_run_is_finished_only_with_the_same_options(tmp_path):
    run = Run('run', CONFIG, tmp_path, ['randomness.seed=0'])
    assert not run.is_finished()
    run._marker('finished').write_text(run._fingerprint())
    assert run.is_finished()
    assert not Run('run', CONFIG, tmp_path, ['randomness.seed=1']).is_finished()


def test_a_run_that_was_broken_off_goes_on_and_another_starts_anew(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(runs, 'start_tool', lambda name, arguments, *rest: started.append('--resume' in arguments))
    Run('run', CONFIG, tmp_path).start(1)
    Run('run', CONFIG, tmp_path).start(1)  # which the training says, if there was no checkpoint yet
    Run('run', CONFIG, tmp_path, ['randomness.seed=1']).start(1)
    assert started == [False, True, False]


def test_failed_training_is_reported_with_its_last_line(tmp_path):
    options = ['train_dataloader.dataset.dataset.data_root=no_such_data']
    run = Run('mine', CONFIG, tmp_path, options)
    with pytest.raises(UsageError, match=r'mine failed: .*no_such_data'):
        train_all([run], jobs=1)
    assert not run._marker('finished').exists()


def test_a_run_that_was_broken_off_is_judged_by_all_its_parts_and_not_by_what_was_there_before(tmp_path, monkeypatch):
    run = Run('run', CONFIG, tmp_path)
    monkeypatch.setattr(runs, 'start_tool', lambda *arguments: None)

    def log(when: float, text: str) -> None:
        folder = tmp_path / time.strftime('%Y%m%d_%H%M%S', time.localtime(when)) / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text(text)

    now = time.time()
    log(now - 1000, '{"student/mIoU": 1.0}\n')
    run.start(1)
    log(now + 10, '{"loss": 1.0, "time": 0.5, "step": 1}\n{"student/mIoU": 50.0}\n{"student/mIo')
    run.start(1)  # killed in between
    log(now + 20, '{"loss": 1.0, "time": 0.5, "step": 2}\n')
    assert run.validations() == [{'student/mIoU': 50.0}]
    assert run.seconds_per_iteration() == 0.5


@pytest.mark.parametrize(
    ('said', 'expected'),
    [
        ({}, ('2', '2')),
        ({'MKL_NUM_THREADS': '3'}, ('3', '3')),
        ({'OMP_NUM_THREADS': '1'}, ('1', '1')),
        ({'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '3'}, ('1', '3')),
    ],
)
def test_a_training_takes_its_share_of_the_cores_unless_the_environment_says_how_many_threads(
    said, expected, tmp_path, monkeypatch
):
    seen = {}
    monkeypatch.setattr(runs.children, 'start', lambda command, env, **how: seen.update(env))
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    runs.start_tool('train.py', [], [], tmp_path / 'log', threads=2)
    assert (seen['OMP_NUM_THREADS'], seen['MKL_NUM_THREADS']) == expected


PARENT = """
import sys, time
from mmsemi.apis import children
from mmsemi.apis.launch import run


def main():
    child = children.start([sys.executable, '-c', 'import time; time.sleep(600)'])
    try:
        print(child.pid, flush=True)
        time.sleep(600)
    finally:
        children.stop(child, 5)


run(main)
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_trainings_end_with_the_tool_that_started_them(number):
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    parent = subprocess.Popen([sys.executable, '-c', PARENT], stdout=subprocess.PIPE, text=True, env=env)
    child = int(parent.stdout.readline())
    assert is_alive(child)
    parent.send_signal(number)
    assert parent.wait(60) in (-number, 128 + number)
    deadline = time.monotonic() + 30
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_config_that_was_edited_while_it_trained_is_not_taken_for_the_one_that_was_trained(tmp_path, monkeypatch):
    class Ended:
        def poll(self) -> int:
            return 0

    monkeypatch.setattr(runs, 'start_tool', lambda *arguments: Ended())
    path = tmp_path / 'config.py'
    path.write_text('train_cfg = dict(max_epochs=1)')
    run = Run('mine', str(path), tmp_path / 'run')
    run.start(1)
    path.write_text('train_cfg = dict(max_epochs=2)')
    assert run.poll() and not run.is_finished()
    path.write_text('train_cfg = dict(max_epochs=1)')
    assert run.is_finished()
