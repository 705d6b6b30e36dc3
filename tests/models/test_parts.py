"""Object parts, queues, the draws from them and InfoNCE: ESL's pieces one by one against the literal equations."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from mmsemi.models.losses.info_nce import info_nce
from mmsemi.models.losses.pixel import soft_cross_entropy
from mmsemi.models.pseudo_labels import dynamic_soft_labels
from mmsemi.models.resizing import resize_labels, resize_transposed
from mmsemi.models.sampling import draw_per_class
from mmsemi.models.state.memory import FeatureQueues
from mmsemi.models.state.parts import NO_PART, ClassSamples, PartPrototypes, masked_average_pooling
from mmsemi.structures import PseudoLabel
from tests.oracles import esl as oracle

C, K, D, SIZE = 3, 2, 5, (8, 6)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def traces(function, *arguments):
    """The function's result under a compiler that refuses what it cannot trace."""
    torch._dynamo.reset()
    return torch.compile(function, backend='eager', fullgraph=True)(*arguments)


# Soft labels


def ties() -> torch.Tensor:
    """Probabilities in which classes tie, with sums that are exact in binary."""
    rows = [[0.5, 0.25, 0.25, 0], [0.25] * 4, [0.125, 0.5, 0.25, 0.125], [0, 1, 0, 0], [0.4375, 0.4375, 0.0625, 0.0625]]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize('mass', [1e-6, 0.25, 0.5, 0.75, 0.875, 0.95, 1.0])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_dynamic_soft_labels_equal_eq_3_to_5_with_ties_and_without(mass, dtype, tolerance):
    prob = torch.cat([ties(), (3 * normal(40, 4)).softmax(1)])
    pseudo = dynamic_soft_labels(prob.log().T.reshape(1, 4, 9, 5).to(dtype), mass)
    literal = torch.stack([oracle.eq3_to_eq5(p, mass) for p in prob]).T.reshape(1, 4, 9, 5)
    if dtype == torch.float64 or mass in (1e-6, 0.95):
        # In float32 the logarithm of a tie may come back untied by rounding; elsewhere nothing lies so close.
        torch.testing.assert_close(pseudo.prob, literal.to(dtype), atol=tolerance, rtol=0)
    assert torch.allclose(pseudo.prob.sum(1), torch.ones((), dtype=dtype)) and (pseudo.weight == 1).all()
    assert torch.equal(pseudo.label, prob.argmax(1).view(1, 9, 5))


def test_a_tiny_mass_leaves_the_best_class_and_all_of_it_every_class():
    logits = 4 * normal(2, 6, 5, 5)
    assert torch.equal(dynamic_soft_labels(logits, 1e-9).prob, F.one_hot(logits.argmax(1), 6).movedim(-1, 1).double())
    assert torch.allclose(dynamic_soft_labels(logits, 1.0).prob, logits.softmax(1), atol=1e-15)
    # In float32 the best class alone already sums to 1.
    sure = torch.tensor([30.0, 0, 1, 2]).view(1, 4, 1, 1)
    assert sure.softmax(1).max() == 1 and (dynamic_soft_labels(sure, 1.0).prob > 0).all()


def test_a_class_as_probable_as_the_last_dominant_one_is_kept():
    for prob, dominant in (([0.5, 0.25, 0.25, 1e-9], 3), ([0.5, 0.2502, 0.2498, 1e-9], 2)):
        soft = dynamic_soft_labels(torch.tensor(prob).log().view(1, 4, 1, 1), 0.6).prob.flatten()
        assert (soft > 0).tolist() == [place < dominant for place in range(4)]


@pytest.mark.parametrize('top_n', [1, 2, 5])
def test_top_n_keeps_a_fixed_number_of_classes(top_n):
    logits = normal(2, 5, 4, 4)
    pseudo = dynamic_soft_labels(logits, 0.95, top_n)
    assert ((pseudo.prob > 0).sum(1) == top_n).all()
    rows = logits.softmax(1).movedim(1, -1).reshape(-1, 5)
    literal = torch.stack([oracle.eq3_to_eq5(p, 0.95, top_n) for p in rows])
    assert torch.allclose(pseudo.prob.movedim(1, -1).reshape(-1, 5), literal, rtol=0, atol=1e-10)


def test_padding_of_a_soft_label_has_weight_0():
    valid = torch.rand(2, 4, 4) > 0.5
    assert torch.equal(dynamic_soft_labels(normal(2, 5, 4, 4), 0.9, valid=valid).weight > 0, valid)


