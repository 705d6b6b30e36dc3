from .corrmatch import CorrMatch
from .dssn import DSSN
from .esl import ESL
from .fixmatch import FixMatch, MeanTeacher
from .mllc import MLLC
from .semi_segmentor import SemiSegmentor, Supervised
from .unimatch import UniMatch

__all__ = ['CorrMatch', 'DSSN', 'ESL', 'FixMatch', 'MLLC', 'MeanTeacher', 'SemiSegmentor', 'Supervised', 'UniMatch']
