"""Multi-Level Label Correction (arXiv:2404.02065), its equations transcribed one by one: loops and dense matrices.

Names are the paper's symbols: X_S, X_C nodes of the semantic- and class-level graph, A_hat, A, W_hat, W affinities. All
functions take one graph. ``valid`` (n,) marks the nodes that exist; padding is given by leaving rows and columns 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _exists(valid: Tensor | None, i: int) -> bool:
    return valid is None or bool(valid[i])


def _matrix(entries: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row) for row in entries])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    if not (a.any() and b.any()):
        return (a * b).sum()
    return (a * b).sum() / (a.norm() * b.norm())


def neighbours(X_S: Tensor, i: int, k: float, valid: Tensor | None = None) -> list[int]:
    """NN_k of node i."""
    others = [j for j in range(len(X_S)) if j != i and _exists(valid, j)]
    others.sort(key=lambda j: -cosine(X_S[i], X_S[j]).item())
    return others if math.isinf(k) else others[: int(k)]


def eq4(X_S: Tensor, k: float, gamma: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """A_hat (n, n)."""
    n = len(X_S)
    A_hat = [[X_S.new_zeros(()) for _ in range(n)] for _ in range(n)]
    for i in range(n):
        if not _exists(valid, i):
            continue
        for j in neighbours(X_S, i, k, valid):
            c = cosine(X_S[i], X_S[j])
            if c > 0:
                A_hat[i][j] = c**gamma
    return _matrix(A_hat)


def eq5(A_hat: Tensor) -> Tensor:
    """A (n, n); rows and columns of nodes of degree 0 are 0."""
    n = len(A_hat)
    D = [sum(A_hat[i, j] + A_hat[j, i] for j in range(n)) for i in range(n)]
    A = [[A_hat.new_zeros(()) for _ in range(n)] for _ in range(n)]
    for i in range(n):
        for j in range(n):
            if D[i] > 0 and D[j] > 0:
                A[i][j] = (A_hat[i, j] + A_hat[j, i]) / (D[i] ** 0.5 * D[j] ** 0.5)
    return _matrix(A)


def eq6(X_C: Tensor, valid: Tensor | None = None) -> Tensor:
    """W_hat (n, n)."""
    n = len(X_C)
    W_hat = [[X_C.new_zeros(()) for _ in range(n)] for _ in range(n)]
    for i in range(n):
        for j in range(n):
            if i == j:
                W_hat[i][j] = X_C.new_ones(())
            elif _exists(valid, i) and _exists(valid, j) and X_C[i].argmax() == X_C[j].argmax():
                W_hat[i][j] = (X_C[i] * X_C[j]).sum()
    return _matrix(W_hat)


def eq7(W_hat: Tensor) -> Tensor:
    """W (n, n)."""
    n = len(W_hat)
    D_hat = [sum(W_hat[i, j] for j in range(n)) for i in range(n)]
    return _matrix([[W_hat[i, j] / (D_hat[i] ** 0.5 * D_hat[j] ** 0.5) for j in range(n)] for i in range(n)])


def f_C(x: Tensor, Ax: Tensor, mlp) -> Tensor:
    """The non-linear function of eq. 8 for one node, as LabelGraph chooses it."""
    s = (x + Ax) / (x + Ax).sum()
    z = torch.log(s) + mlp(torch.cat([x, Ax]))
    return z.exp() / z.exp().sum()


def f_S(x: Tensor, Wx: Tensor, mlp) -> Tensor:
    """The non-linear function of eq. 11 for one node, as LabelGraph chooses it."""
    z = x + Wx + mlp(torch.cat([x, Wx]))
    return z / z.norm()


def eq8_eq10(X_C: Tensor, A: Tensor, p: Tensor, eta: Tensor, alpha: float, mlp, valid: Tensor | None = None) -> Tensor:
    """V^(C, k) from X^(C, k-1); p is the original head's prediction."""
    V = []
    for i in range(len(X_C)):
        if not _exists(valid, i):
            V.append(X_C[i])
            continue
        V_hat = f_C(X_C[i], sum(A[i, j] * X_C[j] for j in range(len(X_C))), mlp)
        if p[i].max() >= eta[p[i].argmax()]:
            V.append(alpha * V_hat + (1 - alpha) * X_C[i])
        else:
            V.append((1 - alpha) * V_hat + alpha * X_C[i])
    return torch.stack(V)


def eq11(X_S: Tensor, W: Tensor, mlp, valid: Tensor | None = None) -> Tensor:
    """V^(S, k) from X^(S, k-1)."""
    V = []
    for i in range(len(X_S)):
        if not _exists(valid, i):
            V.append(X_S[i])
            continue
        V.append(f_S(X_S[i], sum(W[i, j] * X_S[j] for j in range(len(X_S))), mlp))
    return torch.stack(V)


