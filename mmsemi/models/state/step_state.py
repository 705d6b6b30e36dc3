"""State that a step reads and the end of the step moves."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn


class StepState(nn.Module):
    """State that outlives a step, in buffers.

    The forward pass only observes. ``commit``, which a hook calls after the optimizer's step, reduces what was observed
    over the ranks and folds it in: all losses of a step see one state, and ranks hold the state of one process with all
    their batches. So do passes whose gradients are accumulated to one step: the hook calls ``end_pass`` between them.
    """

    def end_pass(self) -> None:
        """What is observed from now on is of another pass of the same optimizer step; sums need not know."""

    @abstractmethod
    def commit(self) -> None:
        """Fold in what was observed since the last call; nothing observed changes nothing."""
