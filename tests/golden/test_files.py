"""Every case of every golden file is read by a test, and no file goes unnoticed."""

from __future__ import annotations

import importlib

import pytest

from tests.golden.cases import DATA, FOLDER, READERS, load

FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix != '.md')


@pytest.mark.parametrize('name', FILES)
def test_every_file_has_readers(name):
    assert name.removesuffix('.json') in READERS


@pytest.mark.parametrize('file', sorted(READERS))
def test_every_case_is_read(file):
    module_of = READERS[file]
    assert {case.get('kind') for case in load(file)} <= set(module_of)
    for kind, name in module_of.items():
        module = importlib.import_module(f'tests.golden.{name}')
        read = {
            parameters.id
            for test in vars(module).values()
            for mark in getattr(test, 'pytestmark', ())
            if mark.args[0] == 'case'
            for parameters in mark.args[1]
        }
        assert {case['name'] for case in load(file) if case.get('kind') == kind} <= read


def test_the_project_keeps_all_files():
    assert {path.stem for path in DATA.glob('*.json')} == set(READERS)
