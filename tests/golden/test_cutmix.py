"""The boxes' laws against those of the authors' released code."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmsemi.models import BetaCutMix, CutMix, FixedAreaCutMix
from mmsemi.models.views.cutmix import BoxMix
from tests.golden.cases import cases

ROUNDS, BATCH = 500, 100
SHARED = 8
"""Images that share a draw of AugSeg's, which the file's means count as one in the worst case."""


def law(case: dict) -> BoxMix:
    """Ours with the settings of the method, for the law of one image's box."""
    source = case['source']
    if source.startswith('augseg'):
        return BetaCutMix(beta=case['beta'], prob=1.0, shared=False)
    if source in ('u2pl', 'ael'):
        return FixedAreaCutMix(sides={'u2pl': 'width', 'ael': 'logarithm'}[source], prob=1.0)
    assert source in ('unimatch', 'corrmatch', 'dssn')
    return CutMix(prob=1.0)


def measures(boxes: Tensor, size: int) -> dict[str, Tensor]:
    """What the file tells of boxes (n, 4), none of which is empty."""
    top, bottom, left, right = boxes.double().unbind(1)
    height, width = bottom - top, right - left
    return dict(
        area_share=height * width / size**2,
        height_share=height / size,
        width_share=width / size,
        aspect_height_over_width=height / width,
        log_aspect=(height / width).log(),
        centre_row_share=(top + bottom) / 2 / size,
        centre_column_share=(left + right) / 2 / size,
    )


@cases('cutmix_area')
def test_boxes_follow_the_released_law(case):
    torch.manual_seed(0)
    mix, size, expected = law(case), case['size'], case['expected']
    boxes = torch.cat([mix.boxes(BATCH, size, size, 'cpu') for _ in range(ROUNDS)])
    assert boxes.min() >= 0 and boxes.max() <= size
    full = boxes[(boxes[:, 1] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 2])]
    # Three standard errors of the difference of two samples as large as the file's; ours is larger.
    independent = case['draws'] / (SHARED if case['source'].startswith('augseg') else 1)
    tolerance = 3 * math.sqrt(2 / independent)
    assert abs(1 - len(full) / len(boxes) - expected['empty_share']) <= tolerance
    for name, ours in measures(full, size).items():
        theirs = expected[name]
        assert abs(ours.mean() - theirs['mean']) <= tolerance * theirs['sd'], name
        for tenth, decile in enumerate(theirs['deciles'], 1):
            # Many boxes may have the very value, to the seven digits that the file has of it.
            near = 1e-6 * max(abs(decile), 1e-6)
            below, above = ((ours < decile + end).double().mean() for end in (-near, near))
            # Five of them: hundreds of deciles are compared.
            doubt = 5 / 3 * tolerance * math.sqrt(tenth / 10 * (1 - tenth / 10))
            assert below - doubt <= tenth / 10 <= above + doubt, (name, tenth)
