from .cutmix import BetaCutMix, CutMix, FixedAreaCutMix
from .random_intensity import RandomIntensity
from .strong import StrongView

__all__ = ['BetaCutMix', 'CutMix', 'FixedAreaCutMix', 'RandomIntensity', 'StrongView']
