"""The one place that writes and reads checkpoints.

Written: whole or not at all, of plain types alone. Read: as data, nothing in a file is ever executed. Of several files
the newest that can be read is taken.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import logging
import os
import pickle
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

LAST = 'last_checkpoint'
"""File that names the newest checkpoint, relative to its folder."""
SUFFIX = '.pth'
TEMPORARY = '.tmp'
_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_CHUNK = 1 << 26
_trusted = False


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one sentence that names the file and the mend."""


# --- writing


def write(checkpoint: dict, path: str | Path) -> None:
    """Save a checkpoint, whole or not at all.

    Args:
        checkpoint (dict): Nested dicts, lists and tuples of tensors and plain values; NumPy's are converted.
        path (str | Path): Where to; a file that is there is replaced once the new one is on the disk.

    Raises:
        TypeError: If it holds what is not plain; the message names the key.
        OSError: If the file system refuses; what was at ``path`` is still there.
    """
    with io.BytesIO() as buffer:
        torch.save(plain(checkpoint), buffer)
        write_bytes(buffer.getbuffer(), path)


def write_bytes(content: bytes | memoryview, path: str | Path) -> None:
    """Write a file, whole or not at all: under a temporary name, to the disk, renamed, its folder to the disk.

    Raises:
        OSError: If the file system refuses; what was at ``path`` is still there.
    """
    temporary = f'{path}.{os.getpid()}{TEMPORARY}'
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(descriptor, left[:_CHUNK]) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        # Calls on a descriptor do not know the file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    _sync_folder(os.path.dirname(os.path.abspath(path)))


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know no such thing
            raise
    finally:
        os.close(descriptor)


def point_to(path: str | Path, folder: str | Path) -> None:
    """Let ``folder`` say that ``path`` is its last checkpoint."""
    write_bytes(os.path.relpath(path, folder).encode() + b'\n', Path(folder) / LAST)


