"""The unsupervised step of U2PL against the literal formulas, its percentiles and its queues."""

import numpy as np
import pytest
import torch

from mmsemi.engine import ProgressHook, PrototypeHook
from mmsemi.models.segmentors import u2pl
from mmsemi.models.state.memory import ClassQueues, Prototypes
from mmsemi.models.thresholds import quantiles
from tests import tiny
from tests.engine.test_hooks import runner
from tests.models.test_esl import small_streams
from tests.oracles import esl as esl_oracle, u2pl as oracle

C, LOW, HIGH, DELTA, TAU, N_NEG = tiny.NUM_CLASSES, 2, 3, 0.3, 0.5, 5
LENGTHS = [120] + [100] * (C - 1)


EPOCH, EPOCHS = 2.4, 8  # the third of eight


def model_and_streams(epoch: float = EPOCH, **kwargs):
    """A model with predictions of several classes, sure and unsure, and queues that hold something."""
    arguments = dict(
        preprocessor=dict(size=(16, 16)), unreliable=0.4, confident=0.5, low_rank=LOW, high_rank=HIGH, threshold=DELTA,
        queries=48, negatives=N_NEG, queue_length=LENGTHS[1], background_length=LENGTHS[0], keys_per_step=100,
    )  # fmt: skip
    model, streams = tiny.build('U2PL', **{**arguments, **kwargs}).double().eval(), small_streams()
    streams.strong = (streams.weak,)
    generator = torch.Generator().manual_seed(5)
    tiny.decide(model, streams, spread=2)
    tiny.part_teacher(model, 0.02, generator)
    with torch.no_grad():
        model.epoch.fill_(epoch)
        model.progress.fill_(epoch / EPOCHS)
        if model.contrast_weight:
            features = torch.randn(2, 16, 4, 4, generator=generator, dtype=torch.float64)
            model.queues.observe(features, torch.rand(2, C, 4, 4, generator=generator) > 0.5)
            model.queues.commit()
    return model, streams


def coarse(maps: torch.Tensor) -> torch.Tensor:
    """Labels at the representation's stride; the crop is none of those that align corners."""
    return esl_oracle.coarse(maps, False, 4)


class Literal:
    """What the formulas make of the teacher's outputs, at the crop's resolution and at stride 4."""

    def __init__(self, model, streams, unreliable: float = 40, confident: float = 50) -> None:
        with torch.no_grad():
            out = model.teacher(torch.cat([streams.labeled, streams.weak]))
            prob, small = out.logits[1:].softmax(1), out.coarse_logits.softmax(1)
        self.z = out.heads['representation']
        self.H = oracle.entropies(prob)
        self.gamma = oracle.gamma(self.H, streams.valid, 100 - oracle.alpha(unreliable, EPOCH, EPOCHS))
        lowest = oracle.gamma(self.H, streams.valid, oracle.alpha(confident, EPOCH, EPOCHS))
        self.y = oracle.pseudo_label(prob, self.H, streams.valid, self.gamma)
        # Stride 4: the labeled image, the unlabeled ones.
        self.p, self.p_weak, self.valid = small[:1], small[1:], coarse(streams.valid)
        self.truth, self.H_small = coarse(streams.labels), coarse(self.H)
        label = coarse(prob.argmax(1))
        self.sure = torch.where(self.valid & (self.H_small <= lowest), label, oracle.IGNORE)

    def negatives(self, c: int) -> list[torch.Tensor]:
        labeled = oracle.labeled_negatives(self.p, self.truth, c, LOW)
        weak = oracle.unlabeled_negatives(self.p_weak, self.H_small, self.valid, c, self.gamma, LOW, HIGH)
        return [self.z[b, :, i, j] for b, i, j in labeled] + [self.z[b + 1, :, i, j] for b, i, j in weak]

    def center(self, c: int) -> torch.Tensor | None:
        labeled = oracle.anchors(self.p, self.truth, c, DELTA)
        weak = oracle.anchors(self.p_weak, self.sure, c, DELTA)
        z = [self.z[b, :, i, j] for b, i, j in labeled] + [self.z[b + 1, :, i, j] for b, i, j in weak]
        return oracle.center(z) if z else None


