"""The whole step of CorrMatch against the literal equations."""

import dataclasses
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from mmsemi.engine import DynamicThresholdHook
from mmsemi.models.losses.soft import SOFT_LOSSES, soft_consistency
from mmsemi.models.modules.correlation import Correlation
from mmsemi.models.state.dynamic_threshold import THRESHOLD_UPDATES, DynamicThreshold
from mmsemi.structures import Mix, Streams
from tests import tiny
from tests.oracles import corrmatch as oracle

SIZE, TAU = 32, 0.5
OS8 = dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))


def streams(size: int = SIZE) -> Streams:
    """One labeled and two unlabeled crops; maps of 4 x 4, of a crop of 33 of 5 x 5."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda n: torch.randn(n, 3, size, size, generator=generator, dtype=torch.float64)  # noqa: E731
    labels = torch.randint(0, tiny.NUM_CLASSES, (1, size, size), generator=generator)
    labels[:, :3] = 255
    valid = torch.ones(2, size, size, dtype=torch.bool)
    valid[0, 26:] = False
    mask = torch.zeros(2, size, size, dtype=torch.bool)
    mask[0, 4:12, 4:20] = True
    weak = draw(2)
    return Streams(draw(1), labels, weak, (weak + 0.3 * draw(2),), valid, (Mix(mask),))


def build(size: int = SIZE, **kwargs):
    """A model in evaluation mode, whose predictions are of several classes, some of them confident.

    Corners are aligned where the crop is made for it: 8 k + 1.
    """
    kwargs = dict(threshold=TAU, num_shapes=12, sampling='uniform', feature_dropout=0.0) | kwargs
    student = tiny.segmentor()
    student['backbone'].update(OS8)
    student['decode_head']['align_corners'] = size % 8 == 1
    kwargs = dict(preprocessor=dict(size=(size, size))) | kwargs
    model = tiny.build('CorrMatch', student=student, **kwargs).double()
    views = streams(size)
    with torch.no_grad():
        # One pass, and running statistics are those of the batch.
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        out = model.train().student(torch.cat([views.weak, views.labeled]))
        model.eval()
        classifier = model.student.segmentor.decode_head.conv_seg
        classifier.weight *= 3 / out.coarse_logits.std()
        classifier.bias -= model.student(views.weak).coarse_logits.mean((0, 2, 3))
        if 'correlation' in model.student.heads:
            head = model.student.heads['correlation']
            head.rows.weight *= 8
            head.columns.weight *= 8
    return model


def literal_z(out):
    """Eq. 4 and 5 for every image, at the crop's resolution."""
    rows, columns = out.heads['correlation'].rows, out.heads['correlation'].columns
    how = dict(mode='bilinear', align_corners=out.size[0] % 8 == 1)
    coarse = F.interpolate(out.coarse_logits.detach(), size=rows.shape[2:], **how)
    z = [
        oracle.eq5(s.flatten(1), oracle.eq4(a.flatten(1), b.flatten(1))).view_as(s)
        for s, a, b in zip(coarse, rows, columns, strict=True)
    ]
    return F.interpolate(torch.stack(z), size=out.size, **how)


