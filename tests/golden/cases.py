"""Golden data: inputs, and what the authors' released code gives for them.

Each file is one JSON object with a list ``cases``; a case has a ``name``, inputs, ``expected`` and maybe a ``kind``.
``data/`` holds what the project keeps; the environment variable ``MMSEMI_GOLDEN`` names another folder with the same
files and other cases. Where the numbers come from: ``data/README.md``.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmsemi.models.branch import BranchOutput
from mmsemi.structures import Mix

DATA = Path(__file__).parent / 'data'
FOLDER = Path(os.environ.get('MMSEMI_GOLDEN') or DATA)

READERS: dict[str, dict[str | None, str]] = {
    'aelosses': dict.fromkeys(('consistency', 'sampled_consistency', 'bank'), 'test_ael'),
    'augseg': dict.fromkeys(('image_confidence', 'adaptive_boxes', 'unsup_loss'), 'test_augseg'),
    'corrmatch_losses': {None: 'test_corrmatch'},
    'corrmatch_regions': {None: 'test_corrmatch'},
    'corrmatch_threshold': {None: 'test_corrmatch'},
    'cutmix_area': {None: 'test_cutmix'},
    'dssn_contrast': {None: 'test_dssn'},
    'dssn_cplg': {None: 'test_dssn'},
    'dssn_total': {None: 'test_dssn'},
    'ohem': {None: 'test_ohem'},
    'u2pl_unsup': {None: 'test_u2pl'},
    'unimatch_loss': {None: 'test_unimatch'},
    'unimatch_v2': dict.fromkeys(('loss', 'dropout_mask', 'dropout_law'), 'test_unimatch_v2'),
}
"""Who reads a file: the test module of each ``kind`` of its cases (None: the cases have no kind)."""

RELATIVE, ABSOLUTE = 1e-4, 1e-6
"""How closely a loss must agree: one of the two."""


@cache
def load(file: str) -> list[dict[str, Any]]:
    """All cases of a file, named without its suffix; none where the folder does not have it."""
    path = FOLDER / f'{file}.json'
    return json.loads(path.read_text(encoding='utf-8'))['cases'] if path.is_file() else []


def cases(file: str, kind: str | None = None) -> pytest.MarkDecorator:
    """Run a test for each case of a file, or for those of one kind; the test's argument is ``case``."""
    chosen = [case for case in load(file) if case.get('kind') == kind]
    return pytest.mark.parametrize('case', [pytest.param(case, id=case['name']) for case in chosen])


def close(value: Tensor | float, expected: float) -> bool:
    """Whether a number agrees with the released one."""
    return torch.isclose(torch.tensor(float(value)), torch.tensor(float(expected)), rtol=RELATIVE, atol=ABSOLUTE).item()


def tensor(values: list) -> Tensor:
    """Logits and other real numbers, float32."""
    return torch.tensor(values, dtype=torch.float32)


def labels(values: list) -> Tensor:
    """Class maps, long; 255 means ignored."""
    return torch.tensor(values, dtype=torch.long)


def mask(values: list) -> Tensor:
    """A map of 0 and 1, bool."""
    return torch.tensor(values) == 1


def valid(values: list) -> Tensor:
    """A map of 0 and 255, True where it is 0: no padding."""
    return torch.tensor(values) != 255


def mix(values: list) -> Mix:
    """A CutMix box; the partner is the other image of the two."""
    return Mix(mask(values))


def output(logits: Tensor | list) -> BranchOutput:
    """What a branch would hand out whose scores, at full resolution, are ``logits`` (B, C, H, W)."""
    logits = logits if isinstance(logits, Tensor) else tensor(logits)
    return BranchOutput((), logits, tuple(logits.shape[2:]))
