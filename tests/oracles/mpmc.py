"""MPMC's equations as loops over patches, classes and pixels."""

import math

import torch


def patch_targets(labels, num_classes, fields, size):
    """Section 3.3: the classes in each location's receptive field; ``fields``: (jump, first, last) of each axis."""
    batch, height, width = labels.shape
    targets = torch.zeros(batch, num_classes, *size, dtype=torch.bool)
    for b in range(batch):
        for i in range(size[0]):
            for j in range(size[1]):
                for y in range(height):
                    for x in range(width):
                        inside = all(
                            jump * place + first - 1 < pixel < jump * place + last + 1
                            for (jump, first, last), place, pixel in zip(fields, (i, j), (y, x), strict=True)
                        )
                        if inside and labels[b, y, x] != 255:
                            targets[b, labels[b, y, x], i, j] = True
    return targets


def asymmetric(logits, target, gamma_pos, gamma_neg):
    """Eq. 3 with its minus sign, for the classes of one patch, (C,)."""
    total = 0.0
    for x, present in zip(logits, target, strict=True):
        q = 1 / (1 + torch.exp(-x))
        total -= (1 - q) ** gamma_pos * torch.log(q) if present else q**gamma_neg * torch.log(1 - q)
    return total / len(logits)


def labeled_loss(logits, labels, fields, gamma_pos, gamma_neg):
    """Eq. 4 as a mean over the patches that show a labeled pixel."""
    batch, classes, height, width = logits.shape
    targets = patch_targets(labels, classes, fields, (height, width))
    terms = [
        asymmetric(logits[b, :, i, j], targets[b, :, i, j], gamma_pos, gamma_neg)
        for b in range(batch)
        for i in range(height)
        for j in range(width)
        if targets[b, :, i, j].any()
    ]
    return sum(terms) / len(terms)


def confidence(logits):
    """gamma of section 3.3 for one patch, (C,), of the scores themselves."""
    return logits.exp() / logits.exp().sum()


def pixel_weight(label, logits, fields):
    """lambda_s: gamma_c of the patch whose middle is nearest, (H, W), for one image."""
    weight = torch.zeros(label.shape, dtype=logits.dtype)
    for y in range(label.shape[0]):
        for x in range(label.shape[1]):
            place = []
            for (jump, first, last), pixel, count in zip(fields, (y, x), logits.shape[1:], strict=True):
                distance = [abs(pixel - (first + last) / 2 - jump * k) for k in range(count)]
                place.append(distance.index(min(distance)))
            weight[y, x] = confidence(logits[:, place[0], place[1]])[label[y, x]]
    return weight


def unlabeled_loss(teacher, student, counted):
    """Eq. 6 as a mean over the ``counted`` patches: teacher's and student's scores (B, C, h, w) of the same patches."""
    terms = []
    for b, i, j in counted.nonzero().tolist():
        q, weight, total = teacher[b, :, i, j].sigmoid(), confidence(teacher[b, :, i, j]), 0.0
        for c in range(teacher.shape[1]):
            own = student[b, c, i, j].sigmoid()
            total -= weight[c] * (q[c] * math.log(own) + (1 - q[c]) * math.log(1 - own))
        terms.append(total / teacher.shape[1])
    return sum(terms) / len(terms)
