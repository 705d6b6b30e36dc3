import argparse
import contextlib
import inspect
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from mmsemi.apis import launch
from tests import tiny_run

ROOT = Path(__file__).resolve().parents[2]
# Since torch 2.13 it has another name.
NEW = 'forward_sync_buffers' in inspect.signature(DistributedDataParallel.__init__).parameters
BUFFERS = 'forward_sync_buffers' if NEW else 'broadcast_buffers'


def arguments(config: Path | str, **kwargs) -> argparse.Namespace:
    defaults = dict(config=str(config), work_dir=None, cfg_options=None, launcher='none', local_rank=0)
    return argparse.Namespace(**{**defaults, **kwargs})


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / 'tiny.py'
    path.write_text(
        "model = dict(norm_cfg=dict(type='SyncBN'), heads=[dict(norm_cfg=dict(type='SyncBN'))])\ntrain_cfg = {}"
    )
    return path


def test_config_is_found_by_its_name_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('configs/mllc/mllc_r101_voc.py', 'mllc/mllc_r101_voc.py'):
        assert Config.fromfile(launch.find_config(name)).model.type == 'MLLC'


def test_file_of_the_user_comes_before_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('mllc').mkdir()
    Path('mllc/mllc_r101_voc.py').touch()
    assert launch.find_config('mllc/mllc_r101_voc.py') == 'mllc/mllc_r101_voc.py'


def test_misspelt_config_names_the_closest():
    with pytest.raises(launch.UsageError, match=r'did you mean configs/mllc/mllc_r101_voc\.py'):
        launch.find_config('configs/mlc/mllc_r101_vok.py')


def test_work_dir_is_the_option_then_the_config_then_its_name(config_file):
    assert launch.load_config(arguments(config_file, work_dir='mine')).work_dir == 'mine'
    assert launch.load_config(arguments(config_file)).work_dir == 'work_dirs/tiny'
    assert launch.load_config(arguments(config_file, cfg_options={'work_dir': 'its'})).work_dir == 'its'


def test_a_hook_that_is_set_to_none_is_removed():
    options = {'default_hooks.prototypes': None, 'default_hooks.timer': None, 'model.contrast_weight': 0}
    hooks = launch.load_config(arguments('configs/esl/esl_r18_shapes.py', cfg_options=options)).default_hooks
    assert 'prototypes' not in hooks and 'teacher' in hooks
    assert hooks['timer'] is None, 'mmengine takes out its own'


def test_misspelt_first_key_of_an_option_is_refused(config_file):
    with pytest.raises(launch.UsageError, match=r'trian_cfg\.max_epochs: .* did you mean train_cfg'):
        launch.load_config(arguments(config_file, cfg_options={'trian_cfg.max_epochs': 3}))
    launch.load_config(arguments(config_file, cfg_options={'train_cfg.max_epochs': 3, 'experiment_name': 'x'}))


def test_sync_bn_becomes_bn_without_gpu_and_stays_with_one(config_file, monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    cfg = launch.load_config(arguments(config_file))
    assert cfg.model.norm_cfg.type == cfg.model.heads[0].norm_cfg.type == 'BN'
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    cfg = launch.load_config(arguments(config_file))
    assert cfg.model.norm_cfg.type == cfg.model.heads[0].norm_cfg.type == 'SyncBN'


def test_cpu_ranks_talk_through_gloo_and_are_wrapped_without_devices(config_file, monkeypatch):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    env = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK='0', WORLD_SIZE='1', LOCAL_RANK='0')
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    try:
        cfg = launch.load_config(arguments(config_file, launcher='pytorch'))
        assert distributed.get_backend() == 'gloo'
    finally:
        distributed.destroy_process_group()
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None, find_unused_parameters=False)
    assert cfg.model_wrapper_cfg == dict(**wrapper, **{BUFFERS: False})


@pytest.mark.parametrize('device', ['cuda', 'cpu'])
@pytest.mark.parametrize(
    ('asked', 'expected'),
    [
        (None, {BUFFERS: False, 'find_unused_parameters': True}),
        (dict(static_graph=True), {BUFFERS: False, 'find_unused_parameters': True, 'static_graph': True}),
        (dict(broadcast_buffers=True), {'broadcast_buffers': True, 'find_unused_parameters': True}),
        (dict(find_unused_parameters=False), {BUFFERS: False, 'find_unused_parameters': False}),
    ],
)
def test_processes_send_no_buffers_in_a_step_whatever_else_a_config_sets(
    asked, expected, device, config_file, monkeypatch
):
    monkeypatch.setattr(launch, 'get_device', lambda: device)
    monkeypatch.setattr(distributed, 'is_initialized', lambda: True)
    cfg = Config.fromfile(config_file)
    cfg.find_unused_parameters = True
    if asked:
        cfg.model_wrapper_cfg = asked
    launch.prepare_config(cfg, 'pytorch')
    wrapper = dict(type='MMDistributedDataParallel', **expected)
    assert cfg.model_wrapper_cfg == (dict(wrapper, device_ids=None) if device == 'cpu' else wrapper)


