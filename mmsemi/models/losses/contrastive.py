"""Contrast of pixel features within an image and with class prototypes: MLLC's loss on the semantic-level graph.

Both losses compute in float32 (float64 if given float64) whatever autocast says, and leave out nodes that ``valid``
marks False and nodes whose label is none of the classes (255 = ignore).

Source: Multi-Level Label Correction (MLLC), Xiao et al., 2024 (arXiv:2404.02065), eq. 12. The paper sums over pixels
and pairs; we take means, so that the losses' weights do not depend on the crop.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmsemi.models.precision import full_precision, no_autocast


def _counted(labels: Tensor, num_classes: int, valid: Tensor | None) -> Tensor:
    counted = (labels >= 0) & (labels < num_classes)
    return counted if valid is None else counted & valid


class _PairTerms(torch.autograd.Function):
    """|V^T V|^2 - 2 sum_c |sum_{i in c} v_i|^2 of each image, (B,), for V (B, n, D) and one-hot labels (B, n, C).

    Written out because |V^T V|^2 has the gradient 4 V (V^T V): one product, where autograd takes two.
    """

    @staticmethod
    def forward(ctx, features: Tensor, member: Tensor) -> Tensor:
        gram = features.transpose(1, 2) @ features
        class_sum = member.transpose(1, 2) @ features
        ctx.save_for_backward(features, member, gram, class_sum)
        return gram.square().sum((1, 2)) - 2 * class_sum.square().sum((1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        features, member, gram, class_sum = ctx.saved_tensors
        factor = 4 * grad[:, None, None]
        return (member @ (-factor * class_sum)).baddbmm_(features, factor * gram), None


def intra_image_contrast(features: Tensor, labels: Tensor, num_classes: int, valid: Tensor | None = None) -> Tensor:
    """Pull features of one class in an image to cosine 1, those of different classes to cosine 0 (eq. 12, first term).

    The mean over ordered pairs (i, j), i = j included, of (v_i . v_j - 1)^2 if the labels agree and (v_i . v_j)^2 if
    not, then over images. Computed as |V^T V|^2 - 2 sum_c |sum_{i in c} v_i|^2 + sum_c n_c^2: O(n D^2), exact.

    Args:
        features (Tensor): Features of length 1, (B, n, D).
        labels (Tensor): Class of each node, long, (B, n).
        num_classes (int): Number of classes C.
        valid (Tensor, optional): False at nodes that do not count, bool, (B, n).

    Returns:
        Tensor: Scalar, in [0, 1] where cosines are >= 0. Images without a node that counts add 0 to the mean.
    """
    with no_autocast(features):
        features = full_precision(features)
        counted = _counted(labels, num_classes, valid)
        member = (labels[..., None] == torch.arange(num_classes, device=labels.device)) & counted[..., None]
        member = member.to(features.dtype)
        count = member.sum(1)
        size = count.sum(-1).clamp_min(1)
        terms = _PairTerms.apply(features * counted[..., None], member)
        return ((terms + count.square().sum(-1)) / size.square()).mean()


def prototype_contrast(
    features: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    seen: Tensor,
    temperature: float = 0.1,
    valid: Tensor | None = None,
) -> Tensor:
    """Pull features to the prototype of their class and away from the others (eq. 12, second term).

    The mean over nodes of -log softmax(v_i . p / temperature)[y_i]. Classes without a prototype are in no denominator,
    and their nodes do not count.

    Args:
        features (Tensor): Features of length 1, (B, n, D).
        labels (Tensor): Class of each node, long, (B, n).
        prototypes (Tensor): Prototype of each class, (C, D).
        seen (Tensor): Whether the class has a prototype, bool, (C,).
        temperature (float): What similarities are divided by, > 0.
        valid (Tensor, optional): False at nodes that do not count, bool, (B, n).

    Returns:
        Tensor: Scalar, >= 0; 0 if no node counts.
    """
    with no_autocast(features):
        features, prototypes = full_precision(features), full_precision(prototypes)
        num_classes = prototypes.size(0)
        labels = torch.where(_counted(labels, num_classes, valid), labels, num_classes)
        # One more class that is never seen takes the nodes that do not count.
        counted = torch.cat((seen, seen.new_zeros(1)))[labels]
        similarity = features @ prototypes.to(features.dtype).t() / temperature
        own = similarity.gather(-1, labels.clamp_max(num_classes - 1)[..., None]).squeeze(-1)
        # Finite, not -inf: without any seen class logsumexp's gradient would pass through NaN.
        among_seen = similarity.masked_fill(~seen, torch.finfo(similarity.dtype).min).logsumexp(-1)
        loss = torch.where(counted, among_seen - own, 0.0)
        return loss.sum() / counted.sum().clamp_min(1)
