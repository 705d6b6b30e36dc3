"""Keys of a config that nothing reads, and numbers that no training can have: said before it starts."""

from __future__ import annotations

import ast
import contextlib
import difflib
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmsemi.apis.config import references
from mmsemi.apis.errors import UsageError

READ_ELSEWHERE = {
    'activation_checkpointing', 'auto_scale_lr', 'backend_args', 'baseline', 'compile', 'custom_imports', 'data_root',
    'dataset_type', 'efficient_conv_bn_eval', 'facts', 'find_unused_parameters', 'network', 'runner_type',
    'test_pipeline', 'tf32', 'train_pipeline', 'tta_model', 'tta_pipeline', 'with_cp',
}  # fmt: skip
"""Keys of a config that are no arguments of the runner: mmengine, the tools and ``export`` read them, and of a config
that a run wrote down its parts keep the names that they had where they were put together."""
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


class ConfigError(ValueError):
    """A config cannot be read; the message names the file."""


def read_config(path: str) -> Config:
    """Read a config file.

    Raises:
        SyntaxError: If it, or a file that it inherits from, is no Python; it names the file and the line.
        ConfigError: If running it failed.
    """
    for file, text in _sources(path):
        compile(text, str(file), 'exec')
    try:
        return Config.fromfile(path)
    except (NameError, AttributeError, TypeError, ImportError, KeyError, FileNotFoundError) as error:
        raise ConfigError(f'The config {path} cannot be read ({type(error).__name__}: {error}); correct it.') from error


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
    for file, text in _sources(path):
        # A base's variable in mmengine's older notation, which is no Python.
        for part in text.split('{{')[1:]:
            used.update(part.partition('}}')[0].strip().removeprefix('_base_.').split('.')[:1])
        tree = ast.parse(text)
        for statement in tree.body:
            for target in getattr(statement, 'targets', []):
                if isinstance(target, ast.Name):
                    assigned.setdefault(target.id, str(file))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == '_base_':
                used.add(node.attr)
    return assigned, used


def _sources(path: str) -> Iterator[tuple[Path, str]]:
    """The Python files of a config, itself first, with their text; what cannot be parsed inherits nothing."""
    todo, seen = [Path(path)], set()
    while todo:
        file = todo.pop()
        if file in seen or not file.is_file() or file.suffix != '.py':
            continue
        seen.add(file)
        text = file.read_text(encoding='utf-8')
        yield file, text
        with contextlib.suppress(SyntaxError):
            todo += [file.parent / base for base in _bases(ast.parse(text)) if '::' not in base]


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


def check_optimizers(cfg: Config) -> None:
    """Refuse optimizers that nobody registered, of which mmengine says that None is not callable.

    Components must have been registered.

    Raises:
        UsageError: If there is one; the message names the closest.
    """
    from mmsemi.registry import OPTIMIZERS

    wrapper: Any = cfg.get('optim_wrapper') or {}
    for where, node in [('optim_wrapper', wrapper), *((f'optim_wrapper.{key}', wrapper[key]) for key in wrapper)]:
        name = node.get('optimizer', {}).get('type') if isinstance(node, dict) else None
        if isinstance(name, str) and OPTIMIZERS.get(name) is None:
            registry, known = OPTIMIZERS, []
            while registry is not None:
                known += registry.module_dict
                registry = registry.parent
            close = _close(name, known)
            hint = f'; did you mean {close}?' if close else '.'
            raise UsageError(f'{where}.optimizer.type={name} is no optimizer that is registered{hint}')
