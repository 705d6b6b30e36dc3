from .ael import AEL
from .augseg import AugSeg
from .corrmatch import CorrMatch
from .dssn import DSSN
from .esl import ESL
from .fixmatch import FixMatch, MeanTeacher
from .mllc import MLLC
from .prevmatch import PrevMatch
from .semi_segmentor import SemiSegmentor, Supervised
from .u2pl import U2PL
from .unimatch import UniMatch
from .unimatch_v2 import UniMatchV2

__all__ = [
    'AEL',
    'AugSeg',
    'CorrMatch',
    'DSSN',
    'ESL',
    'FixMatch',
    'MLLC',
    'MeanTeacher',
    'PrevMatch',
    'SemiSegmentor',
    'Supervised',
    'U2PL',
    'UniMatch',
    'UniMatchV2',
]
