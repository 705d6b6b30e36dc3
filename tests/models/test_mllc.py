"""The whole unsupervised step of MLLC against the literal equations."""

from dataclasses import replace

import pytest
import torch

from mmsemi.models import BranchOutput
from mmsemi.models.modules.label_graph import GraphOutput
from mmsemi.structures import Mix, PseudoLabel, Streams
from tests import tiny
from tests.oracles import mllc as oracle

K, ALPHA, TAU, SIGMA, INTRA = 5, 0.2, 0.1, 0.4, 0.5
# Crops of 4k and 4k + 1, with the resizing that fits each: 16 and 25 nodes an image, at stride 4.
SIDES = {False: 16, True: 17}
ALIGN = pytest.mark.parametrize('align_corners', SIDES)


def nodes(maps: torch.Tensor) -> torch.Tensor:
    """(C, h, w) as rows."""
    return maps.flatten(1).T


def coarse(maps: torch.Tensor, align_corners: bool = False) -> torch.Tensor:
    """Maps (B, H, W) at the pixels on which nodes lie."""
    side = maps.shape[-1]
    places = [oracle.pixel_of_node(i, -(-side // 4), side, align_corners) for i in range(-(-side // 4))]
    return maps[:, places][..., places]


def small_streams(side: int = 16) -> Streams:
    """One labeled and two unlabeled crops."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, tiny.NUM_CLASSES, (1, side, side), generator=generator)
    valid = torch.ones(2, side, side, dtype=torch.bool)
    valid[0, 12:] = False
    mask = torch.zeros(2, side, side, dtype=torch.bool)
    mask[0, 4:12, 4:12] = True
    draw = lambda n: torch.randn(n, 3, side, side, generator=generator, dtype=torch.float64)  # noqa: E731
    return Streams(draw(1), labels, draw(2), (draw(2),), valid, (Mix(mask),))


def model_and_streams(align_corners: bool = False, **kwargs):
    side, student = SIDES[align_corners], tiny.segmentor()
    student['decode_head']['align_corners'] = align_corners
    settings = dict(student=student, threshold=SIGMA, graph_supervision=1.0)
    model = tiny.build('MLLC', preprocessor=dict(size=(side, side)), **{**settings, **kwargs}).double().eval()
    streams = small_streams(side)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'mlps' in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    tiny.decide(model, streams, spread=4)
    with torch.no_grad():
        model.teacher.load_state_dict(model.student.state_dict())
        for parameter in model.teacher.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for prototypes in model.prototypes:
            prototypes.value.normal_()
            prototypes.seen[:3] = True
    return model, streams


def layers(branch, images, valid, threshold=None):
    """Algorithm 1 for each image, with the threshold of eq. 9 over all of them."""
    out = branch(images)
    features, prob = out.heads['embedding'], out.coarse_logits.softmax(1)
    if threshold is None:
        rows = torch.cat([nodes(p) for p in prob])
        threshold = oracle.eq9(rows, SIGMA, valid.flatten())
    graph = branch.heads['graph']
    results = [
        oracle.algorithm1(
            nodes(p), nodes(f), threshold, graph.label_mlps, graph.feature_mlps, K, 1.0, ALPHA, 'clg_first', v
        )
        for p, f, v in zip(prob, features, valid.flatten(1), strict=True)
    ]
    return out, results, threshold


def pseudo_labels(out, weak, align_corners, at='crop'):
    """Of each image, by the oracle."""
    labels = []
    for scores, (x_c, _) in zip(out.logits, weak, strict=True):
        maps = [x.T.unflatten(1, out.heads['embedding'].shape[2:]) for x in x_c]
        labels.append(oracle.pseudo_label(scores.softmax(0), maps, align_corners, at))
    return torch.stack(labels)


@ALIGN
@pytest.mark.parametrize('at', ['crop', 'graph'])
def test_the_unsupervised_loss_equals_the_equations(align_corners, at):
    model, streams = model_and_streams(align_corners, label_resolution=at)
    losses = model.loss(streams)

    with torch.no_grad():
        valid = coarse(streams.valid, align_corners)
        out, weak, threshold = layers(model.teacher, streams.weak, valid)
        label = pseudo_labels(out, weak, align_corners, at)
        assert len(label.unique()) > 2, 'the case must tell classes apart'
        assert torch.allclose(losses['unsup.threshold'], threshold.mean())

        mask = streams.mix[0].mask
        mixed = torch.where(mask, label.flip(0), label)
        mixed_valid = torch.where(mask, streams.valid.flip(0), streams.valid)
        y, v = coarse(mixed, align_corners), coarse(mixed_valid, align_corners)
        strong = torch.where(mask[:, None], streams.strong[0].flip(0), streams.strong[0])
        out, graphs, _ = layers(model.student, strong, v)

        clg = oracle.eq15_eq16(
            torch.cat([nodes(p) for p in out.logits.softmax(1)]), mixed.flatten(), mixed_valid.flatten()
        )
        slg = 0.0
        for k in (1, 2):
            rows = torch.cat([x_c[k] for x_c, _ in graphs])
            clg = clg + oracle.eq15_eq16(rows, y.flatten(), v.flatten())
            intra = [oracle.eq12_intra(x_s[k], y[i].flatten(), v[i].flatten()) for i, (_, x_s) in enumerate(graphs)]
            prototypes = model.prototypes[k - 1]
            cross = oracle.eq12_prototype(
                torch.cat([x_s[k] for _, x_s in graphs]),
                y.flatten(),
                prototypes.value,
                prototypes.seen,
                TAU,
                v.flatten(),
            )
            slg = slg + INTRA * sum(intra) / 2 + (1 - INTRA) * cross
    assert torch.allclose(losses['unsup.loss_clg'], clg, atol=1e-10)
    assert torch.allclose(losses['unsup.loss_slg'], 0.1 * slg, atol=1e-10)


@ALIGN
def test_prototypes_gather_the_teachers_features_of_both_streams(align_corners):
    model, streams = model_and_streams(align_corners)
    before = [prototypes.value.clone() for prototypes in model.prototypes]
    model.loss(streams)
    with torch.no_grad():
        valid = coarse(streams.valid, align_corners)
        out, weak, threshold = layers(model.teacher, streams.weak, valid)
        truth = coarse(streams.labels, align_corners)
        _, labeled, _ = layers(model.teacher, streams.labeled, truth != 255, threshold)
        label = coarse(pseudo_labels(out, weak, align_corners), align_corners)
        for k, prototypes in enumerate(model.prototypes):
            features = torch.cat([x_s[k + 1] for _, x_s in weak + labeled])
            classes = torch.cat([label.flatten(), truth.flatten()])
            exists = torch.cat([valid.flatten(), (truth != 255).flatten()])
            means = oracle.eq13(features, classes, tiny.NUM_CLASSES, exists)
            old = [before[k][c] if c < 3 else None for c in range(tiny.NUM_CLASSES)]
            expected = oracle.eq14(old, means)
            prototypes.commit()
            for c, value in enumerate(expected):
                assert torch.allclose(prototypes.value[c], value if value is not None else before[k][c], atol=1e-10)


@ALIGN
def test_the_graphs_learn_the_labels_of_labeled_images(align_corners):
    model, streams = model_and_streams(align_corners, graph_supervision=0.5)
    losses = model.loss(streams)
    with torch.no_grad():
        mask = streams.mix[0].mask
        strong = torch.where(mask[:, None], streams.strong[0].flip(0), streams.strong[0])
        valid = coarse(torch.where(mask, streams.valid.flip(0), streams.valid), align_corners)
        _, _, threshold = layers(model.student, strong, valid)
        truth = coarse(streams.labels, align_corners)
        _, graphs, _ = layers(model.student, streams.labeled, truth != 255, threshold)
        terms = [
            oracle.eq15_eq16(torch.cat([x_c[k] for x_c, _ in graphs]), truth.flatten(), dynamic_weight=False)
            for k in (1, 2)
        ]
    assert torch.allclose(losses['sup.loss_graph'], 0.5 * sum(terms) / 2, atol=1e-10)


@pytest.mark.parametrize(
    'settings, expected',
    [({}, False), (dict(graph_supervision=0.1), True), (dict(scope='stream'), False), (dict(scope='batch'), True)],
    ids=str,
)
def test_labeled_images_have_a_graph_of_the_students_where_something_reads_it(settings, expected):
    heads = {name: dict(cfg) for name, cfg in tiny.HEADS.items()}
    heads['graph'].update({key: value for key, value in settings.items() if key == 'scope'})
    weights = {'graph_supervision': 0.0, **{key: value for key, value in settings.items() if key != 'scope'}}
    model, streams = model_and_streams(heads=heads, **weights)
    assert ('graph' in model.student_views(streams)['labeled'].heads) is expected
    # The teacher's are made prototypes of.
    assert 'graph' in model.guide_views(streams)['guide_labeled'].heads
    losses = model.loss(streams)
    assert ('sup.loss_graph' in losses) is bool(weights['graph_supervision'])


def test_the_graph_of_a_view_is_the_same_whether_labeled_images_have_one_or_not():
    with_one, streams = model_and_streams(graph_supervision=1.0)
    without, _ = model_and_streams(graph_supervision=0.0)
    losses, others = with_one.loss(streams), without.loss(streams)
    for name in ('unsup.loss_clg', 'unsup.loss_slg', 'unsup.threshold'):
        assert torch.allclose(losses[name], others[name], atol=1e-12)


def test_the_dynamic_weight_is_a_constant_of_the_gradient():
    heads = {name: dict(cfg) for name, cfg in tiny.HEADS.items()}
    heads['graph'].update(num_layers=0)
    model = tiny.build('MLLC', heads=heads).double().eval()
    logits = torch.randn(2, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    label, valid = torch.randint(4, (2, 6, 6)), torch.rand(2, 6, 6) > 0.2
    out = BranchOutput((), logits, (6, 6), heads=dict(nodes=valid, graph=GraphOutput((logits,), (), logits)))
    ours = model.clg_loss(out, PseudoLabel(label, torch.ones_like(logits[:, 0])), valid)
    literal = oracle.eq15_eq16(logits.softmax(1).permute(0, 2, 3, 1).flatten(0, 2), label.flatten(), valid.flatten())
    assert torch.allclose(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, literal)), atol=1e-10)


@pytest.mark.parametrize(
    'switch',
    [
        dict(class_wise=False),
        dict(intra_image=False),
        dict(cross_image=False),
        dict(dynamic_weight=False),
        dict(slg_weight=0.0),
        dict(graph_supervision=0.0),
        dict(label_resolution='graph'),
        dict(intra_weight=0.9),
        dict(temperature=0.5),
    ],
    ids=str,
)
def test_every_switch_of_the_ablations_changes_the_loss(switch):
    plain, streams = model_and_streams()
    switched, _ = model_and_streams(**switch)
    a, b = plain.loss(streams), switched.loss(streams)
    assert any(name not in b or not torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    'graph',
    [dict(num_layers=0), dict(num_neighbors=0), dict(num_neighbors='inf'), dict(scope='stream'), dict(scope='batch')],
)
def test_every_graph_of_the_ablations_trains(graph):
    heads = {name: dict(cfg) for name, cfg in tiny.HEADS.items()}
    heads['graph'].update(graph)
    model = tiny.build('MLLC', threshold=0.2, heads=heads).train()
    total, log = model.parse_losses(model.loss(tiny.streams()))
    total.backward()
    assert total.isfinite() and log['unsup.loss_clg'] > 0


@ALIGN
@pytest.mark.parametrize('at', ['crop', 'graph'])
def test_without_layers_labels_are_the_classifiers_bit_by_bit(at, align_corners):
    heads = {name: dict(cfg) for name, cfg in tiny.HEADS.items()}
    heads['graph'].update(num_layers=0)
    model, streams = model_and_streams(align_corners, heads=heads, label_resolution=at)
    label = model.float().corrected_labels(model.guide_views(to_float(streams))['guide'])
    assert torch.equal(label, model.teacher(streams.weak.float()).logits.argmax(1))


def to_float(streams: Streams) -> Streams:
    return replace(streams, labeled=streams.labeled.float(), weak=streams.weak.float())


def graph_output(*log_probs: torch.Tensor) -> GraphOutput:
    return GraphOutput(log_probs, log_probs, log_probs[0][0, :, 0, 0])


def test_a_graph_that_changes_nothing_leaves_the_classifiers_labels():
    """At the crop's resolution: of what the classifier sees between nodes nothing is lost."""
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(2, 4, 16, 16, generator=generator)
    coarse_scores = torch.nn.functional.interpolate(scores, size=(4, 4), mode='bilinear')
    same = graph_output(*[coarse_scores.log_softmax(1)] * 3)
    out = BranchOutput((), scores, (32, 32), heads=dict(graph=same))
    fine, by_graph = (tiny.build('MLLC', label_resolution=at).corrected_labels(out) for at in ('crop', 'graph'))
    assert torch.equal(fine, out.logits.argmax(1)) and (by_graph != fine).float().mean() > 0.3


def test_padding_next_to_a_pixel_does_not_correct_it():
    """The sum over layers counts K times, at padding as elsewhere: a constant of the pixel."""
    scores = 3 * torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    first = scores.log_softmax(1)
    changed = torch.where(torch.arange(4) < 2, (2 * scores).log_softmax(1), first)
    out = BranchOutput((), scores, (16, 16), heads=dict(graph=graph_output(first, changed, changed)))
    label = tiny.build('MLLC').corrected_labels(out)
    assert torch.equal(label[..., 10:], out.logits.argmax(1)[..., 10:])


@pytest.mark.parametrize('unlabeled', ['other', 'same'])
def test_scope_stream_joins_the_unlabeled_images_without_the_labeled_ones(unlabeled):
    heads = {name: dict(cfg) for name, cfg in tiny.HEADS.items()}
    heads['graph'].update(scope='stream')
    model, streams = model_and_streams(heads=heads)
    before = model.guide_views(streams)
    changed = replace(streams, labeled=streams.labeled.flip(-1) + 1)
    if unlabeled == 'other':
        changed = replace(changed, weak=torch.cat([streams.weak[:1], streams.weak[1:] + 1]))
    after = model.guide_views(changed)
    same = torch.allclose(*(views['guide'].heads['graph'].log_probs[-1][0] for views in (before, after)))
    assert same is (unlabeled == 'same')


def test_a_confidently_wrong_classifier_learns_from_the_truth_and_from_the_layers():
    """In float32: scores of 50 for a wrong class; the weight of eq. 16 apart, which makes such pixels count nothing."""
    scores = torch.full((2, 4, 6, 6), -50.0)
    scores[:, 0] = 50
    scores.requires_grad_()
    model = tiny.build('MLLC', dynamic_weight=False, graph_supervision=1.0)
    features, valid = torch.randn(2, 16, 6, 6), torch.ones(2, 6, 6, dtype=torch.bool)
    graph = model.student.heads['graph'](scores.log_softmax(1), features, torch.full((4,), 0.9))
    out = BranchOutput((), scores, (6, 6), heads=dict(nodes=valid, graph=graph))
    true = torch.full((2, 6, 6), 2)
    clg = model.clg_loss(out, PseudoLabel(true, torch.ones(2, 6, 6)), valid)
    supervised = model.supervised_loss(out, true)['loss_graph']
    for loss, terms in ((clg, 3), (supervised, 1)):
        (gradient,) = torch.autograd.grad(loss, scores, retain_graph=True)
        assert torch.isclose(gradient[:, 2].sum(), torch.tensor(-float(terms)), rtol=1e-3)
        assert (gradient[:, 2] < 0).all() and (gradient[:, 0] > 0).all()


def test_an_unknown_resolution_of_labels_is_named():
    with pytest.raises(ValueError, match=r"model.label_resolution must be one of crop, graph, not 'image'"):
        tiny.build('MLLC', label_resolution='image')
