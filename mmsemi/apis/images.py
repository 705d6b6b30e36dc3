"""Channels and depth of a data set's images: a config says how they are read, and the rest follows from that."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config

_IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])


def fit_images(cfg: Config) -> None:
    """Let network and preprocessor take images of the channels and the depth that the pipeline reads.

    Where ``LoadImageFromFile`` reads gray images (``color_type='grayscale'``) or images as they are (``'unchanged'``),
    ``backbone.in_channels`` is set unless the config does so, and ImageNet's means and deviations become one number for
    all channels, in the images' own unit. Components must have been registered.

    Args:
        cfg (Config): Changed in place.
    """
    how = _how_read(cfg)
    if how in (None, 'color') or not isinstance(cfg.get('model'), dict) or 'student' not in cfg.model:
        return
    found = (1, np.dtype('uint8')) if how == 'grayscale' else _first_image(cfg)
    if found is None:
        return
    channels, kind = found
    backbone = cfg.model.student.get('backbone', {})
    if channels != 3 and 'in_channels' not in backbone and _takes_channels(backbone):
        backbone['in_channels'] = channels
    _fit_preprocessor(cfg.model.data_preprocessor, channels, kind)


def _fit_preprocessor(preprocessor: dict, channels: int, kind: np.dtype) -> None:
    unit = 257.0 if kind == np.uint16 else 1.0
    given = tuple(list(preprocessor.get(key) or ()) for key in ('mean', 'std'))
    if given != _IMAGENET or (channels == 3 and unit == 1):
        return
    for key, values in zip(('mean', 'std'), given, strict=True):
        values = values if channels == 3 else [round(sum(values) / 3, 3)]
        preprocessor[key] = [value * unit for value in values]
    if channels != 3:
        preprocessor['bgr_to_rgb'] = False


def _how_read(cfg: Config) -> str | None:
    """``color_type`` of the step that reads images; None where another one does."""
    loader = cfg.get('train_dataloader') or cfg.get('test_dataloader') or {}
    for step in _steps((loader.get('dataset') or {}).get('pipeline')):
        if str(step.get('type')).rpartition('.')[2] in ('LoadImageFromFile', 'LoadReducedImage'):
            return step.get('color_type', 'color')
    return None


def _steps(pipeline: Any) -> Iterator[dict]:
    yield from (step for step in pipeline or () if isinstance(step, dict))


def _takes_channels(backbone: dict) -> bool:
    from mmsemi.registry import MODELS

    kind = backbone.get('type')
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and any(
        'in_channels' in inspect.signature(cls.__init__).parameters for cls in kind.__mro__ if '__init__' in vars(cls)
    )


def _first_image(cfg: Config) -> tuple[int, np.dtype] | None:
    """Channels and type of the first image of the data set; None where there is none to look at, which others tell."""
    from mmsemi.datasets.pool import Pool

    loader = cfg.get('train_dataloader') or cfg.get('test_dataloader')
    dataset = loader['dataset'].get('dataset', loader['dataset'])
    try:
        path = Pool(dataset).items[0]['img_path']
        image = mmcv.imfrombytes(Path(path).read_bytes(), flag='unchanged', backend='cv2')
    except Exception:
        return None
    return None if image is None else (1 if image.ndim == 2 else image.shape[2], image.dtype)
