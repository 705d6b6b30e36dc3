"""Whatever fails while a checkpoint is written, the folder holds a whole one, and a run goes on from the newest."""

from __future__ import annotations

import errno
import io
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.logging import MessageHub

from mmsemi.engine import checkpoints
from mmsemi.engine.hooks.checkpoint_hook import CheckpointHook

CALLS = ('open', 'write', 'fsync', 'close', 'replace', 'unlink', 'remove')
"""The system calls by which a checkpoint is written, one function of ``os`` each."""


def checkpoint(step: int) -> dict:
    return dict(
        state_dict=dict(w=torch.full((1000,), float(step))),
        optimizer={},
        message_hub={},
        meta=dict(epoch=step, iter=step),
    )


class Faulty:
    """``os`` whose call number ``at`` does what it should not."""

    def __init__(self, at: int, fault: Callable | None) -> None:
        self.at, self.fault, self.calls = at, fault, []

    def __getattr__(self, name: str):
        call = getattr(os, name)
        if name not in CALLS:
            return call

        def watched(*args, **kwargs):
            self.calls.append(name)
            if len(self.calls) - 1 == self.at and self.fault:
                return self.fault(name, call, args, kwargs)
            return call(*args, **kwargs)

        return watched


def fails_with(number: int) -> Callable:
    def fail(name, call, args, kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def writes_less(name, call, args, kwargs):
    """Takes a part of what it should write, once, as a system call may."""
    if name != 'write':
        return call(*args, **kwargs)
    descriptor, content = args
    return call(descriptor, content[: max(1, len(content) // 3)])


def fills_up(name, call, args, kwargs):
    """Takes a part, and has no room for the rest."""
    if name == 'write':
        call(args[0], args[1][: len(args[1]) // 3])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def dies_before(name, call, args, kwargs):
    os._exit(9)


def dies_after(name, call, args, kwargs):
    call(*args, **kwargs)
    os._exit(9)


def dies_while_writing(name, call, args, kwargs):
    if name == 'write':
        call(args[0], args[1][: len(args[1]) // 2])
    os._exit(9)


FAULTS = {
    'ENOSPC': fails_with(errno.ENOSPC),
    'EIO': fails_with(errno.EIO),
    'EROFS': fails_with(errno.EROFS),
    'short write': writes_less,
    'full in a write': fills_up,
    'killed before': dies_before,
    'killed in it': dies_while_writing,
    'killed after': dies_after,
}


class Backend(LocalBackend):
    """mmengine's, whose deletions can be watched, too."""

    def remove(self, filepath) -> None:
        checkpoints.os.remove(filepath)


def save(folder: Path, step: int) -> None:
    """What the hook does at step 3, where it keeps one checkpoint and has one of step 2."""
    hook = CheckpointHook(max_keep_ckpts=1)
    hook.out_dir, hook.file_backend, hook.keep_ckpt_ids = str(folder), Backend(), deque([step - 1])

    def save_checkpoint(out_dir, name, *args, **kwargs) -> None:
        with io.BytesIO() as buffer:
            torch.save(checkpoint(step), buffer)
            checkpoints.AtomicBackend().put(buffer.getvalue(), f'{out_dir}/{name}')

    runner = SimpleNamespace(
        message_hub=MessageHub('writer'), work_dir=str(folder), epoch=step, iter=step, save_checkpoint=save_checkpoint
    )
    hook._save_checkpoint_with_step(runner, step, dict(epoch=step, iter=step))


def in_child(function: Callable[[], None]) -> int:
    """Exit status of a copy of this process that calls ``function``: 0, 1 for an OSError, 9 where it was ended."""
    child = os.fork()
    if not child:
        try:
            function()
        except OSError:
            os._exit(1)
        except BaseException:
            os._exit(2)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def attempt(function: Callable[[], None], name: str) -> int:
    """The same, without a copy where nobody dies."""
    if name.startswith('killed'):
        return in_child(function)
    try:
        function()
    except OSError:
        return 1
    return 0


def start(folder: Path) -> Path:
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'fsync', lambda descriptor: None)
        checkpoints.write(checkpoint(2), folder / 'epoch_2.pth')
        checkpoints.point_to(folder / 'epoch_2.pth', folder)
    return folder


def calls_of_a_save(folder: Path) -> list[str]:
    faulty = Faulty(-1, None)
    start(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, 'os', faulty)
        save(folder, 3)
    return faulty.calls


def test_each_fault_at_each_system_call_leaves_the_newest_whole_checkpoint(tmp_path):
    calls = calls_of_a_save(tmp_path / 'watched')
    assert [name for name in calls if name != 'write'] == [
        'open', 'fsync', 'close', 'replace', 'open', 'fsync', 'close',
        'open', 'fsync', 'close', 'replace', 'open', 'fsync', 'close', 'remove',
    ]  # fmt: skip
    outcomes = set()
    for name, fault in FAULTS.items():
        for at in range(len(calls)):
            folder = start(tmp_path / f'{name}-{at}')
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(checkpoints, 'os', Faulty(at, fault))
                status = attempt(lambda folder=folder: save(folder, 3), name)
            assert status in (0, 1, 9), (name, at, calls[at])
            said: list[str] = []
            found = checkpoints.newest(folder, said.append)
            step = checkpoints.read(found)['meta']['iter']
            outcomes.add((status, step))
            assert step == 3 if not status else step in (2, 3), (name, at, calls[at])
            assert not said, 'no half file under a final name'
            # A new writer gets on with what was left, and what it leaves is the newest.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, 'fsync', lambda descriptor: None)  # which takes most of the time here
                save(folder, 4)
            assert checkpoints.read(checkpoints.newest(folder))['meta']['iter'] == 4
            assert (folder / checkpoints.LAST).read_text() == 'epoch_4.pth\n'
    assert {(0, 3), (1, 2), (1, 3), (9, 2), (9, 3)} <= outcomes


def test_the_old_is_deleted_after_the_new_is_on_the_disk(tmp_path):
    calls = calls_of_a_save(tmp_path / 'watched')
    assert calls.index('remove') > max(i for i, name in enumerate(calls) if name in ('fsync', 'replace'))
    assert [path.name for path in checkpoints.files(tmp_path / 'watched')] == ['epoch_3.pth']


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    position = content.index(torch.full((3,), 3.0).numpy().tobytes())
    content[position] ^= 255
    path.write_bytes(content)


BROKEN = {
    'empty': lambda path: path.write_bytes(b''),
    'cut off': cut,
    'a flipped bit': flip,
    'of another program': lambda path: path.write_text('not a checkpoint'),
    'a list': lambda path: torch.save([1], path),
    'weights alone': lambda path: torch.save(dict(state_dict=dict(w=torch.ones(2))), path),
    'more than data': lambda path: torch.save(dict(checkpoint(3), code=Path('x')), path),
}


@pytest.mark.parametrize('kind', BROKEN)
def test_a_file_that_is_broken_or_foreign_is_passed_over_with_a_sentence(kind, tmp_path):
    start(tmp_path / 'run')
    newer = tmp_path / 'run/epoch_3.pth'
    checkpoints.write(checkpoint(3), newer)
    BROKEN[kind](newer)
    checkpoints.point_to(newer, tmp_path / 'run')
    said: list[str] = []
    assert Path(checkpoints.newest(tmp_path / 'run', said.append)).name == 'epoch_2.pth'
    (sentence,) = said
    assert sentence.startswith('Passed over: ') and 'epoch_3.pth' in sentence and len(sentence) < 300
    assert '\n' not in sentence


def test_a_folder_that_moved_knows_its_last_checkpoint(tmp_path):
    start(tmp_path / 'run').rename(tmp_path / 'moved')
    assert checkpoints.last(tmp_path / 'moved') == str(tmp_path / 'moved/epoch_2.pth')