def test_the_pseudo_labels_of_low_entropy_teach_the_mixed_view_as_the_paper_says():
    model, streams = model_and_streams(pseudo_weight=0.7)
    losses = model.loss(streams)
    literal, mask = Literal(model, streams), streams.mix[0].mask
    with torch.no_grad():
        strong = torch.where(mask[:, None], streams.weak.flip(0), streams.weak)
        y = torch.where(mask, literal.y.flip(0), literal.y)
        expected = oracle.unsupervised(model.student(strong).logits, y, 0.7)
    kept = literal.y[streams.valid] != oracle.IGNORE
    assert torch.allclose(losses['unsup.loss_pseudo'], expected, rtol=0, atol=1e-10)
    assert losses['unsup.threshold'].item() == pytest.approx(literal.gamma, abs=1e-10)
    assert losses['unsup.confident'].item() == pytest.approx(kept.double().mean().item(), abs=1e-6)
    assert kept.double().mean() == pytest.approx(1 - 0.4 * 0.75, abs=0.01)


def test_the_contrast_equals_the_papers(monkeypatch):
    model, streams = model_and_streams(contrast_weight=1.0)
    drawn = {}
    draw_anchors, draw_rows = u2pl.draw_per_class, model.queues.draw
    monkeypatch.setattr(u2pl, 'draw_per_class', lambda *a: drawn.setdefault('anchors', draw_anchors(*a)))
    monkeypatch.setattr(model.queues, 'draw', lambda count: drawn.setdefault('rows', draw_rows(count)))
    losses = model.loss(streams)
    literal, mask = Literal(model, streams), streams.mix[0].mask
    small = coarse(mask)
    mixed = lambda maps: torch.where(small, maps.flip(0), maps)  # noqa: E731
    sure = mixed(literal.sure)
    prob = torch.where(small[:, None], literal.p_weak.flip(0), literal.p_weak)
    with torch.no_grad():
        strong = torch.where(mask[:, None], streams.weak.flip(0), streams.weak)
        z = model.student(torch.cat([streams.labeled, strong])).heads['representation']
    (index, chosen), rows = drawn['anchors'], drawn['rows'].view(C, 48, N_NEG)
    first = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]
    terms, streams_seen = [], set()
    for c in range(C):
        expected = [b * 16 + i * 4 + j for b, i, j in oracle.anchors(literal.p, literal.truth, c, DELTA)]
        expected += [(b + 1) * 16 + i * 4 + j for b, i, j in oracle.anchors(prob, sure, c, DELTA)]
        pixels = index[c][chosen[c]].tolist()
        assert sorted(pixels) == sorted(expected)
        assert ((rows[c] >= first[c]) & (rows[c] < first[c] + model.queues.filled[c])).all()
        if pixels:
            streams_seen |= {pixel >= 16 for pixel in pixels}
            anchors = [z[k // 16, :, k % 16 // 4, k % 4] for k in pixels]
            samples = [list(model.queues.value[rows[c, place]]) for place in range(len(pixels))]
            terms.append(oracle.contrast(anchors, literal.center(c), samples, TAU))
    assert torch.allclose(losses['unsup.loss_contrast'], sum(terms) / len(terms), rtol=0, atol=1e-10)
    assert streams_seen == {False, True} and len(terms) > 1


def test_an_empty_queue_leaves_out_the_classes_anchors(monkeypatch):
    model, streams = model_and_streams()
    model.queues.pushed[0] = 0
    weights = []
    monkeypatch.setattr(u2pl, 'info_nce', lambda *a: weights.append(a[-1]) or a[0].sum() * 0)
    model.loss(streams)
    total = weights[0].view(C, -1).sum(1)
    present = (total > 0).sum()
    assert total[0] == 0 and torch.allclose(total[1:][total[1:] > 0], 1 / (present + 1).double())


def test_the_queues_take_unlikely_classes_of_unreliable_pixels_and_the_centres_move():
    model, streams = model_and_streams(center_momentum=0.9)
    model.loss(streams)
    model.centers.commit()
    model.queues._pending.clear()
    model.queues.pushed.zero_()
    with torch.no_grad():
        for parameter in model.teacher.segmentor.decode_head.conv_seg.parameters():
            parameter.mul_(0.9)
    before = model.centers.value.clone(), model.centers.seen.clone(), model.queues.value.clone()
    model.loss(streams)
    assert torch.equal(model.queues.value, before[2]) and torch.equal(model.centers.value, before[0])
    hook = PrototypeHook()
    hook.before_train(runner(model))
    hook.after_train_iter(runner(model), 0)
    literal, first = Literal(model, streams), model.queues.first
    counts = []
    for c in range(C):
        keys, center = literal.negatives(c), literal.center(c)
        counts.append(len(keys))
        assert model.queues.filled[c] == len(keys)
        for place, key in enumerate(keys):
            assert torch.allclose(model.queues.value[first[c] + place], key, rtol=0, atol=1e-12)
        if center is not None:
            expected = 0.9 * before[0][c] + 0.1 * center if before[1][c] else center
            assert torch.allclose(model.centers.value[c], expected, rtol=0, atol=1e-10)
    assert min(counts) > 0


@pytest.mark.parametrize('asked', ['unreliable', 'reliable', 'all'])
def test_anchors_are_sure_and_likely_and_negatives_come_from_the_pixels_that_are_asked_for(asked, monkeypatch):
    model, streams = model_and_streams(threshold=0.6, negatives_from=asked)
    seen = dict(centers=[], queues=[])
    for name, calls in seen.items():
        monkeypatch.setattr(getattr(model, name), 'observe', lambda *args, calls=calls: calls.append(args[1:]))
    views = {**model.guide_views(streams), **model.student_views(streams)}
    label = views['guide'].logits.argmax(1)
    generator = torch.Generator().manual_seed(0)
    sure, reliable = (torch.rand(label.shape, generator=generator) > 0.4 for _ in range(2))
    model.contrast_loss(streams, views, label, reliable, sure)
    weak_prob, rank = model.class_order(views['guide'])
    classes, anchors = seen['centers'][1]
    expected = coarse(sure) & (weak_prob.gather(1, classes[:, None])[:, 0] > 0.6)
    assert torch.equal(anchors, expected) and 0 < expected.sum() < coarse(sure).sum()
    unlikely = (rank >= LOW) & (rank < HIGH)
    valid = coarse(streams.valid)
    pixels = {'unreliable': valid & ~coarse(reliable), 'reliable': coarse(reliable), 'all': valid}[asked]
    assert torch.equal(seen['queues'][1][0], unlikely & pixels[:, None])


@pytest.mark.parametrize(
    'switch',
    [
        dict(unreliable=0.1),
        dict(dynamic_partition=False),
        dict(pseudo_weight=0.5),
        dict(contrast_weight=0.5),
        dict(contrast_weight=0.0),
        dict(threshold=0.9),
        dict(confident=None),
        dict(low_rank=1),
        dict(high_rank=20),
        dict(negatives_from='reliable'),
        dict(negatives_from='all'),
        dict(queries=1),
        dict(negatives=3),
        dict(temperature=0.1),
        dict(center_momentum=0.5),
        dict(queue_length=101),
        dict(background_length=130),
        dict(keys_per_step=1),
    ],
    ids=str,
)
def test_every_switch_changes_the_loss(switch):
    terms = []
    for arguments in ({}, switch):
        model, streams = model_and_streams(**arguments)
        for step in range(2):
            torch.manual_seed(step)
            losses = model.loss(streams)
            if model.contrast_weight:
                model.queues.commit()
                model.centers.commit()
                model.centers.value += 1
        terms.append(losses)
    a, b = terms
    assert any(name not in b or not torch.equal(a[name], b[name]) for name in a)


def test_the_partition_follows_training_and_stays_without_the_adjustment():
    generator = torch.Generator().manual_seed(0)
    entropy = torch.rand(2, 20, 25, generator=generator)
    valid = torch.ones_like(entropy, dtype=torch.bool)
    for epoch, kept, sure in ((0.0, 800, 200), (0.9, 800, 200), (4.0, 900, 100), (4.9, 900, 100), (8.0, 999, 1)):
        model = tiny.build('U2PL', confident=0.2)
        model.epoch.fill_(epoch)
        model.progress.fill_(epoch / 8)
        reliable, low, limit = model.partition(entropy, valid)
        assert (abs(reliable.sum() - kept) <= 1) and abs(low.sum() - sure) <= 1
        assert entropy[reliable].max() < limit
        model.dynamic_partition = False
        assert abs(model.partition(entropy, valid)[0].sum() - 800) <= 1


def test_the_hook_tells_which_share_of_training_is_over():
    model, hook = tiny.build('U2PL'), ProgressHook()
    hook.before_train(runner(model))
    hook.before_train_iter(runner(model, iter=5, max_iters=20), 0)
    assert float(model.progress) == 0.25 and float(model.epoch) == 0.5


def test_without_contrast_there_is_no_head_no_queue_and_no_labeled_image_for_the_teacher():
    model = tiny.build('U2PL', contrast_weight=0).train()
    plain = tiny.build('MeanTeacher')
    assert model.state_dict().keys() - plain.state_dict().keys() == {'progress'}
    seen = []
    model.teacher.segmentor.backbone.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    assert 'unsup.loss_contrast' not in model.loss(tiny.streams(2, 3, mixed=False)) and seen == [3]


def test_two_classes_have_no_ranks_and_need_none_without_contrast():
    student = tiny.segmentor()
    student['decode_head']['num_classes'] = 2
    with pytest.raises(ValueError, match=r'model\.low_rank must lie between 1 and 1 with 2 classes, not 2'):
        tiny.build('U2PL', student=student)
    assert tiny.build('U2PL', student=student, contrast_weight=0).num_classes == 2


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(unreliable=1), r'model.unreliable must lie in \[0, 1\), not 1'),
        (dict(pseudo_weight=-1), 'model.pseudo_weight must be 0 or more'),
        (dict(contrast_weight=-1), 'model.contrast_weight must be 0 or more'),
        (dict(threshold=2), 'model.threshold must lie in'),
        (dict(confident=2), 'model.confident must lie in'),
        (dict(low_rank=4), 'model.low_rank must lie between 1 and 3 with 4 classes, not 4'),
        (dict(high_rank=2), 'model.high_rank must lie above model.low_rank=2, not 2'),
        (dict(negatives_from='some'), "model.negatives_from must be one of unreliable, reliable, all, not 'some'"),
        (dict(queries=0), 'model.queries must be 1'),
        (dict(negatives=0), 'model.negatives must be 1'),
        (dict(temperature=0), 'model.temperature must lie above 0'),
        (dict(center_momentum=1), 'model.center_momentum must lie in'),
        (dict(queue_length=0), 'model.queue_length must be 1'),
        (dict(background_length=0), 'model.background_length must be 1'),
        (dict(keys_per_step=7), 'model.keys_per_step must lie within a queue, 1 to 6, not 7'),
        (dict(heads={}), 'U2PL needs model.heads.representation'),
        (dict(preprocessor=dict(num_strong=2)), 'model.data_preprocessor.num_strong must be 1, not 2'),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny.build('U2PL', **arguments)


# Percentiles


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_quantiles_equal_numpys_and_the_literal_ones(dtype):
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.0, 0.05, 0.333, 0.5, 0.8, 1.0], dtype=torch.float64)
    for count in (1, 2, 3, 50, 997):
        values = torch.rand(2, count, generator=generator, dtype=dtype)
        values = torch.cat([values, values[:, :1], values.new_zeros(2, 2), values.new_full((2, 1), 1e-30)], 1)
        counted = torch.rand(values.shape, generator=generator) > 0.3
        counted[0, 0] = True
        expected = np.quantile(values[counted].numpy().astype('float64'), shares.numpy())
        literal = [oracle.percentile(values[counted].tolist(), 100 * share) for share in shares.tolist()]
        ours = quantiles(values, counted, shares).double().numpy()
        assert np.allclose(ours, expected, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0)
        assert np.allclose(literal, expected, rtol=1e-10, atol=0)


