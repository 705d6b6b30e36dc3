"""Take the segmentor out of a checkpoint of mmsemi: a checkpoint and a config that plain mmseg loads.

    mmsemi export work_dirs/mllc_r50_voc/epoch_150.pth export/mllc --branch teacher

writes ``export/mllc.pth`` and ``export/mllc.py`` for ``mmseg.apis.init_model``, where mmsemi need not be installed. The
config carries the source of those parts that mmseg lacks, such as ``DeepLabV3PlusHead``.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope, Registry
from torch import nn

from mmsemi.datasets.limit_side import LimitSide
from mmsemi.engine import checkpoints
from mmsemi.models.branch import BRANCH_KEYS, share_classes
from mmsemi.models.resizing import with_align_corners
from mmsemi.registry import DATASETS, METRICS, MODELS, TRANSFORMS
from mmsemi.utils import register_all_modules

from .config import as_text
from .launch import UsageError, quiet

PREPROCESSOR_KEYS = ('mean', 'std', 'bgr_to_rgb', 'rgb_to_bgr', 'pad_val', 'seg_pad_val', 'size_divisor', 'test_cfg')
# The first statement, `_base_`, tells mmengine that this is a config of the classic kind: others may not define code.
HEADER = """# Written by `mmsemi export` from {source}, branch {branch}.
_base_ = []
"""
REGISTER = '''

def _register_{name}():
    """Add to mmseg's registry what this config names and mmseg lacks."""
    source = {source}
    exec(compile(source, 'exported {name}', 'exec'), {{'__name__': '{name}'}})


