"""A real method whose networks hand out a case's logits."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from mmsemi.models.losses.pixel import OhemCrossEntropyLoss
from mmsemi.structures import Mix, Streams
from tests import tiny
from tests.golden.cases import output


def build(method: str, num_classes: int, loss_decode: dict | None = None, **settings) -> nn.Module:
    """A method over a tiny network that scores ``num_classes`` classes; the network only holds its settings."""
    student = tiny.segmentor()
    student['decode_head'].update(
        num_classes=num_classes, loss_decode=loss_decode or dict(type='PixelCrossEntropyLoss')
    )
    return tiny.build(method, student=student, **settings)


def ohem(case: dict[str, Any], labels: Tensor) -> dict:
    """Config of OHEM as a case has it: the released code counts pixels, where ours takes a share of them."""
    least = case['min_kept']
    if isinstance(inspect.signature(OhemCrossEntropyLoss).parameters['min_kept'].default, float):
        least = min(1.0, least / labels.numel())
    return dict(type='OhemCrossEntropyLoss', threshold=case['thresh'], min_kept=least)


def streams(valid: Tensor, boxes: tuple[Mix, ...] = (), labels: Tensor | None = None) -> Streams:
    """A batch without images: padding of the unlabeled ones, boxes of the strong views, labels."""
    nothing = torch.zeros(len(valid), 3, *valid.shape[1:])
    boxes = boxes or (Mix(torch.zeros_like(valid)),)
    return Streams(nothing, labels, nothing, (nothing,) * len(boxes), valid, boxes)


def step(
    model: nn.Module, batch: Streams, views: dict[str, list], guides: dict[str, list] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a step minimises, and its losses by name; ``views`` are the student's, ``guides`` the teacher's."""
    views, guides = ({name: output(logits) for name, logits in each.items()} for each in (views, guides or {}))
    model.student_views = lambda _: views
    model.guide_views = lambda _: guides
    losses = model.loss(batch)
    return model.parse_losses(losses)[0], losses
