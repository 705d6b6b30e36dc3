"""What ``tools/test.py`` asks of a config beside its scores: files, and several views of each image."""

from __future__ import annotations

import copy

from mmengine.config import Config

from .errors import UsageError


def set_outputs(cfg: Config, show_dir: str | None, out: str | None) -> None:
    """Ask for painted images and for PNG files of class ids.

    Args:
        cfg (Config): Changed in place.
        show_dir (str, optional): Folder of the painted images.
        out (str, optional): Folder of the class ids.
    """
    if show_dir:
        cfg.default_hooks.visualization.update(draw=True, interval=1)
        cfg.visualizer.save_dir = show_dir
    if out:
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='SaveMasksHook', out=out)]


def set_tta(cfg: Config) -> None:
    """Predict with the views of ``tta_pipeline``: scales of what the test pipeline gives, and mirror images.

    Reading, resizing and loading masks are the test pipeline's, so that 1.0 is the scale that is tested without; a
    ``tta_pipeline`` that says something of its own there keeps it.

    Args:
        cfg (Config): Changed in place.

    Raises:
        UsageError: If the config has no ``tta_model`` or ``tta_pipeline``, or no ``TestTimeAug`` in this.
    """
    for key in ('tta_model', 'tta_pipeline'):
        if key not in cfg:
            raise UsageError(f'--tta needs the key {key}, which the config does not have.')
    pipeline = copy.deepcopy(list(cfg.tta_pipeline))
    views = next((number for number, step in enumerate(pipeline) if step.type == 'TestTimeAug'), None)
    if views is None:
        raise UsageError('--tta needs a TestTimeAug in tta_pipeline, which the config does not have.')
    load, *steps = list(cfg.test_dataloader.dataset.pipeline)[:-1]
    masks = [step for step in steps if 'Annotations' in str(step.type)]
    for group in pipeline[views].transforms:
        for number, step in enumerate(group):
            if masks and step == dict(type='LoadAnnotations'):
                group[number] = masks[0]
    if pipeline[0] == dict(type='LoadImageFromFile'):
        pipeline[0] = load
    if views == 1:
        pipeline[1:1] = [step for step in steps if step not in masks]
    cfg.test_dataloader.dataset.pipeline = pipeline
    cfg.model = dict(cfg.tta_model, module=cfg.model)