def algorithm1(
    prob: Tensor,
    features: Tensor,
    eta: Tensor,
    label_mlps,
    feature_mlps,
    k: float,
    gamma: float,
    alpha: float,
    order: str,
    valid: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """X^(C, 0..K) and X^(S, 0..K); the order is one of table VI's."""
    X_C, X_S = [prob], [torch.stack([v / v.norm() for v in features])]
    for label_mlp, feature_mlp in zip(label_mlps, feature_mlps, strict=True):
        x_c, x_s = X_C[-1], X_S[-1]
        if order == 'slg_first':
            v_s = eq11(x_s, eq7(eq6(x_c, valid)), feature_mlp, valid)
            v_c = eq8_eq10(x_c, eq5(eq4(v_s, k, gamma, valid)), prob, eta, alpha, label_mlp, valid)
        else:
            v_c = eq8_eq10(x_c, eq5(eq4(x_s, k, gamma, valid)), prob, eta, alpha, label_mlp, valid)
            v_s = eq11(x_s, eq7(eq6(v_c if order == 'clg_first' else x_c, valid)), feature_mlp, valid)
        X_C.append(v_c)
        X_S.append(v_s)
    return X_C, X_S


def eq9(p: Tensor, sigma: float, valid: Tensor | None = None) -> Tensor:
    """eta (C,); sigma for every class if no pixel is above sigma."""
    n, C = p.shape
    delta = [0] * C
    for i in range(n):
        if _exists(valid, i) and p[i].max() > sigma:
            delta[int(p[i].argmax())] += 1
    if max(delta) == 0:
        return p.new_full((C,), sigma)
    return torch.stack([p.new_tensor(d / max(delta) * sigma) for d in delta])


def eq12_intra(v: Tensor, y: Tensor, valid: Tensor | None = None) -> Tensor:
    """First term of eq. 12, divided by the number of pairs."""
    nodes = [i for i in range(len(v)) if _exists(valid, i)]
    total = v.sum() * 0
    for i in nodes:
        for j in nodes:
            Y = float(y[i] == y[j])
            total = total + Y * ((v[i] * v[j]).sum() - 1) ** 2 + (1 - Y) * (v[i] * v[j]).sum() ** 2
    return total / max(len(nodes), 1) ** 2


def eq12_prototype(v: Tensor, y: Tensor, p: Tensor, seen: Tensor, tau: float, valid: Tensor | None = None) -> Tensor:
    """Second term of eq. 12, divided by the number of pixels whose class has a prototype."""
    nodes = [i for i in range(len(v)) if _exists(valid, i) and seen[y[i]]]
    total = v.sum() * 0
    for i in nodes:
        denominator = sum(torch.exp((v[i] * p[c]).sum() / tau) for c in range(len(p)) if seen[c])
        total = total - torch.log(torch.exp((v[i] * p[y[i]]).sum() / tau) / denominator)
    return total / max(len(nodes), 1)


def eq13(v: Tensor, y: Tensor, C: int, valid: Tensor | None = None) -> list[Tensor | None]:
    """Mean feature of each class; None for a class without pixels."""
    means = []
    for c in range(C):
        of_class = [v[i] for i in range(len(v)) if _exists(valid, i) and y[i] == c]
        means.append(sum(of_class) / len(of_class) if of_class else None)
    return means


def eq14(old: list[Tensor | None], mean: list[Tensor | None], beta: float = 0.99) -> list[Tensor | None]:
    """Prototypes after an iteration: beta stays with the old value, a class seen for the first time takes its mean."""
    new = []
    for p, m in zip(old, mean, strict=True):
        if m is None:
            new.append(p)
        elif p is None:
            new.append(m)
        else:
            new.append(beta * p + (1 - beta) * m)
    return new


def eq15_eq16(P_k: Tensor, Y_hat: Tensor, valid: Tensor | None = None, dynamic_weight: bool = True) -> Tensor:
    """CLG loss of one layer, divided by the number of pixels; the weight of eq. 16 is a constant of the gradient."""
    nodes = [i for i in range(len(P_k)) if _exists(valid, i)]
    total = P_k.sum() * 0
    for i in nodes:
        omega = P_k[i, Y_hat[i]].detach() if dynamic_weight else 1.0
        total = total - omega * torch.log(P_k[i, Y_hat[i]])
    return total / max(len(nodes), 1)


def pixel_of_node(i: int, nodes: int, pixels: int, align_corners: bool) -> int:
    """The pixel that node i of a row lies on, where resizing puts the node; between two pixels, the second."""
    if align_corners:
        place = i * (pixels - 1) / (nodes - 1)
        return math.floor(place + 0.5)
    return math.floor((i + 0.5) * pixels / nodes)


def resized(X: Tensor, H: int, W: int, align_corners: bool) -> Tensor:
    """Bilinear interpolation of maps (C, h, w), pixel by pixel, (C, H, W)."""

    def neighbours_of(pixel: int, pixels: int, nodes: int) -> tuple[int, int, float]:
        place = pixel * (nodes - 1) / (pixels - 1) if align_corners else max((pixel + 0.5) * nodes / pixels - 0.5, 0.0)
        low = min(int(place), nodes - 1)
        return low, min(low + 1, nodes - 1), place - low

    result = X.new_zeros(len(X), H, W)
    for y in range(H):
        top, bottom, down = neighbours_of(y, H, X.shape[1])
        for x in range(W):
            left, right, along = neighbours_of(x, W, X.shape[2])
            upper = (1 - along) * X[:, top, left] + along * X[:, top, right]
            lower = (1 - along) * X[:, bottom, left] + along * X[:, bottom, right]
            result[:, y, x] = (1 - down) * upper + down * lower
    return result


def pseudo_label(p: Tensor, X_C: list[Tensor], align_corners: bool, at: str = 'crop') -> Tensor:
    """Y_hat, (H, W): the classifier's probabilities p (C, H, W) times what the layers' mean makes of the graph's input.

    ``at='graph'`` is the letter of the paper, the argmax of the sum over the layers; both are resized to the crop.
    """
    _, H, W = p.shape
    total = sum(X_C[1:]) / max(len(X_C) - 1, 1)
    if len(X_C) == 1:
        score = p.log()
    elif at == 'graph':
        score = resized(total, H, W, align_corners)
    else:
        score = p.log() + resized(total.log() - X_C[0].log(), H, W, align_corners)
    return score.argmax(0)
