"""What ranks agree on at the end of a step, without waiting for each other."""

from __future__ import annotations

from collections import deque

import torch
from mmengine.dist import get_world_size
from torch import Tensor, distributed


class Agreement:
    """The highest of all ranks' numbers, one step late.

    Each step starts a reduction of one number and looks at the one before, which has ended while the step was
    computed: on a CPU nothing waits, on a GPU the host waits for the step before at most.

    Args:
        device (torch.device): Where the group reduces.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._alone = get_world_size() == 1
        self._pending: deque[tuple[Tensor, distributed.Work]] = deque()

    def exchange(self, number: int) -> int:
        """Tell ``number``, and return what is agreed on: the same on all ranks."""
        if self._alone:
            return number
        told = torch.full((), number, dtype=torch.int32, device=self.device)
        self._pending.append((told, distributed.all_reduce(told, distributed.ReduceOp.MAX, async_op=True)))
        return self._take() if len(self._pending) > 1 else 0

    def _take(self) -> int:
        told, work = self._pending.popleft()
        work.wait()
        return int(told)

    def close(self) -> None:
        """Wait for what is under way."""
        while self._pending:
            self._take()