def test_soft_cross_entropy_equals_eq_6_in_value_and_gradient():
    logits, target = normal(2, 4, 3, 3).requires_grad_(), normal(2, 4, 3, 3, seed=1).softmax(1)
    valid = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0)) > 0.3
    pseudo = PseudoLabel(target.argmax(1), torch.ones(2, 3, 3, dtype=torch.float64), target)
    ours, literal = soft_cross_entropy(logits, pseudo, valid), oracle.eq6(logits, target, valid)
    assert torch.allclose(ours, literal, rtol=0, atol=1e-10)
    assert torch.allclose(*(torch.autograd.grad(x, logits)[0] for x in (ours, literal)), rtol=0, atol=1e-10)
    assert gradcheck(lambda x: soft_cross_entropy(x, pseudo, valid), (logits,))


def test_the_weight_of_a_soft_label_multiplies_its_pixel():
    logits, target = normal(1, 4, 2, 2), normal(1, 4, 2, 2, seed=1).softmax(1)
    weight = torch.tensor([[[1.0, 0], [0, 0]]], dtype=torch.float64)
    one = -(target * logits.log_softmax(1))[0, :, 0, 0].sum() / 4
    assert torch.allclose(soft_cross_entropy(logits, PseudoLabel(target.argmax(1), weight, target)), one)


# Parts


def prototypes(seen: bool = True) -> PartPrototypes:
    parts = PartPrototypes(C, K, D, momentum=0.9).double()
    if seen:
        parts.value.copy_(normal(C * K, D, seed=7))
        parts.seen.fill_(True)
    return parts


def part_case():
    features = normal(2, D, 3, 2)
    labels = torch.randint(0, C, (2, *SIZE), generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, *SIZE, dtype=torch.bool)
    valid[0, :2] = False
    labels[0, :2] = 255
    return features, labels, valid


def test_a_pixels_part_is_the_nearest_prototype_of_its_class_by_cosine():
    parts, (features, labels, valid) = prototypes(), part_case()
    ours = parts.assign(features, labels, valid, valid)
    E, P = oracle.resized(features, SIZE), parts.value.view(C, K, D)
    for b, i, j in torch.ones_like(valid).nonzero().tolist():
        c = int(labels[b, i, j])
        assert ours[b, i, j] == (c * K + oracle.eq7(E[b, :, i, j], P[c]) if valid[b, i, j] else NO_PART)
    assert len(ours.unique()) == C * K + 1
    assert torch.equal(traces(parts.assign, features, labels, valid, valid), ours)


