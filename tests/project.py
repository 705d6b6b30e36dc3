"""The project's own files, apart from what a user puts beside them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]


def project_files(pattern: str) -> list[Path]:
    """Files of the project that match ``pattern``, a glob below its root, in order.

    In a clone these are the files that git knows; without git whatever is there.
    """
    found = sorted(ROOT.glob(pattern))
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        return found
    known = {ROOT / name for name in listed.stdout.split('\0') if name}
    return [path for path in found if path in known]


def without_weights(cfg: Config) -> Config:
    """A config that starts from random weights: nothing is fetched. Skips where a network of timm has no timm."""
    cfg.load_from = None
    cfg.model.student.pretrained = None
    backbone = cfg.model.student.backbone
    if 'TIMMBackbone' in backbone.type:
        pytest.importorskip('timm', reason="needs timm: pip install 'mmsemi[timm]'")
        backbone.pretrained = False
    return cfg
