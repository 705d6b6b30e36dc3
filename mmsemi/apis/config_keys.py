"""Keys of a config that nothing reads, and numbers that no training can have: said before it starts."""

from __future__ import annotations

import ast
import contextlib
import difflib
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.runner import Runner

from mmsemi.apis.config import carry, references
from mmsemi.apis.errors import ROOTS, UsageError

READ_ELSEWHERE = {
    'activation_checkpointing', 'auto_scale_lr', 'compile', 'custom_imports', 'efficient_conv_bn_eval', 'facts',
    'find_unused_parameters', 'runner_type', 'test_pipeline', 'tf32', 'tta_model', 'tta_pipeline', 'with_cp',
}  # fmt: skip
"""Keys of a config that are no arguments of the runner: mmengine, the tools and ``export`` read them."""
CARRIED = {'data_root', 'crop_size'}
"""Keys of bases that take effect wherever they are set (:func:`carry_on`)."""
_INSTEAD = {
    'network': 'model.student',
    'norm_cfg': 'norm_cfg of the parts of model.student',
    'train_pipeline': 'train_dataloader.dataset.pipeline',
}
_USUAL = {'backend_args', 'dataset_type', 'network', 'norm_cfg', 'train_pipeline'}
"""Names for parts of a config; one that a run has written holds the parts and the names."""
_WHOLE = {'max_epochs': 1, 'max_iters': 1, 'val_interval': 1, 'val_begin': 0}


def readable_keys() -> set[str]:
    """Keys that something reads in every config."""
    return {*inspect.signature(Runner.__init__).parameters} - {'self'} | READ_ELSEWHERE


def check_options(cfg: Config, options: Iterable[str], path: str) -> None:
    """Refuse options whose first key nothing reads: a misspelt one, or one that was used when the config was read.

    Args:
        cfg (Config): With the options.
        options (Iterable[str]): Their keys, with dots.
        path (str): The config's file.

    Raises:
        UsageError: For the first of them; the message names a close key that is read, or what to set.
    """
    known, referred = readable_keys(), referred_keys(cfg)
    assigned = {name for file in _files(path) for name in file.assigned}
    for option in options:
        key = option.split('.')[0]
        if key in known or key in referred or option in CARRIED:
            continue
        if key in assigned:
            raise UsageError(f'--cfg-options {option}: {_used_already(key, path)}')
        close = _close(key, {*cfg.keys(), *known} - {key})
        if close:
            raise UsageError(f'--cfg-options {option}: the config has no key {key}; did you mean {close}?')


def referred_keys(cfg: Config) -> set[str]:
    """Keys without a meaning of their own that those with one refer to, directly or through others."""
    tree, known = cfg._cfg_dict, readable_keys()
    found: set[str] = set()
    todo = [key for key in tree if key in known]
    while todo:
        new = references(tree[todo.pop()]) - found
        found |= new
        todo += [key for key in new if key in tree]
    if 'network' in tree and isinstance(tree.get('model'), dict) and 'student' not in tree['model']:
        found |= {'network'} | references(tree['network'])
    return found


def carry_on(cfg: Config, path: str, before: dict) -> None:
    """Let ``data_root`` and ``crop_size`` take effect where a base used its own value when it was read.

    Whatever is called so, or is the crop that the preprocessor expects, and had the value of before, gets the new one.

    Args:
        cfg (Config): With the options; changed in place.
        path (str): The config's file.
        before (dict): ``data_root`` and ``crop_size`` before the options were put in.
    """
    top = _files(path)[0]
    earlier = [Config.fromfile(base) for base in top.bases if CARRIED & top.assigned - top.loaded]
    for key in CARRIED & cfg.keys():
        for old in [before.get(key), *(base[key] for base in earlier if key in base)]:
            if old is not None and old != cfg[key]:
                carry(cfg._cfg_dict, key, old, cfg[key])


