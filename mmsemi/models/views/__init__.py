from .cutmix import BetaCutMix, CutMix
from .random_intensity import RandomIntensity
from .strong import StrongView

__all__ = ['BetaCutMix', 'CutMix', 'RandomIntensity', 'StrongView']
