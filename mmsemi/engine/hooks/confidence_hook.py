"""The confidence of classes moves after the step that observed the predictions."""

from __future__ import annotations

from mmsemi.models.state import ClassConfidence
from mmsemi.registry import HOOKS

from .commit_hook import CommitHook


@HOOKS.register_module()
class ConfidenceHook(CommitHook):
    """Commit what the forward pass observed: reduced over ranks, folded into every confidence bank of the model.

    Raises:
        ValueError: Before training, if the model keeps none.
    """

    kind = ClassConfidence
    name = 'a confidence bank'
