"""What a user sees when something is wrong: one sentence at the end, and never a traceback."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmsemi.apis import errors, launch
from mmsemi.apis.config_keys import ConfigError, check_files, check_numbers, check_optimizers, read_config
from mmsemi.apis.errors import UsageError, find_rule
from mmsemi.engine import Stopped
from mmsemi.engine.run_lock import NAME, FolderInUseError, RunLock
from tests.ranks import is_alive

ROOT = Path(__file__).resolve().parents[2]


def os_error(number: int, file: str | None = 'work_dirs/x/epoch_1.pth') -> OSError:
    return OSError(number, os.strerror(number), file)


def syntax_error() -> SyntaxError:
    try:
        compile('model = dict(\n', 'mine.py', 'exec')
    except SyntaxError as error:
        return error


def network_error(text: str) -> Exception:
    return torch.distributed.DistNetworkError(text)


TABLE = [
    (os_error(errno.ENOSPC), 2, 'The disk of work_dirs/x/epoch_1.pth is full'),
    (os_error(errno.EROFS), 2, 'is on a file system that is read-only'),
    (os_error(errno.EACCES), 2, 'There is no permission for work_dirs/x'),
    (os_error(errno.ENOTDIR), 2, 'needs a folder where there is a file'),
    (os_error(errno.EEXIST), 2, 'is there already and is no folder'),
    (os_error(errno.EISDIR), 2, 'is a folder where a file should be'),
    (os_error(errno.EMFILE), 2, 'lower train_dataloader.num_workers, or raise ulimit -n'),
    (os_error(errno.EIO), 2, 'cannot be read or written'),
    (os_error(errno.EXDEV), 2, 'cannot be used (Invalid cross-device link)'),
    (FileNotFoundError('The data root x does not exist.'), 2, 'The data root x does not exist.'),
    (syntax_error(), 2, "mine.py, line 1: '(' was never closed"),
    (KeyboardInterrupt(), 130, 'interrupted'),
    (Stopped('stopped by SIGTERM after iteration 3.'), 75, 'stopped by SIGTERM'),
    (AssertionError('`max_epochs` should be a integer number, but get 1.5.'), 2, 'A setting is refused: `max_epochs`'),
    (KeyError('SDG is not in the mmengine::optimizer registry.'), 2, 'SDG is not in the mmengine::optimizer'),
    (network_error('The server socket has failed to listen (errno: 98 - EADDRINUSE)'), 2, 'set PORT to another one'),
    (network_error('The client socket has timed out after 9 s while trying to connect'), 2, 'MASTER_ADDR'),
    (RuntimeError('[../gloo/transport/tcp/pair.cc] Connection closed by peer'), 2, 'connection to another rank'),
    (RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.'), 2, 'num_workers if memory ran out'),
    (torch.cuda.OutOfMemoryError('CUDA out of memory.'), 2, 'lower the batch'),
    (MemoryError(), 2, 'not enough memory'),
    (ZeroDivisionError('integer modulo by zero'), 2, 'integer modulo by zero'),
]


@pytest.mark.parametrize(('error', 'status', 'sentence'), TABLE, ids=lambda value: value.__class__.__name__)
def test_every_kind_of_error_leaves_as_one_sentence(error, status, sentence, capsys, monkeypatch):
    monkeypatch.delenv(errors.ERROR_FILE, raising=False)

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as left:
        launch.run(main)
    assert left.value.code == status
    last = capsys.readouterr().err.splitlines()[-1]
    assert sentence in last and last.startswith('error: ') == (status != 75)


def test_a_bug_is_in_no_row():
    for error in (RuntimeError('shapes do not match'), IndexError('x'), AttributeError('y'), TypeError('z')):
        assert find_rule(error) is None


@pytest.mark.parametrize(
    ('key', 'value'),
    [('max_epochs', 1.5), ('max_epochs', 0), ('max_epochs', True), ('val_interval', 0), ('max_iters', '3')],
)
def test_lengths_that_are_no_whole_numbers_are_refused_before_anything_starts(key, value):
    with pytest.raises(UsageError, match=rf'train_cfg\.{key} must be a whole number of 1 or more'):
        check_numbers(Config(dict(train_cfg={key: value})))
    check_numbers(Config(dict(train_cfg={key: 3})))


@pytest.mark.parametrize('name', ['SDG', 'AdanW'])
def test_an_optimizer_that_nobody_knows_is_named(name):
    with pytest.raises(UsageError, match=rf'optim_wrapper\.optimizer\.type={name} is no optimizer'):
        check_optimizers(Config(dict(optim_wrapper=dict(optimizer=dict(type=name)))))
    check_optimizers(Config(dict(optim_wrapper=dict(optimizer=dict(type='AdamW')))))


@pytest.mark.parametrize('removed', [False, True], ids=['no log', 'log removed'])
def test_a_traceback_goes_to_a_file_where_there_is_no_log(removed, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv(errors.ERROR_FILE, raising=False)
    monkeypatch.setattr(MMLogger, '_instance_dict', OrderedDict())
    if removed:
        MMLogger.get_instance('run', log_file=str(tmp_path / 'run.log'))
        (tmp_path / 'run.log').unlink()

    def main() -> None:
        raise os_error(errno.EROFS)

    with pytest.raises(SystemExit):
        launch.run(main)
    *_, place, sentence = capsys.readouterr().err.splitlines()
    path = Path(place.removeprefix('The traceback is in '))
    assert sentence.startswith('error: ') and 'Traceback' in path.read_text()
    path.unlink()


def test_a_config_that_is_no_python_or_does_not_run_is_named_with_its_line(tmp_path):
    base, mine = tmp_path / 'base.py', tmp_path / 'mine.py'
    base.write_text('a = 1\nmodel = dict(\n')
    mine.write_text("_base_ = './base.py'\n")
    with pytest.raises(SyntaxError) as error:
        read_config(str(mine))
    assert find_rule(error.value).sentence(error.value).startswith(f'{base}, line 2: ')
    base.write_text('a = unknown\n')
    with pytest.raises(ConfigError, match=rf'{mine} cannot be read .*unknown'):
        read_config(str(mine))


def test_a_misspelt_key_of_a_file_is_found_in_every_file_that_it_inherits_from(tmp_path, capsys):
    base, mine = tmp_path / 'base.py', tmp_path / 'mine.py'
    base.write_text('crop = 3\nmodel = dict(size=crop)\nnetwork = dict()\ntrain_dataloder = dict()\n')
    mine.write_text("_base_ = './base.py'\nnet = _base_.network\nmodel = dict(net=net)\nnotes = 'mine'\n")
    with pytest.raises(UsageError, match=r'base\.py: nothing reads the key train_dataloder; did you mean train_data'):
        check_files(Config.fromfile(mine), str(mine))
    base.write_text(base.read_text().replace('dataloder', 'dataloader'))
    check_files(Config.fromfile(mine), str(mine))
    said = capsys.readouterr().err
    assert 'nothing reads notes of' in said and 'crop' not in said and 'net ' not in said


# --- one run a folder


def test_a_folder_is_one_runs_until_that_run_is_gone(tmp_path):
    holder = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    lock = RunLock(tmp_path)
    try:
        assert lock.acquire() is None
        text = (tmp_path / NAME).read_text()
        (tmp_path / NAME).write_text(text.replace(f'"pid": {os.getpid()}', f'"pid": {holder.pid}'))
        # Another process had that number: the machine started since, or numbers came round.
        assert 'is gone' in RunLock(tmp_path).acquire()
        (tmp_path / NAME).unlink()

        from mmsemi.engine import run_lock

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, 'getpid', lambda: holder.pid)
            RunLock(tmp_path).acquire()
        with pytest.raises(FolderInUseError, match=rf'in use by process {holder.pid} on {socket.gethostname()}'):
            RunLock(tmp_path).acquire()
        holder.kill()
        holder.wait()
        assert f'process {holder.pid}' in RunLock(tmp_path).acquire()
        assert run_lock.NAME == NAME
    finally:
        holder.kill()
        holder.wait()


def test_a_run_of_another_machine_counts_as_gone_after_silence_or_when_its_job_came_back(tmp_path, monkeypatch):
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, 'gethostname', lambda: 'elsewhere')
        RunLock(tmp_path).acquire()
    assert 'elsewhere' in RunLock(tmp_path).acquire(), 'the job that was queued again'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, 'gethostname', lambda: 'elsewhere')
        patch.setenv('SLURM_JOB_ID', '8')
        (tmp_path / NAME).unlink()
        RunLock(tmp_path).acquire()
    with pytest.raises(FolderInUseError, match='elsewhere'):
        RunLock(tmp_path).acquire()
    past = time.time() - 3600
    os.utime(tmp_path / NAME, (past, past))
    assert 'elsewhere' in RunLock(tmp_path).acquire()


def test_a_lock_is_given_back_and_only_by_its_holder(tmp_path):
    first = RunLock(tmp_path)
    first.acquire()
    second = RunLock(tmp_path)
    second.acquire()  # the same process: what it held before is gone
    (tmp_path / NAME).write_text('{}')
    second.release()
    assert (tmp_path / NAME).exists()


# --- the launcher

TOOL = """
import os, signal, sys, time
rank, how = os.environ['RANK'], sys.argv[1]
if how == 'killed' and rank == '1':
    os.kill(os.getpid(), signal.SIGKILL)
