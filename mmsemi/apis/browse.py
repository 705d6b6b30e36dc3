"""What a training step sees, as a picture: ``mmsemi browse``."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, set_random_seed
from torch.utils.data import DataLoader

from mmsemi.datasets.classes import palette
from mmsemi.engine import checkpoints
from mmsemi.engine.hooks.pseudo_label_hook import normalisation, takes_bgr
from mmsemi.models.segmentors.semi_segmentor import SemiSegmentor
from mmsemi.registry import MODELS
from mmsemi.structures import Seen
from mmsemi.utils import register_all_modules
from mmsemi.visualization.panels import draw_step

from .launch import UsageError, quiet


def browse(cfg: Config, checkpoint: str | None = None, out: str = 'browse.png', images: int = 4, seed: int = 0) -> Path:
    """Take one batch through one step of a method, without learning, and draw what it saw.

    Args:
        cfg (Config): As :func:`mmsemi.apis.launch.load_config` reads it.
        checkpoint (str, optional): Of the same method; or a plain mmseg one, for both branches. Defaults to an
            untrained network, which shows the views alone.
        out (str): PNG file to write; a name without suffix is a folder. Defaults to 'browse.png'.
        images (int): Unlabeled images to draw at most. Defaults to 4.
        seed (int): Draws another batch and other views. Defaults to 0.

    Returns:
        Path: The file.

    Raises:
        UsageError: If there is no such checkpoint, or it does not fit.
    """
    if images < 1:
        raise UsageError(f'--images must be 1 or more, not {images}.')
    path = Path(out)
    path = path if path.suffix.lower() == '.png' else path / 'browse.png'
    with quiet():
        register_all_modules(init_default_scope=False)
        from .images import fit_images
    fit_images(cfg)
    with DefaultScope.overwrite_default_scope('mmsemi'):
        model = _model(cfg, checkpoint)
        loader = _loader(cfg, seed)
    seen = watch_step(model, next(iter(loader)), seed)
    meta, preprocessor = loader.dataset.metainfo, model.data_preprocessor
    colors = meta.get('palette') or palette(len(meta['classes']))
    draw_step(seen, *normalisation(preprocessor), meta['classes'], colors, path, images, takes_bgr(preprocessor))
    trained = f'with {checkpoint}' if checkpoint else 'with an untrained network'
    print(f'drew a batch of {cfg.model.type} {trained}: {path}')
    return path


@torch.no_grad()
def watch_step(model: SemiSegmentor, batch: dict, seed: int = 0) -> Seen:
    """What a method sees of a batch, as the data loader gives it; nothing is learned."""
    set_random_seed(seed)
    model.train()
    model.watching = True
    try:
        model.loss(**model.data_preprocessor(batch, training=True))
        return model.seen
    finally:
        model.watching, model.seen = False, None


def _model(cfg: Config, checkpoint: str | None) -> SemiSegmentor:
    model = MODELS.build(cfg.model)
    if checkpoint is None:
        model.init_weights()
        return model
    if not Path(checkpoint).is_file():
        raise UsageError(f'The checkpoint {checkpoint} does not exist.')
    content = checkpoints.read(checkpoint)
    missing = model.load_state_dict(content.get('state_dict', content), strict=False).missing_keys
    absent = [key for key in missing if key.startswith('student.segmentor.')]
    if absent:
        raise UsageError(
            f'{checkpoint} is of another network than {cfg.model.type} of this config: it lacks {absent[0]}.'
        )
    return model


def _loader(cfg: Config, seed: int) -> DataLoader:
    """The training's data, with the ground truth of unlabeled images where it can be found."""
    config = cfg.train_dataloader
    config.update(num_workers=0, persistent_workers=False)
    if config.dataset.get('unlabeled', 'rest') == 'rest':
        with_truth = config.copy()
        with_truth.dataset = dict(config.dataset, unlabeled_gt=True)
        try:
            return _built(with_truth, seed)
        except (FileNotFoundError, ValueError):
            pass  # they have no masks
    return _built(config, seed)


def _built(config: Config, seed: int) -> DataLoader:
    loader = Runner.build_dataloader(config, seed=seed)
    loader.dataset.full_init()
    return loader
