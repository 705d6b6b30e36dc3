import re
import runpy
import subprocess
import sys
import zipfile
from importlib import reload
from pathlib import Path

import mmengine
import mmseg
import pytest
import setuptools
from mmengine.config import Config
from mmengine.hub import get_config

import mmsemi
from mmsemi.apis.config import resolve
from mmsemi.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


@pytest.mark.parametrize(('package', 'name'), [(mmengine, 'mmengine'), (mmseg, 'mmsegmentation')])
@pytest.mark.parametrize('version', ['0.9.0', '3.1.0'])
def test_version_outside_the_window_is_refused_with_name_and_window(package, name, version, monkeypatch):
    monkeypatch.setattr(package, '__version__', version)
    with pytest.raises(ImportError, match=rf'needs {name} >= [\d.]+, < [\d.]+, but {version} is installed in .*{name}'):
        reload(mmsemi)


@pytest.fixture(scope='module')
def declared() -> dict:
    """What setup.py passes to setuptools."""
    found = {}
    setup, setuptools.setup = setuptools.setup, lambda **kwargs: found.update(kwargs)
    try:
        runpy.run_path(str(ROOT / 'setup.py'))
    finally:
        setuptools.setup = setup
    return found


def test_every_dependency_has_a_lower_bound(declared):
    assert declared['python_requires'] == '>=3.10'
    required = declared['install_requires'] + declared['extras_require']['onedl'] + declared['extras_require']['test']
    assert all('>=' in name for name in required)
    assert {re.split('[<>=]', name)[0] for name in declared['install_requires']} >= {'torch', 'torchvision', 'kornia'}


def test_both_lines_of_openmmlab_are_extras_of_the_same_packages(declared):
    names = {
        line: {re.split('[<>=]', name)[0].removeprefix('onedl-') for name in declared['extras_require'][line]}
        for line in ('onedl', 'openmmlab')
    }
    packages = {'mmengine', 'mmcv', 'mmsegmentation', 'mmpretrain'}
    assert names['onedl'] - packages == {'torch'} and packages <= names['onedl'] & names['openmmlab']
    assert declared['version'] == mmsemi.__version__


@pytest.fixture(scope='module')
def build(tmp_path_factory) -> Path:
    """The package as a wheel holds it."""
    out = tmp_path_factory.mktemp('build')
    command = [sys.executable, 'setup.py', '-q', 'egg_info', '-e', str(out), 'build', '-b', str(out / 'build')]
    subprocess.run([*command, 'bdist_wheel', '-d', str(out)], cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(out.glob('*.whl'))) as wheel:
        wheel.extractall(out / 'site')
    return out / 'site' / 'mmsemi'


def test_wheel_carries_configs_and_tools_but_no_tests(build):
    for folder, pattern in (('configs', '*.py'), ('tools', '*')):
        here = {path.relative_to(ROOT) for path in (ROOT / folder).rglob(pattern) if path.is_file()}
        here = {path for path in here if '__pycache__' not in path.parts}
        carried = {path.relative_to(build / '.mim') for path in (build / '.mim' / folder).rglob(pattern)}
        assert here <= carried
    assert not (build.parent / 'tests').exists()


def test_installed_package_finds_its_configs_by_scope(build, tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.config.config.get_installed_path', lambda name: str(build))
    monkeypatch.setattr('mmengine.config.config.is_installed', lambda name: True)
    monkeypatch.setattr('mmengine.hub.hub.get_installed_path', lambda name: str(build))
    monkeypatch.setattr('mmengine.hub.hub.install_package', lambda name: None)
    assert get_config('mmsemi::mllc/mllc_r101_voc.py').model.type == 'MLLC'
    child = tmp_path / 'child.py'
    child.write_text("_base_ = 'mmsemi::mllc/mllc_r101_voc.py'\nmodel = dict(threshold=0.9)")
    assert Config.fromfile(child).model.threshold == 0.9


def test_config_of_the_pages_for_own_images_builds(tmp_path):
    page = (ROOT / 'docs/concepts.md').read_text(encoding='utf-8')
    (text,) = re.findall(r"```python\n(_base_ = \[\n    'mmsemi::_base_/.*?)```", page, re.DOTALL)
    path = tmp_path / 'my_dataset.py'
    path.write_text(text.replace("'mmsemi::_base_", f"'{ROOT}/configs/_base_"))
    cfg = Config.fromfile(path)
    resolve(cfg)
    cfg.model.student.pretrained = None
    assert MODELS.build(cfg.model).num_classes == 3
    assert cfg.train_dataloader.dataset.dataset.metainfo.classes == cfg.test_dataloader.dataset.metainfo.classes


def test_readme_names_only_files_that_exist():
    for path in re.findall(r'\b(?:tools|configs)/[\w./-]+\.(?:py|sh|md)', README):
        assert (ROOT / path).is_file() or path == 'configs/my_dataset.py', path


def test_ci_runs_the_test_command_of_the_readme():
    assert '\nmake test' in README
    assert (ROOT / '.ci' / 'run').read_text().splitlines()[-1] == 'make test'
