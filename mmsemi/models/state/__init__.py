"""What a run remembers from step to step, all of it in buffers."""

from .class_confidence import ClassConfidence
from .dynamic_threshold import THRESHOLD_UPDATES, DynamicThreshold
from .memory import ClassQueues, FeatureQueues, Prototypes
from .parts import PartPrototypes, masked_average_pooling
from .step_state import StepState

__all__ = [
    'THRESHOLD_UPDATES',
    'ClassConfidence',
    'ClassQueues',
    'DynamicThreshold',
    'FeatureQueues',
    'PartPrototypes',
    'Prototypes',
    'StepState',
    'masked_average_pooling',
]
