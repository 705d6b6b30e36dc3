"""What those see who wait for a run."""

import io
import itertools
import logging
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from mmsemi.apis import errors
from mmsemi.apis.launch import build_runner
from mmsemi.engine import ConsoleHook
from mmsemi.engine.console import console_of
from mmsemi.engine.hooks import console_hook
from tests import tiny_run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logger_on(stream: io.StringIO) -> logging.Logger:
    logger = logging.Logger('run')
    logger.addHandler(logging.StreamHandler(stream))
    console_of(logger)
    return logger


def runner_on(stream: io.StringIO) -> SimpleNamespace:
    runtime = {'eta': 90}
    hub = SimpleNamespace(
        runtime_info=runtime,
        get_info=runtime.get,
        get_scalar=lambda name: SimpleNamespace(current=lambda: 0.25),
    )
    return SimpleNamespace(
        logger=logger_on(stream),
        message_hub=hub,
        train_loop=None,
        epoch=2,
        train_dataloader=range(40),
        val_dataloader=range(8),
    )


def test_a_run_begins_with_five_lines_and_lists_are_in_the_log_file(drawn, tmp_path, capsys):
    cfg = tiny_run.config('MLLC', drawn, tmp_path / 'run', epochs=1, mpmc=True)
    build_runner(cfg).train()
    shown = capsys.readouterr().out
    lines = [line.split(' - INFO - ')[-1] for line in shown.splitlines()]
    start = next(number for number, line in enumerate(lines) if line.startswith('data '))
    (file,) = (tmp_path / 'run').glob('*/*.log')
    assert lines[start : start + 5] == [
        'data     8 labeled and 4 unlabeled images, 2 to validate, 8 classes',
        lines[start + 1],
        'method   MLLC with MPMC, 1 epoch of 2 steps, the teacher predicts',
        'batch    4 images in all (2 labeled + 2 unlabeled on one process), learning rate 0.003',
        f'log      {file}; checkpoints in {tmp_path / "run"}',
    ]
    assert re.fullmatch(
        r'network  DeepLabV3PlusHead on ResNetV1c, \d\.\d million parameters, crop 64 x 64', lines[start + 1]
    )
    kept = file.read_text()
    for text in ('System environment', 'Config:', 'Hooks will be executed', 'SemiDataset: 8 labeled'):
        assert text in kept and text not in shown
    assert len(lines) < 60


def test_warnings_and_errors_are_shown_whatever_they_say():
    stream = io.StringIO()
    logger = logger_on(stream)
    logger.error('Config:\nis wrong')
    logger.warning('A step takes 4 images; the learning rate is meant for 16')
    logger.info('A step takes 16 images, for which the learning rate is meant.')
    assert 'is wrong' in stream.getvalue() and stream.getvalue().count('A step takes') == 1


def test_silence_is_broken_after_the_time_that_was_asked_for(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    stream = io.StringIO()
    runner, hook = runner_on(stream), ConsoleHook()
    for number in range(40):  # steps of 10 s
        now += 10
        if number == 20:
            runner.logger.info('a line of the log')
        hook.after_train_iter(runner, number)
    lines = stream.getvalue().splitlines()
    assert lines[0] == 'Epoch(train) [3][3/40]  eta: 0:01:30  time: 0.2500'
    steps = [int(line.split('[')[2].split('/')[0]) for line in lines if line.startswith('Epoch')]
    assert steps[:3] == [3, 6, 9] and 21 not in steps and 24 in steps
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 6

    now += 40
    hook.after_val_iter(runner, 3)
    assert stream.getvalue().splitlines()[-1] == 'Epoch(val) [4/8]'


def test_a_terminal_shows_one_line_that_is_written_over_and_makes_room_for_the_log(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, 'monotonic', lambda: now)
    stream = Terminal()
    runner, hook = runner_on(stream), ConsoleHook()
    for number in range(40):
        now += 0.25
        hook.after_train_iter(runner, number)
    assert '\n' not in stream.getvalue()
    assert 8 <= stream.getvalue().count('\r\x1b[K') <= 12
    assert '##########.......... Epoch(train) [3][' in stream.getvalue().replace('#' * 11, '#' * 10)
    runner.logger.info('a line of the log')
    assert stream.getvalue().endswith('\r\x1b[Ka line of the log\n')


def test_lines_are_read_by_those_who_follow_a_run():
    from mmsemi.apis.runs import _TRAINED

    line = console_hook._where(runner_on(io.StringIO()), 'train', ' [3]', 3, 40)
    assert _TRAINED.findall(line + '  ') == [('3', '3', '40', '0:01:30')]


@pytest.mark.parametrize(
    ('argv', 'sentence'),
    [
        (['tools/train.py', 'a b.py', '--overwrite'], "go on with: python tools/train.py 'a b.py' --resume"),
        (
            ['/bin/mmsemi', 'train', 'c.py', '--resume', 'x.pth', '--amp'],
            'go on with: mmsemi train c.py --amp --resume',
        ),
        (['tools/train.py', 'c.py', '--resume', '--amp'], 'go on with: python tools/train.py c.py --amp --resume'),
        (['/bin/mmsemi', 'predict', 'x.pth', 'in', 'out'], 'interrupted.'),
    ],
)
def test_an_interrupted_training_says_how_to_go_on(argv, sentence, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    monkeypatch.setattr(sys, 'argv', argv)
    rule = errors.find_rule(KeyboardInterrupt())
    assert rule.sentence(KeyboardInterrupt()).endswith(sentence) and rule.status == 130


def test_ctrl_c_ends_a_training_with_that_line_alone(drawn, tmp_path):
    cfg = tiny_run.config('Supervised', drawn, tmp_path / 'run', epochs=2000)
    cfg.dump(tmp_path / 'config.py')
    command = [sys.executable, str(tiny_run.ROOT / 'tools/train.py'), str(tmp_path / 'config.py')]
    with (
        (tmp_path / 'errors').open('w') as errors_file,
        # As from a terminal: what runs in the background of a shell ignores the signal, and so do its children.
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors_file,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process,
    ):
        for line in process.stdout:
            if 'Epoch(train)' in line:
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
        assert process.wait() == 130
    last = (tmp_path / 'errors').read_text().splitlines()
    assert last[-1] == f'error: interrupted; go on with: python {command[1]} {command[2]} --resume'
    assert not any('Traceback' in line for line in last)


def test_a_time_that_is_none_is_refused():
    with pytest.raises(ValueError, match='seconds must be above 0, not 0'):
        ConsoleHook(seconds=0)
