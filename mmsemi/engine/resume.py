"""What an iteration of a run meant, and how a run goes on where it means something else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.dist import get_world_size
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import IterBasedTrainLoop, Runner

from .checkpoints import CheckpointError
from .utils import sampler_of

KEY = 'run'
"""Where a checkpoint's meta holds it."""
_STEPS = ('begin', 'end', 'T_max', 'step_size', 'total_steps')
_STEP_LISTS = ('milestones', 'periods')
_BY_STEP = ('ExponentialLR', 'ExponentialMomentum', 'ExponentialParamScheduler')
_INFINITE = 10**9


def describe(runner: Runner) -> dict[str, Any]:
    """What an iteration means: the batch of all processes, the length of an epoch and of training, the partition."""
    loader = runner.train_dataloader
    sampler = sampler_of(loader)
    return {
        'world_size': get_world_size(),
        'labeled': getattr(sampler, 'labeled', loader.batch_sampler.batch_size),
        'unlabeled': getattr(sampler, 'unlabeled', 0),
        'steps': len(loader),
        'max_epochs': None if _by_iter(runner) else runner.max_epochs,
        'max_iters': runner.max_iters,
        'sampler_seed': getattr(sampler, 'seed', None),
        'partition': getattr(loader.dataset, 'partition', str(len(loader.dataset))),
    }


def _by_iter(runner: Runner) -> bool:
    return isinstance(runner.train_loop, IterBasedTrainLoop)


def adapt(runner: Runner, checkpoint: dict) -> str | None:
    """Make a checkpoint go on here, with the same share of training behind it.

    A run on another number of processes, or with another batch, takes other steps. Iterations, schedules and warm-ups
    are converted by the number of images that they mean, which must come out even.

    Args:
        runner (Runner): The run that goes on; its training loop and schedulers are built.
        checkpoint (dict): What it goes on from; changed in place.

    Returns:
        str | None: What was converted, in a sentence.

    Raises:
        CheckpointError: If it does not come out even, or the images are others.
    """
    then, now = checkpoint['meta'].get(KEY), describe(runner)
    if not isinstance(then, dict):
        return None
    if then['partition'] != now['partition']:
        raise CheckpointError(
            f'The checkpoint was trained on {then["partition"]}, and this run has {now["partition"]}; go on with the '
            'same lists and seed, or give it as load_from to start from its weights.'
        )
    sampler_of(runner.train_dataloader).seed = then['sampler_seed']
    if _batch(then) == _batch(now) and then['steps'] == now['steps']:
        return None
    meta = checkpoint['meta']
    by_iter = then['max_epochs'] is None
    if by_iter != _by_iter(runner):
        raise CheckpointError(
            'The checkpoint counts training in iterations and this run in epochs, or the reverse, and the batch is '
            'another one; go on with the same train_cfg.by_epoch.'
        )
    ratio = Fraction(_images(then), _images(now))
    if by_iter:
        iteration = _whole(meta['iter'] * ratio, f'{meta["iter"]} iterations', then, now)
        if then['max_iters'] == runner.max_iters:
            runner.train_loop._max_iters = _whole(then['max_iters'] * ratio, 'all iterations', then, now)
    else:
        offset = meta['iter'] - meta['epoch'] * then['steps']
        if offset == then['steps']:
            offset = now['steps']
        elif offset:
            what = f'{offset} of {then["steps"]} iterations of an epoch'
            if _batch(then)[0] * _batch(now)[1] != _batch(then)[1] * _batch(now)[0]:
                raise CheckpointError(
                    f'The checkpoint stands after {what}, where labeled and unlabeled images were drawn in another '
                    'proportion than this run draws them; go on from a checkpoint at the end of an epoch.'
                )
            offset = _whole(offset * ratio, what, then, now)
            if offset > now['steps']:
                raise CheckpointError(
                    f'The checkpoint stands after {what}, and an epoch is {now["steps"]} iterations here; go on from a '
                    'checkpoint at the end of an epoch.'
                )
        iteration = meta['epoch'] * now['steps'] + offset
    _convert_schedulers(runner, checkpoint, ratio, iteration, lambda x, what: _whole(x, what, then, now))
    sentence = (
        f'Goes on with {_say(now)} where the checkpoint had {_say(then)}: iteration {meta["iter"]} of then is '
        f'{iteration} of now.'
    )
    meta['iter'] = iteration
    return sentence


