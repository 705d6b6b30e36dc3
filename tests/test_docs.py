"""The pages: they build without a warning, and their links lead somewhere."""

import re
import shutil
import subprocess
import sys

import pytest
from mmengine.config import Config

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


def listed_configs(page):
    """Each config that a page's table of settings names, with its row; braces stand for several, as in a shell."""
    columns = None
    for line in page.read_text(encoding='utf-8').splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')] if line.startswith('|') else None
        if cells and columns and {'labeled', 'crop', 'epochs', 'batch'} <= set(columns):
            names = re.findall(r'`([^`<]+\.py)`', cells[0])
            while any('{' in name for name in names):
                names = [
                    re.sub(r'\{[^}]*\}', each, name, count=1)
                    for name in names
                    for each in re.search(r'\{([^}]*)\}|$', name)[0].strip('{}').split(',')
                ]
            yield from ((name, dict(zip(columns, cells, strict=True))) for name in names)
        columns = cells and (columns or cells)


@pytest.mark.parametrize('page', project_files('configs/*/README.md'), ids=lambda page: page.parent.name)
def test_tables_say_what_the_configs_hold(page):
    listed = list(listed_configs(page))
    assert listed
    of_one_process = 'images of one of four processes' in page.read_text(encoding='utf-8')
    for name, row in listed:
        cfg = Config.fromfile(page.parent / name)
        loader, crop = cfg.train_dataloader, cfg.crop_size
        processes = 1 if of_one_process else cfg.auto_scale_lr.base_batch_size // loader.batch_size
        batch = [processes * loader.sampler[stream] for stream in ('labeled', 'unlabeled')]
        assert row['labeled'].split()[0] == re.search(r'\d[\d/]*', str(loader.dataset.labeled))[0], name
        assert row['crop'] == (str(crop[0]) if crop[0] == crop[1] else '{} x {}'.format(*crop)), name
        assert (row['epochs'], row['batch']) == (str(cfg.train_cfg.max_epochs), '{} + {}'.format(*batch)), name


def test_pictures_are_small():
    pictures = project_files('docs/images/*.png')
    assert len(pictures) >= 3
    assert all(picture.stat().st_size < 150_000 for picture in pictures)
