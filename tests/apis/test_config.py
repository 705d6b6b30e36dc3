"""A fact is written once and takes effect wherever a config refers to it."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from mmsemi.apis.config import resolve


def test_a_reference_takes_the_value_of_its_key_whatever_kind_it_is():
    cfg = resolve(
        Config(dict(crop=(64, 32), names=('a', 'b'), a=dict(size='${crop}', n='${len(names)}', w='${crop.1}')))
    )
    assert cfg.a == dict(size=(64, 32), n=2, w=32)


def test_references_follow_each_other_and_stand_within_words():
    cfg = resolve(Config(dict(root='/data', lists='${root}/lists', file='${lists}/x.txt')))
    assert cfg.file == '/data/lists/x.txt'


def test_what_is_referred_to_twice_is_copied():
    cfg = resolve(Config(dict(step=dict(type='A'), first=['${step}'], second=['${step}'])))
    cfg.first[0].type = 'B'
    assert cfg.second[0].type == 'A'


def test_the_student_is_the_network_unless_it_is_said_otherwise():
    assert resolve(Config(dict(network=dict(type='N'), model=dict(type='M')))).model.student == dict(type='N')
    assert resolve(Config(dict(network=dict(type='N'), model=dict(student=dict(type='S'))))).model.student.type == 'S'


@pytest.mark.parametrize(
    ('config', 'says'),
    [
        (
            dict(a=dict(b='${missing.key}')),
            r'a\.b: \$\{missing\.key\} refers to the key missing\.key, which the config',
        ),
        (dict(a='${b}', b='${a}'), r'refers to itself'),
    ],
)
def test_references_that_lead_nowhere_are_told(config, says):
    with pytest.raises(ValueError, match=says):
        resolve(Config(config))
