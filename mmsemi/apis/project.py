"""From folders of images and masks to a config that trains: ``mmsemi init``."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config

from mmsemi.datasets.classes import Classes, read_classes, recognise_classes
from mmsemi.datasets.files import LeftOut, find_images, pair
from mmsemi.datasets.inspect import (
    Picture,
    class_table,
    describe,
    duplicates,
    look_at,
    sample,
)
from mmsemi.datasets.partition import draw_partition, write_list

from .errors import ROOTS, UsageError
from .launch import find_config

_SMALL = 'deeplabv3plus_r18w32'
_LARGE = 'deeplabv3plus_r50'
_WARMUP = 500
"""Steps over which MLLC's pseudo-labels, which no threshold sifts, gain their weight (configs/mllc/README.md); a third
of a training at most."""


@dataclass
class Data:
    """The three parts of a data set, what their masks show, and what was left out."""

    labeled: list[Picture]
    validation: list[Picture]
    unlabeled: list[str]
    unlabeled_seen: list[Picture]
    classes: Classes
    left_out: list[LeftOut]
    twice: list[tuple[str, str]]


@dataclass
class Plan:
    """What was decided, and why: each choice with its reason in a few words."""

    method: str
    network: str
    crop: tuple[int, int]
    longest: int | None
    steps: int  # of an epoch
    epochs: int
    every: int
    labeled: int
    unlabeled: int
    workers: int
    reasons: dict[str, str]


def init_project(
    images: str,
    masks: str,
    out: str,
    unlabeled: str | None = None,
    val_images: str | None = None,
    val_masks: str | None = None,
    val: float = 0.2,
    classes: str | None = None,
    method: str | None = None,
    network: str | None = None,
    gpu_memory: float | None = None,
) -> Path:
    """Look at folders and write a project: ``config.py``, ``fingerprint.json`` and the lists of its parts.

    Args:
        images (str): Folder of images; those without a mask are unlabeled.
        masks (str): Folder of their masks, paired by name without suffix.
        out (str): Folder to write.
        unlabeled (str, optional): Folder of more images without masks.
        val_images, val_masks (str, optional): Folders for validation.
        val (float): Share of the labeled images that is kept for validation where these are not given. Defaults to 0.2.
        classes (str, optional): Their names, ``'a,b,c'``, or a file with one a line.
        method (str, optional): Method to train. Defaults to MLLC, or without unlabeled images to supervised.
        network (str, optional): A file of ``configs/_base_/models`` without suffix.
        gpu_memory (float, optional): GiB of memory of a GPU. Defaults to this machine's; without a GPU the network is
            a small one for CPUs.

    Returns:
        Path: The config.

    Raises:
        UsageError, FileNotFoundError, ValueError: If the folders cannot be trained on; the message says why.
    """
    folder = Path(out)
    if (folder / 'config.py').exists():
        raise UsageError(f'{folder / "config.py"} exists; remove it or name another folder by --out.')
    data = _gather(images, masks, unlabeled, val_images, val_masks, val, classes)
    plan = make_plan(data, method, network, gpu_memory)
    root = _common_root(data)
    folder.mkdir(parents=True, exist_ok=True)
    _write_lists(folder / 'lists', root, data)
    fingerprint = make_fingerprint(data)
    text = json.dumps(fingerprint, indent=2, ensure_ascii=False)
    (folder / 'fingerprint.json').write_text(text + '\n', encoding='utf-8')
    config = folder / 'config.py'
    config.write_text(config_text(data, plan, root), encoding='utf-8')
    print(report(data, plan, fingerprint, config))
    return config


# Looking


def _gather(
    images: str,
    masks: str,
    unlabeled: str | None,
    val_images: str | None,
    val_masks: str | None,
    val: float,
    classes: str | None,
) -> Data:
    if (val_images is None) != (val_masks is None):
        raise UsageError('--val-images and --val-masks belong together; give both or neither.')
    if not 0 < val < 1:
        raise UsageError(f'--val must lie between 0 and 1, not {val}.')
    names, colors = read_classes(classes) if classes else (None, None)
    pairs, without, left_out = pair(images, masks)
    pictures, failed = look_at(pairs)
    left_out += failed
    if not pictures:
        raise ValueError(f'None of the {len(pairs)} pairs of image and mask can be used: {_say(failed[0])}.')
    rest = list(without) + (find_images(unlabeled) if unlabeled else [])
    if val_images:
        val_pairs, _, val_left = pair(val_images, val_masks)
        validation, val_failed = look_at(val_pairs)
        left_out += val_left + val_failed
        if not validation:
            raise ValueError(f'None of the {len(val_pairs)} validation pairs can be used: {_say(val_failed[0])}.')
        found = recognise_classes([*pictures, *validation], names, colors)
        labeled = pictures
    else:
        if len(pictures) < 2:
            raise ValueError(
                f'There is one labeled image that can be used, {pictures[0].path}: one more is needed for validation.'
            )
        found = recognise_classes(pictures, names, colors)
        labeled, validation = _split(pictures, found, val)
    seen, failed = look_at([(path, None) for path in sample(rest)])
    left_out += failed
    bad = {os.path.abspath(item.path) for item in failed}
    taken = {os.path.abspath(picture.path) for picture in (*labeled, *validation)}
    rest = [path for path in rest if os.path.abspath(path) not in bad | taken]
    parts = {
        'labeled': [picture.path for picture in labeled],
        'validation': [picture.path for picture in validation],
        'unlabeled': rest,
    }
    return _without_leaks(Data(labeled, validation, rest, seen, found, left_out, duplicates(parts)))


def _without_leaks(data: Data) -> Data:
    """Take images out of the unlabeled and the labeled part that are there again in validation, or twice."""
    validation = {os.path.abspath(picture.path) for picture in data.validation}
    labeled = {os.path.abspath(picture.path) for picture in data.labeled}
    dropped = {}
    for first, second in data.twice:
        # What repeats is taken out of the part that can spare it.
        for path, other in ((second, first), (first, second)):
            if path not in validation and path not in dropped and other not in dropped:
                if path in labeled and other not in validation:
                    continue
                dropped[path] = other
                break
    data.left_out += [LeftOut(path, f'has the content of {other}') for path, other in sorted(dropped.items())]
    data.unlabeled = [path for path in data.unlabeled if os.path.abspath(path) not in dropped]
    data.labeled = [picture for picture in data.labeled if os.path.abspath(picture.path) not in dropped]
    if not data.labeled:
        raise ValueError('All labeled images are there again in validation: nothing is left to train on.')
    return data


def _split(pictures: list[Picture], classes: Classes, share: float) -> tuple[list[Picture], list[Picture]]:
    """Part the labeled images into training and validation, so that training shows every class if it can."""
    held = min(len(pictures) - 1, max(1, round(share * len(pictures))))
    shown = [set(np.flatnonzero(classes.count(picture.counts)[:-1])) for picture in pictures]
    names = sorted(set().union(*shown))
    places = {label: place for place, label in enumerate(names)}

    def classes_of(numbers: Sequence[int]) -> list[set[int]]:
        return [{places[label] for label in shown[number]} for number in numbers]

    total = len(pictures)
    try:
        kept = draw_partition(total, total - held, 0, classes_of, [classes.names[label] for label in names])
    except ValueError:
        kept = draw_partition(total, total - held, 0)
    chosen = set(kept)
    return [pictures[i] for i in kept], [p for i, p in enumerate(pictures) if i not in chosen]


def _say(item: LeftOut) -> str:
    return f'{item.path} {item.reason}'


# Deciding


def make_plan(data: Data, method: str | None, network: str | None, gpu_memory: float | None) -> Plan:
    """Choose method, network, crop, batch and schedule from what was seen.

    Raises:
        UsageError: If the method or the network is unknown, or the method needs unlabeled images that are not there.
    """
    reasons = {}
    if method is None:
        method = 'mllc' if data.unlabeled else 'supervised'
        reasons['method'] = 'the default' if data.unlabeled else 'there are no unlabeled images'
    else:
        reasons['method'] = 'as asked for'
        _check_known('method', method, 'methods')
        if method != 'supervised' and not data.unlabeled:
            raise UsageError(
                f'--method {method} learns from unlabeled images, and there are none: name their folder by '
                '--unlabeled, or take --method supervised.'
            )
    memory = gpu_memory if gpu_memory is not None else _gpu_memory()
    if memory is not None and memory <= 0:
        raise UsageError(f'--gpu-memory must be above 0 GiB, not {memory:g}.')
    if network is None:
        network = _LARGE if memory else _SMALL
        reasons['network'] = 'ResNet-50 with ImageNet weights' if memory else 'small, from scratch: there is no GPU'
    else:
        _check_known('network', network, 'models')
        reasons['network'] = 'as asked for'
    pictures = [*data.labeled, *data.validation, *data.unlabeled_seen]
    short = float(np.median([min(picture.size) for picture in pictures]))
    long = float(np.median([max(picture.size) for picture in pictures]))
    most = 513 if memory else 129
    longest = _limit(long, most)
    short = short * min(1.0, longest / long if longest else 1.0)
    side = max(33, min(most, 8 * math.floor((short - 1) / 8) + 1))
    width, height = (round(x) for x in np.median([picture.size for picture in pictures], axis=0))
    shrunk = f', shrunk to {longest} at the longer side' if longest else ''
    reasons['crop_size'] = f'the median image has {width} x {height} pixels{shrunk}'
    batch, reasons['batch'] = _batch(memory, side, network)
    images = max(len(data.unlabeled), 1) if method != 'supervised' else len(data.labeled)
    steps = math.ceil(images / batch)
    target = 16_000 if memory else 3_000
    epochs = max(1, min(300, round(target / steps)))
    reasons['epochs'] = f'{epochs * steps:,} steps: {steps:,} an epoch, a pass over {images:,} images'
    workers = min(8 if memory else 2, max(1, (os.cpu_count() or 1) - 1))
    unlabeled = 0 if method == 'supervised' else batch
    return Plan(
        method, network, (side, side), longest, steps, epochs, max(1, epochs // 10), batch, unlabeled, workers, reasons
    )


def _limit(long: float, most: int) -> int | None:
    """Longer side to which images are shrunk so that a crop shows enough of them."""
    return 2 * (most - 1) if long > 3 * most else None


def _batch(memory: float | None, side: int, network: str) -> tuple[int, str]:
    if memory is None:
        return 4, 'for a CPU'
    # GiB a pair of a labeled and an unlabeled image at 513 x 513 in float32, for the largest methods.
    pair_size = {'r50': 4.0, 'r101': 5.5, 'r18': 0.8}
    needed = next((gib for key, gib in pair_size.items() if key in network), 6.0) * (side / 513) ** 2
    batch = int(max(1, min(8, (memory - 2.5) // needed)))
    return batch, f'what {memory:g} GiB hold, about {needed:.1f} GiB a pair of images'


def _gpu_memory() -> float | None:
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / 2**30


def known(kind: str) -> list[str]:
    """Names of the bases of a kind, 'methods' or 'models'."""
    root = next(root for root in ROOTS if (root / 'configs').is_dir())
    return sorted(path.stem for path in (root / 'configs' / '_base_' / kind).glob('*.py') if path.stem != 'base')


def _check_known(what: str, name: str, kind: str) -> None:
    if name not in known(kind):
        raise UsageError(f'--{what} {name} is unknown; there are {", ".join(known(kind))}.')


# Writing


def _common_root(data: Data) -> str:
    paths = [path for picture in (*data.labeled, *data.validation) for path in (picture.path, picture.mask)]
    return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in (*paths, *data.unlabeled)])


def _write_lists(folder: Path, root: str, data: Data) -> None:
    def relative(path: str) -> str:
        return os.path.relpath(os.path.abspath(path), root).replace(os.sep, '/')

    def lines(pictures: Sequence[Picture]) -> list[str]:
        return [f'{relative(picture.path)}\t{relative(picture.mask)}' for picture in pictures]

    write_list(folder / 'labeled.txt', lines(data.labeled))
    write_list(folder / 'val.txt', lines(data.validation))
    write_list(folder / 'unlabeled.txt', [relative(path) for path in data.unlabeled])


def make_fingerprint(data: Data) -> dict:
    """What was seen, as ``fingerprint.json`` holds it."""
    parts = {'labeled': data.labeled, 'validation': data.validation}
    rows, void = class_table(data.classes, parts)
    return {
        'labeled': describe(data.labeled),
        'validation': describe(data.validation),
        'unlabeled': describe(data.unlabeled_seen, len(data.unlabeled)),
        'classes': rows,
        'void_share': void,
        'label_map': data.classes.label_map,
        'color_masks': data.classes.colored,
        'left_out': [asdict(item) for item in data.left_out],
        'duplicates': [list(twin) for twin in data.twice],
        'notes': data.classes.notes,
    }


def config_text(data: Data, plan: Plan, root: str) -> str:
    """The config, with the reason of each choice beside it."""
    classes, why = data.classes, plan.reasons
    small = plan.network.startswith('deeplabv3plus_r18')
    schedule = 'adamw_small' if small else 'sgd_heads_x10'
    if plan.network.startswith(('segformer', 'segmenter')):
        schedule = 'adamw_segformer'
    elif plan.network.startswith('dpt'):
        schedule = 'adamw_vit'
    lines = [
        '# Written by `mmsemi init`; what it saw is in fingerprint.json. Train: mmsemi train config.py',
        '_base_ = [',
        f"    'mmsemi::_base_/models/{plan.network}.py',  # {why['network']}",
        "    'mmsemi::_base_/datasets/listed.py',",
        f"    'mmsemi::_base_/schedules/{schedule}.py',",
        f"    'mmsemi::_base_/methods/{plan.method}.py',  # {why['method']}",
        ']',
        f'data_root = {root!r}',
        "lists = '{{ fileDirname }}/lists'",
        f'classes = {tuple(classes.names)!r}',
        f'palette = {classes.palette!r}',
    ]
    if classes.label_map:
        lines.append(f'label_map = {classes.label_map!r}  # {classes.notes[0]}')
    if classes.colored:
        lines.append('color_masks = True  # masks hold the colors of the palette')
    lines.append(f'crop_size = {plan.crop!r}  # {why["crop_size"]}')
    if plan.longest:
        lines.append(f'longest_side = {plan.longest}  # so that a crop shows enough of an image')
    how = _color_type(data)
    if how:
        lines.append(f"color_type = '{how[0]}'  # {how[1]}")
    settings = _method_settings(plan, len(classes.names))
    if settings:
        lines += ['model = dict(', *(f'    {setting},  # {reason}' for setting, reason in settings.items()), ')']
    lines += [
        'train_dataloader = dict(',
        f'    batch_size={plan.labeled + plan.unlabeled},  # on each GPU; {why["batch"]}',
        f'    num_workers={plan.workers},',
        f'    sampler=dict(labeled={plan.labeled}, unlabeled={plan.unlabeled}),',
        ')',
        f'train_cfg = dict(max_epochs={plan.epochs}, val_interval={plan.every})  # {why["epochs"]}',
    ]
    alone = '' if plan.unlabeled else f', base_batch_size={_meant_for(schedule) // 2}'
    lines.append(f'auto_scale_lr = dict(enable=True{alone})  # the rate follows the images of a step, on all GPUs')
    return '\n'.join(lines) + '\n'


def _meant_for(schedule: str) -> int:
    """How many images, labeled and unlabeled, the rate of a schedule is meant for."""
    return Config.fromfile(find_config(f'_base_/schedules/{schedule}.py')).auto_scale_lr.base_batch_size


def _method_settings(plan: Plan, classes: int) -> dict[str, str]:
    """Keys of the method that do not fit few classes, small crops or a person's own data by default, and why."""
    if plan.method == 'mllc':
        warmup = max(1, min(round(_WARMUP / plan.steps), plan.epochs // 3))
        return {
            'graph_supervision=1.0': 'the graphs learn from the masks, too: pseudo-labels drift less',
            f'unsup_warmup={warmup}': 'epochs until pseudo-labels count in full',
        }
    if plan.method == 'u2pl' and classes <= 3:
        return {f'low_rank={classes - 1}': f'there are {classes} classes to rank'}
    positions = (min(plan.crop) // 16) ** 2
    if plan.method == 'corrmatch' and positions < 128:
        return {f'num_shapes={positions}': 'of so many positions that a crop has at stride 16'}
    return {}


def _color_type(data: Data) -> tuple[str, str] | None:
    """How images are read, and why, where it is not as 8-bit color: they must be alike for that."""
    pictures = [*data.labeled, *data.validation, *data.unlabeled_seen]
    kinds = {(picture.channels, picture.bits) for picture in pictures}
    if len(kinds) > 1:
        return None
    ((channels, bits),) = kinds
    what = f'images have {channels} channel{"s" if channels > 1 else ""} of {bits} bits'
    if bits <= 8 and channels in (1, 3):
        return ('grayscale', what) if channels == 1 else None
    return 'unchanged', what


def report(data: Data, plan: Plan, fingerprint: dict, config: Path) -> str:
    """What is printed: the table of classes, what was noticed and decided."""
    rows = [('class', 'labeled pixels', 'images', 'validation pixels', 'images')]
    for row in fingerprint['classes']:
        cells = [row['name']]
        for part in ('labeled', 'validation'):
            total = sum(other[part]['pixels'] for other in fingerprint['classes'])
            cells += [f'{row[part]["pixels"] / max(1, total):.2%}', str(row[part]['images'])]
        rows.append(tuple(cells))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    table = ['  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    lines = [
        f'{len(data.labeled)} labeled, {len(data.unlabeled)} unlabeled and {len(data.validation)} validation images, '
        f'{len(data.classes.names)} classes',
        '',
        *table,
        '',
        *(f'note: {note}' for note in data.classes.notes),
        *(f'warning: {warning}' for warning in warnings_of(fingerprint)),
    ]
    for item in data.left_out[:5]:
        lines.append(f'left out: {_say(item)}')
    if len(data.left_out) > 5:
        lines.append(f'left out: {len(data.left_out) - 5} more, see fingerprint.json')
    lines += [
        f'method {plan.method} ({plan.reasons["method"]}), network {plan.network} ({plan.reasons["network"]})',
        f'crop {plan.crop[0]} x {plan.crop[1]}: {plan.reasons["crop_size"]}',
        f'{plan.epochs} epochs: {plan.reasons["epochs"]}',
        f'wrote {config}; train it: mmsemi train {config}',
    ]
    return '\n'.join(lines)


def warnings_of(fingerprint: dict) -> list[str]:
    """What of a fingerprint its user should know before training."""
    found = []
    for part, what in (('labeled', 'learned'), ('validation', 'judged')):
        absent = [row['name'] for row in fingerprint['classes'] if not row[part]['pixels']]
        if absent:
            found.append(f'no {part} pixel shows {", ".join(absent)}: it cannot be {what}')
    for part, share in fingerprint['void_share'].items():
        if share > 0.5:
            found.append(f'{share:.0%} of the {part} pixels are void')
    return found
