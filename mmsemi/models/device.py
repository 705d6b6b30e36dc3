"""The way of what the host made to the device."""

from __future__ import annotations

import torch
from torch import Tensor


def send(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on ``device``; to a GPU from pinned memory, so that the host does not wait for it."""
    if x.is_cpu and device.type == 'cuda':
        x = x.pin_memory()
    return x.to(device, non_blocking=True)
