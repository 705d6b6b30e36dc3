"""Mixed precision that needs no scaled gradients, on any device."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from mmsemi.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """The networks of a step compute in bfloat16, by torch's autocast; parameters and their updates stay in float32.

    bfloat16 has float32's range, so that gradients need no scaling, and no step has to look at them. mmengine's
    ``AmpOptimWrapper`` scales them whatever the type, and takes no CPU; for float16, which does need it, that is the
    one.

    On a CPU depthwise convolutions stay in float32 too: oneDNN's backward pass of those takes, in bfloat16, several
    times as long as that of float32.

    Args:
        **kwargs: Those of mmengine's ``OptimWrapper``.
    """

    # Whose depthwise convolutions have been seen to: a step need not go through all modules again.
    _ready: nn.Module | None = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Within it a step runs its forward pass."""
        device = next(model.parameters()).device.type
        if device == 'cpu' and self._ready is not model:
            keep_depthwise_in_float32(model)
            self._ready = model
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


def keep_depthwise_in_float32(model: nn.Module) -> None:
    """Let a CPU's autocast pass over the depthwise convolutions of a model, once and for all."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels and 'forward' not in vars(module):
            module.forward = MethodType(_forward_in_float32, module)


def _forward_in_float32(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    forward = type(convolution).forward
    if not torch.is_autocast_enabled('cpu'):
        return forward(convolution, x)
    with torch.autocast('cpu', enabled=False):
        return forward(convolution, x.float())


def has_bfloat16(device: str) -> bool:
    """Whether a device, 'cpu' or 'cuda', computes in bfloat16 itself; GPUs do from Ampere on."""
    return device == 'cpu' or torch.cuda.is_bf16_supported(including_emulation=False)


def takes_fused(optimizer: type | None) -> bool:
    """Whether an optimizer can do its step in few kernels for all parameters (``fused=True``), as some of torch can."""
    return inspect.isclass(optimizer) and 'fused' in inspect.signature(optimizer).parameters