def plain(value: Any, key: str = 'checkpoint') -> Any:
    """Nested containers of tensors and plain values; NumPy's become Python's.

    Raises:
        TypeError: If there is anything else; the message names its key.
    """
    if isinstance(value, torch.Tensor):
        return value.detach() if type(value) is torch.nn.Parameter else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), key)
    if isinstance(value, HistoryBuffer):
        log, counts = value.data
        return {'log': log.tolist(), 'counts': counts.tolist(), 'max_length': value.max_length}
    if isinstance(value, dict):
        made = {plain(name, key): plain(item, f'{key}.{name}') for name, item in value.items()}
        if not isinstance(value, OrderedDict):
            return made
        ordered = OrderedDict(made)
        if hasattr(value, '_metadata'):  # a module's state tells the versions of its parts there
            ordered._metadata = plain(value._metadata, key)
        return ordered
    if isinstance(value, (list, set, frozenset)):
        return [plain(item, f'{key}[{i}]') for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return tuple(plain(item, f'{key}[{i}]') for i, item in enumerate(value))
    for kind in _SCALARS:
        if isinstance(value, kind):
            return value if type(value) is kind or kind is type(None) else kind(value)
    if isinstance(value, (torch.Size, torch.dtype, torch.device)):
        return value
    raise TypeError(f'{key} is a {type(value).__name__}; a checkpoint holds tensors and plain values alone.')


def plain_hub(state: dict) -> dict:
    """The state of a message hub, in plain types; what cannot be plain there is left out, with a warning."""
    kept: dict[str, Any] = {'resumed_keys': dict(state['resumed_keys'])}
    for part in ('log_scalars', 'runtime_info'):
        kept[part] = {}
        for name, value in state[part].items():
            try:
                kept[part][name] = plain(value, name)
            except TypeError as error:
                print_log(f'The checkpoint leaves out {error}', logger='current', level=logging.WARNING)
    return kept


def restore_hub(state: dict) -> dict:
    """What :func:`plain_hub` made, as a message hub wants it."""
    scalars = {
        name: HistoryBuffer(value['log'], value['counts'], value['max_length']) if isinstance(value, dict) else value
        for name, value in state.get('log_scalars', {}).items()
    }
    return {'resumed_keys': {}, 'runtime_info': {}, **state, 'log_scalars': scalars}


@register_backend('atomic')
class AtomicBackend(LocalBackend):
    """mmengine's local files, each written whole or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes."""
        os.makedirs(os.path.dirname(filepath) or '.', exist_ok=True)
        write_bytes(obj, filepath)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text."""
        self.put(obj.encode(encoding), filepath)


# --- reading


def trust(yes: bool = True) -> None:
    """Let checkpoints from now on hold anything, code included; for files whose origin is known."""
    global _trusted
    _trusted = yes


def read(path: str | Path, map_location: Any = 'cpu', mmap: bool = False) -> dict:
    """Read a checkpoint of tensors and plain values; nothing in the file is executed.

    Args:
        path (str | Path): A file.
        map_location: As in ``torch.load``.
        mmap (bool): Leave the tensors on the disk until they are used.

    Raises:
        CheckpointError: If the file is empty, cut off, no checkpoint, or holds more than data (see :func:`trust`).
        FileNotFoundError: If it does not exist.
    """
    path = os.path.expanduser(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f'The checkpoint {path} does not exist; correct its path.')
    if os.path.isdir(path):
        raise CheckpointError(f'{path} is a folder, not a checkpoint.')
    _check_archive(path)
    try:
        content = torch.load(path, map_location=map_location, weights_only=not _trusted, mmap=mmap or None)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_unsafe(path, error)) from error
    except OSError:
        raise
    except Exception as error:
        # torch, zipfile and pickle raise errors of many kinds for damaged files.
        reason = (str(error).splitlines() or [''])[0]
        why = f' ({reason})' if ' ' in reason else ''
        raise CheckpointError(f'The checkpoint {path} is damaged or none{why}; take another, or remove it.') from error
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} holds a {type(content).__name__}, which is no checkpoint.')
    if isinstance(content.get('meta'), dict) and not _trusted:
        # mmengine executes the text under this key, which old versions wrote.
        content['meta'].pop('config', None)
    return content


def _unsafe(path: str, error: Exception) -> str:
    text = str(error)
    found = re.search(r'GLOBAL ([\w.]+)|global ([\w.]+)|class ([\w.]+)', text)
    if 'Weights only load failed' not in text or not found:
        return f'The checkpoint {path} is damaged or none; take another, or remove it.'
    name = next(filter(None, found.groups()))
    return (
        f'The checkpoint {path} holds more than data ({name}), which may run code when it is loaded; if you know where '
        'it comes from, --trust-checkpoint loads it.'
    )


def _check_archive(path: str) -> None:
    """Refuse an archive that would unpack to more than it is."""
    size = os.path.getsize(path)
    if not size:
        raise CheckpointError(f'The checkpoint {path} is empty; take another, or remove it.')
    if not zipfile.is_zipfile(path):
        with open(path, 'rb') as file:
            if file.read(2) == b'PK':
                raise CheckpointError(f'The checkpoint {path} is cut off; take another, or remove it.')
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:
        raise CheckpointError(f'The checkpoint {path} is damaged ({error}); take another, or remove it.') from error
    unpacked = sum(entry.file_size for entry in entries)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or unpacked > size:
        raise CheckpointError(
            f'The checkpoint {path} has {size} bytes and would unpack to {unpacked}; torch does not write such files.'
        )


def read_config(checkpoint: dict, path: str | Path) -> Config:
    """The config that a checkpoint was trained with, read as data.

    Raises:
        CheckpointError: If there is none, or its text is more than data.
    """
    meta = checkpoint.get('meta')
    text = meta.get('cfg') if isinstance(meta, dict) else None
    if not isinstance(text, str) or not text:
        raise CheckpointError(f'{path} is no checkpoint of mmsemi: it holds no config of a run.')
    try:
        keys = parse_config(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(
            f'The config in the checkpoint {path} is more than data ({error}); it was not executed.'
        ) from error
    return Config(ConfigDict(keys))


def parse_config(text: str) -> dict[str, Any]:
    """The keys of a dumped config: assignments of literals, ``dict(...)`` among them. Nothing is executed.

    Raises:
        SyntaxError, ValueError: If it is anything else.
    """
    keys = {}
    for statement in ast.parse(text).body:
        if not (
            isinstance(statement, ast.Assign)
            and len(statement.targets) == 1
            and isinstance(statement.targets[0], ast.Name)
        ):
            raise ValueError(f'line {statement.lineno} is no assignment')
        keys[statement.targets[0].id] = _literal(statement.value)
    return keys


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items):
            return [_literal(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_literal(item) for item in items)
        case ast.Set(elts=items):
            return {_literal(item) for item in items}
        case ast.Dict(keys=names, values=items) if None not in names:
            return {_literal(name): _literal(item) for name, item in zip(names, items, strict=True)}
        case ast.Call(func=ast.Name(id='dict'), args=[], keywords=words) if all(word.arg for word in words):
            return {word.arg: _literal(word.value) for word in words}
        case ast.Call(func=ast.Name(id='dict'), args=[ast.Dict() as mapping], keywords=[]):
            return _literal(mapping)  # mmengine writes so what has keys that are no names
        case ast.Call(func=ast.Name(id='set'), args=[], keywords=[]):
            return set()
        case ast.Call(func=ast.Name(id='float'), args=[ast.Constant(value=str() as value)], keywords=[]):
            return float(value)
        case ast.Name(id='inf' | 'nan' as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id='inf')):
            return -float('inf')
    raise ValueError(f'line {node.lineno} holds {ast.unparse(node)[:60]}')


# --- every way by which mmengine loads


def _read_local(filename: str, map_location: Any = None) -> dict:
    return read(filename, map_location)


def _read_url(filename: str, map_location: Any = None, model_dir: str | None = None, **_: Any) -> dict:
    """Download a checkpoint into torch's cache on the first rank of each machine, and read it."""
    from mmengine.dist import barrier, get_local_rank

    folder = model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints')
    path = os.path.join(folder, os.path.basename(filename.partition('?')[0]))
    if get_local_rank() == 0 and not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        digest = re.search(r'-([a-f0-9]{8,})\.', os.path.basename(path))
        torch.hub.download_url_to_file(filename, path, digest.group(1) if digest else None)
    barrier()
    return read(path, map_location)


def _refuse(filename: str, map_location: Any = None) -> dict:
    raise CheckpointError(f'{filename} cannot be checked before it is loaded; download it, and give the file.')


def _install() -> None:
    """Make :func:`read` what mmengine loads by, for ``load_from``, ``--resume``, ``init_cfg`` and ``pretrained``.

    mmengine itself falls back to executing what it cannot load safely.
    """
    _refuse.__name__ = 'load_from_ceph'  # mmengine logs these names
    for name, loader in (('load_from_local', _read_local), ('load_from_http', _read_url)):
        loader.__name__ = name
        setattr(mmengine_checkpoint, name, loader)
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):
        mmengine_checkpoint._safe_torch_load = lambda file, map_location=None, weights_only=None: read(
            file, map_location
        )
    by_prefix: dict[str, Callable] = {'': _read_local, 'http://': _read_url, 'https://': _read_url}
    for prefix in list(CheckpointLoader._schemes):
        if 'pavi' in prefix or 's3' in prefix or 'petrel' in prefix or 'ceph' in prefix:
            by_prefix[prefix] = _refuse
    for prefix, loader in by_prefix.items():
        CheckpointLoader.register_scheme(prefix, loader, force=True)