def test_the_mean_feature_of_a_part_equals_eq_8():
    parts, (features, labels, valid) = prototypes(), part_case()
    part, z = parts.assign(features, labels, valid, valid), normal(2, 4, *SIZE, seed=2)
    part[1] = part[1].where(part[1] != 3, NO_PART)
    means, present = masked_average_pooling(z, parts.members(part))
    for b in range(2):
        for p in range(C * K):
            mu = oracle.eq8(z[b], part[b], p // K, p % K, K)
            assert bool(present[b, p]) == (mu is not None)
            assert torch.allclose(means[b, p], torch.zeros_like(means[b, p]) if mu is None else mu, rtol=0, atol=1e-10)
    assert not present.all()
    assert torch.equal(traces(masked_average_pooling, z, parts.members(part))[0], means)


def test_prototypes_move_as_in_eq_12():
    parts, (features, labels, valid) = prototypes(), part_case()
    part = parts.assign(features, labels, valid, valid)
    part = part.where(part != 3, NO_PART)
    literal = oracle.eq12(parts.value.view(C, K, D), oracle.resized(features, SIZE), part, K, 0.9)
    parts.observe_members(features, parts.members(part))
    parts.commit()
    assert torch.allclose(parts.value.view(C, K, D), literal, rtol=0, atol=1e-10)


def test_parts_are_found_and_averaged_in_full_precision_whatever_autocast_says():
    results = []
    for autocast in (False, True):
        parts, (features, labels, valid) = prototypes().float(), part_case()
        # Nearly alike: bfloat16 would not tell them apart.
        parts.value.copy_(normal(1, D) + 0.003 * normal(C * K, D, seed=7))
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            part = parts.assign(features.float(), labels, valid, valid)
            members = parts.members(part)
            means = masked_average_pooling(normal(2, 4, *SIZE, seed=2).float(), members)[0]
            parts.observe_members(features.float(), members)
        results.append((part, means, parts.pending))
    for plain, ours in zip(*results, strict=True):
        assert ours.dtype == plain.dtype and torch.equal(ours, plain)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('fine', [(9, 7), (2, 3)])
def test_the_transpose_of_resizing_moves_sums_to_the_coarse_pixels(align_corners, fine):
    features, maps = normal(2, D, 4, 3), normal(2, 3, *fine, seed=1)
    enlarged = F.interpolate(features, size=fine, mode='bilinear', align_corners=align_corners)
    coarse = resize_transposed(maps, (4, 3), align_corners)
    ours = torch.einsum('bphw,blhw->bpl', coarse, features)
    assert torch.allclose(ours, torch.einsum('bphw,blhw->bpl', maps, enlarged), atol=1e-12)


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('fine, coarse', [((17, 33), (5, 9)), ((16, 12), (4, 3)), ((9, 8), (2, 1)), ((5, 4), (9, 8))])
def test_a_coarse_label_is_that_of_the_pixel_nearest_to_where_the_feature_lies(align_corners, fine, coarse):
    # Pixels that hold their own place tell by bilinear resizing where a feature lies.
    places = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in fine), indexing='ij'))
    labels = torch.arange(places[0].numel()).view(1, *fine)
    ours = resize_labels(labels, coarse, align_corners)[0]
    for axis, (pixels, points) in enumerate(zip(fine, coarse, strict=True)):
        if align_corners and points > 1:
            lie = torch.arange(points) * (pixels - 1) / (points - 1)
        else:
            lie = (torch.arange(points) + 0.5) * pixels / points - 0.5
        lie = lie.view((-1, 1) if axis == 0 else (1, -1)).expand(coarse)
        assert (places[axis].flatten()[ours] - lie).abs().max() <= 0.5 + 1e-9
    mask = labels % 2 == 0
    assert torch.equal(resize_labels(mask, coarse, align_corners)[0], ours % 2 == 0)


def test_a_class_without_prototypes_fills_one_part_a_step_from_sure_pixels():
    parts, (features, labels, valid) = prototypes(), part_case()
    parts.seen[2 * K :] = False
    confident = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    E = oracle.resized(features, SIZE)
    for step in range(K):
        part = parts.assign(features + step, labels, valid, confident)
        new = (labels == 2) & valid & confident
        assert torch.equal(part == 2 * K + step, new) and (part[(labels == 2) & ~new] == NO_PART).all()
        assert torch.equal(part != NO_PART, valid & ((labels != 2) | confident))
        parts.observe_members(features + step, parts.members(part))
        parts.commit()
        mean = (E.movedim(1, -1)[new] + step).mean(0)
        assert torch.allclose(parts.value[2 * K + step], mean, rtol=0, atol=1e-10)
    assert parts.seen.all()


def test_prototypes_start_as_the_centres_of_k_means():
    parts, centres = prototypes(seen=False), normal(C, K, D, seed=3) * 20
    noise = normal(C, K, 50, D, seed=4)
    noise = noise - noise.mean(2, keepdim=True)
    samples = [(centres[c, :, None] + noise[c]).flatten(0, 1) for c in range(C)]
    samples[1] = torch.empty(0, D)
    parts.fit(samples)
    for c in (0, 2):
        found = parts.value.view(C, K, D)[c]
        distance = (found[:, None] - centres[c]).norm(dim=-1)
        assert distance.min(0).values.max() < 1e-6 and distance.min(1).values.max() < 1e-6
    assert parts.seen.view(C, K).all(1).tolist() == [True, False, True]


def test_one_part_a_class_is_its_mean():
    parts = PartPrototypes(1, 1, D).double()
    rows = normal(20, D)
    parts.fit([rows])
    assert torch.allclose(parts.value[0], rows.mean(0), rtol=0, atol=1e-10)


def collecting(labels: torch.Tensor):
    """Passes of one image each, and the numbers of those that were asked for."""
    asked = []

    def labeled_pass(number):
        asked.append(number)
        yield normal(1, D, *SIZE, seed=number).float(), labels, False

    return labeled_pass, asked


def test_images_are_looked_at_again_while_a_class_has_too_few_pixels():
    labels = torch.zeros(1, *SIZE, dtype=torch.long)
    labels[0, 0, 0] = 1
    labeled_pass, asked = collecting(labels)
    parts = PartPrototypes(C, 4, D)
    parts.collect(labeled_pass, ('sky', 'road', 'car'), 100)
    assert asked == [0, 1, 2, 3]
    assert parts.seen.view(C, 4).all(1).tolist() == [True, True, False]


