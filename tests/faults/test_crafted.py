"""Files that were made to do harm: nothing in them runs, memory stays bounded, and one sentence says what is wrong."""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import PretrainedInit
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmsemi.apis import export
from mmsemi.apis.errors import UsageError, find_rule
from mmsemi.engine import checkpoints
from tests import tiny_run

MOST_MEMORY = 400 << 10
"""Kilobytes by which a process may grow."""


class Run:
    """Unpickles by running a command that leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f'touch {self.trace}',)


class Evaluate(Run):
    def __reduce__(self):
        return eval, (f'open({str(self.trace)!r}, "w")',)


class Allocate:
    """Unpickles to far more than the file has."""

    def __reduce__(self):
        return bytearray, (1 << 40,)


def whole(**parts) -> dict:
    return dict(
        state_dict=dict(w=torch.zeros(2)), optimizer=dict(state={}, param_groups=[]), message_hub={},
        meta=dict(epoch=1, iter=1, cfg='model = dict()'),
    ) | parts  # fmt: skip


def at_the_top(path: Path, trace: Path) -> None:
    torch.save(Run(trace), path)


def deep_inside(path: Path, trace: Path) -> None:
    nested = dict(a=[(1, dict(b=[Evaluate(trace)]))])
    torch.save(whole(optimizer=dict(state={0: nested}, param_groups=[])), path)


def among_the_weights(path: Path, trace: Path) -> None:
    torch.save(whole(state_dict=dict(w=torch.zeros(2), x=Run(trace))), path)


def a_bare_pickle(path: Path, trace: Path) -> None:
    path.write_bytes(pickle.dumps(whole(x=Run(trace))))


def of_old_torch(path: Path, trace: Path) -> None:
    torch.save(whole(x=Run(trace)), path, _use_new_zipfile_serialization=False)


def by_getattr(path: Path, trace: Path) -> None:
    # mmengine's own list of what is safe has getattr in it.
    system = b"cposix\nsystem\n(S'touch " + str(trace).encode() + b"'\ntR."
    path.write_bytes(b"cbuiltins\ngetattr\n(cbuiltins\nbool\nS'__class__'\ntR0" + system)


def too_many_numbers(path: Path, trace: Path) -> None:
    write_archive(path, 10**12, (10**12,))


def more_numbers_than_stored(path: Path, trace: Path) -> None:
    write_archive(path, 4, (10**6, 10**6))


def a_bomb(path: Path, trace: Path) -> None:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', b'\x80\x02X' + (1 << 29).to_bytes(4, 'little') + bytes(1 << 29) + b'.')
        archive.writestr('archive/version', '3\n')


def a_large_byte_array(path: Path, trace: Path) -> None:
    torch.save(whole(x=Allocate()), path)


def write_archive(path: Path, stored: int, size: tuple[int, ...]) -> None:
    """An archive of one tensor whose pickle claims what it likes."""

    class Tensor:
        def __reduce__(self):
            strides = tuple(np.cumprod((1, *size[:0:-1]))[::-1].tolist())
            return torch._utils._rebuild_tensor_v2, (Stored(), 0, size, strides, False, {})

    class Stored:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return ('storage', torch.FloatStorage, '0', 'cpu', stored) if isinstance(obj, Stored) else None

    with io.BytesIO() as content, zipfile.ZipFile(path, 'w') as archive:
        Pickler(content, protocol=2).dump(whole(state_dict=dict(w=Tensor())))
        archive.writestr('archive/data.pkl', content.getvalue())
        archive.writestr('archive/version', '3\n')
        archive.writestr('archive/data/0', bytes(16))


CRAFTED = [
    at_the_top, deep_inside, among_the_weights, a_bare_pickle, of_old_torch, by_getattr, too_many_numbers,
    more_numbers_than_stored, a_bomb, a_large_byte_array,
]  # fmt: skip


def by_resume(path: Path) -> None:
    checkpoints.place_of(path)


def by_init_cfg(path: Path) -> None:
    PretrainedInit(str(path))(nn.Linear(2, 2))


WAYS: dict[str, Callable[[Path], object]] = {
    'read': checkpoints.read,
    '--resume': by_resume,
    'load_from and test.py': lambda path: CheckpointLoader.load_checkpoint(str(path)),
    'init_cfg and pretrained': by_init_cfg,
    'export': lambda path: export.read_checkpoint(str(path)),
}


def growth_and_error(function: Callable[[], object]) -> tuple[int, str]:
    """Call in a copy of this process: kilobytes by which it grew at most, and the sentence of its error."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        sentence = ''
        try:
            function()
        except BaseException as error:
            rule = find_rule(error)
            sentence = rule.sentence(error) if rule else f'no sentence: {error!r}'
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(write, f'{grown} {sentence}'.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        grown, _, sentence = pipe.read().partition(' ')
    os.waitpid(child, 0)
    return int(grown), sentence


@pytest.mark.parametrize('craft', CRAFTED, ids=lambda craft: craft.__name__)
def test_nothing_in_a_crafted_checkpoint_runs_whichever_way_it_is_loaded(craft, tmp_path):
    path, trace = tmp_path / 'crafted.pth', tmp_path / 'trace'
    craft(path, trace)
    for way, load in WAYS.items():
        grown, sentence = growth_and_error(lambda load=load: load(path))
        assert not trace.exists(), way
        assert 'crafted.pth' in sentence and '\n' not in sentence and len(sentence) < 400, (way, sentence)
        assert 'no sentence' not in sentence, (way, sentence)
        assert grown < MOST_MEMORY, way


def test_trust_loads_what_is_more_than_data(tmp_path):
    path = tmp_path / 'mine.pth'
    torch.save(whole(x=Path('kept')), path)
    with pytest.raises(checkpoints.CheckpointError, match='--trust-checkpoint'):
        checkpoints.read(path)
    checkpoints.trust()
    try:
        assert checkpoints.read(path)['x'] == Path('kept')
    finally:
        checkpoints.trust(False)


CODE = [
    'import os\nos.system("touch {trace}")',
    'model = __import__("os").system("touch {trace}")',
    'model = dict(a=[open("{trace}", "w")])',
    'model = dict(**globals())',
    'x = [i for i in (1,)]',
    'model = dict(a=f"{{1}}")',
    'x = 1\n_base_.y = 2',
    'model = ' + '[' * 5000 + ']' * 5000,
]


@pytest.mark.parametrize('text', CODE)
def test_code_in_a_config_of_a_checkpoint_is_not_executed(text, tmp_path):
    trace = tmp_path / 'trace'
    torch.save(whole(meta=dict(epoch=1, iter=1, cfg=text.replace('{trace}', str(trace)))), tmp_path / 'crafted.pth')
    with pytest.raises(checkpoints.CheckpointError, match=r'more than data .* was not executed'):
        export.read_checkpoint(str(tmp_path / 'crafted.pth'))
    assert not trace.exists()


def test_the_text_that_mmengine_executes_when_a_run_goes_on_is_not_handed_over(tmp_path):
    meta = dict(epoch=1, iter=1, config='import os\nos.system("touch /tmp/x")')
    torch.save(whole(meta=meta), tmp_path / 'crafted.pth')
    assert 'config' not in CheckpointLoader.load_checkpoint(str(tmp_path / 'crafted.pth'))['meta']


@pytest.mark.parametrize('method', tiny_run.METHOD_FILES)
def test_a_dumped_config_is_read_as_it_was(method):
    name = tiny_run.METHOD_FILES[method]
    cfg = Config.fromfile(tiny_run.ROOT / f'configs/{name}/{name}_r18_shapes.py')
    assert checkpoints.parse_config(cfg.pretty_text) == cfg.to_dict()


def test_a_config_whose_keys_are_no_names_is_read_back():
    keys = {'a': {'b.c': {'lr_mult': 0.1}, '.norm': [{'x.y': 1}]}, 'label_map': {0: 255, 7: 1}, 'none': {}}
    assert checkpoints.parse_config(Config(keys).pretty_text) == keys


def test_our_own_checkpoints_need_no_trust_and_export(drawn, tmp_path):
    Runner.from_cfg(tiny_run.config('MeanTeacher', drawn, tmp_path / 'run', epochs=1)).train()
    for path in checkpoints.files(tmp_path / 'run'):
        assert torch.load(path, weights_only=True)['meta']['iter'] == 2
    with pytest.raises(UsageError, match='holds no weights'):
        torch.save(dict(meta={}), tmp_path / 'none.pth')
        export.read_checkpoint(str(tmp_path / 'none.pth'))
    assert export.read_checkpoint(str(tmp_path / 'run/epoch_1.pth'))[1].model.type == 'MeanTeacher'


def huge_header(path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((1200, 1200, 1200))
    header['vox_offset'] = 352
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + bytes(1000)))


def bomb(path: Path) -> None:
    with gzip.open(path, 'wb', compresslevel=1) as file:
        image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
        file.write(image.to_bytes())
        for _ in range(600):
            file.write(bytes(1 << 20))


@pytest.mark.parametrize('craft', [huge_header, bomb])
def test_a_crafted_scan_is_refused_before_it_takes_memory(craft, tmp_path):
    spec = importlib.util.spec_from_file_location('acdc', tiny_run.ROOT / 'tools/dataset_converters/acdc.py')
    acdc = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(acdc)
    path = tmp_path / 'crafted.nii.gz'
    craft(path)
    grown, sentence = growth_and_error(lambda: acdc._read(path))
    assert 'crafted.nii.gz cannot be read' in sentence
    assert grown < MOST_MEMORY