def test_quantiles_of_nothing_are_infinite_and_of_equal_values_that_value():
    values, shares = torch.full((4,), 0.7), torch.tensor([0.1, 0.9])
    assert torch.isinf(quantiles(values, values > 1, shares)).all()
    assert torch.equal(quantiles(values, values > 0, shares), values[:2])


# Queues


def test_class_queues_are_first_in_first_out_each_at_its_own_length():
    lengths = [7, 5, 5]
    ours, literal = ClassQueues(lengths, 3, per_step=5).double(), oracle.queues(lengths)
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        for _ in range(2):
            features = torch.randn(1, 3, 1, 2, generator=generator, dtype=torch.float64)
            members = torch.rand(1, 3, 1, 2, generator=generator) > 0.4
            ours.observe(features, members)
            for _, c, _, j in members.nonzero().tolist():
                literal[c].append(features[0, :, 0, j])
        ours.commit()
        ours.commit()  # nothing is noted any more
        for c, queue in enumerate(literal):
            start, pushed = int(ours.first[c]), int(ours.pushed[c])
            held = [ours.value[start + i % lengths[c]] for i in range(pushed - len(queue), pushed)]
            assert ours.filled[c] == len(queue) and all(map(torch.equal, held, queue))
    assert ours.filled.tolist() == lengths


