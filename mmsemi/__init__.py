"""Semi-supervised semantic segmentation on the OpenMMLab stack."""

import warnings

import mmcv
import mmengine
import mmseg
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import digit_version

from .version import __version__

# Both lines of the stack are admitted: the maintained ``onedl-*`` distributions and the originals share these import
# names.
_WINDOWS = {
    mmengine: ('mmengine', '0.10.4', '1.0.0'),
    mmcv: ('mmcv', '2.1.0', '3.0.0'),
    mmseg: ('mmsegmentation', '1.2.2', '2.0.0'),
}

for _module, (_name, _lowest, _below) in _WINDOWS.items():
    if not digit_version(_lowest) <= digit_version(_module.__version__) < digit_version(_below):
        raise ImportError(
            f'mmsemi {__version__} needs {_name} >= {_lowest}, < {_below}, but {_module.__version__} is installed in '
            f'{_module.__path__[0]}; install a version from that window, for example with pip install "onedl-{_name}".'
        )

# mmengine then finds configs that are named 'mmsemi::mllc/mllc_r101_voc.py', in `_base_` and in
# `mmengine.hub.get_config`.
MODULE2PACKAGE.setdefault('mmsemi', 'mmsemi')
# mmcv without compiled operators says so at every import; nothing here uses them.
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')

__all__ = ['__version__']