def _batch(run: dict) -> tuple[int, int]:
    """Labeled and unlabeled images of a step of all processes."""
    return run['labeled'] * run['world_size'], run['unlabeled'] * run['world_size']


def _images(run: dict) -> int:
    """Images of a step of the stream that an epoch is a pass over."""
    return _batch(run)[1] or _batch(run)[0]


def _say(run: dict) -> str:
    return f'{run["world_size"]} x ({run["labeled"]} + {run["unlabeled"]}) images a step'


def _whole(value: Fraction, what: str, then: dict, now: dict) -> int:
    if value.denominator != 1:
        raise CheckpointError(
            f'The batch is not that of the checkpoint: {what} of {_say(then)} are no whole number of {_say(now)}; go '
            'on with the batch and the number of processes of the checkpoint, or with those that divide it.'
        )
    return int(value)


def _convert_schedulers(
    runner: Runner, checkpoint: dict, ratio: Fraction, iteration: int, whole: Callable[[Fraction, str], int]
) -> None:
    """Put rates and schedulers where an uninterrupted run of this batch would have them, by walking there."""
    if not isinstance(runner.param_schedulers, list) or 'param_schedulers' not in checkpoint:
        return
    configs = runner.cfg.get('param_scheduler') or []
    configs = [copy.deepcopy(dict(config)) for config in (configs if isinstance(configs, (list, tuple)) else [configs])]
    if len(configs) != len(checkpoint['param_schedulers']):
        raise CheckpointError(
            f'The checkpoint has {len(checkpoint["param_schedulers"])} schedulers and this run {len(configs)}; go on '
            'with the same param_scheduler.'
        )
    for config in configs:
        by_epoch = config.get('by_epoch', True)
        config.setdefault('end', runner.max_epochs if by_epoch else runner.max_iters)
        if not by_epoch:
            _convert_config(config, ratio, checkpoint['meta']['iter'], runner, whole)
    groups = []
    for group in checkpoint['optimizer']['param_groups']:
        start = {key: value for key, value in group.items() if key != 'params'}
        start.update(
            {key.removeprefix('initial_'): value for key, value in start.items() if key.startswith('initial_')}
        )
        groups.append({**start, 'params': [torch.nn.Parameter(torch.zeros(()))]})
    stub = torch.optim.SGD(groups, lr=0.0, momentum=0.0)
    steps = len(runner.train_dataloader)
    schedulers = [
        PARAM_SCHEDULERS.build(config, default_args={'optimizer': stub, 'epoch_length': steps}) for config in configs
    ]
    stub.step()
    epochs = checkpoint['meta']['epoch']
    for step in range(1, iteration + 1):
        for scheduler in schedulers:
            if not scheduler.by_epoch:
                scheduler.step()
        if step % steps == 0 and step // steps <= epochs:
            for scheduler in schedulers:
                if scheduler.by_epoch:
                    scheduler.step()
    checkpoint['param_schedulers'] = [scheduler.state_dict() for scheduler in schedulers]
    for group, walked in zip(checkpoint['optimizer']['param_groups'], stub.param_groups, strict=True):
        for key in group:
            if f'initial_{key}' in group:
                group[key] = walked[key]


def _convert_config(
    config: dict | ConfigDict, ratio: Fraction, done: int, runner: Runner, whole: Callable[[Fraction, str], int]
) -> None:
    """Convert the iterations in a scheduler's config; what is over need not come out even."""
    name = f'param_scheduler of type {config["type"]}'
    over = config['end'] <= done
    if config['type'] in _BY_STEP and not over:
        raise CheckpointError(
            f'The {name} decays by iteration, which another batch cannot follow; go on with the batch and the number '
            'of processes of the checkpoint.'
        )
    default_end = config['end'] == runner.max_iters
    for key in _STEPS:
        value = config.get(key)
        if value is None or value >= _INFINITE or (key == 'end' and default_end):
            continue
        scaled = value * ratio
        config[key] = -(-scaled.numerator // scaled.denominator) if over else whole(scaled, f'{key}={value} of {name}')
    for key in _STEP_LISTS:
        if key in config:
            config[key] = [whole(value * ratio, f'{key} of {name}') for value in config[key]]
