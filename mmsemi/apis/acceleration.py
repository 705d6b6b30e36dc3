"""What a device can do faster: half precision, TF32, fused optimizer steps, compiled networks, and less memory.

Keys of a config, beside what the command line asks for (``model.channels_last`` is the model's own):

- ``tf32``: what of float32 a GPU computes with TensorFloat-32, whose numbers have 10 bits behind the point:
  'convolutions', which are the networks', 'all', products of matrices too, or 'none'. Defaults to 'convolutions', as
  in torch: what is no network computes in full precision, and the products of losses and states are no convolutions.
- ``compile``: True, or options of ``torch.compile`` as a dict: the networks of all branches are compiled. mmengine's
  key of that name would compile the whole step, optimizer included, which Dynamo does not take. Defaults to False.
- ``with_cp``: True: the backbones' blocks are computed again in the backward pass, short for
  ``model.student.backbone.with_cp``. Defaults to False.
- ``optim_wrapper.optimizer.fused``: one kernel for many parameters. Defaults to True on a GPU where the optimizer can.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from collections.abc import Sequence
from itertools import zip_longest
from logging import Logger

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner
from torch import nn

from mmsemi.apis.errors import UsageError

_TF32 = {'convolutions': (True, False), 'all': (True, True), 'none': (False, False)}
"""By word: of convolutions, of products of matrices."""
_COMPILATIONS = 64
"""Of all networks of a run together, by Dynamo's count; its default of 8 would leave the last ones eager."""
_MALLOPT = {-1: -1, -4: 0}
"""Of glibc's malloc.h. M_TRIM_THRESHOLD: freed memory is never given back; M_MMAP_MAX: none is mapped on its own."""
_MALLOC_VARIABLES = {'MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_MAX_', 'MALLOC_MMAP_THRESHOLD_', 'GLIBC_TUNABLES'}
"""Variables of the environment that say the same."""
_HALVES = ('fp16', 'bf16')
_KNOWN = (None, 'OptimWrapper', 'AmpOptimWrapper', 'AutocastOptimWrapper')