def literal_step(model, views, kind='kl', tau=TAU, cascade=False, mixed_target=True, weigh=lambda label: 1.0):
    """Every term of the loss, eq. 1 to 12 and algorithm 1.

    ``tau`` is that of regions, ``weigh`` what a plugin makes of each image's own labels.
    """
    mask, valid, size = views.mix[0].mask, views.valid, views.valid.shape[1:]
    mix = lambda x: torch.where(mask if x.dim() == 3 else mask[:, None], x.flip(0), x)  # noqa: E731
    nll = lambda logits, label: F.cross_entropy(logits, label, reduction='none', ignore_index=255)  # noqa: E731
    labeled, weak = model.student(views.labeled), model.student(views.weak)
    strong = model.student(mix(views.strong[0]))
    confidence, label = weak.logits.softmax(1).max(1)
    M = (confidence >= TAU) & valid
    mixed_label, mixed_M, mixed_valid = mix(label), mix(M), mix(valid)

    region_label, region_M, accepted = mixed_label.clone(), mixed_M.clone(), 0
    n = weak.heads['correlation'].rows[0, 0].numel()
    for b in range(2):
        features = weak.heads['correlation']
        C_map = oracle.eq4(features.rows[b].flatten(1), features.columns[b].flatten(1))
        shapes = []
        for j in range(model.num_shapes):
            c = C_map[int((j + 0.5) * n / model.num_shapes)].view(features.rows.shape[2:])
            shapes.append(oracle.eq7(c, size, size[0] % 8 == 1) & ~mask[b] & mixed_valid[b])
        region_label[b], region_M[b], used = oracle.algorithm1(shapes, tau, mixed_M[b], mixed_label[b], cascade)
        accepted += len(used)

    weight = weigh(label) * torch.ones_like(confidence)
    mixed_weight, region_weight = mix(weight), torch.where(mask, mix(weight), weigh(region_label))
    target = mix(weak.logits) if mixed_target else weak.logits
    terms = {
        'hard_strong': oracle.eq1(nll(strong.logits, region_label) * region_weight, region_M, mixed_valid),
        'hard_weak': oracle.eq1(nll(weak.logits, label) * weight, M, valid),
        'soft': oracle.eq1(oracle.eq3(strong.logits, target, kind) * mixed_weight, mixed_M, mixed_valid),
        'corr_strong': oracle.eq1(nll(literal_z(strong), region_label) * region_weight, region_M, mixed_valid),
        'corr_weak': oracle.eq1(nll(literal_z(weak), label) * weight, M, valid),
        'sup': F.cross_entropy(labeled.logits, views.labels, ignore_index=255),
        'sup_corr': F.cross_entropy(literal_z(labeled), views.labels, ignore_index=255),
    }
    return terms, (region_label != mixed_label).sum(), region_M & ~mixed_M, accepted


def expected_losses(terms):
    """L = (L_s + L_u) / 2; without dropout, the perturbed view is the weak one."""
    return {
        'sup.loss_ce': terms['sup'] / 4,
        'sup.corr.loss_ce': terms['sup_corr'] / 4,
        'unsup.loss_hard': 0.5 * (terms['hard_strong'] + terms['hard_weak']) / 2 / 2,
        'unsup.loss_soft': 0.25 * terms['soft'] / 2,
        'unsup.loss_corr': 0.25 * (terms['corr_strong'] + terms['corr_weak']) / 2 / 2,
    }


def check_losses(losses, terms):
    expected = expected_losses(terms)
    assert {name for name in losses if 'loss' in name} == set(expected)
    for name, value in expected.items():
        assert torch.allclose(losses[name], value, atol=1e-10), name


@pytest.mark.parametrize('size', [32, 33], ids=['corners as they are', 'aligned corners'])
@pytest.mark.parametrize('kind', SOFT_LOSSES)
def test_the_losses_equal_the_equations(kind, size):
    model, views = build(size, soft_loss=kind), streams(size)
    losses = model.loss(views)
    with torch.no_grad():
        terms, relabeled, enlarged, accepted = literal_step(model, views, kind)
    assert relabeled and enlarged.any() and 0 < accepted < 24, 'the case must accept some shapes'
    check_losses(losses, terms)
    counted = torch.where(views.mix[0].mask, views.valid.flip(0), views.valid)
    gained = (enlarged & counted).sum() / counted.sum()
    weak = model.student(views.weak).logits.softmax(1).max(1).values
    assert torch.allclose(losses['unsup.confident'], (weak >= TAU)[views.valid].float().mean())
    mixed = torch.where(views.mix[0].mask, (weak >= TAU).flip(0), weak >= TAU)[counted].float().mean()
    assert torch.allclose(losses['unsup.enlarged.confident'], mixed + gained, atol=1e-6)


