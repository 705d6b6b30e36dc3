"""MLLC's graphs: the fast forms equal the literal equations, in values and in gradients."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from mmsemi.models.modules.graph_ops import (
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
    """Probabilities, features and validity of random nodes."""
    generator = torch.Generator().manual_seed(seed)
    prob = (2 * torch.randn(batch, n, C, generator=generator, dtype=torch.float64)).softmax(-1)
    features = torch.randn(batch, n, D, generator=generator, dtype=torch.float64)
    valid = torch.rand(batch, n, generator=generator) > 0.3 if padded else None
    return prob.to(dtype), features.to(dtype), valid


def of_image(valid: Tensor | None, b: int) -> Tensor | None:
    return None if valid is None else valid[b]


def dense_from_knn(index: Tensor, weight: Tensor) -> Tensor:
    """The matrix (B, n, n) that a sparse affinity means."""
    batch, n, _ = index.shape
    return weight.new_zeros(batch, n, n).scatter_add(2, index, weight)


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
@pytest.mark.parametrize('block_size', [1024, 4])
def test_knn_affinity_equals_eq4(dtype, tolerance, padded, gamma, block_size):
    _, features, valid = nodes(dtype, padded)
    index, weight = knn_affinity(features, K, gamma, valid, block_size)
    assert index.shape == weight.shape == (B, N, K)
    assert_close(dense_from_knn(index, weight), literal_affinity(features.double(), K, gamma, valid), tolerance)


def test_features_of_length_one_need_no_second_normalisation():
    _, features, _ = nodes()
    unit = torch.nn.functional.normalize(features, dim=-1)
    for ours, theirs in zip(knn_affinity(unit, K, normalized=True), knn_affinity(features, K), strict=True):
        assert_close(ours, theirs, 1e-10)
    assert not torch.allclose(knn_affinity(features, K, normalized=True)[1], knn_affinity(features, K)[1])


@VALID
def test_knn_affinity_lists_most_similar_neighbors_first(padded):
    _, features, valid = nodes(padded=padded)
    index, weight = knn_affinity(features, K, valid=valid)
    assert (weight.diff(dim=-1) <= 0).all()
    for b in range(B):
        for i in range(N):
            expected = oracle.neighbours(features[b], i, K, of_image(valid, b))
            if padded and not valid[b, i]:
                continue
            assert index[b, i].tolist() == expected


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
    index, weight = knn_affinity(features, k)
    assert index.shape == (B, N, N - 1)
    assert_close(dense_from_knn(index, weight), dense_affinity(features), 1e-10)


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
    index, weight = knn_affinity(features, K, gamma)
    assert (weight[0, :4] == 0).all() and (weight[1] == 0).all()
    propagated = propagate_labels(index, weight, prob)
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
    assert gradcheck(lambda w, x: propagate_labels(index, w, x), (weight.requires_grad_(), x.requires_grad_()))


def test_nodes_without_edges_receive_zero_and_give_finite_gradients():
    prob, features, _ = nodes()
    index, weight = knn_affinity(features, K)
    weight = torch.zeros_like(weight).requires_grad_()
    prob.requires_grad_()
    propagated = propagate_labels(index, weight, prob)
    assert (propagated == 0).all()
    propagated.sum().backward()
    assert prob.grad.isfinite().all() and weight.grad.isfinite().all()


# Class-level graph, eq. 6 and 7


@DTYPES
@VALID
@pytest.mark.parametrize('n', [N, 150])  # 150 nodes fill more than one tile of a class
def test_propagate_features_equals_eq7(dtype, tolerance, padded, n):
    prob, features, valid = nodes(dtype, padded, n=n, batch=1 if n > N else B)
    literal = literal_class_graph(prob.double(), valid) @ features.double()
    assert_close(propagate_features(prob, features, valid), literal, tolerance)


@VALID
def test_propagate_features_gradients_equal_eq7s(padded):
    prob, features, valid = nodes(padded=padded)
    assert_same_gradients(
        lambda p, x: propagate_features(p, x, valid), lambda p, x: literal_class_graph(p, valid) @ x, [prob, features]
    )


@VALID
def test_propagate_features_passes_gradcheck(padded):
    prob, features, valid = nodes(padded=padded, n=7)
    assert gradcheck(lambda p, x: propagate_features(p, x, valid), (prob.requires_grad_(), features.requires_grad_()))


def test_propagate_features_holds_when_all_nodes_are_of_one_class():
    prob, features, _ = nodes(n=70, batch=1)
    prob = prob.roll(1, 1).clone()
    prob[..., 2] += 1
    prob = prob / prob.sum(-1, keepdim=True)
    assert (prob.argmax(-1) == 2).all()
    assert_close(propagate_features(prob, features), literal_class_graph(prob, None) @ features, 1e-10)


def test_propagate_features_leaves_padding_as_it_is():
    prob, features, _ = nodes()
    nothing = torch.zeros(B, N, dtype=torch.bool)
    assert torch.equal(propagate_features(prob, features, nothing), features)


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
        index, weight = knn_affinity(features, K, 1.0, valid)
        outputs = {
            'weight': weight,
            'labels': propagate_labels(index, weight, prob),
            'dense': propagate_labels_dense(dense_affinity(features, 1.0, valid), prob),
            'features': propagate_features(prob, features, valid),
        }
    prob, features = prob.float(), features.float()
    index, weight = knn_affinity(features, K, 1.0, valid)
    expected = {
        'weight': weight,
        'labels': propagate_labels(index, weight, prob),
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
        sparse = knn_affinity(features, K, 1.0, valid, 8)
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
    prob, features, valid = nodes(dtype, padded, n=height * width)
    prob, features = (x.transpose(1, 2).reshape(B, -1, height, width) for x in (prob, features))
    threshold = torch.tensor([0.4, 0.6, 0.8, 0.5], dtype=dtype)
    return prob, features, threshold, None if valid is None else valid.view(B, height, width)


def literal_graph(graph: LabelGraph, prob, features, threshold, valid) -> tuple[list[Tensor], list[Tensor]]:
    """Algorithm 1 on every image, or on all as one: K + 1 node matrices (B, n, C) and (B, n, D)."""
    prob, features = (x.flatten(2).transpose(1, 2) for x in (prob, features))
    valid = None if valid is None else valid.flatten(1)
    if graph.scope == 'batch':
        prob, features = (x.reshape(1, -1, x.size(-1)) for x in (prob, features))
        valid = None if valid is None else valid.view(1, -1)
    k = graph.num_neighbors
    images = [
        oracle.algorithm1(
            prob[b],
            features[b],
            threshold,
            graph.label_mlps,
            graph.feature_mlps,
            k,
            graph.gamma,
            graph.alpha,
            graph.order,
            of_image(valid, b),
        )
        for b in range(len(prob))
    ]
    return tuple([torch.stack(layer) for layer in zip(*nodes, strict=True)] for nodes in zip(*images, strict=True))


def assert_graph_equals_literal(graph: LabelGraph, inputs, tolerance: float) -> None:
    output = graph(*inputs)
    literal = literal_graph(
        graph.double(), *(x.double() if x is not None and x.is_floating_point() else x for x in inputs)
    )
    for fast_maps, literal_nodes in zip((output.probs, output.features), literal, strict=True):
        assert len(fast_maps) == len(literal_nodes) == len(graph.label_mlps) + 1
        for fast, expected in zip(fast_maps, literal_nodes, strict=True):
            fast = fast.flatten(2).transpose(1, 2).reshape(expected.shape)
            assert_close(fast, expected, tolerance)


@pytest.mark.parametrize('order', ORDERS)
@VALID
@DTYPES
def test_label_graph_equals_algorithm1(order, padded, dtype, tolerance):
    graph = trained_graph(order=order, alpha=0.3, gamma=2.0).to(dtype)
    assert_graph_equals_literal(graph, maps(dtype, padded), tolerance)


@pytest.mark.parametrize('settings', [{'num_neighbors': 'inf'}, {'num_neighbors': 0}, {'scope': 'batch'}])
@VALID
def test_label_graph_switches_equal_algorithm1(settings, padded):
    assert_graph_equals_literal(trained_graph(num_layers=1, **settings), maps(padded=padded), 1e-10)


@pytest.mark.parametrize('order', ORDERS)
def test_label_graph_gradients_equal_algorithm1s(order):
    graph = trained_graph(order=order)
    prob, features, threshold, valid = maps(padded=True, height=2)

    def of(probs, features):
        return sum((i + 2) * x.square().sum() for i, x in enumerate([*probs, *features])) + sum(
            x[..., 0].sum() for x in features
        )

    def as_nodes(x):
        return x.flatten(2).transpose(1, 2)

    inputs = [prob.requires_grad_(), features.requires_grad_(), *graph.parameters()]
    output = graph(prob, features, threshold, valid)
    fast = of([as_nodes(x) for x in output.probs], [as_nodes(x) for x in output.features])
    literal = of(*literal_graph(graph, prob, features, threshold, valid))
    for a, b in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(literal, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize('num_neighbors', [2, 'inf'])
def test_label_graph_passes_gradcheck(num_neighbors):
    graph = trained_graph(num_neighbors=num_neighbors)
    prob, features, threshold, _ = maps(height=2, width=3)

    def forward(prob, features):
        output = graph(prob[:1], features[:1], threshold)
        return output.probs[1:] + output.features

    assert gradcheck(forward, (prob.requires_grad_(), features.requires_grad_()))


@pytest.mark.parametrize('order', ORDERS)
@VALID
def test_label_graph_traces_into_one_graph(order, padded):
    graph = trained_graph(order=order).float()
    inputs = maps(torch.float32, padded)
    output, expected = traced(graph)(*inputs), graph(*inputs)
    for a, b in zip(output.probs + output.features, expected.probs + expected.features, strict=True):
        torch.testing.assert_close(a, b)


def test_untrained_graph_only_propagates():
    graph = LabelGraph(C, D, num_layers=1, num_neighbors=K, alpha=1.0).double()
    prob, features, _, _ = maps()
    output = graph(prob, features, torch.zeros(C))
    p, x = (m.flatten(2).transpose(1, 2) for m in (prob, features))
    p = p + propagate_labels(*knn_affinity(x, K), p)
    p = p / p.sum(-1, keepdim=True)
    x = torch.nn.functional.normalize(x, dim=-1)
    x = torch.nn.functional.normalize(x + propagate_features(p, x), dim=-1)
    assert_close(output.probs[1].flatten(2).transpose(1, 2), p, 1e-10)
    assert_close(output.features[1].flatten(2).transpose(1, 2), x, 1e-10)


def test_untrained_graph_without_neighbors_keeps_the_heads_probabilities():
    prob, features, threshold, _ = maps()
    output = LabelGraph(C, D, num_neighbors=0).double()(prob, features, threshold)
    for probs in output.probs:
        assert_close(probs, prob, 1e-10)


def test_alpha_weighs_the_propagated_where_confident_and_the_old_where_not():
    prob, features, _, _ = maps()
    candidate = LabelGraph(C, D, num_layers=1, alpha=1.0).double()(prob, features, torch.zeros(C)).probs[1]
    graph = LabelGraph(C, D, num_layers=1, alpha=0.2).double()
    confident = graph(prob, features, torch.zeros(C)).probs[1]
    unsure = graph(prob, features, torch.full((C,), 1.1)).probs[1]
    assert_close(confident, 0.2 * candidate + 0.8 * prob, 1e-12)
    assert_close(unsure, 0.8 * candidate + 0.2 * prob, 1e-12)


@pytest.mark.parametrize('settings', [{}, {'num_neighbors': 0}, {'num_neighbors': 'inf'}, {'scope': 'batch'}])
@VALID
def test_rows_stay_probabilities_and_features_stay_of_length_one(settings, padded):
    prob, features, threshold, valid = maps(padded=padded)
    output = trained_graph(**settings)(prob, features, threshold, valid)
    for probs in output.probs:
        assert_close(probs.sum(1), torch.ones(B, 3, 4), 1e-10)
    for maps_ in output.features:
        assert_close(maps_.norm(dim=1), torch.ones(B, 3, 4), 1e-10)


def test_without_layers_the_graph_returns_the_input():
    prob, features, threshold, _ = maps()
    output = LabelGraph(C, D, num_layers=0)(prob, features, threshold)
    assert len(output.probs) == len(output.features) == 1
    assert torch.equal(output.probs[0], prob)
    assert_close(output.features[0], torch.nn.functional.normalize(features, dim=1), 1e-12)


def test_padding_comes_out_as_it_went_in():
    prob, features, threshold, _ = maps()
    prob[0, :, 0] = 0  # padding need not carry probabilities
    valid = torch.zeros(B, 3, 4, dtype=torch.bool)
    valid[1, 1] = True
    prob.requires_grad_()
    features.requires_grad_()
    output = trained_graph()(prob, features, threshold, valid)
    padding = ~valid[:, None].expand_as(prob)
    for probs in output.probs:
        assert torch.equal(probs[padding], prob[padding])
    sum(x.square().sum() for x in output.probs + output.features).backward()
    assert prob.grad.isfinite().all() and features.grad.isfinite().all()


def test_scope_image_keeps_images_apart_and_scope_batch_joins_them():
    prob, features, threshold, _ = maps()
    changed = torch.cat((features[:1], features[1:].flip(2) + 1))
    for scope, apart in (('image', True), ('batch', False)):
        graph = trained_graph(scope=scope)
        before, after = (graph(prob, x, threshold).probs[-1][0] for x in (features, changed))
        assert torch.allclose(before, after) is apart


def test_label_graph_under_autocast_equals_label_graph_without():
    graph = trained_graph().float()
    inputs = maps(torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        output = graph(*inputs)
    expected = graph(*inputs)
    for a, b in zip(output.probs + output.features, expected.probs + expected.features, strict=True):
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
        ({'scope': 'pixel'}, "must be one of image, batch, got 'pixel'"),
        ({'num_classes': 1}, 'num_classes of LabelGraph must be at least 2, got 1'),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LabelGraph(**{'num_classes': C, **settings})
