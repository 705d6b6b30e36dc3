import tempfile
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope, init_default_scope

from tests import tiny_run


def pytest_generate_tests(metafunc):
    """Cases have an order: a set's changes with the process, and processes that share the tests must agree on it."""
    for mark in metafunc.definition.iter_markers('parametrize'):
        if any(isinstance(values, (set, frozenset)) for values in (*mark.args, *mark.kwargs.values())):
            pytest.fail(f'{metafunc.definition.nodeid}: sort the set of its cases', pytrace=False)


@pytest.fixture(scope='session', autouse=True)
def short_runs():
    with pytest.MonkeyPatch.context() as patch:
        tiny_run.shorten_runs(patch)
        yield


@pytest.fixture(scope='session', autouse=True)
def no_files_are_left(tmp_path_factory):
    """What runs keep for whoever reads their errors, and libraries their caches, goes with the session."""
    tmp_path_factory.getbasetemp()  # pytest's own is where pytest wants it
    with (
        tempfile.TemporaryDirectory(prefix='mmsemi-tests-', ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(tempfile, 'tempdir', folder)
        patch.setenv('TMPDIR', folder)
        yield


@pytest.fixture(scope='session')
def drawn(tmp_path_factory) -> Path:
    """Folder below which ``tiny_run`` has its data; whoever changes them gives it a folder of their own."""
    return tmp_path_factory.mktemp('drawn')


@pytest.fixture(autouse=True)
def mmsemi_scope():
    """Configs name components without a prefix, as in a run; runs leave no scope behind."""
    before = dict(DefaultScope._instance_dict)
    init_default_scope('mmsemi')
    torch.manual_seed(0)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)
