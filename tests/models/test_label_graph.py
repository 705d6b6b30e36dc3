"""MLLC's graphs: the fast forms equal the literal equations, in values and in gradients."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from mmsemi.models.modules import nearest
from mmsemi.models.modules.graph_ops import (
    Edges,
    dense_affinity,
    knn_affinity,
    propagate_features,
    propagate_labels,
    propagate_labels_dense,
)
from mmsemi.models.modules.label_graph import ORDERS, LabelGraph
from mmsemi.registry import MODELS
from tests.oracles import mllc as oracle

B, N, C, D, K = 2, 13, 4, 6, 3
DTYPES = pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.float32, 1e-5)])
VALID = pytest.mark.parametrize('padded', [False, True])


def nodes(dtype: torch.dtype = torch.float64, padded: bool = False, n: int = N, batch: int = B, seed: int = 0):
    """Probabilities (or, by :func:`maps`, their logarithms), features and validity of random nodes."""
    generator = torch.Generator().manual_seed(seed)
    prob = (2 * torch.randn(batch, n, C, generator=generator, dtype=torch.float64)).softmax(-1)
    features = torch.randn(batch, n, D, generator=generator, dtype=torch.float64)
    valid = torch.rand(batch, n, generator=generator) > 0.3 if padded else None
    return prob.to(dtype), features.to(dtype), valid


def of_image(valid: Tensor | None, b: int) -> Tensor | None:
    return None if valid is None else valid[b]


def dense_from_knn(edges: Edges, weight: Tensor) -> Tensor:
    """The matrix (B, n, n) that a sparse affinity means."""
    batch, n, _ = edges.shape
    return weight.new_zeros(batch, n, n).scatter_add(2, edges.index, weight)


def literal_affinity(features: Tensor, k: float, gamma: float, valid: Tensor | None) -> Tensor:
    return torch.stack([oracle.eq4(x, k, gamma, of_image(valid, b)) for b, x in enumerate(features)])


def literal_class_graph(prob: Tensor, valid: Tensor | None) -> Tensor:
    return torch.stack([oracle.eq7(oracle.eq6(p, of_image(valid, b))) for b, p in enumerate(prob)])


def assert_close(fast: Tensor, literal: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(fast, literal.to(fast.dtype), rtol=tolerance, atol=tolerance)


def assert_same_gradients(fast, literal, inputs: list[Tensor], tolerance: float = 1e-10) -> None:
    """Gradients of a random linear function of ``fast(*inputs)`` and of ``literal(*inputs)`` agree."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    expected = literal(*inputs)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(7), dtype=expected.dtype)
    for a, b in zip(
        torch.autograd.grad((fast(*inputs) * direction).sum(), inputs),
        torch.autograd.grad((expected * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def traced(function):
    torch._dynamo.reset()
    return torch.compile(function, backend='eager', fullgraph=True)


# Semantic-level graph, eq. 4 and 5


@DTYPES
@VALID
@pytest.mark.parametrize('gamma', [1.0, 2.0, 0.5])
def test_knn_affinity_equals_eq4(dtype, tolerance, padded, gamma):
    _, features, valid = nodes(dtype, padded)
    edges, weight = knn_affinity(features, K, gamma, valid)
    assert edges.shape == weight.shape == (B, N, K)
    assert_close(dense_from_knn(edges, weight), literal_affinity(features.double(), K, gamma, valid), tolerance)


def test_features_of_length_one_need_no_second_normalisation():
    _, features, _ = nodes()
    unit = torch.nn.functional.normalize(features, dim=-1)
    ours, theirs = knn_affinity(unit, K, normalized=True), knn_affinity(features, K)
    assert torch.equal(ours[0].index, theirs[0].index)
    assert_close(ours[1], theirs[1], 1e-10)
    assert not torch.allclose(knn_affinity(features, K, normalized=True)[1], knn_affinity(features, K)[1])


@VALID
def test_knn_affinity_lists_most_similar_neighbors_first(padded):
    _, features, valid = nodes(padded=padded)
    edges, weight = knn_affinity(features, K, valid=valid)
    assert (weight.diff(dim=-1) <= 0).all() and weight.count_nonzero() > 2 * N
    for b in range(B):
        for i in range(N):
            expected = oracle.neighbours(features[b], i, K, of_image(valid, b))
            if padded and not valid[b, i]:
                continue
            similar = int((weight[b, i] > 0).sum())
            assert edges.index[b, i, :similar].tolist() == expected[:similar]


@VALID
@pytest.mark.parametrize('gamma', [1.0, 2.0, 0.5])
def test_knn_affinity_gradient_equals_eq4s(padded, gamma):
    _, features, valid = nodes(padded=padded)
    assert_same_gradients(
        lambda x: dense_from_knn(*knn_affinity(x, K, gamma, valid)),
        lambda x: literal_affinity(x, K, gamma, valid),
        [features],
    )


@VALID
def test_knn_affinity_passes_gradcheck(padded):
    _, features, valid = nodes(padded=padded, n=7)
    assert gradcheck(lambda x: knn_affinity(x, 2, 1.0, valid)[1], features.requires_grad_())


@pytest.mark.parametrize('k', [N - 1, N, 100])
def test_more_neighbors_than_nodes_are_all_other_nodes(k):
    _, features, _ = nodes()
    edges, weight = knn_affinity(features, k)
    assert edges.shape == (B, N, N - 1)
    assert_close(dense_from_knn(edges, weight), dense_affinity(features), 1e-10)


def test_missing_neighbors_have_weight_zero():
    _, features, _ = nodes()
    features = features.abs()  # every cosine is positive
    valid = torch.zeros(B, N, dtype=torch.bool)
    valid[0, :3] = True
    _, weight = knn_affinity(features, 5, valid=valid)
    assert (weight[0, :3] > 0).sum(-1).tolist() == [2, 2, 2]
    assert (weight[0, 3:] == 0).all()
    assert (weight[1] == 0).all()


@pytest.mark.parametrize('gamma', [1.0, 0.5])
def test_zero_features_have_no_edges_and_finite_gradients(gamma):
    prob, features, _ = nodes()
    features[0, :4] = 0
    features[1] = 0
    features.requires_grad_()
    edges, weight = knn_affinity(features, K, gamma)
    assert (weight[0, :4] == 0).all() and (weight[1] == 0).all()
    propagated = propagate_labels(edges, weight, prob)
    assert (propagated[1] == 0).all()
    propagated.square().sum().backward()
    assert features.grad.isfinite().all()


@DTYPES
@VALID
def test_dense_affinity_equals_eq4_with_all_neighbors(dtype, tolerance, padded):
    _, features, valid = nodes(dtype, padded)
    literal = literal_affinity(features.double(), float('inf'), 2.0, valid)
    assert_close(dense_affinity(features, 2.0, valid), literal, tolerance)


@DTYPES
@VALID
def test_propagate_labels_equals_eq5(dtype, tolerance, padded):
    prob, features, valid = nodes(dtype, padded)
    sparse = knn_affinity(features, K, 1.0, valid)
    literal = literal_affinity(features.double(), K, 1.0, valid)
    literal = torch.stack([oracle.eq5(a) @ x for a, x in zip(literal, prob.double(), strict=True)])
    assert_close(propagate_labels(*sparse, prob), literal, tolerance)
    assert_close(propagate_labels_dense(dense_from_knn(*sparse), prob), literal, tolerance)


@VALID
def test_propagate_labels_gradients_equal_eq5s(padded):
    prob, features, valid = nodes(padded=padded)
    assert_same_gradients(
        lambda p, x: propagate_labels(*knn_affinity(x, K, 1.0, valid), p),
        lambda p, x: torch.stack(
            [oracle.eq5(a) @ q for a, q in zip(literal_affinity(x, K, 1.0, valid), p, strict=True)]
        ),
        [prob, features],
    )


def test_propagate_labels_passes_gradcheck():
    generator = torch.Generator().manual_seed(1)
    index = torch.randint(5, (2, 6, 3), generator=generator)  # the last node is nobody's neighbour
    weight = torch.rand(2, 6, 3, generator=generator, dtype=torch.float64) + 0.1
    x = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    edges = Edges.within_graphs(index)
    assert gradcheck(lambda w, x: propagate_labels(edges, w, x), (weight.requires_grad_(), x.requires_grad_()))


def test_nodes_without_edges_receive_zero_and_give_finite_gradients():
    prob, features, _ = nodes()
    edges, weight = knn_affinity(features, K)
    weight = torch.zeros_like(weight).requires_grad_()
    prob.requires_grad_()
    propagated = propagate_labels(edges, weight, prob)
    assert (propagated == 0).all()
    propagated.sum().backward()
    assert prob.grad.isfinite().all() and weight.grad.isfinite().all()


# Class-level graph, eq. 6 and 7


EXPAND = pytest.mark.parametrize('expand', [False, True])


@DTYPES
@VALID
@EXPAND
@pytest.mark.parametrize('n', [N, 150])  # 150 nodes fill more than one tile of a class
def test_propagate_features_equals_eq7(dtype, tolerance, padded, expand, n):
    prob, features, valid = nodes(dtype, padded, n=n, batch=1 if n > N else B)
    literal = literal_class_graph(prob.double(), valid) @ features.double()
    assert_close(propagate_features(prob, features, valid, expand), literal, tolerance)


@VALID
@EXPAND
def test_propagate_features_gradients_equal_eq7s(padded, expand):
    prob, features, valid = nodes(padded=padded)
    assert_same_gradients(
        lambda p, x: propagate_features(p, x, valid, expand),
        lambda p, x: literal_class_graph(p, valid) @ x,
        [prob, features],
    )


@VALID
@EXPAND
def test_propagate_features_passes_gradcheck(padded, expand):
    prob, features, valid = nodes(padded=padded, n=7)
    inputs = prob.requires_grad_(), features.requires_grad_()
    assert gradcheck(lambda p, x: propagate_features(p, x, valid, expand), inputs)


@EXPAND
def test_more_classes_than_rows_of_a_tile_make_larger_tiles(expand):
    generator = torch.Generator().manual_seed(0)
    prob = torch.randn(1, 40, 70, generator=generator, dtype=torch.float64).softmax(-1)
    features = torch.randn(1, 40, D, generator=generator, dtype=torch.float64)
    literal = literal_class_graph(prob, None) @ features
    assert_close(propagate_features(prob, features, expand=expand), literal, 1e-10)


@EXPAND
def test_propagate_features_holds_when_all_nodes_are_of_one_class(expand):
    prob, features, _ = nodes(n=70, batch=1)
    prob = prob.roll(1, 1).clone()
    prob[..., 2] += 1
    prob = prob / prob.sum(-1, keepdim=True)
    assert (prob.argmax(-1) == 2).all()
    assert_close(propagate_features(prob, features, expand=expand), literal_class_graph(prob, None) @ features, 1e-10)


@EXPAND
def test_propagate_features_leaves_padding_as_it_is(expand):
    prob, features, _ = nodes()
    nothing = torch.zeros(B, N, dtype=torch.bool)
    assert torch.equal(propagate_features(prob, features, nothing, expand), features)


def test_padding_changes_nothing_for_the_others():
    prob, features, valid = nodes(padded=True)
    changed = torch.where(valid[..., None], features, 100 * features.roll(1, 2))
    changed_prob = torch.where(valid[..., None], prob, prob.roll(1, 2))
    before = propagate_features(prob, features, valid)
    after = propagate_features(changed_prob, changed, valid)
    assert_close(after[valid], before[valid], 1e-12)
    before = propagate_labels(*knn_affinity(features, K, 1.0, valid), prob)
    after = propagate_labels(*knn_affinity(changed, K, 1.0, valid), changed_prob)
    assert_close(after[valid], before[valid], 1e-12)
    assert (after[~valid] == 0).all()


# All of them


@pytest.mark.parametrize('half', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_also_under_autocast(half):
    prob, features, valid = nodes(half, padded=True)
    with torch.autocast('cpu', torch.bfloat16):
        edges, weight = knn_affinity(features, K, 1.0, valid)
        outputs = {
            'weight': weight,
            'labels': propagate_labels(edges, weight, prob),
            'dense': propagate_labels_dense(dense_affinity(features, 1.0, valid), prob),
            'features': propagate_features(prob, features, valid),
        }
    prob, features = prob.float(), features.float()
    edges, weight = knn_affinity(features, K, 1.0, valid)
    expected = {
        'weight': weight,
        'labels': propagate_labels(edges, weight, prob),
        'dense': propagate_labels_dense(dense_affinity(features, 1.0, valid), prob),
        'features': propagate_features(prob, features, valid),
    }
    for name, output in outputs.items():
        assert output.dtype == torch.float32, name
        assert torch.equal(output, expected[name]), name


@VALID
def test_graph_functions_trace_into_one_graph(padded):
    prob, features, valid = nodes(torch.float32, padded)
    prob.requires_grad_()
    features.requires_grad_()

    def step(prob, features):
        sparse = knn_affinity(features, K, 1.0, valid)
        dense = dense_affinity(features, 1.0, valid)
        return (
            propagate_labels(*sparse, prob).square().sum()
            + propagate_labels_dense(dense, prob).square().sum()
            + propagate_features(prob, features, valid).pow(3).sum()
        )

    expected, output = step(prob, features), traced(step)(prob, features)
    torch.testing.assert_close(output, expected)
    for a, b in zip(
        torch.autograd.grad(output, (prob, features)), torch.autograd.grad(expected, (prob, features)), strict=True
    ):
        torch.testing.assert_close(a, b)


# LabelGraph, algorithm 1


def trained_graph(**kwargs) -> LabelGraph:
    """A float64 graph whose MLPs are not zero."""
    torch.manual_seed(3)
    settings = {'num_classes': C, 'feature_channels': D, 'num_neighbors': K, 'hidden_channels': 5}
    graph = LabelGraph(**{**settings, **kwargs}).double()
    for parameter in graph.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return graph


def maps(dtype: torch.dtype = torch.float64, padded: bool = False, height: int = 3, width: int = 4):
    """Logarithms of probabilities, features, thresholds and validity of random maps."""
    prob, features, valid = nodes(dtype, padded, n=height * width)
    log_prob, features = (x.transpose(1, 2).reshape(B, -1, height, width) for x in (prob.log(), features))
    threshold = torch.tensor([0.4, 0.6, 0.8, 0.5], dtype=dtype)
    return log_prob, features, threshold, None if valid is None else valid.view(B, height, width)


def literal_graph(
    graph: LabelGraph, log_prob, features, threshold, valid, streams=None
) -> tuple[list[Tensor], list[Tensor]]:
    """Algorithm 1 on every image, stream or batch: K + 1 node matrices (B, n, C) and (B, n, D)."""
    prob, features = (x.flatten(2).transpose(1, 2) for x in (log_prob.exp(), features))
    valid = None if valid is None else valid.flatten(1)
    sizes = {'image': [1] * B, 'stream': streams, 'batch': [B]}[graph.scope]
    graphs, first = [], 0
    for size in sizes:
        own = slice(first, first + size)
        graphs.append(
            oracle.algorithm1(
                prob[own].flatten(0, 1),
                features[own].flatten(0, 1),
                threshold,
                graph.label_mlps,
                graph.feature_mlps,
                graph.num_neighbors,
                graph.gamma,
                graph.alpha,
                graph.order,
                None if valid is None else valid[own].flatten(),
            )
        )
        first += size
    return tuple(
        [torch.cat(layer).view(B, -1, layer[0].size(-1)) for layer in zip(*nodes, strict=True)]
        for nodes in zip(*graphs, strict=True)
    )


def rows(maps: Tensor) -> Tensor:
    """(B, C, h, w) as (B, n, C)."""
    return maps.flatten(2).transpose(1, 2)


def assert_graph_equals_literal(graph: LabelGraph, inputs, tolerance: float, streams=None) -> None:
    output = graph(*inputs, streams)
    doubles = [x.double() if x is not None and x.is_floating_point() else x for x in inputs]
    literal_probs, literal_features = literal_graph(graph.double(), *doubles, streams)
    counted = slice(None) if inputs[3] is None else inputs[3].flatten(1)
    assert len(output.log_probs) == len(output.features) == len(graph.label_mlps) + 1
    for fast, expected in zip(output.log_probs, literal_probs, strict=True):
        assert_close(rows(fast), expected.log(), 10 * tolerance)
        assert_close(rows(fast).exp(), expected, tolerance)
    for fast, expected in zip(output.features, literal_features, strict=True):
        assert_close(rows(fast)[counted], expected[counted], tolerance)


@pytest.mark.parametrize('order', ORDERS)
@VALID
@DTYPES
def test_label_graph_equals_algorithm1(order, padded, dtype, tolerance):
    graph = trained_graph(order=order, alpha=0.3, gamma=2.0).to(dtype)
    assert_graph_equals_literal(graph, maps(dtype, padded), tolerance)


SWITCHES = [{'num_neighbors': 'inf'}, {'num_neighbors': 0}, {'scope': 'batch'}]


@pytest.mark.parametrize('settings', SWITCHES)
@VALID
def test_label_graph_switches_equal_algorithm1(settings, padded):
    assert_graph_equals_literal(trained_graph(num_layers=1, **settings), maps(padded=padded), 1e-10)


@pytest.mark.parametrize('streams', [(1, 1), (2,)], ids=str)
@VALID
def test_the_images_of_a_stream_are_one_graph(streams, padded):
    assert_graph_equals_literal(trained_graph(scope='stream'), maps(padded=padded), 1e-10, streams)


@pytest.mark.parametrize('order', ORDERS)
def test_label_graph_gradients_equal_algorithm1s(order):
    graph = trained_graph(order=order)
    log_prob, features, threshold, valid = maps(padded=True, height=2)
    counted = valid.flatten(1)

    def of(log_probs, features):
        features = [x[counted] for x in features]
        return sum((i + 2) * x.square().sum() for i, x in enumerate([*log_probs, *features])) + sum(
            x[..., 0].sum() for x in features
        )

    inputs = [log_prob.requires_grad_(), features.requires_grad_(), *graph.parameters()]
    output = graph(log_prob, features, threshold, valid)
    fast = of([rows(x) for x in output.log_probs], [rows(x) for x in output.features])
    probs, literal_features = literal_graph(graph, log_prob, features, threshold, valid)
    literal = of([x.log() for x in probs], literal_features)
    for a, b in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(literal, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize('num_neighbors', [2, 'inf'])
def test_label_graph_passes_gradcheck(num_neighbors):
    graph = trained_graph(num_neighbors=num_neighbors)
    prob, features, threshold, _ = maps(height=2, width=3)

    def forward(prob, features):
        output = graph(prob[:1], features[:1], threshold)
        return output.log_probs[1:] + output.features

    assert gradcheck(forward, (prob.requires_grad_(), features.requires_grad_()))


@pytest.mark.parametrize('order', ORDERS)
@VALID
def test_label_graph_traces_into_one_graph(order, padded):
    graph = trained_graph(order=order).float()
    inputs = maps(torch.float32, padded)
    output, expected = traced(graph)(*inputs), graph(*inputs)
    for a, b in zip(output.log_probs + output.features, expected.log_probs + expected.features, strict=True):
        torch.testing.assert_close(a, b)


def test_untrained_graph_only_propagates():
    graph = LabelGraph(C, D, num_layers=1, num_neighbors=K, alpha=1.0).double()
    log_prob, features, _, _ = maps()
    output = graph(log_prob, features, torch.zeros(C))
    p, x = rows(log_prob).exp(), rows(features)
    p = p + propagate_labels(*knn_affinity(x, K), p)
    p = p / p.sum(-1, keepdim=True)
    x = torch.nn.functional.normalize(x, dim=-1)
    x = torch.nn.functional.normalize(x + propagate_features(p, x), dim=-1)
    assert_close(rows(output.log_probs[1]).exp(), p, 1e-10)
    assert_close(rows(output.features[1]), x, 1e-10)


def test_untrained_graph_without_neighbors_keeps_the_heads_probabilities():
    log_prob, features, threshold, _ = maps()
    output = LabelGraph(C, D, num_neighbors=0).double()(log_prob, features, threshold)
    for log_probs in output.log_probs:
        assert_close(log_probs, log_prob, 1e-10)


def test_alpha_weighs_the_propagated_where_confident_and_the_old_where_not():
    log_prob, features, _, _ = maps()
    sure, never = torch.zeros(C), torch.full((C,), 1.1)
    candidate = LabelGraph(C, D, num_layers=1, alpha=1.0).double()(log_prob, features, sure).log_probs[1].exp()
    graph = LabelGraph(C, D, num_layers=1, alpha=0.2).double()
    confident = graph(log_prob, features, sure).log_probs[1].exp()
    unsure = graph(log_prob, features, never).log_probs[1].exp()
    assert_close(confident, 0.2 * candidate + 0.8 * log_prob.exp(), 1e-12)
    assert_close(unsure, 0.8 * candidate + 0.2 * log_prob.exp(), 1e-12)


@pytest.mark.parametrize('alpha', [0.0, 1.0])
def test_the_ends_of_alpha_take_one_or_the_other_and_have_finite_gradients(alpha):
    log_prob, features, _, _ = maps()
    log_prob.requires_grad_()
    graph = trained_graph(alpha=alpha, num_layers=1)
    candidate = graph(log_prob, features, torch.zeros(C)).log_probs[1]
    kept = graph(log_prob, features, torch.full((C,), 1.1)).log_probs[1]
    old, new = (candidate, kept) if alpha == 0 else (kept, candidate)
    assert_close(old, log_prob, 1e-12)
    assert not torch.allclose(new, log_prob)
    (new + old).square().sum().backward()
    assert log_prob.grad.isfinite().all()


@pytest.mark.parametrize('settings', [{}, *SWITCHES])
@VALID
def test_rows_stay_probabilities_and_features_stay_of_length_one(settings, padded):
    log_prob, features, threshold, valid = maps(padded=padded)
    output = trained_graph(**settings)(log_prob, features, threshold, valid)
    for log_probs in output.log_probs:
        assert_close(log_probs.exp().sum(1), torch.ones(B, 3, 4), 1e-10)
    for maps_ in output.features:
        assert_close(maps_.norm(dim=1), torch.ones(B, 3, 4), 1e-10)


def test_without_layers_the_graph_returns_the_input():
    log_prob, features, threshold, _ = maps()
    output = LabelGraph(C, D, num_layers=0)(log_prob, features, threshold)
    assert len(output.log_probs) == len(output.features) == 1
    assert torch.equal(output.log_probs[0], log_prob)
    assert_close(output.features[0], torch.nn.functional.normalize(features, dim=1), 1e-12)


def test_probabilities_of_padding_come_out_as_they_went_in():
    log_prob, features, threshold, _ = maps()
    valid = torch.zeros(B, 3, 4, dtype=torch.bool)
    valid[1, 1] = True
    log_prob.requires_grad_()
    features.requires_grad_()
    output = trained_graph()(log_prob, features, threshold, valid)
    padding = ~valid[:, None].expand_as(log_prob)
    for log_probs in output.log_probs:
        assert torch.equal(log_probs[padding], log_prob[padding])
    sum(x.square().sum() for x in output.log_probs + output.features).backward()
    assert log_prob.grad.isfinite().all() and features.grad.isfinite().all()


@pytest.mark.parametrize('scope, apart', [('image', True), ('stream', True), ('batch', False)])
def test_scopes_keep_images_of_two_streams_apart_or_join_them(scope, apart):
    log_prob, features, threshold, _ = maps()
    changed = torch.cat((features[:1], features[1:].flip(2) + 1))
    graph = trained_graph(scope=scope)
    before, after = (graph(log_prob, x, threshold, None, (1, 1)).log_probs[-1][0] for x in (features, changed))
    assert torch.allclose(before, after) is apart


@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.parametrize('right', ['alone', 'among others that are wrong'])
def test_a_confidently_wrong_classifier_learns_from_every_layer(right, dtype, tolerance):
    """Scores of 50 for a wrong class and -50 for the right one: its probability, 4e-44, is no float32."""
    graph = LabelGraph(C, D, num_neighbors=2).to(dtype)
    _, features, _, _ = maps(dtype)
    wrong, true = 0, 2
    scores = torch.full((B, C, 3, 4), -50.0, dtype=dtype)
    scores[:, wrong] = 50
    if right == 'alone':
        # One image is of the wrong class everywhere, and what is asked of it is one node.
        scores[0] = 0
    scores.requires_grad_()
    output = graph(scores.log_softmax(1), features, torch.full((C,), 0.9, dtype=dtype))
    gradients = []
    for log_probs in output.log_probs:
        (gradient,) = torch.autograd.grad(-log_probs[1, true].sum(), scores, retain_graph=True)
        gradients.append(gradient[1])
    own, *layers = gradients
    assert own[true].max() <= -1 + 1e-6
    for gradient in layers:
        # Some of it goes to the nodes' neighbours; in all it is that of the classifier itself.
        assert (gradient[true] < -0.1).all() and (gradient[wrong] > 0.1).all()
        assert abs(gradient[true].sum() / own[true].sum() - 1) < tolerance


def test_where_nothing_underflows_float32_has_the_gradients_of_float64():
    graph = trained_graph()
    log_prob, features, threshold, _ = maps()
    log_prob = (20 * log_prob).log_softmax(1)

    def gradient(dtype):
        inputs = [x.detach().to(dtype).requires_grad_() for x in (log_prob, features)]
        output = graph.to(dtype)(*inputs, threshold.to(dtype))
        return torch.autograd.grad(sum(x[:, 1].sum() for x in output.log_probs[1:]), inputs)

    for ours, exact in zip(gradient(torch.float32), gradient(torch.float64), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=1e-4)


def test_label_graph_under_autocast_equals_label_graph_without():
    graph = trained_graph().float()
    inputs = maps(torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        output = graph(*inputs)
    expected = graph(*inputs)
    for a, b in zip(output.log_probs + output.features, expected.log_probs + expected.features, strict=True):
        assert torch.equal(a, b)


def test_label_graph_is_registered():
    graph = MODELS.build({'type': 'LabelGraph', 'num_classes': C, 'num_neighbors': 'inf'})
    assert graph.num_neighbors == float('inf')


@pytest.mark.parametrize(
    'settings, message',
    [
        ({'alpha': 1.2}, 'alpha of LabelGraph must be between 0 and 1, got 1.2'),
        ({'alpha': -0.1}, 'alpha of LabelGraph must be between 0 and 1, got -0.1'),
        ({'num_layers': -1}, r'num_layers of LabelGraph must be 0 \(no graph\) or more, got -1'),
        ({'num_neighbors': -1}, "num_neighbors of LabelGraph must be a whole number >= 0 or 'inf'"),
        ({'num_neighbors': 2.5}, "num_neighbors of LabelGraph must be a whole number >= 0 or 'inf'"),
        ({'gamma': 0}, 'gamma of LabelGraph must be greater than 0, got 0'),
        ({'order': 'slg'}, "must be one of clg_first, slg_first, together, got 'slg'"),
        ({'scope': 'pixel'}, "must be one of image, stream, batch, got 'pixel'"),
        ({'num_classes': 1}, 'num_classes of LabelGraph must be at least 2, got 1'),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LabelGraph(**{'num_classes': C, **settings})


# Launches


class Launches(TorchDispatchMode):
    """Counts what a device would have to start: every operation but views, by the file that asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        returned = function._schema.returns
        view = any(x.alias_info is not None and not x.alias_info.is_write for x in returned)
        if not view and function.overloadpacket.__name__ not in ('detach', '_unsafe_view'):
            self.count[self.origin()] += 1
        return function(*args, **(kwargs or {}))

    @staticmethod
    def origin() -> str:
        frame = sys._getframe(2)
        while frame is not None and '/mmsemi/' not in frame.f_code.co_filename:
            frame = frame.f_back
        return 'autograd' if frame is None else Path(frame.f_code.co_filename).stem


def launches(batch: int, side: int, num_classes: int) -> Counter[str]:
    """Of the graphs in a step: the teacher's forward, the student's forward and backward, with all blocks."""
    graph = LabelGraph(num_classes, 256).to('meta')
    log_prob = torch.empty(batch, num_classes, side, side, device='meta', requires_grad=True)
    features = torch.empty(batch, 256, side, side, device='meta', requires_grad=True)
    inputs = log_prob, features, torch.empty(num_classes, device='meta'), log_prob[:, 0] > 0
    with Launches() as mode:
        with torch.no_grad():
            graph(*inputs)
        output = graph(*inputs)
        learned = [*output.log_probs[1:], *output.features[1:]]
        torch.autograd.backward(learned, [torch.empty_like(x) for x in learned])
    return mode.count


@pytest.mark.parametrize(
    'size, memory',
    [((4, 64, 21), 24), ((4, 100, 19), 80), ((4, 101, 19), 80)],
    ids=['PASCAL VOC at 512', 'Cityscapes at 800', 'Cityscapes at 801'],
)
def test_a_step_starts_few_operations(size, memory, monkeypatch):
    """2 + 2 images, the crops of the paper, the blocks of a GPU of so many GiB; there were 1,150 (graph_ops alone)."""
    monkeypatch.setattr(nearest, '_gpu_memory', lambda device: memory * 2**30)
    count = launches(*size)
    surplus = 8 if size[1] == 101 else 0  # filling the last group of 10,201 nodes, twice a search
    assert count['graph_ops'] + count['nearest'] <= 250 + surplus
    assert sum(count.values()) <= 580, 'with the MLPs and what autograd adds'


def test_smaller_blocks_start_more_operations(monkeypatch):
    few = launches(2, 24, 5)
    monkeypatch.setattr(nearest, '_gpu_memory', lambda device: 2**25)
    assert launches(2, 24, 5)['nearest'] > 1.5 * few['nearest']
