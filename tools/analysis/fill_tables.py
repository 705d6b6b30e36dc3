"""Fill the tables of Markdown pages from the logs of the trainings that they tell of.

    python tools/analysis/fill_tables.py docs/results.md README.md

A page names a comparison in a comment, as on a command line of ``tools/analysis/compare.py``, and everything from there
to the closing comment is written anew: the command, and the table that it makes of logs alone. Nothing is trained, and
nothing is changed if a training is missing. ::

    <!-- compare.py supervised/supervised_r18_shapes.py mllc/mllc_r18_shapes.py --work-dir work_dirs/shapes -->
    <!-- compare.py ends -->

``--only table`` before ``-->`` leaves the command out. One score, of the teacher where there is one, with its spread
over the seeds of a folder ::

    <!-- mean of work_dirs/shapes/mllc_r18_shapes --><!-- end -->
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from pathlib import Path

from mmsemi.apis.comparing import compare, compare_parser, judged_by
from mmsemi.apis.launch import UsageError, run
from mmsemi.apis.runs import Run
from mmsemi.apis.tables import with_spread

_BLOCK = re.compile(r'(<!-- compare\.py (?P<arguments>(?!ends).*?) -->\n).*?(<!-- compare\.py ends -->)', re.DOTALL)
_SCORE = re.compile(r'(<!-- mean of (?P<folder>\S+) -->).*?(<!-- end -->)')
_WIDTH = 120


def fill(text: str) -> str:
    """A page with its tables and scores written anew.

    Raises:
        UsageError: If a training is missing.
    """
    text = _BLOCK.sub(lambda block: f'{block[1]}\n{_content(block["arguments"])}\n\n{block[3]}', text)
    return _SCORE.sub(lambda score: f'{score[1]}{_mean(Path(score["folder"]))}{score[3]}', text)


def _mean(folder: Path) -> str:
    """Mean and spread over the seeds whose trainings lie in a folder."""
    runs = [Run(f'{folder.name}/{path.name}', '', path) for path in sorted(folder.glob('seed*'))]
    if not runs or not all(one.has_ended() for one in runs):
        raise UsageError(f'{folder} has no seeds, or one that was not trained to its end.')
    return with_spread(judged_by(runs)[1])


def _content(arguments: str) -> str:
    """The command and its table."""
    parser = compare_parser('compare.py')
    parser.add_argument('--only', choices=['table'])
    words = shlex.split(arguments)
    asked = vars(parser.parse_args(words))
    only = asked.pop('only')
    with contextlib.redirect_stdout(io.StringIO()):
        table = compare(**{**asked, 'from_logs': True})
    return table if only else f'{_command(words)}\n\n{table}'


def _command(words: list[str]) -> str:
    """A shell's lines of the command that trains and compares."""
    lines = ['python tools/analysis/compare.py']
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) > _WIDTH - 3:
            lines.append('   ')
        lines[-1] += f' {word}'
    return '```bash\n{}\n```'.format(' \\\n'.join(lines))


def main() -> None:
    """Read the command line and rewrite the pages, all or none."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition('\n')[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('pages', nargs='+', type=Path, metavar='PAGE', help='Markdown files')
    filled = {}
    for page in parser.parse_args().pages:
        if not page.is_file():
            raise UsageError(f'{page} does not exist.')
        try:
            filled[page] = fill(page.read_text(encoding='utf-8'))
        except UsageError as error:
            raise UsageError(f'{page}: {error}') from None
    for page, text in filled.items():
        page.write_text(text, encoding='utf-8')
        blocks, scored = (len(pattern.findall(text)) for pattern in (_BLOCK, _SCORE))
        print(f'{page}: tables {blocks}, single scores {scored}')


if __name__ == '__main__':
    run(main)