_register_{name}()
'''


def read_checkpoint(path: str) -> tuple[dict, Config]:
    """Read a checkpoint of mmsemi and the config it was trained with; nothing in it is executed."""
    if not Path(path).is_file():
        raise UsageError(f'The checkpoint {path} does not exist.')
    checkpoint = checkpoints.read(path)
    if not isinstance(checkpoint.get('state_dict'), dict):
        raise UsageError(f'{path} is no checkpoint of mmsemi: it holds no weights.')
    return checkpoint, checkpoints.read_config(checkpoint, path)


def choose_branch(state: dict[str, torch.Tensor], branch: str | None) -> str:
    """Check that ``branch`` is in a checkpoint; without one take the teacher, else the student."""
    found = [name for name in ('teacher', 'student') if any(key.startswith(f'{name}.segmentor.') for key in state)]
    if not found:
        raise UsageError('The checkpoint is not one of mmsemi: it holds neither a student nor a teacher.')
    if branch and branch not in found:
        raise UsageError(f'The checkpoint holds no {branch}; it has a {" and a ".join(found)}.')
    return branch or found[0]


def segmentor_weights(state: dict[str, torch.Tensor], branch: str) -> dict[str, torch.Tensor]:
    """The weights of one branch's segmentor, under mmseg's names."""
    prefix = f'{branch}.segmentor.'
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def own_class(name: Any, registry: Registry) -> type | None:
    """The class that a config's ``type`` names, if it is one of mmsemi."""
    found = registry.get(name) if isinstance(name, str) else name
    return found if getattr(found, '__module__', '').startswith('mmsemi.') else None


def portable_source(cls: type) -> str | None:
    """The source of the file of ``cls``, made to register in mmseg; None if it needs other parts of mmsemi."""
    source = inspect.getsource(inspect.getmodule(cls))
    source = source.replace('from mmsemi.registry import', 'from mmseg.registry import')
    source = source.replace('.register_module()', '.register_module(force=True)')
    needs_more = re.search(r'^\s*(from|import) +(mmsemi|\.)', source, re.MULTILINE)
    return None if needs_more else source


def nodes_with_type(node: Any) -> Iterator[dict]:
    """Every dict below ``node``, itself included, that names a type."""
    if isinstance(node, dict):
        if 'type' in node:
            yield node
        for value in node.values():
            yield from nodes_with_type(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from nodes_with_type(value)


def _drop_scope(node: Any) -> None:
    """Take out what mmengine notes in the parts of a base of another package, here mmsemi's."""
    if isinstance(node, dict):
        if node.get('_scope_') == 'mmsemi':
            del node['_scope_']
        for value in node.values():
            _drop_scope(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _drop_scope(value)


def plain_model(cfg: Config) -> tuple[dict, dict[str, str]]:
    """The segmentor's config for mmseg, and the sources of the classes in it that mmseg lacks, by name."""
    preprocessor = cfg.model.data_preprocessor.to_dict()
    # As it was trained: plain mmseg does not know the crop.
    model = with_align_corners(copy.deepcopy(cfg.model.student.to_dict()), preprocessor['size'])
    share_classes(model)
    for key in BRANCH_KEYS:
        model['backbone'].pop(key, None)
    kept = {key: preprocessor[key] for key in PREPROCESSOR_KEYS if key in preprocessor}
    model.update(pretrained=None, train_cfg=None, data_preprocessor={'type': 'SegDataPreProcessor', **kept})
    sources = {}
    for node in list(nodes_with_type(model)):
        if node['type'] in ('SyncBN', 'MMSyncBN'):
            node['type'] = 'BN'
        # Neither losses nor where training started matter to a trained network.
        if 'loss_decode' in node:
            node['loss_decode'] = {'type': 'CrossEntropyLoss', 'avg_non_ignore': True}
            node.pop('sampler', None)
        if _starts_pretrained(node.get('init_cfg')):
            node['init_cfg'] = None
    for node in nodes_with_type(model):
        if cls := own_class(node['type'], MODELS):
            node['type'] = cls.__name__
            sources[cls.__name__] = _source_of(cls)
    return model, sources


def _starts_pretrained(init_cfg: Any) -> bool:
    parts = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    return any(isinstance(part, dict) and part.get('type') == 'Pretrained' for part in parts)


def plain_pipeline(pipeline: list[dict]) -> tuple[list[dict], dict[str, str]]:
    """The test pipeline for mmseg: its transforms in place of ours that only extend them, and the sources of others."""
    plain, sources = [], {}
    for step in copy.deepcopy(list(pipeline)):
        cls = own_class(step['type'], TRANSFORMS)
        if cls and issubclass(cls, LimitSide) and step.get('longest') is None:
            continue  # does nothing
        if cls:
            bases = (base for base in cls.__mro__ if not base.__module__.startswith('mmsemi.'))
            extended = next((base for base in bases if TRANSFORMS.get(base.__name__) is base), None)
            step['type'] = (extended or cls).__name__
            if extended is None:
                sources[cls.__name__] = _source_of(cls)
            else:
                known = inspect.signature(extended.__init__).parameters
                step = {key: value for key, value in step.items() if key in known or key == 'type'}
        plain.append(step)
    return plain, sources


def _source_of(cls: type) -> str:
    source = portable_source(cls)
    if source is None:
        raise UsageError(f'{cls.__name__} cannot be exported: {cls.__module__} needs other parts of mmsemi.')
    return source


def plain_test(cfg: Config, pipeline: list[dict], meta: dict) -> tuple[dict, dict[str, str], bool]:
    """Keys for testing with mmseg, the data set's source if mmseg lacks it, and whether its images are named.

    Of a data set that needs more of mmsemi the folders are left to the user: mmseg's inferencer reads the pipeline
    here.
    """
    named = 'test_dataloader' in cfg
    loader, sources = cfg.test_dataloader.to_dict() if named else {'batch_size': 1, 'dataset': {}}, {}
    cls = own_class(loader['dataset']['type'], DATASETS) if named else None
    source = portable_source(cls) if cls else None
    if cls and source:
        loader['dataset']['type'] = cls.__name__
        sources[cls.__name__] = source
    elif cls or not named:
        named = False
        names = {key: meta[key] for key in ('classes', 'palette') if meta.get(key)}
        folders = {'img_path': 'images', 'seg_map_path': 'masks'}
        loader['dataset'] = {'type': 'BaseSegDataset', 'data_root': 'data', 'data_prefix': folders, 'metainfo': names}
        loader.setdefault('sampler', {'type': 'DefaultSampler', 'shuffle': False})
    loader['dataset']['pipeline'] = pipeline
    evaluator = cfg.get('test_evaluator') or ConfigDict(type='IoUMetric', iou_metrics=['mIoU'])
    evaluator = evaluator.to_dict() if isinstance(evaluator, dict) else [metric.to_dict() for metric in evaluator]
    if any(own_class(metric['type'], METRICS) for metric in nodes_with_type(evaluator)):
        evaluator = {'type': 'IoUMetric', 'iou_metrics': ['mIoU']}
    keys = {'test_dataloader': loader, 'test_evaluator': evaluator, 'test_cfg': {'type': 'TestLoop'}}
    return keys, sources, named


def literal(source: str) -> str:
    """``source`` as a Python literal that stays readable where it can."""
    if "'''" in source or source.endswith('\\'):
        return repr(source)
    return f"r'''{source}'''"