def test_a_class_of_one_pixel_is_not_missing(monkeypatch):
    told = []
    monkeypatch.setattr('mmsemi.models.state.parts.print_log', lambda message, **_: told.append(message))
    labels = torch.zeros(1, *SIZE, dtype=torch.long)
    labels[0, 0, 0] = 1
    PartPrototypes(C, 1, D).collect(collecting(labels)[0], ('sky', 'road', 'car'), 100)
    assert told == ['No labeled pixel shows car: their parts start in training.']


def test_all_ranks_take_the_prototypes_of_the_first(monkeypatch):
    sent = []
    monkeypatch.setattr('mmsemi.models.state.parts.broadcast', sent.append)
    model = PartPrototypes(C, K, D)
    model.collect(collecting(torch.zeros(1, *SIZE, dtype=torch.long))[0], ('sky', 'road', 'car'), 100)
    assert {id(model.value), id(model.seen)} <= {id(buffer) for buffer in sent}


def test_fewer_pixels_than_parts_are_told_with_the_class():
    labels = torch.zeros(1, *SIZE, dtype=torch.long)
    labels[0, 0, :2] = 1
    labeled_pass, _ = collecting(labels)
    message = '20 pixels of the class road, fewer than model.parts=21; lower'
    with pytest.raises(ValueError, match=message):
        PartPrototypes(C, 21, D).collect(labeled_pass, ('sky', 'road', 'car'), 100)


def test_the_sample_of_a_class_is_uniform_and_bounded():
    samples = ClassSamples(2, 1, limit=4000)
    for image in range(10):
        labels = torch.zeros(40, 50, dtype=torch.long)
        labels[0] = 255
        labels[1, :30] = 1
        samples.add(torch.full((1, 40, 50), float(image)), labels)
    assert len(samples.features[1]) == 300 and len(samples.features[0]) == 4000
    shares = samples.features[0].flatten().long().bincount() / 4000
    assert len(shares) == 10 and (shares - 0.1).abs().max() < 0.015


# Queues


def test_queues_hold_the_last_features_in_order_over_their_end():
    queues, literal = FeatureQueues(4, 3, 2).double(), oracle.Queues(4, 3)
    generator = torch.Generator().manual_seed(0)
    for step in range(12):
        images = 1 + step % 5
        features = torch.randn(images, 4, 2, generator=generator, dtype=torch.float64)
        present = torch.rand(images, 4, generator=generator) > 0.5
        present[:, 3] = False
        queues.observe(features, present)
        queues.commit()
        for image in range(images):
            literal.push([f if p else None for f, p in zip(features[image], present[image], strict=True)])
        for p, queue in enumerate(literal.queues):
            filled = int(queues.filled[p])
            assert filled == len(queue)
            oldest = int(queues.pushed[p]) - filled
            for place, feature in enumerate(queue):
                assert torch.equal(queues.value[p, (oldest + place) % 3], feature)
    assert queues.pushed[:3].min() > 9 and queues.filled[3] == 0


def test_observations_of_a_step_are_enqueued_in_their_order():
    queues = FeatureQueues(1, 5, 1)
    for value in (1.0, 2.0):
        queues.observe(torch.tensor([[[value]], [[value + 0.5]]]), torch.ones(2, 1, dtype=torch.bool))
    assert (queues.value == 0).all()
    queues.commit()
    queues.commit()
    assert queues.value.flatten().tolist() == [1, 1.5, 2, 2.5, 0]


def filled_queues(counts: list[int], length: int = 4) -> FeatureQueues:
    queues = FeatureQueues(len(counts), length, 1)
    for p, count in enumerate(counts):
        for i in range(count):
            queues.observe(torch.full((1, len(counts), 1), 100.0 * p + i), torch.arange(len(counts))[None] == p)
    queues.commit()
    return queues


def test_draws_are_uniform_over_what_the_own_and_the_other_queues_hold():
    torch.manual_seed(0)
    queues = filled_queues([2, 0, 4, 7, 1])
    own = torch.tensor([0, 2, 3, 4] * 2000)
    positive, negative, available = queues.draw(own, 6)
    assert available.all()
    value = queues.value.flatten()
    held = {p: queues.value[p, : queues.filled[p], 0].tolist() for p in range(5)}
    for p in (0, 2, 3, 4):
        for drawn, among in (
            (value[positive[own == p]], held[p]),
            (value[negative[own == p]].flatten(), [x for other, rows in held.items() if other != p for x in rows]),
        ):
            found, counts = drawn.unique(return_counts=True)
            assert sorted(among) == found.tolist()
            assert (counts / len(drawn) - 1 / len(among)).abs().max() < 0.04


