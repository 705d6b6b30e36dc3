"""Looking at the data of any config, and at what a run of it will do: ``mmsemi check``."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mmsemi.datasets.contents import Shown
from mmsemi.datasets.inspect import describe, duplicates, look_at, sample
from mmsemi.engine.rehearsal import rehearse, shown_of_all_ranks

from .launch import add_arguments, build_runner, load_config

_LISTED = 5


def run_check(args: argparse.Namespace) -> list[str]:
    """Look at what the arguments name, print what is found; a part that fails ends the command.

    Args:
        args (argparse.Namespace): Those of :func:`launch.add_arguments`, and ``config``.

    Returns:
        list[str]: Warnings.

    Raises:
        RehearsalError: If a run would fail; the message has a sentence for each reason.
        UsageError, ValueError, OSError, RuntimeError: If the config or its data cannot be read.
    """
    cfg = load_config(args)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder  # what the runner writes is nobody's
        cfg.log_level = 'ERROR'
        try:
            runner = build_runner(cfg)
            print(_describe(runner))
            warnings = rehearse(runner, thorough=True, write=False)
        finally:
            _close_logs()
    for warning in warnings:
        print(f'warning: {warning}')
    flag = ' --baseline' if args.baseline else ''
    print(f'{args.config} can be trained: mmsemi train {args.config}{flag}')
    return warnings


def check(config: str, options: dict | None = None, baseline: bool = False) -> list[str]:
    """Look at the data of a config and rehearse its run, in this process; what is found is printed.

    Args:
        config (str): A config file, or the name of one of mmsemi.
        options (dict, optional): Keys of the config, with dots, and what they shall be.
        baseline (bool): Look at the config's supervised baseline. Defaults to False.

    Returns:
        list[str]: Warnings.

    Raises:
        RehearsalError: If a run would fail; the message has a sentence for each reason.
        UsageError, ValueError, OSError, RuntimeError: If the config or its data cannot be read.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_arguments(parser)
    args = parser.parse_args([config])
    vars(args).update(cfg_options=options, baseline=baseline)
    return run_check(args)


def _close_logs() -> None:
    """Leave the log's file before its folder is removed."""
    for logger in MMLogger._instance_dict.values():
        for handler in [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]:
            logger.removeHandler(handler)
            handler.close()


def _describe(runner: Runner) -> str:
    """Images of each part, classes, and files with the same content."""
    data, loop = runner.train_dataloader.dataset, runner.val_loop
    parts: dict[str, Sequence[str]] = dict(getattr(data, 'paths', {}))
    if loop is not None and hasattr(loop.dataloader.dataset, 'get_data_info'):
        judged = loop.dataloader.dataset
        parts['validation'] = [judged.get_data_info(index)['img_path'] for index in range(len(judged))]
    lines = []
    for part, paths in parts.items():
        pictures, left_out = look_at([(path, None) for path in sample(paths)])
        lines.append(f'{len(paths)} {part} images{_sizes(describe(pictures))}')
        lines += [f'  {item.path} {item.reason}' for item in left_out[:_LISTED]]
        if len(left_out) > _LISTED:
            lines.append(f'  and {len(left_out) - _LISTED} more')
    lines += ['', *_classes(shown_of_all_ranks(runner))]
    twins = duplicates(parts)
    if twins:
        lines.append(f'{len(twins)} files have the content of another (first: {" and ".join(twins[0])})')
    return '\n'.join(lines)


def _sizes(numbers: dict[str, Any]) -> str:
    if not numbers['looked at']:
        return ''
    width, height = numbers['width'], numbers['height']
    sizes = f'{width["min"]} x {height["min"]} to {width["max"]} x {height["max"]}'
    channels, bits = ('/'.join(map(str, numbers[key])) for key in ('channels', 'bits'))
    return f', {sizes} pixels, {channels} channels of {bits} bits'


def _classes(shown: dict[str, Shown]) -> list[str]:
    """The table of classes."""
    if not shown:
        return []
    rows = [['class', *(title for part in shown for title in (f'{part} pixels', 'images'))]]
    tables = [of_part.table() for of_part in shown.values()]
    for number, (name, *_) in enumerate(tables[0]):
        rows.append([name, *(cell for table in tables for cell in table[number][1:])])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ['  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows] + ['']
