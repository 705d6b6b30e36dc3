"""Sphinx settings: Markdown by MyST, the furo theme; the method pages are those beside their configs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
METHODS = HERE / 'methods'
REPOSITORY = 'https://github.com/mmsemi/mmsemi/blob/main'

project = 'mmsemi'
author = 'the mmsemi authors'
extensions = ['myst_parser']
myst_enable_extensions = ['colon_fence', 'deflist']
myst_heading_anchors = 4
source_suffix = {'.md': 'markdown'}
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = 'mmsemi'
suppress_warnings = ['myst.header']


def _copy_method_pages() -> None:
    """Copy the pages of ``configs/METHOD/README.md``, with links that hold from here."""
    shutil.rmtree(METHODS, ignore_errors=True)
    METHODS.mkdir()
    for page in sorted((ROOT / 'configs').glob('*/README.md')):
        text = page.read_text(encoding='utf-8')
        text = re.sub(r'\]\(\.\./\.\./docs/([^)]+)\)', r'](../\1)', text)
        text = re.sub(r'\]\(\.\./(\w+)/README\.md([^)]*)\)', r'](\1.md\2)', text)
        text = re.sub(r'\]\(\.\./\.\./([^)]+)\)', rf']({REPOSITORY}/\1)', text)
        text = re.sub(
            r'\]\((?!https?:|\.\.?/|#|\w+\.md)([^)]+)\)', rf']({REPOSITORY}/configs/{page.parent.name}/\1)', text
        )
        (METHODS / f'{page.parent.name}.md').write_text(text, encoding='utf-8')


def _relink(app: object, page: str, source: list[str]) -> None:
    """Links of the pages here are written for those who read them beside the code."""
    if page.startswith('methods/'):
        return
    text = re.sub(r'\]\(\.\./configs/(\w+)/README\.md([^)]*)\)', r'](methods/\1.md\2)', source[0])
    source[0] = re.sub(r'\]\(\.\./([^)]+)\)', rf']({REPOSITORY}/\1)', text)


def setup(app: object) -> None:
    """Called by Sphinx."""
    _copy_method_pages()
    app.connect('source-read', _relink)