def test_another_wrapper_gets_nothing_that_it_does_not_know(config_file, monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    cfg = Config.fromfile(config_file)
    cfg.model_wrapper_cfg = dict(type='MMFullyShardedDataParallel', cpu_offload=True)
    launch.prepare_config(cfg, 'pytorch')
    assert cfg.model_wrapper_cfg == dict(type='MMFullyShardedDataParallel', cpu_offload=True)


def test_one_process_is_not_wrapped(config_file, monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    assert 'model_wrapper_cfg' not in launch.load_config(arguments(config_file))


@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_launchers_that_need_gpus_say_so(config_file, monkeypatch, launcher):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    with pytest.raises(launch.UsageError, match=f'--launcher {launcher} needs a GPU'):
        launch.load_config(arguments(config_file, launcher=launcher))


def fail_with(error: Exception):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ('error', 'sentence'),
    [
        (launch.UsageError('Correct the path.'), 'Correct the path.'),
        (FileNotFoundError('The data root x does not exist.'), 'The data root x does not exist.'),
        (KeyError('MLCC is not in the registry.'), 'MLCC is not in the registry.'),
        (TypeError("f() got an unexpected keyword argument 'thresold'"), "unexpected keyword argument 'thresold'"),
        (
            ValueError(
                'Caught ValueError in worker 0.\nOriginal Traceback (most recent call last):\nValueError: Mend: it.'
            ),
            'error: Mend: it.',
        ),
    ],
)
def test_error_of_input_ends_with_one_sentence_and_status_2(error, sentence, capsys, monkeypatch):
    monkeypatch.delenv(launch.ERROR_FILE, raising=False)
    with pytest.raises(SystemExit) as exit_info:
        launch.run(fail_with(error))
    assert exit_info.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('error: ')
    assert sentence in last


@pytest.mark.parametrize(
    ('main', 'status'),
    [(lambda: None, 0), (fail_with(launch.UsageError('Correct the path.')), 2)],
    ids=['end', 'error'],
)
def test_tools_leave_the_group_of_ranks(main, status, tmp_path, monkeypatch):
    monkeypatch.setenv(launch.ERROR_FILE, str(tmp_path / 'error'))
    left = []
    monkeypatch.setattr(launch, 'leave', left.append)
    distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    with contextlib.suppress(SystemExit):
        launch.run(main)
    assert not distributed.is_initialized() and left == [status]


LEAVING = """
import atexit, builtins, sys, time
from mmsemi.apis.launch import leave


class Late:
    def __del__(self, write=sys.stdout.write, flush=sys.stdout.flush):
        write('taken down')
        flush()


builtins.late = Late()
atexit.register(print, 'closed', end=' ')
print('flushed', end=' ')
leave(3)
"""


def test_a_rank_leaves_with_all_said_and_before_the_interpreter_is_taken_down():
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    result = subprocess.run([sys.executable, '-c', LEAVING], capture_output=True, text=True, env=env, timeout=120)
    assert (result.returncode, result.stdout) == (3, 'flushed closed '), result.stderr


BUILDING = """
import sys
from mmengine.config import Config
from mmsemi.apis.launch import build_runner
build_runner(Config.fromfile(sys.argv[1]))
"""
COMPARING = """
import sys
from pathlib import Path
from mmsemi.apis.runs import Run
folder = Path(sys.argv[1]).parent
(folder / 'finished').write_text('with another config')
assert not Run('one', sys.argv[1], folder).is_finished()
"""


@pytest.mark.parametrize('script', [BUILDING, COMPARING])
def test_a_run_starts_while_another_writes_the_cache_of_yapf(script, drawn, tmp_path):
    """As ranks do on a machine on which nothing was run yet: the files have their names before their content."""
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    subprocess.run([sys.executable, '-c', 'import yapf.yapflib.yapf_api'], env=env, check=True)
    files = list(tmp_path.glob('cache/YAPF/*/*.pickle'))
    assert files
    for file in files:
        file.write_bytes(b'')
    tiny_run.draw(drawn)
    tiny_run.config('Supervised', drawn, tmp_path / 'run').dump(tmp_path / 'config.py')
    command = [sys.executable, '-c', script, str(tmp_path / 'config.py')]
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert result.returncode == 0, result.stderr


def test_bug_keeps_its_traceback():
    with pytest.raises(RuntimeError):
        launch.run(fail_with(RuntimeError('shapes do not match')))


def dist(*tool: str) -> subprocess.CompletedProcess:
    env = {**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(ROOT)}
    env.pop('PORT', None)
    command = ['bash', str(ROOT / 'tools' / tool[0]), *tool[1:]]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)


def test_failed_rank_ends_the_launcher_with_its_sentence_and_status():
    result = dist('dist_train.sh', 'configs/mlc/none.py', '2')
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith('error: The config configs/mlc/none.py does not exist')


@pytest.mark.parametrize('count', ['0', 'two'])
def test_number_of_gpus_must_be_positive(count):
    result = dist('dist_train.sh', 'configs/mllc/mllc_r101_voc.py', count)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert repr(count) in result.stderr


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
def test_scripts_without_arguments_print_their_usage(script):
    result = dist(script)
    assert result.returncode == 2
    assert 'usage:' in result.stderr
