"""Configs whose facts are written once: ``'${key}'`` stands for the value of another key."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import tempfile
from typing import Any
from unittest import mock

from mmengine.config import Config

_REFERENCE = re.compile(r'\$\{(?P<call>len\()?(?P<path>[\w.]+)(?(call)\))\}')
_DEEPEST = 16


def resolve(cfg: Config, bases: dict | None = None) -> Config:
    """Put values in the place of references, in all of a config.

    A string that is ``'${key}'``, or ``'${key.inner}'``, stands for the value of that key, whatever its kind, and
    ``'${len(key)}'`` for its length; within a longer string the value is written out. References are followed once all
    bases are merged and the command line's options are in, so that a key takes effect wherever it is set.
    ``model.student`` is ``network`` where a config has that key and does not say otherwise. The key ``facts`` of a base
    names keys elsewhere that follow one of its own: ``{'model.data_preprocessor.size': '${crop_size}'}``. Where a
    config sets such a key itself, the fact follows it instead.

    Args:
        cfg (Config): Changed in place.
        bases (dict, optional): What the bases said before the config changed it, by which the keys that it set itself
            are known. Without it a fact takes effect always.

    Raises:
        ValueError: If a key does not exist, references form a circle, or a fact is given twice and differently; the
            message names both places.
    """
    tree = cfg._cfg_dict
    if isinstance(tree.get('model'), dict) and 'network' in tree:
        # mmengine merges no dict into a string, so that a base cannot say model.student='${network}'.
        tree['model'].setdefault('student', '${network}')
    for path, value in (tree.pop('facts', None) or {}).items():
        own = _get(tree, path)
        if bases is None or own is None or _plain(own) == _plain(_get(bases, path)):
            _put(tree, path, value)
        else:
            _follow_own(tree, path, own, value, bases)
    for key in list(tree):
        tree[key] = _resolve(tree[key], tree, key, 0)
    return cfg


def _follow_own(tree: dict, path: str, own: Any, fact: str, bases: dict) -> None:
    """Let a fact be what a config says at the place that would follow it, unless it says both."""
    match = _REFERENCE.fullmatch(fact)
    if isinstance(own, str) and _REFERENCE.fullmatch(own):
        return
    key = match['path']
    given = _get(tree, key)
    changed = _plain(given) != _plain(_get(bases, key))
    same = len(given) == own if match['call'] else _plain(given) == _plain(own)
    if changed and not same:
        what = f'{len(given)} {key}' if match['call'] else f'{key}={given}'
        raise ValueError(f'The config has {what}, but {path}={own}; write it once, as {key}.')
    if not match['call']:
        tree[key] = own


def _get(tree: Any, path: str) -> Any:
    for part in path.split('.'):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _resolve(node: Any, tree: dict, place: str, depth: int) -> Any:
    if isinstance(node, dict):
        for key in list(node):
            node[key] = _resolve(node[key], tree, f'{place}.{key}', depth)
        return node
    if isinstance(node, (list, tuple)):
        return type(node)(_resolve(value, tree, f'{place}.{i}', depth) for i, value in enumerate(node))
    if not isinstance(node, str):
        return node
    whole = _REFERENCE.fullmatch(node)
    if whole:
        return _follow(whole, tree, place, depth)
    return _REFERENCE.sub(lambda match: str(_follow(match, tree, place, depth)), node)


def _follow(match: re.Match, tree: dict, place: str, depth: int) -> Any:
    if depth == _DEEPEST:
        raise ValueError(f'{place}: {match[0]} refers to itself; write its value.')
    value = tree
    for part in match['path'].split('.'):
        if isinstance(value, (list, tuple)) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            raise ValueError(f'{place}: {match[0]} refers to the key {match["path"]}, which the config does not have.')
    value = _resolve(_copy(value), tree, place, depth + 1)
    return len(value) if match['call'] else value


def open_references(tree: dict, key: str) -> None:
    """Where the way to a key leads through a reference, put a copy of what it stands for there, which can be changed.

    Args:
        tree (dict): All of a config; changed in place.
        key (str): With dots; a number is a place in a list.
    """
    node: Any = tree
    for part in key.split('.')[:-1]:
        holder, place = node, part
        if isinstance(node, (list, tuple)):
            place = int(part) if part.isdigit() and int(part) < len(node) else None
        elif not (isinstance(node, dict) and part in node):
            return
        if place is None:
            return
        node = holder[place]
        for _ in range(_DEEPEST):
            match = _REFERENCE.fullmatch(node) if isinstance(node, str) else None
            if not match or match['call'] or isinstance(holder, tuple):
                break
            node = holder[place] = _copy(_get(tree, match['path']))


def _put(tree: dict, path: str, value: Any) -> None:
    """Set the key at a dotted path, where there is a dict to hold it."""
    *parents, last = path.split('.')
    for part in parents:
        tree = tree.get(part)
        if not isinstance(tree, dict):
            return
    tree[last] = value


def carry(node: Any, key: str, old: Any, new: Any) -> None:
    """Give what is called ``key``, or is the crop of the preprocessor, a new value wherever it has the old one."""
    if isinstance(node, dict):
        for name, value in node.items():
            same = name == key or (key == 'crop_size' and name == 'size' and node.get('type') == 'SemiDataPreprocessor')
            if same and _plain(value) == _plain(old):
                node[name] = new
            else:
                carry(value, key, old, new)
    elif isinstance(node, (list, tuple)):
        for value in node:
            carry(value, key, old, new)


def references(node: Any) -> set[str]:
    """The top-level keys that a part of a config refers to."""
    if isinstance(node, dict):
        return set().union(*map(references, node.values()))
    if isinstance(node, (list, tuple)):
        return set().union(*map(references, node))
    return {match['path'].split('.')[0] for match in _REFERENCE.finditer(node)} if isinstance(node, str) else set()


def _copy(value: Any) -> Any:
    """A copy, so that what is changed in one place does not change in another."""
    if isinstance(value, dict):
        return type(value)({key: _copy(inner) for key, inner in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(inner) for inner in value)
    return value


def as_text(cfg: Config) -> str:
    """What mmengine writes to a config's file."""
    import_formatter()
    return cfg.pretty_text


def import_formatter() -> None:
    """Import yapf, with which mmengine writes configs as text.

    Its first import on a machine leaves a cache, under whose final name the file is empty for a moment: one of several
    processes that start together may read it then, and a process that is killed then leaves it so. Where the cache
    cannot be read, this process makes one of its own.
    """
    module = 'yapf.yapflib.yapf_api'
    try:
        importlib.import_module(module)
    except (EOFError, pickle.UnpicklingError):
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, XDG_CACHE_HOME=folder):
            importlib.import_module(module)
