"""Mixed precision that needs no scaled gradients, on any device."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmsemi.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """The networks of a step compute in bfloat16, by torch's autocast; parameters and their updates stay in float32.

    bfloat16 has float32's range, so that gradients need no scaling, and no step has to look at them. mmengine's
    ``AmpOptimWrapper`` scales them whatever the type, and takes no CPU; for float16, which does need it, that is the
    one.

    Args:
        **kwargs: Those of mmengine's ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Within it a step runs its forward pass."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


def has_bfloat16(device: str) -> bool:
    """Whether a device, 'cpu' or 'cuda', computes in bfloat16 itself; GPUs do from Ampere on."""
    return device == 'cpu' or torch.cuda.is_bf16_supported(including_emulation=False)


def takes_fused(optimizer: type | None) -> bool:
    """Whether an optimizer can do its step in few kernels for all parameters (``fused=True``), as some of torch can."""
    return inspect.isclass(optimizer) and 'fused' in inspect.signature(optimizer).parameters
