"""Prototypes move after the step that observed them."""

from __future__ import annotations

from mmsemi.models.memory import Prototypes
from mmsemi.registry import HOOKS

from .commit_hook import CommitHook


@HOOKS.register_module()
class PrototypeHook(CommitHook):
    """Commit what the forward pass observed: reduced over ranks, folded into every prototype of the model.

    Raises:
        ValueError: Before training, if the model keeps no prototypes.
    """

    kind = Prototypes
    name = 'prototypes'