def test_the_gradients_equal_the_equations():
    model, views = build(), streams()
    total, _ = model.parse_losses(model.loss(views))
    parameters = [model.student.heads['correlation'].rows.weight, model.student.heads['correlation'].columns.weight]
    parameters += [model.student.segmentor.decode_head.conv_seg.weight, model.student.segmentor.backbone.stem[0].weight]
    ours = torch.autograd.grad(total, parameters)
    # What teaches is fixed: the weak view's labels and scores.
    terms = literal_step(model, views)[0]
    with torch.no_grad():
        taught = model.student(views.weak).logits
    mask = views.mix[0].mask
    strong = model.student(torch.where(mask[:, None], views.strong[0].flip(0), views.strong[0])).logits
    confidence = taught.softmax(1).amax(1)
    kept = (confidence >= TAU) & views.valid
    kept, valid = (torch.where(mask, x.flip(0), x) for x in (kept, views.valid))
    target = torch.where(mask[:, None], taught.flip(0), taught)
    soft = oracle.eq1(oracle.eq3(strong, target, 'kl'), kept, valid)
    hard, corr = (terms[f'{name}_strong'] + terms[f'{name}_weak'] for name in ('hard', 'corr'))
    literal = (0.5 * (terms['sup'] + terms['sup_corr']) + 0.25 * hard + 0.25 * soft + 0.125 * corr) / 2
    for a, b in zip(ours, torch.autograd.grad(literal, parameters), strict=True):
        assert a.abs().sum() > 0 and torch.allclose(a, b, atol=1e-10)


@pytest.mark.parametrize(
    'switch',
    [
        dict(dynamic_threshold=False, threshold=0.8),
        dict(hard_weight=0.2),
        dict(soft_weight=0.0),
        dict(corr_weight=0.0),
        dict(sup_corr_share=0.0),
        dict(soft_loss='cosine'),
        dict(region_propagation=False),
        dict(region_propagation=False, pixel_propagation=False),
        dict(region_threshold=0.9),
        dict(region_cascade=True),
        dict(mix_soft_target=False),
        dict(num_shapes=3),
        dict(sampling='random', num_shapes=4),
    ],
    ids=str,
)
def test_every_switch_of_the_ablations_changes_the_loss(switch):
    a, b = build().loss(streams()), build(**switch).loss(streams())
    assert any(name not in b or not torch.equal(a[name], b[name]) for name in a if 'loss' in name)


@pytest.mark.parametrize(
    'switch, literal',
    [
        (dict(region_threshold=0.8), dict(tau=0.8)),
        (dict(region_threshold=0.0), dict(tau=0.0)),
        (dict(region_cascade=True), dict(cascade=True)),
        (dict(mix_soft_target=False), dict(mixed_target=False)),
    ],
    ids=str,
)
def test_what_the_paper_leaves_open_is_a_key(switch, literal):
    model, views = build(**switch), streams()
    with torch.no_grad():
        terms, usual = literal_step(model, views, **literal)[0], literal_step(model, views)[0]
    check_losses(model.loss(views), terms)
    assert any(terms[name] != usual[name] for name in terms), 'the key must matter'


class Weighing(torch.nn.Module):
    """A plugin that weighs a label by its class and place, and does nothing else."""

    unsup_scale = 1.0

    def weights(self, label):
        place = torch.arange(label[0].numel(), dtype=torch.float64).view(label.shape[1:])
        image = torch.arange(len(label))[:, None, None]
        return 0.2 + 0.2 * label + (place % 7) / 7 + image

    def reweight(self, pseudo, guide):
        return pseudo.reweight(self.weights(pseudo.label))

    def supervised_loss(self, out, labels):
        return {}

    def unsupervised_loss(self, streams, views):
        return {}


@pytest.mark.parametrize('region_propagation', [True, False])
def test_a_plugins_weight_reaches_every_term(region_propagation):
    """In the partner's box it is the partner's, elsewhere that of the label that region propagation left."""
    model, views, plugin = build(region_propagation=region_propagation), streams(), Weighing()
    model.plugins.append(plugin)
    with torch.no_grad():
        terms, relabeled, *_ = literal_step(model, views, weigh=plugin.weights, tau=TAU if region_propagation else 1.0)
    assert bool(relabeled) == region_propagation
    check_losses(model.loss(views), terms)


