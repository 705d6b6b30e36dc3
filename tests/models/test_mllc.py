"""The whole unsupervised step of MLLC against the literal equations."""

import pytest
import torch

from mmsemi.models import BranchOutput
from mmsemi.models.modules.label_graph import GraphOutput
from mmsemi.structures import Mix, PseudoLabel, Streams
from tests import tiny
from tests.oracles import mllc as oracle

K, ALPHA, TAU, SIGMA, INTRA = 5, 0.2, 0.1, 0.4, 0.5


def nodes(maps: torch.Tensor) -> torch.Tensor:
    """(C, h, w) as rows."""
    return maps.flatten(1).T


def small_streams() -> Streams:
    """One labeled and two unlabeled crops of 16 x 16: graphs of 16 nodes."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, tiny.NUM_CLASSES, (1, 16, 16), generator=generator)
    valid = torch.ones(2, 16, 16, dtype=torch.bool)
    valid[0, 12:] = False
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[0, 4:12, 4:12] = True
    draw = lambda n: torch.randn(n, 3, 16, 16, generator=generator, dtype=torch.float64)  # noqa: E731
    return Streams(draw(1), labels, draw(2), (draw(2),), valid, (Mix(mask),))


def model_and_streams(**kwargs):
    model = tiny.build('MLLC', preprocessor=dict(size=(16, 16)), threshold=SIGMA, **kwargs).double().eval()
    streams = small_streams()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'mlps' in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
        # Predictions of several classes: running statistics that fit, scores spread around 0.
        model.student.train()
        for _ in range(30):
            out = model.student(torch.cat([streams.weak, streams.labeled]))
        model.student.eval()
        classifier = model.student.segmentor.decode_head.conv_seg
        classifier.weight *= 4 / out.coarse_logits.std()
        classifier.bias -= model.student(streams.weak).coarse_logits.mean((0, 2, 3))
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


def test_the_unsupervised_loss_equals_the_equations():
    model, streams = model_and_streams()
    coarse = lambda maps: maps[:, 2::4, 2::4]  # noqa: E731  (nearest-exact at stride 4)
    losses = model.loss(streams)

    with torch.no_grad():
        valid = coarse(streams.valid)
        out, weak, threshold = layers(model.teacher, streams.weak, valid)
        total = torch.stack([sum(x_c[1:]).T.view(-1, 4, 4) for x_c, _ in weak])
        full = torch.nn.functional.interpolate(total, size=(16, 16), mode='bilinear')
        label = full.argmax(1)
        assert len(label.unique()) > 2, 'the case must tell classes apart'
        assert torch.allclose(losses['unsup.threshold'], threshold.mean())

        mask = streams.mix[0].mask
        mixed = torch.where(mask, label.flip(0), label)
        mixed_valid = torch.where(mask, streams.valid.flip(0), streams.valid)
        y, v = coarse(mixed), coarse(mixed_valid)
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


def test_prototypes_gather_the_teachers_features_of_both_streams():
    model, streams = model_and_streams()
    before = [prototypes.value.clone() for prototypes in model.prototypes]
    model.loss(streams)
    with torch.no_grad():
        valid = streams.valid[:, 2::4, 2::4]
        _, weak, threshold = layers(model.teacher, streams.weak, valid)
        truth = streams.labels[:, 2::4, 2::4]
        _, labeled, _ = layers(model.teacher, streams.labeled, truth != 255, threshold)
        total = torch.stack([sum(x_c[1:]).T.view(-1, 4, 4) for x_c, _ in weak])
        label = torch.nn.functional.interpolate(total, size=(16, 16), mode='bilinear').argmax(1)[:, 2::4, 2::4]
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


def test_the_graphs_learn_the_labels_of_labeled_images():
    model, streams = model_and_streams(graph_supervision=0.5)
    losses = model.loss(streams)
    with torch.no_grad():
        mask = streams.mix[0].mask
        strong = torch.where(mask[:, None], streams.strong[0].flip(0), streams.strong[0])
        valid = torch.where(mask, streams.valid.flip(0), streams.valid)[:, 2::4, 2::4]
        _, _, threshold = layers(model.student, strong, valid)
        truth = streams.labels[:, 2::4, 2::4]
        _, graphs, _ = layers(model.student, streams.labeled, truth != 255, threshold)
        terms = [
            oracle.eq15_eq16(torch.cat([x_c[k] for x_c, _ in graphs]), truth.flatten(), dynamic_weight=False)
            for k in (1, 2)
        ]
    assert torch.allclose(losses['sup.loss_graph'], 0.5 * sum(terms) / 2, atol=1e-10)


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
    'graph', [dict(num_layers=0), dict(num_neighbors=0), dict(num_neighbors='inf'), dict(scope='batch')]
)
def test_every_graph_of_the_ablations_trains(graph):
    heads = {name: dict(cfg) for name, cfg in tiny.HEADS.items()}
    heads['graph'].update(graph)
    model = tiny.build('MLLC', threshold=0.2, heads=heads).train()
    total, log = model.parse_losses(model.loss(tiny.streams()))
    total.backward()
    assert total.isfinite() and log['unsup.loss_clg'] > 0


def test_without_layers_the_teachers_own_labels_are_learned():
    heads = {name: dict(cfg) for name, cfg in tiny.HEADS.items()}
    heads['graph'].update(num_layers=0)
    model = tiny.build('MLLC', heads=heads).eval()
    streams = tiny.streams()
    label = model.corrected_labels(model.guide_views(streams)['guide'])
    prob = model.teacher(streams.weak).coarse_logits.softmax(1)
    expected = torch.nn.functional.interpolate(prob, size=(tiny.SIZE, tiny.SIZE), mode='bilinear').argmax(1)
    assert torch.equal(label, expected)