if how == 'error' and rank == '1':
    from mmsemi.apis.launch import run
    def main():
        raise OSError(28, 'No space left on device', 'there/epoch_1.pth')
    run(main)
if how == 'bug' and rank == '0':
    from mmsemi.apis.launch import run
    def main():
        raise IndexError('out of range')
    run(main)
if how == 'stop':
    stopped = []
    signal.signal(signal.SIGUSR1, lambda *_: stopped.append(1))
    open(sys.argv[2] + rank, 'w').close()
    while not stopped:
        time.sleep(0.02)
    time.sleep(1.0 if rank == '0' else 0)  # it writes the checkpoint
    print('written by', rank, flush=True)
    sys.exit(75)
if how != 'good':
    time.sleep(60)
"""


@pytest.fixture
def tool(tmp_path) -> str:
    (tmp_path / 'tool.py').write_text(TOOL)
    return str(tmp_path / 'tool.py')


def launcher(*arguments: str, **env: str) -> subprocess.Popen:
    env = {**os.environ, 'PYTHONPATH': str(ROOT), **env}
    command = [sys.executable, str(ROOT / 'tools/dist_run.py'), *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ('how', 'status', 'sentence'),
    [
        ('good', 0, ''),
        ('killed', 128 + 9, 'error: rank 1 was ended by SIGKILL'),
        ('error', 2, 'error: rank 1: The disk of there/epoch_1.pth is full'),
        ('bug', 1, 'error: rank 0: IndexError: out of range'),
    ],
)
def test_the_launcher_says_which_rank_ended_and_why(how, status, sentence, tool):
    started = time.monotonic()
    process = launcher('2', tool, how)
    _, said = process.communicate(timeout=120)
    assert process.returncode == status, said
    assert (said.splitlines() or [''])[-1].startswith(sentence)
    assert time.monotonic() - started < 100


def test_the_launcher_hands_signals_on_and_waits_for_the_checkpoint(tool, tmp_path):
    process = launcher('2', tool, 'stop', str(tmp_path / 'ready'))
    while not all((tmp_path / f'ready{rank}').exists() for rank in (0, 1)):
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    printed, said = process.communicate(timeout=120)
    assert process.returncode == 75, said
    assert 'written by 0' in printed


def test_ranks_end_with_the_launcher(tool, tmp_path):
    process = launcher('1', tool, 'stop', str(tmp_path / 'ready'))
    while not (tmp_path / 'ready0').exists():
        time.sleep(0.05)
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    assert children
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(is_alive(int(pid)) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_port_in_use_and_an_unknown_address_are_one_line():
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = launcher('2', 'tool.py', PORT=port)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and len(said.splitlines()) == 1
    assert f'port {port} cannot be taken' in said
    process = launcher('2', 'tool.py', NNODES='2', NODE_RANK='1', MASTER_ADDR='no.such.host.invalid', PORT='29999')
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and len(said.splitlines()) == 1 and 'no.such.host.invalid cannot be found' in said


# --- Slurm


def test_slurm_is_asked_for_the_signal_and_queues_a_stopped_training_again(tmp_path):
    programs = {
        'srun': 'echo srun "$@" >> $LOG; exit ${SRUN_STATUS:-0}',
        'sbatch': 'echo sbatch "$@" >> $LOG; cat > $LOG.job',
        'scontrol': 'echo scontrol "$@" >> $LOG',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f'#!/bin/sh\n{body}\n')
        (tmp_path / name).chmod(0o755)
    log = tmp_path / 'log'
    env = {
        **os.environ,
        'PATH': f'{tmp_path}:{os.environ["PATH"]}',
        'LOG': str(log),
        'PYTHON': 'python',
        'SLURM_JOB_ID': '9',
    }
    script = ['bash', str(ROOT / 'tools/slurm_train.sh'), 'gpu', 'name', 'a config.py', '--amp']
    subprocess.run(script, env=env, check=True)
    (line,) = log.read_text().splitlines()
    assert '--signal=USR1@120' in line and '--launcher slurm --amp' in line and '--resume' not in line

    log.unlink()
    subprocess.run(script, env={**env, 'REQUEUE': '1', 'STOP_SECONDS': '300', 'SBATCH_ARGS': '--time=1:00'}, check=True)
    assert '--signal=USR1@300 --requeue --open-mode=append --time=1:00' in log.read_text()
    for status, again in (('0', False), ('75', True), ('2', False)):
        log.unlink()
        job = subprocess.run(['bash', f'{log}.job'], env={**env, 'SRUN_STATUS': status}, check=False)
        assert job.returncode == int(status)
        assert ('scontrol requeue 9' in log.read_text()) == again
        assert '--amp --resume' in log.read_text() and 'a config.py' in log.read_text()