def test_random_rows_change_with_the_seed_and_uniform_ones_do_not():
    values = {}
    for sampling in ('random', 'uniform'):
        model = build(sampling=sampling, num_shapes=3)
        values[sampling] = set()
        for seed in range(8):
            torch.manual_seed(seed)
            values[sampling].add(model.loss(streams())['unsup.loss_hard'].item())
    assert len(values['random']) > 1 and len(values['uniform']) == 1


def test_without_propagation_the_baseline_remains():
    plain, both = build(region_propagation=False, pixel_propagation=False), build()
    assert 'correlation' not in plain.student.heads
    both.student.segmentor.load_state_dict(plain.student.segmentor.state_dict())
    with torch.no_grad():
        terms = literal_step(both, streams())[0]
    losses = plain.loss(streams())
    assert {name for name in losses if 'loss' in name} == {'sup.loss_ce', 'unsup.loss_hard', 'unsup.loss_soft'}
    assert torch.allclose(losses['sup.loss_ce'], terms['sup'] / 2, atol=1e-10)
    assert torch.allclose(losses['unsup.loss_soft'], 0.25 * terms['soft'] / 2, atol=1e-10)


def test_fixed_and_without_propagation_the_strong_view_learns_the_plain_labels():
    model, views = build(region_propagation=False), streams()
    with torch.no_grad():
        out = model.student(views.weak)
        confidence, label = out.logits.softmax(1).max(1)
        mask = views.mix[0].mask
        mix = lambda x: torch.where(mask, x.flip(0), x)  # noqa: E731
        strong = model.student(torch.where(mask[:, None], views.strong[0].flip(0), views.strong[0]))
        kept = (confidence >= TAU) & views.valid
        nll = lambda logits, y: F.cross_entropy(logits, y, reduction='none')  # noqa: E731
        hard = oracle.eq1(nll(strong.logits, mix(label)), mix(kept), mix(views.valid))
        hard = hard + oracle.eq1(nll(out.logits, label), kept, views.valid)
    assert torch.allclose(model.loss(views)['unsup.loss_hard'], 0.25 * hard / 2, atol=1e-10)


class Alternate(torch.nn.Module):
    """Drops every other channel."""

    def forward(self, x):
        return 2 * x * (torch.arange(x.shape[1]) % 2)[:, None, None]


def test_half_of_the_hard_loss_is_that_of_perturbed_features():
    model, views = build(feature_dropout=0.3), streams()
    assert isinstance(model.perturb, torch.nn.Dropout2d) and model.perturb.p == 0.3
    model.perturb = Alternate()
    losses = model.loss(views)
    with torch.no_grad():
        terms = literal_step(model, views)[0]
        weak, segmentor = model.student(views.weak), model.student.segmentor
        levels = list(weak.features)
        levels[0], levels[3] = model.perturb(levels[0]), model.perturb(levels[3])
        logits = F.interpolate(segmentor.decode_head(levels), size=(SIZE, SIZE), mode='bilinear')
        confidence, label = weak.logits.softmax(1).max(1)
        nll = F.cross_entropy(logits, label, reduction='none')
        perturbed = oracle.eq1(nll, (confidence >= TAU) & views.valid, views.valid)
    assert (perturbed - terms['hard_weak']).abs() > 1e-3
    assert torch.allclose(losses['unsup.loss_hard'], 0.5 * (terms['hard_strong'] + perturbed) / 2 / 2, atol=1e-10)