@pytest.mark.parametrize('counts', [[0, 0, 0], [0, 3, 0], [0, 0, 4], [4, 0, 0]])
def test_without_a_positive_or_a_negative_an_anchor_is_not_available(counts):
    queues = filled_queues(counts)
    positive, negative, available = queues.draw(torch.arange(3), 5)
    assert not available.any()
    drawn = torch.cat([positive, negative.flatten()])
    assert drawn.min() >= 0 and drawn.max() < 12
    assert [x.shape for x in traces(queues.draw, torch.arange(3), 5)] == [(3,), (3, 5), (3,)]


# Anchors


def test_anchors_are_a_bounded_share_of_each_class_without_replacement():
    labels = torch.tensor([0] * 500 + [1] * 100 + [2] * 3 + [255] * 7)
    labels = labels[torch.randperm(610, generator=torch.Generator().manual_seed(0))].view(2, 61, 5)
    counted = labels != 255
    index, drawn = draw_per_class(labels, counted, 4, ratio=0.1, limit=20)
    assert drawn.sum(1).tolist() == [20, 10, 1, 0]
    for c in range(3):
        chosen = index[c][drawn[c]]
        assert (labels.flatten()[chosen] == c).all() and len(chosen.unique()) == len(chosen)
    assert traces(draw_per_class, labels, counted, 4, 0.1, 20)[0].shape == (4, 20)


def test_every_counted_pixel_of_a_class_is_equally_likely():
    torch.manual_seed(0)
    labels = torch.arange(40).remainder(2)
    counted = torch.arange(40) < 30
    hits = torch.zeros(40)
    for _ in range(1000):
        index, drawn = draw_per_class(labels, counted, 2, ratio=1.0, limit=6)
        hits[index[drawn]] += 1
    assert (hits[30:] == 0).all()
    assert (hits[:30] / 1000 - 6 / 15).abs().max() < 0.06


# InfoNCE


def contrast_case(seed: int = 0):
    anchors, bank = 3 * normal(6, D, seed=seed).requires_grad_(), normal(9, D, seed=seed + 1)
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randint(9, (6,), generator=generator)
    negatives = torch.randint(9, (6, 4), generator=generator)
    return anchors, bank, positive, negatives


@pytest.mark.parametrize('temperature', [0.5, 0.1])
def test_info_nce_equals_eq_10(temperature):
    anchors, bank, positive, negatives = contrast_case()
    weight = torch.tensor([1 / 4, 1 / 4, 0, 1 / 4, 1 / 4, 0], dtype=torch.float64)
    ours = info_nce(anchors, bank[positive], bank, negatives, temperature, weight)
    kept = [i for i in range(6) if weight[i] > 0]
    literal = oracle.eq10(
        [anchors[i] for i in kept],
        [bank[positive[i]] for i in kept],
        [[bank[n] for n in negatives[i]] for i in kept],
        temperature,
    )
    assert torch.allclose(ours, literal, rtol=0, atol=1e-10)
    assert torch.allclose(*(torch.autograd.grad(x, anchors)[0] for x in (ours, literal)), rtol=0, atol=1e-10)
    assert gradcheck(lambda v: info_nce(v, bank[positive], bank, negatives, temperature, weight), (anchors,))
    assert torch.allclose(traces(info_nce, anchors, bank[positive], bank, negatives, temperature, weight), ours)
    half = info_nce(anchors.half(), bank[positive].float(), bank.float(), negatives, temperature, weight.float())
    assert half.dtype == torch.float32 and torch.allclose(half.double(), ours, atol=1e-2)


def test_pseudo_labels_and_losses_trace():
    logits = normal(1, 4, 3, 3)
    for arguments in ((logits, 0.95), (logits, 1.0), (logits, 0.95, 2)):
        assert torch.equal(traces(dynamic_soft_labels, *arguments).prob, dynamic_soft_labels(*arguments).prob)
    pseudo = dynamic_soft_labels(logits, 0.95)
    assert torch.allclose(traces(soft_cross_entropy, logits, pseudo), soft_cross_entropy(logits, pseudo))
