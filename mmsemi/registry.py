"""Registries of mmsemi, children of mmseg's.

With ``default_scope = 'mmsemi'`` a config names components of mmsemi, mmseg and mmengine alike, without a prefix; those
of other packages by theirs (``mmpretrain.VisionTransformer``).
"""

from mmengine.registry import Registry
from mmseg import registry as mmseg


def _child(parent: Registry, *locations: str) -> Registry:
    # A registry imports its own locations when it is asked, not its parent's.
    return Registry(parent.name, parent=parent, scope='mmsemi', locations=[*locations, *parent._locations])


DATASETS = _child(mmseg.DATASETS, 'mmsemi.datasets')
DATA_SAMPLERS = _child(mmseg.DATA_SAMPLERS, 'mmsemi.datasets')
TRANSFORMS = _child(mmseg.TRANSFORMS, 'mmsemi.datasets')
MODELS = _child(mmseg.MODELS, 'mmsemi.models')
HOOKS = _child(mmseg.HOOKS, 'mmsemi.engine')
LOOPS = _child(mmseg.LOOPS, 'mmsemi.engine')
METRICS = _child(mmseg.METRICS, 'mmsemi.engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(mmseg.OPTIM_WRAPPER_CONSTRUCTORS, 'mmsemi.engine')
OPTIM_WRAPPERS = _child(mmseg.OPTIM_WRAPPERS, 'mmsemi.engine')

# Nothing of ours is in these; they let the scope 'mmsemi' find mmseg's parts.
EVALUATOR = _child(mmseg.EVALUATOR)
INFERENCERS = _child(mmseg.INFERENCERS)
LOG_PROCESSORS = _child(mmseg.LOG_PROCESSORS)
MODEL_WRAPPERS = _child(mmseg.MODEL_WRAPPERS)
OPTIMIZERS = _child(mmseg.OPTIMIZERS)
PARAM_SCHEDULERS = _child(mmseg.PARAM_SCHEDULERS)
RUNNERS = _child(mmseg.RUNNERS)
RUNNER_CONSTRUCTORS = _child(mmseg.RUNNER_CONSTRUCTORS)
TASK_UTILS = _child(mmseg.TASK_UTILS)
VISBACKENDS = _child(mmseg.VISBACKENDS)
VISUALIZERS = _child(mmseg.VISUALIZERS)
WEIGHT_INITIALIZERS = _child(mmseg.WEIGHT_INITIALIZERS)
