"""Losses whose gradient is there with their value: what is computed on the way need not be kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmsemi.models.precision import full_precision, no_autocast


class _AtOnce(torch.autograd.Function):
    """``function(*inputs)``, a scalar; its gradients wait for the factor that the backward pass brings."""

    @staticmethod
    def forward(ctx, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        with torch.enable_grad():
            # In full precision: half a gradient would lose its small numbers before the factor is there.
            leaves = [
                full_precision(x.detach()).requires_grad_(wanted)
                for x, wanted in zip(inputs, ctx.needs_input_grad[1:], strict=True)
            ]
            value = function(*leaves)
        learning = [leaf for leaf in leaves if leaf.requires_grad]
        found = iter(torch.autograd.grad(value, learning, allow_unused=True) if value.requires_grad else ())
        ctx.save_for_backward(*(next(found, None) if leaf.requires_grad else None for leaf in leaves))
        ctx.types = [x.dtype for x in inputs]
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradients = zip(ctx.saved_tensors, ctx.types, strict=True)
        return None, *(None if x is None else (factor * x).to(dtype) for x, dtype in gradients)


def with_gradient_at_once(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function(*inputs)``, with the gradient computed now.

    Where inputs are small and what the function makes of them is large, as a loss of upsampled class scores is, the
    backward pass would need the large. Here nothing but the gradient of each input stays, and nothing is computed
    twice. Sums that travel between ranks do so once, in the forward pass. All is in full precision, whatever autocast
    says.

    Args:
        function (Callable): From tensors to a scalar; what else it reads gets no gradient.
        *inputs (Tensor): What learns.

    Returns:
        Tensor: The scalar.
    """
    with no_autocast(inputs[0]):
        learns = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
        if not learns or torch.compiler.is_compiling():  # a compiler decides itself what is kept
            return function(*map(full_precision, inputs))
        return _AtOnce.apply(function, *inputs)