def _used_already(key: str, place: str) -> str:
    target = _INSTEAD.get(key, f'the keys that {key} went into')
    return f'{key} was used when the config was read ({place}) and changes nothing now; set {target}.'


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

    What a file assigns and later uses, a file that inherits from it uses as ``_base_.name``, or a key that is read
    refers to as ``'${name}'``, is read. The bases of mmsemi may offer what another file replaces.

    Args:
        cfg (Config): As read, before options are merged.
        path (str): The config's file.

    Raises:
        UsageError: If an unread key is close to one that is read, or a base has it and used its own value when it was
            read; of others a note is printed.
    """
    known, referred, files = readable_keys(), referred_keys(cfg), _files(path)
    unread = []
    for key in cfg:
        places = [number for number, file in enumerate(files) if key in file.assigned]
        if key in known | CARRIED or key in referred or not places:
            continue
        first = files[places[0]]
        used = key in first.loaded or any(key in file.inherited for file in files[: places[0] + 1])
        if used or first.is_base:
            continue
        if len(places) > 1:
            raise UsageError(f'{first.path}: {_used_already(key, str(files[places[1]].path))}')
        if key in _USUAL:
            continue
        close = _close(key, known - {'cfg'})
        if close:
            raise UsageError(f'{first.path}: nothing reads the key {key}; did you mean {close}?')
        unread.append(f'{key} of {first.path}')
    if unread:
        print(f'note: nothing reads {", ".join(unread)}', file=sys.stderr)


def read_bases(path: str) -> dict:
    """What the bases of mmsemi say that a config inherits from, before the config's own files change it."""
    merged: dict = {}
    for file in _files(path):
        if not file.is_base:
            for base in file.bases:
                if _is_base(base):
                    merged.update(Config.fromfile(base)._cfg_dict)
    return merged


def _close(key: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.8)), None)


class _File(NamedTuple):
    """A file of a config: what it assigns at its top, which names it uses, which keys of its bases."""

    path: Path
    assigned: set[str]
    loaded: set[str]
    inherited: set[str]
    bases: list[Path]

    @property
    def is_base(self) -> bool:
        """Is it one of mmsemi's bases?"""
        return _is_base(self.path)


def _files(path: str) -> list[_File]:
    """The files of a config that are Python, itself first, each behind all that inherit from it."""
    files = []
    for file, text in _sources(path):
        # A base's variable in mmengine's older notation, which is no Python.
        inherited = {
            part.partition('}}')[0].strip().removeprefix('_base_.').split('.')[0] for part in text.split('{{')[1:]
        }
        assigned, loaded = set(), set()
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        for statement in tree.body:
            assigned.update(target.id for target in getattr(statement, 'targets', []) if isinstance(target, ast.Name))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                loaded.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == '_base_':
                inherited.add(node.attr)
        files.append(_File(file, assigned, loaded, inherited, _base_paths(file, tree)))
    return files


def _base_paths(file: Path, tree: ast.Module) -> list[Path]:
    found = []
    for base in _bases(tree):
        if '::' not in base:
            found.append(file.parent / base)
        elif base.startswith('mmsemi::'):
            name = base.removeprefix('mmsemi::')
            found += [root / 'configs' / name for root in ROOTS if (root / 'configs' / name).is_file()][:1]
    return found


def _is_base(path: Path) -> bool:
    path = Path(path).resolve()
    return any(path.is_relative_to((root / 'configs' / '_base_').resolve()) for root in ROOTS)


def _sources(path: str) -> Iterator[tuple[Path, str]]:
    """The Python files of a config, itself first, level by level, with their text."""
    todo, seen = [Path(path)], set()
    while todo:
        file = todo.pop(0)
        if file.resolve() in seen or not file.is_file() or file.suffix != '.py':
            continue
        seen.add(file.resolve())
        text = file.read_text(encoding='utf-8')
        yield file, text
        with contextlib.suppress(SyntaxError):
            todo += _base_paths(file, ast.parse(text))


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
