from .branch import Branch, BranchOutput
from .data_preprocessor import SemiDataPreprocessor
from .heads import CorrelationHead, DeepLabV2Head, DeepLabV3PlusHead, ProjectionHead
from .losses.pixel import OhemCrossEntropyLoss, PixelCrossEntropyLoss
from .modules.label_graph import LabelGraph
from .segmentors import DSSN, ESL, MLLC, CorrMatch, FixMatch, MeanTeacher, SemiSegmentor, Supervised, UniMatch
from .views import CutMix, StrongView

__all__ = [
    'DSSN',
    'ESL',
    'MLLC',
    'Branch',
    'BranchOutput',
    'CorrMatch',
    'CorrelationHead',
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
