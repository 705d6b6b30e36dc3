"""Configs whose facts are written once: ``'${key}'`` stands for the value of another key."""

from __future__ import annotations

import re
from typing import Any

from mmengine.config import Config

_REFERENCE = re.compile(r'\$\{(?P<call>len\()?(?P<path>[\w.]+)(?(call)\))\}')
_DEEPEST = 16


def resolve(cfg: Config) -> Config:
    """Put values in the place of references, in all of a config.

    A string that is ``'${key}'``, or ``'${key.inner}'``, stands for the value of that key, whatever its kind, and
    ``'${len(key)}'`` for its length; within a longer string the value is written out. References are followed once all
    bases are merged and the command line's options are in, so that a key takes effect wherever it is set.
    ``model.student`` is ``network`` where a config has that key and does not say otherwise. The key ``facts`` of a base
    names keys elsewhere that follow one of its own: ``{'model.data_preprocessor.size': '${crop_size}'}``.

    Args:
        cfg (Config): Changed in place.

    Raises:
        ValueError: If a key does not exist, or references form a circle; the message names both places.
    """
    tree = cfg._cfg_dict
    if isinstance(tree.get('model'), dict) and 'network' in tree:
        # mmengine merges no dict into a string, so that a base cannot say model.student='${network}'.
        tree['model'].setdefault('student', '${network}')
    for path, value in (tree.pop('facts', None) or {}).items():
        _put(tree, path, value)
    for key in list(tree):
        tree[key] = _resolve(tree[key], tree, key, 0)
    return cfg


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


def _put(tree: dict, path: str, value: Any) -> None:
    """Set the key at a dotted path, where there is a dict to hold it."""
    *parents, last = path.split('.')
    for part in parents:
        tree = tree.get(part)
        if not isinstance(tree, dict):
            return
    tree[last] = value


def references(cfg: Config) -> set[str]:
    """The top-level keys that a config refers to."""

    def found(node: Any) -> set[str]:
        if isinstance(node, dict):
            return set().union(*map(found, node.values()))
        if isinstance(node, (list, tuple)):
            return set().union(*map(found, node))
        return {match['path'].split('.')[0] for match in _REFERENCE.finditer(node)} if isinstance(node, str) else set()

    return found(cfg._cfg_dict)


def _copy(value: Any) -> Any:
    """A copy, so that what is changed in one place does not change in another."""
    if isinstance(value, dict):
        return type(value)({key: _copy(inner) for key, inner in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(inner) for inner in value)
    return value
