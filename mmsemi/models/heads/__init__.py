from .correlation_head import CorrelationHead
from .deeplabv2_head import DeepLabV2Head
from .deeplabv3plus_head import DeepLabV3PlusHead
from .dpt_head import PlainDPTHead
from .patch_classifier import PatchClassifier
from .projection_head import ProjectionHead
from .unet import UNetEncoder, UNetHead

__all__ = [
    'CorrelationHead',
    'DeepLabV2Head',
    'DeepLabV3PlusHead',
    'PatchClassifier',
    'PlainDPTHead',
    'ProjectionHead',
    'UNetEncoder',
    'UNetHead',
]
