import importlib.util
import json
from pathlib import Path

import pytest

from mmsemi.apis import runs
from mmsemi.apis.launch import UsageError
from mmsemi.apis.runs import Run, train_all

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
        '| supervised | student | 40.00 | 41.00 | 40.50 ± 0.71 | +0.00 | 0.500 |',
        '| mllc | student | 43.50 | 43.50 | 43.50 ± 0.00 | +3.00 | 0.500 |',
        '| mllc | teacher | 44.00 | 46.00 | 45.00 ± 1.41 | +4.50 | 0.500 |',
    ]
    assert len(compare.table(runs, [0, 1], 'teacher').splitlines()) == 4


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
