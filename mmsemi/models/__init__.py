from .branch import Branch, BranchOutput
from .data_preprocessor import SemiDataPreprocessor
from .heads import DeepLabV2Head, DeepLabV3PlusHead, ProjectionHead
from .losses.pixel import OhemCrossEntropyLoss, PixelCrossEntropyLoss
from .modules.label_graph import LabelGraph
from .segmentors import MLLC, FixMatch, MeanTeacher, SemiSegmentor, Supervised, UniMatch
from .views import CutMix, StrongView

__all__ = [
    'MLLC',
    'Branch',
    'BranchOutput',
    'CutMix',
    'DeepLabV2Head',
    'DeepLabV3PlusHead',
    'FixMatch',
    'LabelGraph',
    'MeanTeacher',
    'OhemCrossEntropyLoss',
    'PixelCrossEntropyLoss',
    'ProjectionHead',
    'SemiDataPreprocessor',
    'SemiSegmentor',
    'StrongView',
    'Supervised',
    'UniMatch',
]
