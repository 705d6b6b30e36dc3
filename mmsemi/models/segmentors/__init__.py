from .fixmatch import FixMatch, MeanTeacher
from .mllc import MLLC
from .semi_segmentor import SemiSegmentor, Supervised

__all__ = ['FixMatch', 'MLLC', 'MeanTeacher', 'SemiSegmentor', 'Supervised']
