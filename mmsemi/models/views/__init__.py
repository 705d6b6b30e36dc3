from .cutmix import CutMix
from .strong import StrongView

__all__ = ['CutMix', 'StrongView']
