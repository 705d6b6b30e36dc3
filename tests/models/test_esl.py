"""The whole unsupervised step of ESL against the literal equations, and how its parts are started."""

import pytest
import torch
from torch.nn import functional as F

from mmsemi.engine import PrototypeHook
from mmsemi.engine.hooks.prototype_hook import labeled_batches
from mmsemi.models.segmentors import esl
from mmsemi.models.state import PartPrototypes
from mmsemi.structures import Mix, PseudoLabel, Streams
from tests import tiny
from tests.engine.test_hooks import runner
from tests.oracles import esl as oracle

C, K, Q, N_S, ZETA, SIGMA, ETA, THETA = tiny.NUM_CLASSES, 2, 6, 7, 0.6, 0.5, 0.8, 0.9


def small_streams(side: int = 16, partner: list[int] | None = None) -> Streams:
    """One labeled and two unlabeled crops of 16 x 16, projections of 4 x 4; or of 17 x 17 and 5 x 5."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, C, (1, 5, 5), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels = labels[:, :side, :side].clone()
    labels[:, :4] = 255
    valid = torch.ones(2, side, side, dtype=torch.bool)
    valid[0, 12:] = False
    mask = torch.zeros(2, side, side, dtype=torch.bool)
    # One box lies over the other image's padding, one over its own.
    mask[0, 4:, 4:12] = True
    mask[1, 8:, 8:] = True
    draw = lambda n: torch.randn(n, 3, side, side, generator=generator, dtype=torch.float64)  # noqa: E731
    return Streams(draw(1), labels, draw(2), (draw(2),), valid, (Mix(mask, partner and torch.tensor(partner)),))


# What the network and the batch may be: crops of 4 k + 1 and corners on corners, another level of the encoder, other
# partners of CutMix, a projector that is coarser than the scores.
NETWORKS = [{}, dict(align=True), dict(level=2), dict(partner=[0, 0]), dict(align=True, downsample=2, threshold=0.996)]


def model_and_streams(align: bool = False, level: int = 3, downsample: int = 1, partner=None, **kwargs):
    """The method in double precision, which predicts several classes, and a batch."""
    side = 17 if align else 16
    student = tiny.segmentor()
    student['decode_head'].update(align_corners=align, in_index=level, in_channels=8 * 2**level)
    projector = dict(tiny.METHODS['ESL']['heads']['projector'], downsample=downsample)
    arguments = dict(
        student=student, heads=dict(projector=projector), preprocessor=dict(size=(side, side)), threshold=ZETA,
        dominant_mass=ETA, prototype_momentum=THETA, anchor_ratio=1.0, max_anchors=48, soft_weight=1.0,
        contrast_weight=1.0,
    )  # fmt: skip
    model = tiny.build('ESL', **{**arguments, **kwargs}).double().eval()
    streams = small_streams(side, partner)
    generator = torch.Generator().manual_seed(5)
    tiny.decide(model, streams, spread=4)
    tiny.part_teacher(model, 0.02, generator)
    with torch.no_grad():
        if model.contrast_weight:
            parts = model.part_prototypes
            features = model.teacher(streams.weak).features[level]
            noise = torch.randn(parts.value.shape, generator=generator, dtype=torch.float64)
            parts.value.copy_(features.mean((0, 2, 3)) + features.std() * noise)
            parts.seen.fill_(True)
            for _ in range(4):
                mu = torch.randn(2, *model.queues.value[:, 0].shape, generator=generator, dtype=torch.float64)
                model.queues.observe(mu, torch.rand(mu.shape[:2], generator=generator) > 0.4)
            model.queues.commit()
    return model, streams


def coarse(model, maps: torch.Tensor) -> torch.Tensor:
    """Labels at the projector's stride."""
    return oracle.coarse(maps, model.student.segmentor.align_corners, 4 * model.student.heads['projector'].downsample)


