from .fixmatch import FixMatch, MeanTeacher
from .mllc import MLLC
from .semi_segmentor import SemiSegmentor, Supervised
from .unimatch import UniMatch

__all__ = ['FixMatch', 'MLLC', 'MeanTeacher', 'SemiSegmentor', 'Supervised', 'UniMatch']