_install()


# --- the checkpoints of a folder


@dataclass(frozen=True)
class Place:
    """A checkpoint that a run can go on from: its file, and how many iterations were done."""

    path: str
    iter: int
    is_best: bool


def files(folder: str | Path) -> list[Path]:
    """What looks like a checkpoint in a folder."""
    return sorted(path for path in Path(folder).glob(f'*{SUFFIX}') if path.is_file())


def places(folder: str | Path) -> Iterator[Place | str]:
    """Places that a run can go on from, the newest first, and, instead of one, why a file is none."""
    found, refused = [], []
    for path in files(folder):
        try:
            found.append(place_of(path))
        except (CheckpointError, OSError) as error:
            refused.append(str(error))
    yield from refused
    yield from sorted(found, key=lambda place: (-place.iter, place.is_best, place.path))


def place_of(path: str | Path) -> Place:
    """Where a checkpoint stands; its tensors stay on the disk.

    Raises:
        CheckpointError: If it cannot be read, or no run can go on from it.
    """
    content = read(path, mmap=zipfile.is_zipfile(path))
    check_resumable(content, path)
    return Place(str(path), int(content['meta']['iter']), Path(path).name.startswith('best_'))


def check_resumable(checkpoint: dict, path: str | Path) -> None:
    """Refuse to go on from weights alone.

    Raises:
        CheckpointError: If there is no state of a training.
    """
    meta = checkpoint.get('meta')
    known = isinstance(meta, dict) and all(isinstance(meta.get(key), int) for key in ('epoch', 'iter'))
    missing = [key for key in ('state_dict', 'optimizer', 'message_hub') if not isinstance(checkpoint.get(key), dict)]
    if not known or missing:
        raise CheckpointError(
            f'{path} holds no state of a training ({", ".join(missing) or "no iteration"} is missing), so no run can '
            'go on from it; give it as load_from to start from its weights.'
        )


def newest(folder: str | Path, warn: Callable[[str], None] = print) -> str | None:
    """Path of the newest checkpoint of a folder that can be read as a whole; None if there is none.

    Args:
        folder (str | Path): Where checkpoints lie.
        warn (Callable): Is told each file that is passed over, with the reason, in one sentence.
    """
    for place in places(folder):
        if isinstance(place, str):
            warn(f'Passed over: {place}')
            continue
        try:
            _check_content(place.path)
            read(place.path)
        except (CheckpointError, OSError) as error:
            warn(f'Passed over: {error}')
            continue
        return place.path
    return None


def _check_content(path: str) -> None:
    """Compare an archive's parts with the checksums that torch wrote."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:
        raise CheckpointError(f'The checkpoint {path} is damaged ({error}).') from error
    if broken:
        raise CheckpointError(f'The checkpoint {path} is damaged: its part {broken} is not what was written.')


def last(folder: str | Path) -> str | None:
    """Path of the checkpoint that a folder calls its last, or of its newest; None if it has none."""
    pointer = Path(folder) / LAST
    if pointer.is_file():
        path = Path(folder) / pointer.read_text(encoding='utf-8').strip()
        if path.is_file():
            return str(path)
    found = [place for place in places(folder) if isinstance(place, Place)]
    return found[0].path if found else None


def restore_counters(state: dict, fresh: dict) -> dict:
    """A scheduler's plain state with the kinds of containers that a fresh one has."""
    return {
        name: Counter(value) if isinstance(fresh.get(name), Counter) and isinstance(value, dict) else value
        for name, value in state.items()
    }
