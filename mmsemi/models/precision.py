"""Arithmetic that half precision would spoil."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """The float32 version of a half-precision tensor; float32 and float64 pass unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def no_autocast(like: Tensor) -> torch.autocast | nullcontext:
    """Context in which operations on ``like``'s device keep the precision of their inputs."""
    # On the meta device, where nothing is computed, there is no autocast.
    return nullcontext() if like.device.type == 'meta' else torch.autocast(like.device.type, enabled=False)


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over the classes, (B, C, ...), in full precision."""
    return full_precision(logits).softmax(1)


def prediction_entropy(logits: Tensor) -> Tensor:
    """Entropy of the class probabilities of scores (B, C, ...), >= 0, in full precision, (B, ...)."""
    log_prob = full_precision(logits).log_softmax(1)
    return -(log_prob.exp() * log_prob).sum(1)
