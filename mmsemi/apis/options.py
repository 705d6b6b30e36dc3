"""``--cfg-options KEY=VALUE ...``: how values are read, and how they get into a config."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config, DictAction

from .config import open_references

_WORDS = {'true': True, 'false': False, 'none': None}
_NOTHING = object()


class OptionsAction(DictAction):
    """mmengine's ``DictAction``, which also reads what a config file may hold: dicts, lists of dicts, quoted strings.

    ``[{'type': 'MPMC'}]`` and ``[dict(type='MPMC')]`` are a list of one dict. Words without quotes are strings, as in
    mmengine's lists, so that ``[{type: MPMC}]``, what a shell leaves of quotes that were not quoted themselves, is the
    same. Everything else is read as mmengine does: ``1,2`` and ``[1,2]`` are lists, ``(1,2)`` a tuple, ``a`` a string.

    Raises:
        argparse.ArgumentError: If an option is not of the form KEY=VALUE, or a value cannot be read.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Sequence[str], *_: Any
    ) -> None:
        """Add the options to those of the namespace."""
        options = dict(getattr(namespace, self.dest, None) or {})
        for option in values:
            key, separator, text = option.partition('=')
            if not (key and separator):
                raise argparse.ArgumentError(
                    self, f"'{option}' is no KEY=VALUE; write for example train_cfg.max_epochs=10."
                )
            try:
                options[key] = parse_value(text)
            except ValueError as error:
                raise argparse.ArgumentError(self, f'{key}={text}: {error}') from error
        setattr(namespace, self.dest, options)


def parse_value(text: str) -> Any:
    """The value that an option's text stands for.

    Raises:
        ValueError: If brackets do not match, or a dict is no literal.
    """
    text = text.strip()
    if text.startswith(('[', '(', '{', 'dict(', "'", '"')):
        try:
            value = ast.literal_eval(_Literals().visit(ast.parse(text, mode='eval')))
        except (ValueError, SyntaxError, TypeError) as error:
            if '{' in text or 'dict(' in text:
                raise ValueError(
                    'this is no literal of Python; write a dict as in a config, the whole option in double quotes: '
                    """"model.plugins=[{'type': 'MPMC', 'alpha': 0.1}]"."""
                ) from error
        else:
            if isinstance(value, str) or text[0] not in '\'"':
                return value
    if not any(mark in text for mark in ',[('):
        # mmengine would take out blanks, which names of files may have.
        return DictAction._parse_int_float_bool(text.strip('\'"'))
    try:
        return DictAction._parse_iterable(text)
    except AssertionError as error:
        raise ValueError('its brackets do not match; write lists like [1,2].') from error


class _Literals(ast.NodeTransformer):
    """Calls of ``dict`` as dicts, and bare words as strings; what is left is for ``literal_eval`` to judge."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        plain = isinstance(node.func, ast.Constant) and node.func.value == 'dict' and not node.args
        if not (plain and all(keyword.arg for keyword in node.keywords)):
            return node
        keys = [ast.Constant(keyword.arg) for keyword in node.keywords]
        return ast.Dict(keys, [keyword.value for keyword in node.keywords])

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(_WORDS.get(node.id.lower(), node.id))


def merge_options(cfg: Config, options: dict[str, Any]) -> None:
    """Put options into a config one after the other: a later one may change what an earlier one brought.

    Args:
        cfg (Config): Changed in place.
        options (dict[str, Any]): Values by dotted key; a number in a key is a place in a list.

    Raises:
        ValueError: If a key leads through something that is neither a dict nor a list, or to a place that a list does
            not have.
    """
    for key, value in options.items():
        open_references(cfg._cfg_dict, key)
        _check_way(cfg, key)
        cfg.merge_from_dict({key: value})


def _check_way(cfg: Config, key: str) -> None:
    """Refuse a key that mmengine could not follow, or would follow into a dict where a list is meant."""
    node, passed = cfg._cfg_dict, []
    for part in key.split('.'):
        place = '.'.join(passed)
        if node is _NOTHING:
            if part.isdigit():
                raise ValueError(f'--cfg-options {key}: there is no list {place}; give it first, as "{place}=[...]".')
        elif isinstance(node, dict):
            node = node.get(part, _NOTHING)
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, list):
            raise ValueError(
                f'--cfg-options {key}: {place} is a list of {len(node)}, without a place {part}; places are numbers '
                f'from 0, and a whole list is given as "{place}=[...]".'
            )
        else:
            raise ValueError(
                f'--cfg-options {key}: {place} is {node!r}, no dict and no list; give {place} whole, or correct the '
                'key.'
            )
        passed.append(part)
