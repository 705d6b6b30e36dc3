"""The one place where errors leave: each kind becomes one sentence, and its traceback goes to the log."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mmengine.logging import MMLogger

PACKAGE = Path(__file__).resolve().parents[1]
ROOTS = (PACKAGE / '.mim', PACKAGE.parent)
"""Folders that may hold ``configs`` and ``tools``: ``mmsemi/.mim`` of an installed package, a checkout's root."""
ERROR_FILE = 'MMSEMI_ERROR_FILE'
"""Environment variable: the file in which ``tools/dist_run.py`` wants the sentence that ended a rank."""
RESUME_ME = 75
"""Exit status of a training that a signal stopped and that can go on."""
_work_dir: Path | None = None


class UsageError(ValueError):
    """The command line asks for what cannot be; the message says what to change."""


def log_to(work_dir: str | Path) -> None:
    """Where tracebacks go on ranks that have no log."""
    global _work_dir
    _work_dir = Path(work_dir)


# --- the table


class Rule(NamedTuple):
    """How an error leaves: what it is, what is said, the exit status, and whether another rank's error caused it."""

    applies: Callable[[BaseException], bool]
    sentence: Callable[[BaseException], str]
    status: int = 2
    caused_by_another: bool = False


def _is(*kinds: type[BaseException]) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, kinds)


def _named(*names: str) -> Callable[[BaseException], bool]:
    """By the name of its class, for what shall not be imported for this."""
    return lambda error: any(cls.__name__ in names for cls in type(error).__mro__)


def _says(*words: str, kinds: tuple[type[BaseException], ...] = (Exception,)) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, kinds) and any(word in str(error) for word in words)


def _message(error: BaseException) -> str:
    """What an error says, on one line; of one that was raised in a worker of a data loader, what was said there."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if 'Original Traceback' in text:  # "FileNotFoundError: the sentence"
        return lines[-1].partition(': ')[2] or lines[-1]
    return ' '.join(lines)


def _constant(text: str) -> Callable[[BaseException], str]:
    return lambda error: text


_OS_ERRORS = {
    errno.ENOSPC: 'The disk of {file} is full; make room and go on with --resume.',
    errno.EDQUOT: 'The quota of the disk of {file} is used up; make room and go on with --resume.',
    errno.EROFS: '{file} is on a file system that is read-only; choose another --work-dir.',
    errno.EACCES: 'There is no permission for {file}; change its rights, or choose another --work-dir.',
    errno.EPERM: 'There is no permission for {file}; change its rights, or choose another --work-dir.',
    errno.ENOTDIR: '{file} needs a folder where there is a file; move that file, or choose another path.',
    errno.EEXIST: '{file} is there already and is no folder; move it, or choose another path.',
    errno.EISDIR: '{file} is a folder where a file should be; move it, or choose another path.',
    errno.ENOENT: '{file} does not exist; correct its path.',
    errno.ENAMETOOLONG: 'The name of {file} is too long; choose a shorter --work-dir.',
    errno.EIO: 'The disk of {file} cannot be read or written; look at the machine, then go on with --resume.',
    errno.ESTALE: 'The network file system of {file} lost it; go on with --resume.',
    errno.EMFILE: 'Too many files are open ({file}); lower train_dataloader.num_workers, or raise ulimit -n.',
    errno.ENFILE: 'Too many files are open on this machine ({file}); end other programs.',
    errno.ENOMEM: 'There is not enough memory ({file}); lower train_dataloader.num_workers or batch_size.',
    errno.EADDRINUSE: 'The port is in use; set PORT to another one.',
    errno.ECONNREFUSED: 'The first rank cannot be reached at MASTER_ADDR and PORT; start it, or correct them.',
    errno.ETIMEDOUT: 'The network gave no answer in time ({file}); check the connection.',
}


def _os_sentence(error: BaseException) -> str:
    file = next((str(name) for name in (error.filename, error.filename2) if name), 'a file')
    if error.errno is None:
        return _message(error)
    return _OS_ERRORS.get(error.errno, f'{{file}} cannot be used ({error.strerror}).').format(file=file)


def _syntax_sentence(error: BaseException) -> str:
    text = (error.text or '').strip()
    return f'{error.filename}, line {error.lineno}: {error.msg}{f" in `{text}`" if text else ""}; correct the file.'


def _is_mmsemi_own(error: BaseException) -> bool:
    """Whatever mmsemi raises by itself is meant for the user; a worker's traceback is in the message."""
    if not isinstance(error, Exception):
        return False
    places = [frame.filename for frame in traceback.extract_tb(error.__traceback__)][-1:]
    places += [line.split('"')[1] for line in str(error).splitlines() if line.strip().startswith('File "')][-1:]
    return Path(places[-1]).is_relative_to(PACKAGE) if places else False


def _interrupted() -> str:
    """How to go on, where what was interrupted was a training."""
    program, *arguments = sys.argv
    name = Path(program).name
    if name == 'train.py':
        command = ['python', program]
    elif name in ('mmsemi', '__main__.py', 'cli.py') and arguments[:1] == ['train']:
        command = ['mmsemi']
    else:
        return 'interrupted.'
    if 'RANK' in os.environ:
        return 'interrupted; start it again with --resume to go on.'
    # From the newest checkpoint, whatever this run itself started from.
    kept, before = [], ''
    for argument in arguments:
        if argument not in ('--overwrite', '--resume') and not (before == '--resume' and argument.endswith('.pth')):
            kept.append(argument)
        before = argument
    return f'interrupted; go on with: {shlex.join([*command, *kept, "--resume"])}'


