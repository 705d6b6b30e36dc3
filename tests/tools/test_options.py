"""``--cfg-options``: values of every form that a config holds, in the order in which they are given."""

from __future__ import annotations

import argparse
import re

import pytest
from mmengine.config import Config, ConfigDict

from mmsemi.apis import launch
from mmsemi.apis.options import OptionsAction, merge_options, parse_value
from mmsemi.models.plugins import MPMC
from mmsemi.registry import MODELS
from tests.tools.test_launch import arguments


def read(*options: str) -> dict:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction)
    return parser.parse_args(['--cfg-options', *options]).cfg_options


@pytest.mark.parametrize(
    'text, value',
    [
        # What mmengine reads is read as mmengine does.
        ('3', 3),
        ('1e-3', 1e-3),
        ('true', True),
        ('None', None),
        ('a', 'a'),
        ('lists/cases_7.txt', 'lists/cases_7.txt'),
        ('1/8', '1/8'),
        ('1,2', [1, 2]),
        ('[1,2]', [1, 2]),
        ('(1,2)', (1, 2)),
        ('[(1,2),(3,4)]', [(1, 2), (3, 4)]),
        ('a,b', ['a', 'b']),
        ('[a,b]', ['a', 'b']),
        ('[lists/a.txt,lists/b.txt]', ['lists/a.txt', 'lists/b.txt']),
        ('[true,None,0.5]', [True, None, 0.5]),
        ('[]', []),
        # What it takes for strings, or damages.
        ("[{'type':'MPMC'}]", [{'type': 'MPMC'}]),
        ("[{'type': 'MPMC', 'pools': (3, 7), 'raw': False}]", [{'type': 'MPMC', 'pools': (3, 7), 'raw': False}]),
        ("[dict(type='MPMC', norm_cfg=dict(type='BN'))]", [{'type': 'MPMC', 'norm_cfg': {'type': 'BN'}}]),
        ('[{type: MPMC, raw: false, alpha: 0.1}]', [{'type': 'MPMC', 'raw': False, 'alpha': 0.1}]),
        ('[{type:MPMC}]', [{'type': 'MPMC'}]),
        ("{'mean_teacher': {'momentum': 0.9}}", {'mean_teacher': {'momentum': 0.9}}),
        ("dict(type='BN', requires_grad=True)", {'type': 'BN', 'requires_grad': True}),
        ('{}', {}),
        ("['a b', 'c,d']", ['a b', 'c,d']),
        ("('a', 'b')", ('a', 'b')),
        ("'a b'", 'a b'),
        ('"data/my images"', 'data/my images'),
        ('data/my images', 'data/my images'),
        ("'a','b'", ['a', 'b']),
        ('-0.5', -0.5),
        ('[-1, -2]', [-1, -2]),
    ],
)
def test_a_value_is_what_a_config_would_hold(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)
    assert read(f'key={text}') == {'key': value}


@pytest.mark.parametrize(
    'option, message',
    [
        ('model.plugins', "'model.plugins' is no KEY=VALUE; write for example"),
        ('=3', "'=3' is no KEY=VALUE"),
        ("a=[{'type':'MPMC'}", r"a=\[\{'type':'MPMC'\}: this is no literal of Python; .* \"model.plugins="),
        ('a={type=MPMC}', 'this is no literal of Python'),
        ('a=[dict(1)]', 'this is no literal of Python'),
        ('a=[{file: lists/a.txt}]', 'this is no literal of Python'),
        ('a=[(1,2]', r'its brackets do not match; write lists like \[1,2\]'),
    ],
)
def test_what_cannot_be_read_is_told_with_the_key_and_the_mend(option, message):
    with pytest.raises(argparse.ArgumentError, match=message):
        read('b=1', option)


def test_options_of_several_flags_are_taken_together():
    assert read('a=1', '--cfg-options', 'b=[{c: 2}]') == {'a': 1, 'b': [{'c': 2}]}


def test_a_plugin_is_added_from_the_command_line_and_changed_by_a_later_option():
    options = read("model.plugins=[{'type':'MPMC','pools':(3,7)}]", 'model.plugins.0.alpha=0.1')
    cfg = launch.load_config(arguments('configs/unimatch/unimatch_r18_shapes.py', cfg_options=options))
    assert cfg.model.plugins == [dict(type='MPMC', pools=(3, 7), alpha=0.1)]
    assert isinstance(cfg.model.plugins[0], ConfigDict)
    [plugin] = MODELS.build(cfg.model).plugins
    assert isinstance(plugin, MPMC) and plugin.unsup_scale == 0.1


def test_a_later_option_wins_and_lists_of_a_config_are_reached():
    cfg = Config(dict(a=[dict(b=1), dict(b=2)], c=dict(d=1)))
    merge_options(cfg, {'a.1.b': 3, 'c': dict(e=2), 'c.e': 4, 'f.g': 5})
    assert cfg._cfg_dict == dict(a=[dict(b=1), dict(b=3)], c=dict(d=1, e=4), f=dict(g=5))


@pytest.mark.parametrize(
    'key, message',
    [
        ('model.plugins.0.alpha', 'there is no list model.plugins; give it first, as "model.plugins=[...]".'),
        ('hooks.2.type', 'hooks is a list of 1, without a place 2; places are numbers from 0'),
        ('hooks.first.type', 'hooks is a list of 1, without a place first'),
        ('model.depth.x', 'model.depth is 50, which has no x; correct the key'),
        ('model.neck.x', 'model.neck is None, which has no x; correct the key'),
    ],
)
def test_a_key_that_leads_nowhere_is_told(key, message):
    cfg = Config(dict(model=dict(depth=50, neck=None), hooks=[dict(type='A')]))
    with pytest.raises(ValueError, match=re.escape(f'--cfg-options {key}: {message}')):
        merge_options(cfg, {key: 1})