def add_acceleration_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--amp`` and ``--compile``."""
    parser.add_argument(
        '--amp',
        choices=['auto', *_HALVES],
        help='train in mixed precision: bfloat16 where the device has it, else float16 with scaled gradients; the word '
        'may be left out',
    )
    parser.add_argument('--compile', action='store_true', help='compile the networks; the first steps take minutes')


def complete_amp(arguments: Sequence[str]) -> list[str]:
    """The words of a command line, with 'auto' behind an ``--amp`` that says no precision, whatever follows it."""
    words = []
    for word, following in zip_longest(arguments, arguments[1:]):
        words += [word, 'auto'] if word == '--amp' and following not in ('auto', *_HALVES) else [word]
    return words


def apply_acceleration_arguments(cfg: Config, args: argparse.Namespace) -> None:
    """Do to a config what the arguments of :func:`add_acceleration_arguments` ask for.

    Args:
        cfg (Config): Changed in place.
        args (argparse.Namespace): The arguments.

    Raises:
        UsageError: If this machine cannot do it.
    """
    if args.amp:
        set_amp(cfg, args.amp)
    if args.compile:
        cfg.compile = cfg.get('compile') or True


def apply_acceleration_keys(cfg: Config) -> None:
    """Let the short keys of a config take effect.

    Args:
        cfg (Config): Changed in place.

    Raises:
        UsageError: If a word is unknown.
    """
    if cfg.get('tf32', 'convolutions') not in _TF32:
        raise UsageError(f'tf32 must be one of {", ".join(map(repr, _TF32))}, not {cfg.tf32!r}.')
    if cfg.get('with_cp'):
        cfg.merge_from_dict({'model.student.backbone.with_cp': True})


def set_amp(cfg: Config, word: str) -> None:
    """Wrap the optimizer for mixed precision.

    Args:
        cfg (Config): Changed in place.
        word (str): 'fp16', 'bf16', or 'auto': what a wrapper for mixed precision in the config says, else bfloat16
            where the device has it.
    """
    # Importing mmengine's and our hooks takes seconds, which is too much for a tool's --help.
    from mmsemi.engine.optim_wrapper import has_bfloat16

    device, wrapper = get_device(), cfg.optim_wrapper
    kind = wrapper.get('type')
    if kind not in _KNOWN:
        raise UsageError(f'--amp cannot replace optim_wrapper.type={kind}; set it in the config.')
    if device == 'mps':
        raise UsageError('--amp does not know the device mps; leave it out.')
    if word == 'auto' and kind in _KNOWN[2:]:
        return
    if device not in ('cpu', 'cuda'):
        # mmengine knows what these devices do.
        wrapper.type = 'AmpOptimWrapper'
        wrapper.dtype = {'fp16': 'float16', 'bf16': 'bfloat16', 'auto': None}[word]
        wrapper.setdefault('loss_scale', 'dynamic')
        return
    if word == 'fp16' and device == 'cpu':
        raise UsageError('--amp fp16 needs a GPU, and this machine has none; take --amp bf16.')
    if word == 'bf16' and not has_bfloat16(device):
        raise UsageError('--amp bf16 needs a GPU that has bfloat16, from Ampere on; take --amp fp16.')
    if word == 'bf16' or (word == 'auto' and has_bfloat16(device)):
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
        wrapper.type = 'AutocastOptimWrapper'
        return
    wrapper.type, wrapper.dtype = 'AmpOptimWrapper', 'float16'
    wrapper.setdefault('loss_scale', 'dynamic')


def fuse_optimizer(cfg: Config) -> None:
    """Let the optimizer do its step in few kernels on a GPU, where it can and the config does not say."""
    from mmsemi.engine.optim_wrapper import takes_fused
    from mmsemi.registry import OPTIMIZERS

    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer')
    if get_device() != 'cuda' or not optimizer or not isinstance(optimizer.get('type'), str):
        return
    if not {'fused', 'foreach', 'differentiable'} & optimizer.keys() and takes_fused(OPTIMIZERS.get(optimizer.type)):
        optimizer.fused = True


def accelerate(runner: Runner) -> None:
    """Set what is not set by the config's components: TF32, a CPU's memory, compiled networks."""
    from mmsemi.engine.utils import segmentor_of

    cfg, model = runner.cfg, segmentor_of(runner)
    if get_device() == 'cpu':
        keep_freed_memory()
    set_tf32(cfg.get('tf32', 'convolutions'), runner.logger)
    options = cfg.get('compile')
    if options:
        # The work folder's config keeps the key; mmengine, which reads it when training starts, must not.
        cfg.compile = None
        compile_networks(model, dict(options) if isinstance(options, dict) else {})
        runner.logger.info('The networks are compiled as they are first used; the first steps take long.')


def set_tf32(word: str, logger: Logger) -> None:
    """Decide what of float32 a GPU computes with TensorFloat-32, and say so."""
    convolutions, products = _TF32[word]
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision('high' if products else 'highest')
    if get_device() == 'cuda':
        said = {True: 'in TF32', False: 'in full precision'}
        logger.info(
            f'float32 on this GPU (tf32={word!r}): convolutions {said[convolutions]}, products of matrices '
            f'{said[products]}.'
        )


def keep_freed_memory() -> bool:
    """Let the next step have the memory that tensors of this one leave on a CPU.

    glibc gives large blocks back to the system and asks for them again; the system then clears each page as it is first
    touched, which takes 4 to 13 % of a step. Kept, the process stays as large as it once was, which is what it needs at
    each step's peak. Where the environment sets malloc, that holds.

    Returns:
        bool: Whether it was done; False with another C library, or where the environment says it.
    """
    if sys.platform != 'linux' or _MALLOC_VARIABLES & os.environ.keys():
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', lambda option, value: False)
    return all(mallopt(*option) for option in _MALLOPT.items())


def compile_networks(model: nn.Module, options: dict) -> None:
    """Compile backbone, neck and heads of each branch; nothing happens before they are first called.

    Losses and pseudo-labels stay as they are: their share of a step is small, and a method's are many.

    Args:
        model (nn.Module): A :class:`SemiSegmentor`.
        options (dict): Of ``torch.compile``.
    """
    from torch._dynamo import config  # which takes a second

    # Dynamo counts compilations by code, which all modules share: those of a network, its shapes and modes.
    limit = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'
    setattr(config, limit, max(_COMPILATIONS, getattr(config, limit)))
    for branch in model.branches:
        segmentor = getattr(model, branch).segmentor
        for part in ('backbone', 'neck', 'decode_head'):
            network = getattr(segmentor, part, None)
            if network is not None:
                network.compile(**options)
