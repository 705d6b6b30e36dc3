"""Registries of mmsemi, children of mmseg's.

With ``default_scope = 'mmsemi'`` a config names components of mmsemi, mmseg and mmengine alike, without a prefix; those of other
packages by theirs (``mmpretrain.VisionTransformer``).
"""

from mmengine.registry import (
    DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS,
    LOOPS as MMENGINE_LOOPS,
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    Registry,
)
from mmseg.registry import (
    DATASETS as MMSEG_DATASETS,
    HOOKS as MMSEG_HOOKS,
    MODELS as MMSEG_MODELS,
    TRANSFORMS as MMSEG_TRANSFORMS,
)

DATASETS = Registry('dataset', parent=MMSEG_DATASETS, scope='mmsemi', locations=['mmsemi.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='mmsemi', locations=['mmsemi.datasets'])
TRANSFORMS = Registry('transform', parent=MMSEG_TRANSFORMS, scope='mmsemi', locations=['mmsemi.datasets'])
MODELS = Registry('model', parent=MMSEG_MODELS, scope='mmsemi', locations=['mmsemi.models'])
HOOKS = Registry('hook', parent=MMSEG_HOOKS, scope='mmsemi', locations=['mmsemi.engine'])
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope='mmsemi', locations=['mmsemi.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmsemi',
    locations=['mmsemi.engine'],
)