def export(
    checkpoint_path: str,
    out: str | Path,
    branch: str | None = None,
    onnx: bool = False,
    size: Sequence[int] | None = None,
) -> None:
    """Write ``out``.pth and ``out``.py, and by choice ``out``.onnx.

    Args:
        checkpoint_path (str): Checkpoint of mmsemi.
        out (str | Path): Where to write, with or without ``.pth``.
        branch (str, optional): 'student' or 'teacher'. Defaults to the teacher where there is one.
        onnx (bool): Also write an ONNX file that agrees with PyTorch. Defaults to False.
        size (Sequence[int], optional): Height and width of its images, where the network does not leave them free, and
            at which it is traced. Defaults to the training crop.

    Raises:
        UsageError: If the checkpoint has no such branch, or its network uses parts that cannot leave mmsemi, or no ONNX
            file of it agrees with PyTorch.
    """
    with quiet():
        register_all_modules(init_default_scope=False)
    if onnx:
        from .onnx_export import export_onnx, need_packages

        need_packages()
    checkpoint, cfg = read_checkpoint(checkpoint_path)
    _drop_scope(cfg._cfg_dict)
    branch = choose_branch(checkpoint['state_dict'], branch)
    weights = segmentor_weights(checkpoint['state_dict'], branch)
    meta = checkpoint['meta'].get('dataset_meta') or {}
    model, sources = plain_model(cfg)
    pipeline, transform_sources = plain_pipeline(cfg.get('test_pipeline') or cfg.test_dataloader.dataset.pipeline)
    testing, dataset_sources, named = plain_test(cfg, pipeline, meta)
    viewing = {'visualizer': {'type': 'SegLocalVisualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]}}
    keys = {'default_scope': 'mmseg', 'model': model, 'test_pipeline': pipeline, **testing, **viewing}
    imports = [name for name in cfg.get('custom_imports', {}).get('imports', []) if not name.startswith('mmsemi.')]
    if imports:
        keys['custom_imports'] = dict(cfg.custom_imports, imports=imports)

    text = HEADER.format(source=Path(checkpoint_path).name, branch=branch)
    for name, source in {**sources, **transform_sources, **dataset_sources}.items():
        text += REGISTER.format(name=name, source=literal(source))
    out = Path(str(out).removesuffix('.pth'))
    out.parent.mkdir(parents=True, exist_ok=True)
    config_path, weights_path = Path(f'{out}.py'), Path(f'{out}.pth')
    config_path.write_text(f'{text}\n{as_text(Config(keys))}', encoding='utf-8')
    kept = {'dataset_meta': checkpoint['meta'].get('dataset_meta'), 'epoch': checkpoint['meta'].get('epoch')}
    checkpoints.write({'meta': kept, 'state_dict': weights}, weights_path)
    network = _load(config_path, weights)
    print(f'wrote the {branch} to {config_path} and {weights_path}, to be loaded with mmseg.apis.init_model')
    if not named:
        print("mmseg lacks this run's data set: to test with mmseg, name folders in test_dataloader.dataset")
    if onnx:
        file = Path(f'{out}.onnx')
        free, difference = export_onnx(network, file, size or cfg.model.data_preprocessor['size'], meta.get('classes'))
        taken = {name: f'any {name}' for name in free}
        height, width = size or cfg.model.data_preprocessor['size']
        shape = [
            taken.get('batch', 'batch 1'),
            taken.get('height', f'{height} high'),
            taken.get('width', f'{width} wide'),
        ]
        print(f'wrote {file} ({", ".join(shape)}); it differs from PyTorch by {difference:.0e} of the largest score')


def _load(config_path: Path, weights: dict[str, torch.Tensor]) -> nn.Module:
    """The exported network, built of what was written."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        network = MODELS.parent.build(Config.fromfile(config_path).model)
    network.load_state_dict(weights)
    return network
