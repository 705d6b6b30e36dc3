"""Keys of a config that nothing reads, and numbers that no training can have: said before it starts."""

from __future__ import annotations

import ast
import difflib
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmsemi.apis.config import references
from mmsemi.apis.errors import UsageError

READ_ELSEWHERE = {
    'activation_checkpointing', 'auto_scale_lr', 'backend_args', 'baseline', 'compile', 'custom_imports', 'data_root',
    'dataset_type', 'efficient_conv_bn_eval', 'facts', 'find_unused_parameters', 'network', 'runner_type',
    'test_pipeline', 'tta_model', 'tta_pipeline',
}  # fmt: skip
"""Keys of a config that are no arguments of the runner: mmengine, the tools and ``export`` read them."""
_WHOLE = {'max_epochs': 1, 'max_iters': 1, 'val_interval': 1, 'val_begin': 0}


def readable_keys() -> set[str]:
    """Keys that something reads in every config."""
    return {*inspect.signature(Runner.__init__).parameters} - {'self'} | READ_ELSEWHERE


def check_option(cfg: Config, option: str) -> None:
    """Refuse a misspelt first key of an option, which mmengine would add to the config and nothing would read.

    Raises:
        UsageError: If it is close to a key that is read, which the message names.
    """
    key = option.split('.')[0]
    known = {*cfg.keys(), *readable_keys()}
    close = _close(key, known)
    if key not in known and close:
        raise UsageError(f'--cfg-options {option}: the config has no key {key}; did you mean {close}?')


def check_files(cfg: Config, path: str) -> None:
    """Find top-level keys of a config and of those it inherits from that nothing reads.

    What a file assigns and later uses, or another file uses as ``_base_.name``, is read there.

    Args:
        cfg (Config): As read, before options are merged.
        path (str): The config's file.

    Raises:
        UsageError: If an unread key is close to one that is read; of others a note is printed.
    """
    known = readable_keys()
    assigned, used = _names(path)
    used |= references(cfg)
    unread = [key for key in cfg if key not in known and key in assigned and key not in used]
    for key in unread:
        close = _close(key, known - {'cfg'})
        if close:
            raise UsageError(f'{assigned[key]}: nothing reads the key {key}; did you mean {close}?')
    if unread:
        print(f'note: nothing reads {", ".join(f"{key} of {assigned[key]}" for key in unread)}', file=sys.stderr)


def _close(key: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.8)), None)


def _names(path: str) -> tuple[dict[str, str], set[str]]:
    """Names that a config's files assign at their top, each with its file, and names that they use."""
    assigned: dict[str, str] = {}
    used: set[str] = set()
    todo, seen = [Path(path)], set()
    while todo:
        file = todo.pop()
        if file in seen or not file.is_file() or file.suffix != '.py':
            continue
        seen.add(file)
        text = file.read_text(encoding='utf-8')
        # A base's variable in mmengine's older notation, which is no Python.
        for part in text.split('{{')[1:]:
            used.update(part.partition('}}')[0].strip().removeprefix('_base_.').split('.')[:1])
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for statement in tree.body:
            for target in getattr(statement, 'targets', []):
                if isinstance(target, ast.Name):
                    assigned.setdefault(target.id, str(file))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == '_base_':
                used.add(node.attr)
        todo += [file.parent / base for base in _bases(tree) if '::' not in base]
    return assigned, used


def _bases(tree: ast.Module) -> list[str]:
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == '_base_' for target in statement.targets
        ):
            try:
                value = ast.literal_eval(statement.value)
            except ValueError:
                return []
            return [value] if isinstance(value, str) else list(value)
    return []


def check_numbers(cfg: Config) -> None:
    """Refuse lengths and intervals of training that are no whole numbers, or too small.

    Raises:
        UsageError: For the first of them.
    """
    train_cfg: Any = cfg.get('train_cfg')
    for key, least in _WHOLE.items():
        value = train_cfg.get(key) if isinstance(train_cfg, dict) else None
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise UsageError(f'train_cfg.{key} must be a whole number of {least} or more, not {value!r}.')