def mixed(mix: Mix, maps: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Images or maps of the unlabeled stream, each with the box of its partner."""
    mask = mix.mask if mask is None else mask
    partners = maps.flip(0) if mix.partner is None else maps[mix.partner]
    return torch.where(mask[:, None] if maps.ndim == 4 else mask, partners, maps)


def literal_parts(model, streams):
    """The teacher's outputs, classes, parts (eq. 7) and confidence at stride 4, labeled image first."""
    out = model.teacher(torch.cat([streams.labeled, streams.weak]))
    size, align = out.heads['projector'].shape[2:], out.align_corners
    level = model.student.segmentor.decode_head.in_index
    E, P = oracle.resized(out.features[level], size, align), model.part_prototypes.value.view(C, K, -1)
    prob = oracle.resized(out.coarse_logits, size, align).softmax(1)
    truth = coarse(model, streams.labels)
    label = torch.cat([truth, prob[1:].argmax(1)])
    exists = torch.cat([truth != 255, coarse(model, streams.valid)])
    sure = exists & torch.cat([truth != 255, prob[1:].max(1).values > model.threshold])
    part = torch.full_like(label, -1)
    started = model.part_prototypes.seen.view(C, K).sum(1).tolist()
    for b, i, j in exists.nonzero().tolist():
        c = int(label[b, i, j])
        if started[c] == K:
            part[b, i, j] = c * K + oracle.eq7(E[b, :, i, j], P[c])
        elif sure[b, i, j]:
            part[b, i, j] = c * K + started[c]
    return out, E, label, part, sure


@pytest.mark.parametrize('case', [{}, dict(align=True), dict(partner=[0, 0])], ids=str)
def test_soft_labels_of_the_mixed_view_are_learned_as_in_eq_3_to_6(case, monkeypatch):
    model, streams = model_and_streams(**case)
    given = []
    monkeypatch.setattr(model, 'reweight', lambda pseudo, guide: given.append(pseudo) or pseudo)
    losses = model.loss(streams)
    with torch.no_grad():
        prob = model.teacher(streams.weak).logits.softmax(1).movedim(1, -1)
        soft = torch.stack([oracle.eq3_to_eq5(p, ETA) for p in prob.reshape(-1, C)]).view(prob.shape).movedim(-1, 1)
        labels, strong, valid = (mixed(streams.mix[0], x) for x in (soft, streams.strong[0], streams.valid))
        expected = oracle.eq6(model.student(strong).logits, labels, valid)
        dominant = (soft > 0).sum(1)
    assert torch.equal(given[0].weight > 0, streams.valid), 'plugins see no label in the padding'
    assert torch.allclose(losses['unsup.loss_soft'], expected, rtol=0, atol=1e-10)
    assert len(dominant[streams.valid].unique()) > 1, 'the case must have sure and unsure pixels'
    assert torch.allclose(losses['unsup.dominant_classes'], dominant[streams.valid].double().mean().float())
    assert torch.allclose(losses['unsup.confident'], (dominant[streams.valid] == 1).float().mean())
    held = model.queues.pushed.clamp(max=Q).double().mean() / Q
    assert 0 < held < 1 and torch.allclose(losses['unsup.queues_filled'].double(), held)


def test_a_class_is_dominant_however_small_its_share():
    model, streams = model_and_streams()
    prob = torch.zeros(2, C, 16, 16)
    prob[:, 0] = 1
    prob[0, :2] = torch.tensor([0.999, 0.001])[:, None, None]
    told = model.report(PseudoLabel(prob.argmax(1), prob[:, 0], prob), streams)
    pixels = streams.valid.sum((1, 2)).double()
    assert torch.allclose(told['dominant_classes'].double(), (2 * pixels[0] + pixels[1]) / pixels.sum())
    assert torch.allclose(told['confident'].double(), pixels[1] / pixels.sum())


@pytest.mark.parametrize('case', NETWORKS, ids=str)
def test_the_contrast_equals_eq_7_to_10(monkeypatch, case):
    model, streams = model_and_streams(**case)
    drawn = {}
    draw_anchors, draw_samples = esl.draw_per_class, model.queues.draw
    monkeypatch.setattr(esl, 'draw_per_class', lambda *a, **k: drawn.setdefault('anchors', draw_anchors(*a, **k)))
    monkeypatch.setattr(model.queues, 'draw', lambda *a: drawn.setdefault('samples', draw_samples(*a)))
    losses = model.loss(streams)

    with torch.no_grad():
        _, _, label, part, sure = literal_parts(model, streams)
        mix, mask = streams.mix[0], coarse(model, streams.mix[0].mask)
        label, part, sure = (torch.cat([x[:1], mixed(mix, x[1:], mask)]) for x in (label, part, sure))
        images = torch.cat([streams.labeled, mixed(mix, streams.strong[0])])
    z = model.student(images).heads['projector'].movedim(1, -1).flatten(0, 2)
    queue, filled = model.queues.value.flatten(0, 1), model.queues.filled
    (index, chosen), (positives, negatives, _) = drawn['anchors'], drawn['samples']
    positives, negatives = positives.view(C, -1), negatives.view(C, -1, N_S)
    total, streams_seen = 0.0, set()
    for c in range(C):
        anchors = index[c][chosen[c]].tolist()
        assert sorted(anchors) == ((label == c) & sure).flatten().nonzero()[:, 0].tolist()
        rows = []
        for place, j in enumerate(anchors):
            own = int(part.flatten()[j])
            assert positives[c, place] // Q == own and positives[c, place] % Q < filled[own]
            assert (negatives[c, place] // Q != own).all()
            assert (negatives[c, place] % Q < filled[negatives[c, place] // Q]).all()
            streams_seen.add(j >= label[0].numel())
            rows.append((z[j], queue[positives[c, place]], list(queue[negatives[c, place]])))
        if rows:
            total = total + oracle.eq10(*map(list, zip(*rows, strict=True)), SIGMA)
    assert torch.allclose(losses['unsup.loss_contrast'], total / C, rtol=0, atol=1e-10)
    assert streams_seen == {False, True}
    # Student and projector learn it, the teacher and what the queues hold do not.
    learning = [p for p in model.student.parameters() if p.requires_grad]
    pairs = [torch.autograd.grad(x, learning, allow_unused=True) for x in (losses['unsup.loss_contrast'], total / C)]
    for ours, literal in zip(*pairs, strict=True):
        assert (ours is None) == (literal is None)
        assert ours is None or torch.allclose(ours, literal, rtol=0, atol=1e-10)


def test_at_a_threshold_of_1_no_unlabeled_pixel_is_an_anchor(monkeypatch):
    model, streams = model_and_streams(threshold=1.0)
    with torch.no_grad():
        model.teacher.segmentor.decode_head.conv_seg.weight *= 1e6  # probabilities of exactly 1
    assert (model.teacher(streams.weak).logits.softmax(1).amax(1) == 1).any()
    qualified = []
    draw = esl.draw_per_class
    monkeypatch.setattr(esl, 'draw_per_class', lambda *a: qualified.append(a[1]) or draw(*a))
    model.loss(streams)
    assert qualified[0][:1].any() and not qualified[0][1:].any()


def test_an_anchor_whose_own_queue_is_empty_does_not_count(monkeypatch):
    model, streams = model_and_streams()
    model.queues.pushed[:4] = 0
    weights = []
    monkeypatch.setattr(esl, 'info_nce', lambda *a: weights.append(a[-1]) or a[0].sum() * 0)
    model.loss(streams)
    weight = weights[0].view(C, -1).sum(1)
    assert torch.allclose(weight, torch.tensor([0.0, 0, 1, 1]).double() / C)


@pytest.mark.parametrize(
    'case, unknown', [*((case, None) for case in NETWORKS), ({}, 1), (dict(align=True), 2)], ids=str
)
def test_the_teachers_parts_of_both_streams_fill_the_queues_and_move_the_prototypes(case, unknown):
    """``unknown``: a class whose prototypes have not started, which takes sure pixels alone."""
    model, streams = model_and_streams(**{**dict(threshold=ZETA if unknown is None else 0.95), **case})
    if unknown is not None:
        model.part_prototypes.seen.view(C, K)[unknown] = False
        model.part_prototypes.value.view(C, K, -1)[unknown] = 0
    with torch.no_grad():
        out, E, label, part, _ = literal_parts(model, streams)
        z = out.heads['projector']
        P = oracle.eq12(model.part_prototypes.value.view(C, K, -1), E, part, K, THETA)
        if unknown is not None:
            new = part == unknown * K
            unsure = (label[1:] == unknown) & coarse(model, streams.valid) & (part[1:] < 0)
            assert new[1:].any() and unsure.any(), 'the case must have sure and unsure pixels of the class'
            P[unknown, 0] = E.movedim(1, -1)[new].mean(0)
        queues = oracle.Queues(C * K, Q)
        for p, filled in enumerate(model.queues.filled.tolist()):
            oldest = int(model.queues.pushed[p]) - filled
            queues.queues[p].extend(model.queues.value[p, (oldest + i) % Q].clone() for i in range(filled))
        for b in range(3):
            queues.push([oracle.eq8(z[b], part[b], p // K, p % K, K) for p in range(C * K)])
    before = model.queues.value.clone(), model.part_prototypes.value.clone()
    model.loss(streams)
    assert torch.equal(model.queues.value, before[0]) and torch.equal(model.part_prototypes.value, before[1])
    hook = PrototypeHook()
    hook.before_train(runner(model, train_dataloader=tiny.labeled_loader()))
    hook.after_train_iter(runner(model), 0)
    assert torch.allclose(model.part_prototypes.value.view(C, K, -1), P, rtol=0, atol=1e-10)
    for p, queue in enumerate(queues.queues):
        oldest = int(model.queues.pushed[p]) - len(queue)
        held = [model.queues.value[p, (oldest + i) % Q] for i in range(len(queue))]
        assert model.queues.filled[p] == len(queue)
        assert all(torch.allclose(a, b, rtol=0, atol=1e-10) for a, b in zip(held, queue, strict=True))


@pytest.mark.parametrize(
    'switch',
    [
        dict(dominant_mass=0.5),
        dict(top_n=1),
        dict(soft_weight=0.5),
        dict(contrast_weight=0.5),
        dict(contrast_weight=0.0),
        dict(threshold=0.9),
        dict(parts=1),
        dict(queue_length=8),
        dict(negatives=3),
        dict(temperature=0.1),
        dict(anchor_ratio=0.2),
        dict(max_anchors=1),
    ],
    ids=str,
)
def test_every_switch_of_the_ablations_changes_the_loss(switch):
    terms = []
    for arguments in ({}, switch):
        model, streams = model_and_streams(**arguments)
        torch.manual_seed(0)
        terms.append(model.loss(streams))
    a, b = terms
    assert any(name not in b or not torch.equal(a[name], b[name]) for name in a)


def test_without_contrast_there_is_no_head_no_state_and_no_labeled_image_for_the_teacher():
    model = tiny.build('ESL', contrast_weight=0).train()
    plain = tiny.build('MeanTeacher')
    assert model.state_dict().keys() == plain.state_dict().keys()
    seen = []
    model.teacher.segmentor.backbone.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    losses = model.loss(tiny.streams(2, 3, mixed=False))
    assert seen == [3] and 'unsup.loss_contrast' not in losses
    with pytest.raises(ValueError, match='PrototypeHook needs prototypes, but ESL keeps none; remove it'):
        PrototypeHook().before_train(runner(model))


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(dominant_mass=0), r'model.dominant_mass must lie in \(0, 1\], not 0'),
        (dict(dominant_mass=1.1), 'model.dominant_mass must lie in'),
        (dict(top_n=5), 'model.top_n must lie between 1 and the 4 classes, not 5'),
        (dict(parts=0), 'model.parts must be 1 or more; model.contrast_weight=0 trains without'),
        (dict(contrast_weight=-1), 'model.contrast_weight must be 0 or more'),
        (dict(threshold=2), 'model.threshold must lie in'),
        (dict(temperature=0), 'model.temperature must lie above 0'),
        (dict(anchor_ratio=0), 'model.anchor_ratio must lie in'),
        (dict(max_anchors=0), 'model.max_anchors must be 1'),
        (dict(queue_length=0), 'model.queue_length must be 1'),
        (dict(prototype_samples=1), 'model.prototype_samples must be at least model.parts=2, not 1'),
        (dict(prototype_momentum=1), 'momentum must lie in'),
        (dict(negatives=43), 'model.negatives=43 are more than the 42 features .* raise model.queue_length=6'),
        (dict(heads={}), 'ESL needs model.heads.projector'),
        (dict(preprocessor=dict(num_strong=2)), 'model.data_preprocessor.num_strong must be 1, not 2'),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny.build('ESL', **arguments)


# Before training


def started(**kwargs):
    model = tiny.build('ESL', **kwargs)
    PrototypeHook().before_train(runner(model, train_dataloader=tiny.labeled_loader()))
    return model


@pytest.mark.parametrize('align, level', [(False, 3), (True, 2)])
def test_the_hook_starts_prototypes_from_the_labeled_images_under_the_initial_encoder(align, level):
    student = tiny.segmentor()
    student['decode_head'].update(align_corners=align, in_index=level, in_channels=8 * 2**level)
    side = 33 if align else 32
    model = started(parts=1, prototype_samples=100_000, student=student, preprocessor=dict(size=(side, side)))
    batches = list(labeled_batches(tiny.labeled_loader(), 0))
    assert [len(batch['inputs']) for batch in batches] == [2, 1]
    rows = [[] for _ in range(C)]
    with torch.no_grad():
        for batch in batches:
            streams = model.data_preprocessor(batch, training=True)['inputs']
            assert len(streams.weak) == 0
            E = model.student.eval().segmentor.extract_feat(streams.labeled)[level]
            labels = coarse(model, streams.labels)
            E = oracle.resized(E, labels.shape[1:], align)
            for b, i, j in (labels != 255).nonzero().tolist():
                rows[labels[b, i, j]].append(E[b, :, i, j])
    for c in range(C):
        assert torch.allclose(model.part_prototypes.value[c], torch.stack(rows[c]).mean(0), atol=1e-5)


def test_prototypes_start_from_as_many_pixels_of_a_class_as_asked_for(monkeypatch):
    kept = []
    fit = PartPrototypes.fit
    monkeypatch.setattr(
        PartPrototypes, 'fit', lambda self, rows: kept.append([len(x) for x in rows]) or fit(self, rows)
    )
    started(prototype_samples=9)
    assert kept == [[9] * C]


def test_prototypes_start_equal_whatever_was_drawn_before_and_draw_nothing_of_the_trainings():
    a = tiny.build('ESL')
    PrototypeHook().before_train(runner(a, train_dataloader=tiny.labeled_loader()))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    b = tiny.build('ESL')
    torch.set_rng_state(before)
    PrototypeHook().before_train(runner(b, train_dataloader=tiny.labeled_loader()))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.part_prototypes.value, b.part_prototypes.value) and a.part_prototypes.seen.all()
    assert len(a.part_prototypes.value.unique(dim=0)) == C * K


def test_prototypes_of_a_checkpoint_are_kept():
    model = started()
    with torch.no_grad():
        model.part_prototypes.value.add_(1)
    before = model.part_prototypes.value.clone()
    PrototypeHook().before_train(runner(model, train_dataloader=tiny.labeled_loader()))
    assert torch.equal(model.part_prototypes.value, before)


def test_a_class_without_labeled_pixels_is_named_and_starts_in_training(monkeypatch):
    told = []
    monkeypatch.setattr('mmsemi.models.state.parts.print_log', lambda message, **_: told.append(message))
    model = tiny.build('ESL')
    hook = PrototypeHook()
    hook.before_train(runner(model, train_dataloader=tiny.labeled_loader(classes=3)))
    assert told == ['No labeled pixel shows d: their parts start in training.']
    assert model.part_prototypes.seen.view(C, K).all(1).tolist() == [True, True, True, False]
    for step in range(K):
        model.loss(tiny.streams(seed=step))
        hook.after_train_iter(runner(model), step)
    assert model.part_prototypes.seen.all()


def test_more_parts_than_labeled_pixels_stop_before_training():
    with pytest.raises(ValueError, match=r'pixels of the class \w+, fewer than model.parts=9000; lower model.parts'):
        started(parts=9000, prototype_samples=9000)


def test_the_encoders_feature_is_the_last_level_that_the_decoder_reads():
    model = tiny.build('ESL')
    assert model.level == 3 and model.part_prototypes.value.shape == (C * K, 64)
    assert (esl._last([0, 1, 2, 3]), esl._last(2)) == (3, 2)


def test_soft_labels_are_one_hot_at_a_tiny_mass():
    model, streams = model_and_streams(dominant_mass=1e-6)
    losses = model.loss(streams)
    with torch.no_grad():
        label = model.teacher(streams.weak).logits.argmax(1)
        mix = streams.mix[0]
        nll = F.cross_entropy(model.student(mix.images(streams.strong[0])).logits, mix.maps(label), reduction='none')
        expected = nll[mix.maps(streams.valid)].mean()
    assert torch.allclose(losses['unsup.loss_soft'], expected, rtol=0, atol=1e-10)


def test_half_precision_keeps_the_state_in_full_precision():
    model = tiny.build('ESL', threshold=0.2).train()
    for seed in range(3):
        with torch.autocast('cpu', torch.bfloat16):
            losses = model.loss(tiny.streams(seed=seed))
        total, _ = model.parse_losses(losses)
        total.backward()
        for state in (model.part_prototypes, model.queues):
            state.commit()
    assert losses['unsup.loss_contrast'] > 0 and total.isfinite()
    assert model.queues.value.dtype == model.part_prototypes.value.dtype == torch.float32
    assert model.queues.value.isfinite().all() and model.queues.value.abs().sum() > 0