_NETWORK = (
    'Connection closed by peer', 'Connection reset by peer', 'Broken pipe', 'Socket closed', 'connection closed',
    'Connection was likely closed', 'remote process exited', 'Timed out waiting', 'Read error [', 'Write error [',
)  # fmt: skip

RULES = (
    Rule(_named('Stopped'), lambda error: error.sentence, RESUME_ME),
    Rule(_is(KeyboardInterrupt), lambda error: _interrupted(), 130),
    Rule(_is(UsageError), _message),
    Rule(_named('RehearsalError'), lambda error: '\nerror: '.join(error.problems)),
    Rule(_named('DistNetworkError', 'DistStoreError', 'DistBackendError'), lambda error: _network_sentence(error)),
    Rule(
        _says(*_NETWORK, kinds=(RuntimeError, ConnectionError)),
        _constant('the connection to another rank was lost.'),
        caused_by_another=True,
    ),
    Rule(
        _named('OutOfMemoryError'),
        _constant('The GPU has not enough memory; lower the batch (train_dataloader), or pass --amp.'),
    ),
    Rule(
        _says('DataLoader worker', kinds=(RuntimeError,)),
        lambda error: f'{_message(error)[:160]}; lower train_dataloader.num_workers if memory ran out.',
    ),
    Rule(
        _says('No space left on device', kinds=(RuntimeError,)), _constant(_OS_ERRORS[errno.ENOSPC].format(file='it'))
    ),
    Rule(_is(SyntaxError), _syntax_sentence),
    Rule(_is(OSError), _os_sentence),
    Rule(_is(MemoryError), _constant('There is not enough memory; lower train_dataloader.num_workers or batch_size.')),
    Rule(_is(ValueError, FloatingPointError, KeyError, ZeroDivisionError), _message),
    Rule(_says('unexpected keyword argument', 'required positional argument', kinds=(TypeError,)), _message),
    Rule(_is(AssertionError), lambda error: f'A setting is refused: {_message(error)}'),
    Rule(_is_mmsemi_own, _message),
)
"""The first that applies counts; what none applies to is a bug, and keeps its traceback."""


def _network_sentence(error: BaseException) -> str:
    text = _message(error)
    if 'EADDRINUSE' in text or 'address already in use' in text.lower():
        return _OS_ERRORS[errno.EADDRINUSE]
    if any(word in text for word in ('timed out', 'failed to connect', 'ECONNREFUSED', 'hostname')):
        return f'{_OS_ERRORS[errno.ECONNREFUSED]} ({text[:120]})'
    return f'The ranks cannot talk to each other: {text[:200]}'


def find_rule(error: BaseException) -> Rule | None:
    """The rule for an error; None for a bug."""
    return next((rule for rule in RULES if rule.applies(error)), None)


# --- saying it


def report(error: BaseException, rule: Rule) -> None:
    """Say the sentence, or leave it to the launcher; the traceback goes to the log."""
    sentence = rule.sentence(error)
    quiet = isinstance(error, UsageError) or rule.status in (RESUME_ME, 130)
    place = '' if quiet else keep_traceback(error)
    prefix = '' if rule.status == RESUME_ME else 'error: '
    if not os.environ.get(ERROR_FILE):
        if sys.stderr.isatty():
            sys.stderr.write('\r\x1b[K')  # over what shows the progress
        sys.stderr.write(f'{place}{prefix}{sentence}\n')
    elif not rule.caused_by_another:
        rank = '' if quiet else f'rank {os.environ.get("RANK", "?")}: '
        _speak_for_all(f'{place}{prefix}{rank}{sentence}\n')
    sys.stderr.flush()


def report_bug(error: BaseException) -> None:
    """Leave to the launcher what a rank that dies of a bug died of; the traceback is printed as always."""
    if os.environ.get(ERROR_FILE):
        place = keep_traceback(error)
        kind = type(error).__name__
        _speak_for_all(f'{place}error: rank {os.environ.get("RANK", "?")}: {kind}: {_message(error)[:300]}\n')


def _speak_for_all(sentence: str) -> None:
    """Every rank may get here, and the first speaks; the launcher says it when all have ended."""
    try:
        with open(os.environ[ERROR_FILE], 'x', encoding='utf-8') as file:
            file.write(sentence)
    except OSError:
        pass


def keep_traceback(error: BaseException) -> str:
    """Write the traceback to the log, and return what the console should say of it."""
    details = ''.join(traceback.format_exception(error))
    # Asking mmengine for the current logger makes one where no runner has.
    handlers = MMLogger.get_current_instance().handlers if MMLogger._instance_dict else []
    try:
        for handler in handlers:
            if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).exists():
                handler.stream.write(details)
                handler.stream.flush()
                return f'The traceback is in {handler.baseFilename}\n'
        if _work_dir is not None and os.environ.get('RANK', '0') != '0':
            path = _work_dir / f'errors_rank{os.environ["RANK"]}.log'
            with path.open('a', encoding='utf-8') as file:
                file.write(details)
            return f'The traceback is in {path}\n'
        with tempfile.NamedTemporaryFile('w', prefix='mmsemi-', suffix='.log', delete=False, encoding='utf-8') as file:
            file.write(details)
        return f'The traceback is in {file.name}\n'
    except OSError:
        return ''  # a full disk has no room for it either
