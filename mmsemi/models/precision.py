"""Arithmetic that half precision would spoil."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """The float32 version of a half-precision tensor; float32 and float64 pass unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(like: Tensor) -> torch.autocast:
    """Context in which operations on ``like``'s device keep the precision of their inputs."""
    # The meta device has no autocast; what stands in for it (engine/step_memory.py) goes by the CPU's.
    kind = like.device.type
    return torch.autocast('cpu' if kind == 'meta' else kind, enabled=False)


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over the classes, (B, C, ...), in full precision."""
    return full_precision(logits).softmax(1)


def prediction_entropy(logits: Tensor) -> Tensor:
    """Entropy of the class probabilities of scores (B, C, ...), >= 0, in full precision, (B, ...)."""
    log_prob = full_precision(logits).log_softmax(1)
    return -(log_prob.exp() * log_prob).sum(1)
