"""What ``tools/train.py`` and ``tools/test.py`` share: finding configs, running without a GPU, errors that speak."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import difflib
import inspect
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from mmsemi.utils import register_all_modules

PACKAGE = Path(__file__).resolve().parents[1]
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
ERROR_FILE = 'MMSEMI_ERROR_FILE'
"""Environment variable: the file in which ``tools/dist_run.py`` wants the sentence that ended a rank."""

BASELINE_SUFFIX = '_baseline'
"""What the name of a baseline's work folder gets."""

_HOOKS_OF_MMENGINE = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
_INPUT_ERRORS = (ValueError, FileNotFoundError, FloatingPointError, KeyError)


class UsageError(ValueError):
    """The command line asks for what cannot be; the message says what to change."""


# Configs


def resource_roots() -> list[Path]:
    """Folders that may hold ``configs`` and ``tools``: ``mmsemi/.mim`` of an installed package, a checkout's root."""
    return [PACKAGE / '.mim', PACKAGE.parent]


def find_config(name: str) -> str:
    """Find a config file.

    Args:
        name (str): A path, or the path of a config of mmsemi, with or without ``configs/`` in front.

    Returns:
        str: Path of the file.

    Raises:
        UsageError: If there is none; the message names the closest ones.
    """
    if Path(name).is_file():
        return name
    roots = [root for root in resource_roots() if (root / 'configs').is_dir()]
    for root in roots:
        for candidate in (root / name, root / 'configs' / name):
            if candidate.is_file():
                return str(candidate)
    raise UsageError(f'The config {name} does not exist{_suggest_config(name, roots)}.')


