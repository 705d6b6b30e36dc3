"""The pages: they build without a warning, and their links lead somewhere."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.project import ROOT, project_files

PAGES = [*project_files('*.md'), *project_files('docs/*.md'), *project_files('configs/*/README.md')]


def test_the_site_builds_without_a_warning(tmp_path):
    for package in ('sphinx', 'myst_parser', 'furo'):
        pytest.importorskip(package)
    # The pages of methods are written beside the others, which a checkout should not see.
    for name in ('docs', 'configs'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('_build', 'methods'))
    shutil.copytree(ROOT / 'configs/_base_/methods', tmp_path / 'configs/_base_/methods', dirs_exist_ok=True)
    command = [sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html', 'docs', 'site']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for page in project_files('configs/*/README.md'):
        assert (tmp_path / f'site/methods/{page.parent.name}.html').is_file()


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    text = re.sub(r'```.*?```', '', page.read_text(encoding='utf-8'), flags=re.DOTALL)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if not target.startswith(('http://', 'https://', 'mailto:', '#')):
            assert (page.parent / target.split('#')[0]).exists(), f'{page.name} links to {target}'


def test_pictures_are_small():
    pictures = project_files('docs/images/*.png')
    assert len(pictures) >= 3
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
