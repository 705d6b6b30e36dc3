"""The supervised baseline that any method is compared with, derived from the method's config."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from mmsemi.engine.hooks.commit_hook import CommitHook
from mmsemi.engine.hooks.ema_teacher_hook import EMATeacherHook
from mmsemi.registry import HOOKS

_OF_THE_BASE = ('student', 'data_preprocessor', 'init_cfg')
"""Keys of a method's model that are none of the method's."""


def make_baseline(cfg: Config) -> None:
    """Turn a method's config into its baseline's: the labeled images alone, and everything else that is comparable.

    The baseline has the method's network, crop, views of labeled images, loss, schedule and iterations. It has no
    plugin, no auxiliary heads of the method, no teacher and no other state, and no weight on its loss (UniMatch and
    others halve theirs). Its best checkpoint is the student's.

    Args:
        cfg (Config): Changed in place.
    """
    model = {key: cfg.model[key] for key in _OF_THE_BASE if key in cfg.model}
    model['data_preprocessor'].update(strong=None, num_strong=0, cutmix=None)
    cfg.model = {'type': 'Supervised', **model}
    _learn_from_labels_alone(cfg)
    hooks = cfg.get('default_hooks', {})
    for name in [name for name, hook in hooks.items() if _is_the_methods(hook)]:
        del hooks[name]
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if not _is_the_methods(hook)]
    if (hooks.get('checkpoint') or {}).get('save_best'):
        hooks.checkpoint.save_best = _of_the_student(hooks.checkpoint.save_best)


def _learn_from_labels_alone(cfg: Config) -> None:
    loader = cfg.train_dataloader
    labeled, unlabeled = loader.sampler.get('labeled', 0), loader.sampler.get('unlabeled', 0)
    if not unlabeled:
        return
    loader.sampler.unlabeled, loader.batch_size = 0, labeled
    if labeled != unlabeled:
        # As many iterations as the method has.
        loader.sampler.pace = unlabeled
    scaling = cfg.get('auto_scale_lr') or {}
    if scaling.get('base_batch_size'):
        # The method's rate is meant for its labeled and unlabeled images; the same rate is the baseline's.
        base = scaling.base_batch_size * labeled / (labeled + unlabeled)
        scaling.base_batch_size = int(base) if base == int(base) else base


def _is_the_methods(hook: dict | None) -> bool:
    kind = HOOKS.get(hook['type']) if hook and isinstance(hook.get('type'), str) else (hook or {}).get('type')
    return isinstance(kind, type) and issubclass(kind, (EMATeacherHook, CommitHook))


def _of_the_student(metric: Any) -> Any:
    if isinstance(metric, str):
        return metric.replace('teacher/', 'student/')
    return [_of_the_student(each) for each in metric] if isinstance(metric, (list, tuple)) else metric