def _suggest_config(name: str, roots: list[Path]) -> str:
    known = {}
    for path in (path for root in roots[:1] for path in sorted((root / 'configs').rglob('*.py'))):
        known.setdefault(path.name, path.relative_to(roots[0]).as_posix())
    close = [known[match] for match in difflib.get_close_matches(Path(name).name, known, n=3)]
    return f'; did you mean {" or ".join(close)}' if close else ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing share."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints, by default work_dirs/<name of the config>')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of the config, for example train_dataloader.dataset.labeled=92 train_cfg.max_epochs=10',
    )
    parser.add_argument(
        '--baseline',
        action='store_true',
        help="in place of the config's method its supervised baseline: the same network, crop, schedule and loss",
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='who started the processes')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config`` with the arguments of :func:`add_arguments`, fit for this machine."""
    from mmsemi.apis.batch import apply_batch_arguments  # which knows this module

    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    path = find_config(args.config)
    cfg = Config.fromfile(path)
    if args.cfg_options:
        _check_options(cfg, args.cfg_options)
        cfg.merge_from_dict(args.cfg_options)
    _remove_hooks(cfg)
    cfg.work_dir = cfg.get('work_dir') or str(Path('work_dirs') / Path(path).stem)
    if getattr(args, 'baseline', False):
        # Importing mmseg takes seconds, which is too much for a tool's --help.
        with quiet():
            from mmsemi.apis.baseline import make_baseline
        make_baseline(cfg)
        cfg.work_dir += BASELINE_SUFFIX
    apply_batch_arguments(cfg, args)
    if args.work_dir:
        cfg.work_dir = args.work_dir
    prepare_config(cfg, args.launcher)
    return cfg


def _check_options(cfg: Config, options: dict[str, Any]) -> None:
    """Refuse a misspelt first key, which mmengine would add to the config and nothing would read."""
    readable = {*cfg.keys(), *inspect.signature(Runner.__init__).parameters}
    for option in options:
        key = option.split('.')[0]
        close = difflib.get_close_matches(key, readable, n=1, cutoff=0.8)
        if key not in readable and close:
            raise UsageError(f'--cfg-options {option}: the config has no key {key}; did you mean {close[0]}?')


def _remove_hooks(cfg: Config) -> None:
    """Take out of ``default_hooks`` what is set to None; mmengine does so with its own hooks alone."""
    hooks = cfg.get('default_hooks', {})
    for name in [name for name, hook in hooks.items() if hook is None and name not in _HOOKS_OF_MMENGINE]:
        del hooks[name]


# Machines


def prepare_config(cfg: Config, launcher: str) -> None:
    """Make a config, written for GPUs, run on this machine too.

    Several processes do not send their buffers to each other in every step, on no device (:func:`wrapper_config`). On a
    CPU, SyncBN becomes BN, and several processes talk through gloo (mmengine's launchers need CUDA).

    Args:
        cfg (Config): Changed in place.
        launcher (str): Who started the processes, one of ``LAUNCHERS``.

    Raises:
        UsageError: If this machine cannot run several processes under ``launcher``.
    """
    cfg.launcher = launcher
    if launcher != 'none':
        cfg.model_wrapper_cfg = wrapper_config(cfg)
    device = get_device()
    if device not in ('cpu', 'mps'):
        return
    _replace_sync_bn(cfg.get('model'))
    if launcher == 'none':
        return
    if launcher != 'pytorch' or device == 'mps':
        raise UsageError(
            f'--launcher {launcher} needs a GPU that mmengine can distribute over, and this machine has none; use '
            'tools/dist_train.sh on a machine without GPU, or one process.'
        )
    if not distributed.is_initialized():
        seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
        options = {} if seconds is None else {'timeout': datetime.timedelta(seconds=seconds)}
        distributed.init_process_group('gloo', **options)
    cfg.model_wrapper_cfg['device_ids'] = None


def wrapper_config(cfg: Config) -> dict:
    """How several processes share a model: as the config says, and as mmengine does where it says nothing.

    A config that sets any key of ``model_wrapper_cfg`` would otherwise get torch's defaults for the others: the
    statistics of the first process for all, and every queue of a method sent in every step.
    """
    asked = dict(cfg.get('model_wrapper_cfg') or {})
    kind = asked.get('type', 'MMDistributedDataParallel')
    if kind not in ('MMDistributedDataParallel', 'DistributedDataParallel'):
        return asked
    given = {'type': kind, 'find_unused_parameters': cfg.get('find_unused_parameters', False)}
    if not asked.keys() & {'broadcast_buffers', 'forward_sync_buffers'}:
        # Its name since torch 2.13, which warns of the old one.
        new = 'forward_sync_buffers' in inspect.signature(DistributedDataParallel.__init__).parameters
        given['forward_sync_buffers' if new else 'broadcast_buffers'] = False
    return {**given, **asked}


def _replace_sync_bn(node: Any) -> None:
    if isinstance(node, dict):
        if node.get('type') in ('SyncBN', 'MMSyncBN'):
            node['type'] = 'BN'
        for value in node.values():
            _replace_sync_bn(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _replace_sync_bn(value)


# Console


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence imports: mmseg prints that the client of a data service is missing, which nothing here uses."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def build_runner(cfg: Config) -> Runner:
    """Build the runner, with every component of mmsemi and mmseg registered.

    mmengine writes how each parameter was initialised (two lines a parameter, 600 for a segmentor) to the runner's log
    file, not to the console; weights must therefore be initialised by the runner and not before it exists.
    """
    with quiet():
        register_all_modules(init_default_scope=False)
    return Runner.from_cfg(cfg)


# Errors


def run(main: Callable[[], None]) -> None:
    """Call a tool's ``main``; errors of the user's input end it with one sentence, last in the output, and status 2.

    The traceback goes to the log file where there is one. Other errors are bugs and pass through.
    """
    try:
        main()
    except Exception as error:
        if not _is_input_error(error):
            raise
        _report(error)
        # A group that is left to the interpreter's end may abort the process. NCCL's would wait for the other ranks.
        if distributed.is_initialized() and distributed.get_backend() == 'gloo':
            distributed.destroy_process_group()
        sys.exit(2)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _is_input_error(error: Exception) -> bool:
    if isinstance(error, _INPUT_ERRORS):
        return True
    if isinstance(error, TypeError) and 'unexpected keyword argument' in str(error):
        return True
    # Whatever mmsemi raises by itself is meant for the user; a worker's traceback is in the message.
    places = [frame.filename for frame in traceback.extract_tb(error.__traceback__)][-1:]
    places += [line.split('"')[1] for line in str(error).splitlines() if line.strip().startswith('File "')][-1:]
    return Path(places[-1]).is_relative_to(PACKAGE) if places else False


def _sentence(error: Exception) -> str:
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line for line in message.strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if 'Original Traceback' in message:  # raised in a worker of the data loader: "FileNotFoundError: the sentence"
        return lines[-1].partition(': ')[2] or lines[-1]
    return ' '.join(line.strip() for line in lines)


def _report(error: Exception) -> None:
    sentence = f'error: {_sentence(error)}\n'
    if os.environ.get(ERROR_FILE):
        # Every rank may get here. The first speaks for all; the launcher prints its sentence when all have ended.
        try:
            with open(os.environ[ERROR_FILE], 'x', encoding='utf-8') as file:
                file.write(sentence)
        except FileExistsError:
            return
    if not isinstance(error, UsageError):
        sys.stderr.write(_keep_traceback(error))
    if not os.environ.get(ERROR_FILE):
        sys.stderr.write(sentence)
    sys.stderr.flush()


def _keep_traceback(error: Exception) -> str:
    """Write the traceback to the log file, and return what the console should say of it."""
    details = ''.join(traceback.format_exception(error))
    # Asking mmengine for the current logger makes one where no runner has.
    handlers = MMLogger.get_current_instance().handlers if MMLogger._instance_dict else []
    for handler in handlers:
        if isinstance(handler, logging.FileHandler):
            handler.stream.write(details)
            handler.stream.flush()
            return f'The traceback is in {handler.baseFilename}\n'
    return details
