"""How many images an optimizer step takes, and how many its learning rate is meant for.

A config says what one of several processes takes (``train_dataloader.sampler.labeled`` and ``.unlabeled``); its
``auto_scale_lr.base_batch_size`` says for how many images in all, labeled and unlabeled, on all processes, its learning
rate is meant. Nothing else depends on the number of processes: epochs and ``unsup_warmup`` count passes over the
unlabeled list, OHEM keeps a share of all pixels, and what a method remembers is that of all processes.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from fractions import Fraction
from logging import WARNING, Logger

from mmengine.config import Config
from torch import distributed

from mmsemi.apis.errors import UsageError

_WORLD_SIZES = {'pytorch': 'WORLD_SIZE', 'slurm': 'SLURM_NTASKS', 'mpi': 'OMPI_COMM_WORLD_SIZE'}


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--batch`` and ``--auto-scale-lr``."""
    parser.add_argument(
        '--batch',
        nargs=2,
        type=int,
        metavar=('LABELED', 'UNLABELED'),
        help='images of a step in all, divided over the processes; by default each takes what the config says',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the images of a step over those that it is meant for',
    )


def apply_batch_arguments(cfg: Config, args: argparse.Namespace) -> None:
    """Do to a config what the arguments of :func:`add_batch_arguments` ask for.

    Args:
        cfg (Config): Changed in place.
        args (argparse.Namespace): With ``launcher``, which started the processes; the others may be missing.

    Raises:
        UsageError: If it cannot be done.
    """
    if getattr(args, 'batch', None):
        set_batch(cfg, *args.batch, count_processes(args.launcher))
    scale_rate(cfg, getattr(args, 'auto_scale_lr', False))


def count_processes(launcher: str) -> int:
    """How many processes train, before or after they have met."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return int(os.environ.get(_WORLD_SIZES.get(launcher, ''), 1))


@dataclass(frozen=True)
class Batch:
    """The images of an optimizer step.

    Args:
        labeled, unlabeled (int): Of one process and one pass.
        processes (int): How many processes train.
        passes (int): Passes whose gradients a step accumulates.
        pace (int): Without unlabeled images, how many of them epochs are counted by; 0: as many as labeled ones.
    """

    labeled: int
    unlabeled: int
    processes: int
    passes: int
    pace: int = 0

    @classmethod
    def of(cls, cfg: Config, processes: int) -> Batch:
        """The batch of a config."""
        sampler = cfg.train_dataloader.sampler
        passes = cfg.get('optim_wrapper', {}).get('accumulative_counts', 1)
        labeled, unlabeled, pace = (sampler.get(key) or 0 for key in ('labeled', 'unlabeled', 'pace'))
        return cls(labeled, unlabeled, processes, passes, pace)

    @property
    def total(self) -> int:
        """Images in all."""
        return (self.labeled + self.unlabeled) * self.processes * self.passes

    def __str__(self) -> str:
        own = f'{self.labeled} labeled + {self.unlabeled} unlabeled'
        factors = [f'{self.processes} processes'] if self.processes > 1 else ['one process']
        factors += [f'{self.passes} passes'] if self.passes > 1 else []
        return f'{self.total} images in all ({own} on {" in ".join(factors)})'


def set_batch(cfg: Config, labeled: int, unlabeled: int, processes: int) -> None:
    """Let a step take so many images in all.

    Args:
        cfg (Config): Changed in place.
        labeled, unlabeled (int): On all processes together, in all passes whose gradients are accumulated. Where a
            config learns from labeled images alone, the second is how many there would be: epochs are as long.
        processes (int): How many processes train.

    Raises:
        UsageError: If they do not divide over the processes, or the method needs images that are not asked for.
    """
    flag = f'--batch {labeled} {unlabeled}'
    sampler, passes = cfg.train_dataloader.sampler, Batch.of(cfg, processes).passes
    alone = not sampler.get('unlabeled', 0)
    if labeled < 1 or unlabeled < 0:
        raise UsageError(f'{flag}: a step takes one labeled image or more, and no fewer than 0 unlabeled ones.')
    if not alone and not unlabeled:
        raise UsageError(f'{flag}: {cfg.model.type} needs unlabeled images, too; say --batch {labeled} {labeled}.')
    share = processes * passes
    if labeled % share or unlabeled % share:
        up = [-(-number // share) * share for number in (labeled, unlabeled)]
        over = f'{processes} processes' + (f' and {passes} accumulated passes' if passes > 1 else '')
        raise UsageError(
            f'{flag}: images do not divide evenly over {over}; give multiples of {share}, for example '
            f'--batch {up[0]} {up[1]}.'
        )
    labeled, unlabeled = labeled // share, unlabeled // share
    if alone:
        sampler.update(labeled=labeled, unlabeled=0, pace=unlabeled or None)
    else:
        sampler.update(labeled=labeled, unlabeled=unlabeled)
    cfg.train_dataloader.batch_size = sampler.labeled + sampler.unlabeled


def scale_rate(cfg: Config, asked: bool) -> None:
    """Let mmengine scale the learning rate, where ``asked``, or where the config does, by what a step takes.

    Args:
        cfg (Config): Changed in place.
        asked (bool): Whether the command line asks for it.

    Raises:
        UsageError: If the config does not say what its rate is meant for.
    """
    settings = cfg.get('auto_scale_lr') or {}
    if not (asked or settings.get('enable')):
        return
    if not settings.get('base_batch_size'):
        raise UsageError(
            '--auto-scale-lr needs auto_scale_lr.base_batch_size, the images in all that the learning rate is meant '
            'for; the config does not have it.'
        )
    settings['enable'] = True


def tell_batch(cfg: Config, processes: int, logger: Logger) -> None:
    """Log how many images a step takes in all and how many the learning rate is meant for; where these differ, warn."""
    settings, batch = cfg.get('auto_scale_lr') or {}, Batch.of(cfg, processes)
    base = settings.get('base_batch_size')
    rate = cfg.get('optim_wrapper', {}).get('optimizer', {}).get('lr')
    if not base or rate is None or not batch.total:
        logger.info(f'A step takes {batch}.')
        return
    scaled = settings.get('enable')
    if batch.total == base:
        logger.info(f'A step takes {batch}, for which the learning rate of {rate:g} is meant.')
        return
    factor = batch.total / base
    text = f'A step takes {batch}; the learning rate of {rate:g} is meant for {base:g}'
    if scaled:
        logger.info(f'{text} and is scaled to {rate * factor:g}.')
        return
    mends = [f'--auto-scale-lr to scale it to {rate * factor:g}', *_batch_for(base, batch)]
    logger.log(WARNING, f'{text}. Start with {", or ".join(reversed(mends))}.')


def _batch_for(total: float, batch: Batch) -> list[str]:
    """How to say that a step shall take ``total`` images, in the same proportion, if they divide."""
    labeled = total * Fraction(batch.labeled, batch.labeled + batch.unlabeled)
    numbers = [labeled, total - labeled]
    if any(number % (batch.processes * batch.passes) for number in numbers):
        return []
    if batch.pace:
        numbers[1] = round(labeled * batch.pace / batch.labeled)
    return [f'--batch {int(numbers[0])} {int(numbers[1])} to take as many']