@pytest.mark.parametrize('kind', SOFT_LOSSES)
def test_soft_consistency_equals_eq3_and_teaches_one_side(kind):
    torch.manual_seed(0)
    strong, weak = (torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight, valid = (torch.rand(2, 3, 5) > 0.4).double(), torch.rand(2, 3, 5) > 0.2
    prob = weak.softmax(1)
    ours = soft_consistency(strong, prob, weight, valid, kind)
    literal = oracle.eq1(oracle.eq3(strong, weak.detach(), kind), weight > 0, valid)
    assert torch.allclose(ours, literal, atol=1e-10)
    gradients = [torch.autograd.grad(loss, strong, retain_graph=True)[0] for loss in (ours, literal)]
    assert torch.allclose(*gradients, atol=1e-10)
    assert torch.autograd.grad(ours, weak, allow_unused=True) == (None,)
    torch._dynamo.reset()
    traced = torch.compile(soft_consistency, backend='eager', fullgraph=True)
    assert torch.equal(traced(strong, prob, weight, valid, kind), ours)
    sure = torch.eye(4, dtype=torch.float64).view(1, 4, 2, 2)
    loss = soft_consistency((200 * sure).requires_grad_(), sure.flip(1), torch.ones(1, 2, 2), kind=kind)
    assert loss.isfinite() and loss > 0


def test_what_a_half_precision_network_hands_out_is_compared_in_float32():
    """The losses under autocast are those of the same numbers in float32, to the last bit."""
    model, views = build(), streams()
    outputs = model.student_views(views)
    model.float()

    def cast(out, dtype):
        half = lambda x: x.detach().bfloat16().to(dtype)  # noqa: E731
        heads = {name: Correlation(half(x.rows), half(x.columns)) for name, x in out.heads.items()}
        return dataclasses.replace(out, coarse_logits=half(out.coarse_logits).requires_grad_(), heads=heads)

    results = []
    for dtype, on in ((torch.bfloat16, True), (torch.float32, False)):
        given = {name: cast(out, dtype) for name, out in outputs.items()}
        model.student_views = lambda streams, given=given: given
        with torch.autocast('cpu', torch.bfloat16, enabled=on):
            losses = model.loss(views)
        total, _ = model.parse_losses({k: v for k, v in losses.items() if 'unsup' in k or 'corr' in k})
        results.append((losses, torch.autograd.grad(total, given['strong_0'].coarse_logits)[0].float()))
    (half, half_gradient), (whole, gradient) = results
    for name in whole:
        if name != 'sup.loss_ce':
            assert torch.equal(half[name], whole[name]), name
    assert gradient.abs().sum() > 0 and (half_gradient - gradient).abs().max() < 0.01 * gradient.abs().max()


def test_no_scores_of_the_crops_size_are_kept_for_the_backward_pass():
    model, views, saved = build(), streams(), []
    student_views = model.student_views(views)
    model.student_views = lambda streams: student_views

    def pack(x):
        saved.append(weakref.ref(x))
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        losses = model.loss(views)
    kept = [x for x in (ref() for ref in saved) if x is not None]
    assert kept, 'the graph lives'
    assert not [x for x in kept if x.shape[-2:] == (SIZE, SIZE) and x.ndim == 4 and x.is_floating_point()]
    total, _ = model.parse_losses(losses)
    assert torch.autograd.grad(total, student_views['strong_0'].coarse_logits)[0].abs().sum() > 0


# The threshold, eq. 2, 11, 13 and 14


SIZES = (6, 7)


def predictions(seed=0, classes=(0, 2, 3), size=SIZES):
    """Logits that predict ``classes`` alone, and where the crop was padded."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 4, *size, generator=generator, dtype=torch.float64)
    logits[:, [c for c in range(4) if c not in classes]] = -30
    return logits, torch.rand(2, *size, generator=generator) > 0.3


def test_the_threshold_equals_eq11_and_eq13_over_steps():
    threshold = DynamicThreshold(4, SIZES, 0.875, momentum=0.9).double()
    tau = 0.875
    for step, classes in enumerate([(0, 2), (1, 2, 3), (3,)]):
        logits, valid = predictions(step, classes)
        threshold.observe(logits, valid)
        assert threshold.limits().item() == pytest.approx(tau, abs=1e-10), 'it moves after the step alone'
        threshold.commit()
        assert set(oracle.maximum_by_class(logits.softmax(1), valid)) == set(classes)
        tau = oracle.eq13(tau, oracle.eq11(logits.softmax(1), valid), 0.9)
        assert threshold.value.item() == pytest.approx(tau, abs=1e-10)


def test_absent_classes_and_padded_pixels_are_left_out_of_the_increment():
    logits, valid = predictions()
    # The surest pixel of class 0, and the only pixel of class 1, lie in the padding.
    logits[0, :, 0, 0], logits[0, :, 0, 1] = torch.tensor([9.0, 0, 0, 0]), torch.tensor([0, 9.0, 0, 0])
    valid[0, 0, :2] = False
    threshold = DynamicThreshold(4, SIZES, momentum=0.0).double()
    threshold.observe(logits, valid)
    threshold.commit()
    prob = logits.softmax(1)
    confidence, label = prob.max(1)
    maxima = [confidence[(label == c) & valid].max().item() for c in (0, 2, 3)]
    assert threshold.value.item() == pytest.approx(sum(maxima) / 3, abs=1e-10)
    assert oracle.eq11(prob, torch.ones_like(valid)) > threshold.value + 0.01


def test_thresholds_of_classes_equal_eq14_with_maximum_normalisation():
    threshold = DynamicThreshold(4, SIZES, 0.75, momentum=0.9, update='per_class').double()
    tau, own = 0.75, [0.75] * 4
    for step, classes in enumerate([(0, 2), (1, 2), (2, 1)]):
        logits, valid = predictions(step, classes)
        threshold.observe(logits, valid)
        threshold.commit()
        maxima = oracle.maximum_by_class(logits.softmax(1), valid)
        tau = oracle.eq13(tau, sum(maxima.values()) / len(maxima), 0.9)
        own = [oracle.eq13(own[c], maxima[c], 0.9) if c in maxima else own[c] for c in range(4)]
    expected = [tau * value / max(own) for value in own]
    assert threshold.limits().tolist() == pytest.approx(expected, abs=1e-10)
    assert len(set(expected)) > 2


def test_other_thresholds_of_table_12_follow_the_maximum_the_mean_or_each_place():
    by_rule = {rule: DynamicThreshold(4, SIZES, 0.75, 0.9, rule).double() for rule in ('maximum', 'mean', 'per_pixel')}
    highest, average, places = 0.75, 0.75, [[0.75] * SIZES[1] for _ in range(SIZES[0])]
    for step in range(3):
        logits, valid = predictions(step)
        valid[:, 0, 0] = step == 2  # padded in all images of the first two steps
        for threshold in by_rule.values():
            threshold.observe(logits[:1], valid[:1])
            threshold.observe(logits[1:], valid[1:])
            threshold.commit()
        confidence = logits.softmax(1).amax(1)
        counted = confidence[valid].tolist()
        highest = oracle.eq13(highest, max(counted), 0.9)
        average = oracle.eq13(average, sum(counted) / len(counted), 0.9)
        for y in range(SIZES[0]):
            for x in range(SIZES[1]):
                seen = [confidence[b, y, x].item() for b in range(2) if valid[b, y, x]]
                places[y][x] = oracle.eq13(places[y][x], sum(seen) / len(seen), 0.9) if seen else places[y][x]
        assert by_rule['maximum'].limits().item() == pytest.approx(highest, abs=1e-10)
        assert by_rule['mean'].limits().item() == pytest.approx(average, abs=1e-10)
        assert torch.allclose(
            by_rule['per_pixel'].limits(), torch.tensor(places, dtype=torch.float64), atol=1e-10, rtol=0
        )
        assert step == 2 or places[0][0] == 0.75


def test_a_commit_without_observation_and_a_fixed_threshold_change_nothing():
    moving, fixed = DynamicThreshold(4, SIZES, 0.6), DynamicThreshold(4, SIZES, 0.0, dynamic=False)
    moving.commit()
    fixed.observe(*predictions())
    fixed.commit()
    assert torch.equal(moving.value, torch.tensor(0.6))
    assert fixed.value == 0 and not fixed.state_dict() and list(moving.state_dict()) == ['value']
    assert list(DynamicThreshold(4, SIZES, update='per_class').state_dict()) == ['value', 'class_value']


def test_several_observations_of_a_step_count_as_one_batch():
    (a, va), (b, vb) = predictions(0), predictions(1, (1, 2))
    together, apart = (
        DynamicThreshold(4, SIZES, momentum=0.5).double(),
        DynamicThreshold(4, SIZES, momentum=0.5).double(),
    )
    together.observe(torch.cat([a, b]), torch.cat([va, vb]))
    apart.observe(a, va)
    apart.observe(b, vb)
    together.commit()
    apart.commit()
    assert torch.equal(together.value, apart.value)


def test_observing_traces_into_one_graph():
    threshold, (logits, valid) = DynamicThreshold(4, SIZES), predictions()
    torch._dynamo.reset()
    torch.compile(lambda x: threshold.observe(x, valid), backend='eager', fullgraph=True)(logits)
    once = threshold.pending.clone()
    threshold.observe(logits, valid)
    assert torch.equal(once, threshold.pending) and once.sum() > 0


def test_the_hook_moves_the_threshold_and_names_a_model_without_one():
    hook, model = DynamicThresholdHook(), tiny.build('CorrMatch', threshold_momentum=0.5)
    hook.before_train(SimpleNamespace(model=model))
    model.loss(tiny.streams_for(model))
    before = model.moving_threshold.value.clone()
    hook.after_train_iter(SimpleNamespace(model=model), 0)
    assert not torch.equal(model.moving_threshold.value, before) and not model.moving_threshold.pending.any()
    with pytest.raises(ValueError, match='DynamicThresholdHook needs a dynamic threshold, but FixMatch keeps none'):
        hook.before_train(SimpleNamespace(model=tiny.build('FixMatch')))


@pytest.mark.parametrize('update', THRESHOLD_UPDATES)
def test_the_step_uses_the_threshold_before_it_moves(update):
    model = build(threshold_momentum=0.5, threshold_update=update)
    first = model.loss(streams())
    assert torch.allclose(first['unsup.threshold'], torch.tensor(TAU, dtype=torch.float64))
    model.moving_threshold.commit()
    second = model.loss(streams())
    assert second['unsup.threshold'] > TAU + 0.05 and second['unsup.confident'] < first['unsup.confident']
    with torch.no_grad():
        confidence, label = model.student(streams().weak).logits.softmax(1).max(1)
    limits = model.moving_threshold.limits()
    kept = confidence >= (limits[label] if update == 'per_class' else limits)
    assert torch.allclose(second['unsup.confident'], kept[streams().valid].float().mean())


# What is refused


def test_more_shapes_than_positions_are_named_when_the_model_is_built():
    with pytest.raises(ValueError, match=r'model.num_shapes=17 asks for more rows .*, 4 x 4 = 16; lower it'):
        build(num_shapes=17)
    build(num_shapes=16).loss(streams())


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(heads={}), 'CorrMatch needs model.heads.correlation'),
        (dict(threshold=0.0), 'threshold must lie in .*0 needs dynamic_threshold=False'),
        (dict(threshold=1.5), 'model.threshold must lie in'),
        (dict(threshold_momentum=1.0), 'threshold_momentum must lie in'),
        (dict(threshold_update='per_class', dynamic_threshold=False), "threshold_update='per_class' needs"),
        (dict(threshold_update='median'), "threshold_update must be one of class_maxima, .*'median'"),
        (dict(hard_weight=-1), 'CorrMatch: model.hard_weight must be 0 or more, not -1'),
        (dict(soft_weight=-1), 'model.soft_weight must be 0 or more'),
        (dict(corr_weight=-1), 'model.corr_weight must be 0 or more'),
        (dict(sup_corr_share=1.1), 'model.sup_corr_share must lie in'),
        (dict(num_shapes=0), 'model.num_shapes must be 1 or more'),
        (dict(soft_loss='mse'), "soft_loss must be one of kl, cross_entropy, cosine.*'mse'"),
        (dict(sampling='first'), "model.sampling must be one of random, uniform, not 'first'"),
        (dict(feature_dropout=1.0), 'model.feature_dropout must lie in'),
        (dict(pixel_propagation=False), 'set model.region_propagation=False or'),
        (dict(preprocessor=dict(num_strong=2)), 'model.data_preprocessor.num_strong must be 1, not 2'),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny.build('CorrMatch', **arguments)
