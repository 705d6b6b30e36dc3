"""What ``tools/train.py`` and ``tools/test.py`` share: finding configs, running without a GPU, errors that speak."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import datetime
import difflib
import inspect
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from mmsemi.apis.config_keys import (
    CARRIED,
    carry_on,
    check_files,
    check_numbers,
    check_optimizers,
    check_options,
    read_bases,
    read_config,
)
from mmsemi.apis.errors import ERROR_FILE, ROOTS, UsageError, find_rule, log_to, report, report_bug
from mmsemi.utils import register_all_modules

from .config import import_formatter, resolve
from .options import OptionsAction, merge_options

__all__ = ['ERROR_FILE', 'UsageError', 'run']

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')

BASELINE_SUFFIX = '_baseline'
"""What the name of a baseline's work folder gets."""

_HOOKS_OF_MMENGINE = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')

# Configs


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
    roots = [root for root in ROOTS if (root / 'configs').is_dir()]
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
        action=OptionsAction,
        metavar='KEY=VALUE',
        help='override keys of the config, for example train_dataloader.dataset.labeled=92 train_cfg.max_epochs=10 '
        '''"model.plugins=[{'type': 'MPMC'}]"''',
    )
    parser.add_argument(
        '--baseline',
        action='store_true',
        help="in place of the config's method its supervised baseline: the same network, crop, schedule and loss",
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='let checkpoints hold more than data, which may run code when it is loaded',
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='who started the processes')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config`` with the arguments of :func:`add_arguments`, fit for this machine."""
    from mmsemi.apis.acceleration import apply_acceleration_keys
    from mmsemi.apis.batch import apply_batch_arguments  # which knows this module

    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg, path = read_with_options(args.config, args.cfg_options or {})
    check_numbers(cfg)
    _remove_hooks(cfg)
    cfg.work_dir = cfg.get('work_dir') or str(Path('work_dirs') / Path(path).stem)
    if getattr(args, 'baseline', False):
        # Importing mmseg takes seconds, which is too much for a tool's --help.
        with quiet():
            from mmsemi.apis.baseline import make_baseline
        make_baseline(cfg)
        cfg.work_dir += BASELINE_SUFFIX
    apply_batch_arguments(cfg, args)
    apply_acceleration_keys(cfg)
    if args.work_dir:
        cfg.work_dir = args.work_dir
    log_to(cfg.work_dir)
    prepare_config(cfg, args.launcher)
    if getattr(args, 'trust_checkpoint', False):
        from mmsemi.engine import checkpoints

        checkpoints.trust()
    return cfg


def read_with_options(name: str, options: dict) -> tuple[Config, str]:
    """Read a config, put the command line's keys into it, and follow its references.

    Args:
        name (str): A config file, or the name of one of mmsemi.
        options (dict): Keys, with dots, and what they shall be.

    Returns:
        tuple[Config, str]: The config, and its file.

    Raises:
        UsageError: If there is no such file, or a key that nothing reads.
        ConfigError, SyntaxError, ValueError: If it cannot be read, or contradicts itself.
    """
    path = find_config(name)
    cfg = read_config(path)
    check_files(cfg, path)
    before = {key: cfg.get(key) for key in CARRIED}
    merge_options(cfg, options)
    check_options(cfg, options, path)
    carry_on(cfg, path, before)
    resolve(cfg, read_bases(path))
    return cfg, path


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
    # Importing mmseg takes seconds and prints, which is too much for a tool's --help.
    with quiet():
        from mmsemi.engine import choose_train_loop

    cfg.launcher = launcher
    choose_train_loop(cfg)
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
    # Without unlabeled images a method's heads may have nothing to learn from.
    sampler = (cfg.get('train_dataloader') or {}).get('sampler') or {}
    unused = cfg.get('find_unused_parameters', False) or sampler.get('unlabeled', 1) == 0
    given = {'type': kind, 'find_unused_parameters': unused}
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
    file, not to the console; weights must therefore be initialised by the runner and not before it exists. The lists of
    the environment, of the config and of the hooks are in the log file alone, too.
    """
    with quiet():
        register_all_modules(init_default_scope=False)
    from mmsemi.apis.acceleration import accelerate, fuse_optimizer

    with quiet():
        # Which imports mmcv and OpenCV.
        from mmsemi.apis.images import fit_images

    check_optimizers(cfg)
    fit_images(cfg)
    from mmsemi.engine.console import console_of
    from mmsemi.engine.utils import passes_of

    class OurRunner(Runner):
        """A runner whose console shows what matters, and that counts accumulated passes where it scales the rate."""

        def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
            logger = super().build_logger(*args, **kwargs)
            console_of(logger)
            return logger

        def scale_lr(self, optim_wrapper: Any, auto_scale_lr: dict | None = None) -> None:
            passes = passes_of(self)
            if auto_scale_lr and auto_scale_lr.get('enable') and passes > 1:
                base = auto_scale_lr['base_batch_size'] / passes
                auto_scale_lr = dict(auto_scale_lr, base_batch_size=base)
            super().scale_lr(optim_wrapper, auto_scale_lr)

    fuse_optimizer(cfg)
    import_formatter()
    runner = OurRunner.from_cfg(cfg)
    accelerate(runner)
    return runner


# Errors


def run(main: Callable[[], None]) -> None:
    """Call a tool's ``main``; an error ends it with one sentence, last in the output, by the table of ``errors``.

    The traceback goes to the log file where there is one. What is in no row of the table is a bug and passes through.
    """
    signal.signal(signal.SIGTERM, _terminate)
    status = 0
    try:
        main()
    except BaseException as error:
        rule = find_rule(error)
        if rule is None:
            if not isinstance(error, SystemExit):
                report_bug(error)
            raise
        report(error, rule)
        status = rule.status
    if distributed.is_initialized():
        # NCCL's group would wait for ranks that are gone.
        if not status or distributed.get_backend() == 'gloo':
            distributed.destroy_process_group()
        leave(status)
    if status:
        sys.exit(status)


def _terminate(number: int, frame: object) -> NoReturn:
    """End by SIGTERM as by an exception: what a ``finally`` does is done, children are ended with it."""
    sys.exit(128 + number)


def leave(status: int) -> NoReturn:
    """End a process that was one of a group of ranks.

    It flushes and runs what is registered for the end, but does not take the interpreter down. A thread of gloo that
    drops the last reference to a reduced tensor asks for the interpreter's lock; where that is being taken down, Python
    before 3.14 ends the thread by unwinding its stack, which crosses a function of torch that must not be unwound, and
    the process aborts ("terminate called without an active exception") although all was done.

    Args:
        status (int): Exit status.
    """
    for close in (atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        with contextlib.suppress(Exception):
            close()
    os._exit(status)