def test_more_candidates_than_a_step_takes_are_drawn_alike_over_calls_and_pixels():
    pixels, times = 6, 400
    features = torch.arange(float(pixels)).view(1, 1, 2, 3)
    members = torch.ones(1, 2, 2, 3, dtype=torch.bool)
    members[0, 1, 0] = False
    counts = torch.zeros(2, 2 * pixels)
    torch.manual_seed(0)
    for _ in range(times):
        queues = ClassQueues([4, 4], 1, per_step=2)
        queues.observe(features, members)
        queues.observe(features + pixels, members)
        queues.commit()
        assert queues.filled.tolist() == [2, 2]
        for c in range(2):
            taken = queues.value[4 * c : 4 * c + 2, 0]
            assert taken[0] < taken[1], 'in the order of calls and pixels'
            counts[c, taken.long()] += 1
    assert (counts[1].view(2, 2, 3)[:, 0] == 0).all()
    assert (counts[0] / times - 2 / 12).abs().max() < 0.07
    assert (counts[1].view(2, 2, 3)[:, 1] / times - 2 / 6).abs().max() < 0.09


def test_queues_are_drawn_from_what_they_hold():
    queues = ClassQueues([9, 5, 5], 1, per_step=5)
    members = torch.zeros(1, 3, 2, 2, dtype=torch.bool)
    members[0, 0] = members[0, 1, 0] = True
    queues.observe(torch.ones(1, 1, 2, 2), members)
    queues.commit()
    torch.manual_seed(0)
    rows = queues.draw(200)
    assert rows.shape == (3, 200) and set(rows[0].tolist()) == {0, 1, 2, 3} and set(rows[1].tolist()) == {9, 10}
    assert (rows[2] == 14).all()


def test_upcoming_prototypes_are_those_of_the_commit():
    prototypes = Prototypes(C, 3, momentum=0.5).double()
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        labels = torch.randint(0, 2, (1, 2, 2), generator=generator)
        prototypes.observe(torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64), labels)
        value, moved = prototypes.upcoming()
        before = prototypes.value.clone()
        assert not torch.equal(value, before)
        prototypes.commit()
        assert torch.equal(prototypes.value, value) and torch.equal(moved, (value != before).any(1))
