from .branch import Branch, BranchOutput
from .data_preprocessor import SemiDataPreprocessor
from .heads import (
    CorrelationHead,
    DeepLabV2Head,
    DeepLabV3PlusHead,
    PatchClassifier,
    PlainDPTHead,
    ProjectionHead,
    UNetEncoder,
    UNetHead,
)
from .losses.dice import PixelDiceLoss
from .losses.pixel import OhemCrossEntropyLoss, PixelCrossEntropyLoss
from .modules.label_graph import LabelGraph
from .patch_encoder_decoder import PatchEncoderDecoder
from .plugins import MPMC
from .segmentors import (
    AEL,
    DSSN,
    ESL,
    MLLC,
    U2PL,
    AugSeg,
    CorrMatch,
    FixMatch,
    MeanTeacher,
    PrevMatch,
    SemiSegmentor,
    Supervised,
    UniMatch,
    UniMatchV2,
)
from .views import BetaCutMix, CutMix, FixedAreaCutMix, RandomIntensity, StrongView

__all__ = [
    'AEL',
    'DSSN',
    'ESL',
    'MLLC',
    'MPMC',
    'U2PL',
    'AugSeg',
    'BetaCutMix',
    'Branch',
    'BranchOutput',
    'CorrMatch',
    'CorrelationHead',
    'CutMix',
    'DeepLabV2Head',
    'DeepLabV3PlusHead',
    'FixMatch',
    'FixedAreaCutMix',
    'LabelGraph',
    'MeanTeacher',
    'OhemCrossEntropyLoss',
    'PatchClassifier',
    'PatchEncoderDecoder',
    'PixelCrossEntropyLoss',
    'PixelDiceLoss',
    'PlainDPTHead',
    'PrevMatch',
    'ProjectionHead',
    'RandomIntensity',
    'SemiDataPreprocessor',
    'SemiSegmentor',
    'StrongView',
    'Supervised',
    'UNetEncoder',
    'UNetHead',
    'UniMatch',
    'UniMatchV2',
]
