"""AEL: the confidence bank, what is drawn by it, and the whole step against the literal equations."""

import copy
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from mmsemi.engine import ConfidenceHook
from mmsemi.models.losses.pixel import normalised_cross_entropy
from mmsemi.models.pseudo_labels import confidence_weighted_labels
from mmsemi.models.sampling import count_classes, draw_classes, draw_others, draw_partners, thin_out
from mmsemi.models.state.class_confidence import ClassConfidence
from mmsemi.models.views.regions import region_boxes
from mmsemi.models.views.scaling import rescaled
from mmsemi.structures import Mix, PseudoLabel, Streams
from tests import tiny
from tests.oracles import ael as oracle
from tests.oracles.dssn import rows

C, SIZE, STRIDE = tiny.NUM_CLASSES, 16, 2
CONFIDENCE = [0.9, 0.2, 0.6, 0.0]


def bank(values=CONFIDENCE) -> ClassConfidence:
    state = ClassConfidence(len(values)).double()
    state.value.copy_(torch.tensor(values, dtype=torch.float64))
    return state


def blobs(count: int, seed: int, classes: int = C) -> torch.Tensor:
    """Label maps (count, SIZE, SIZE) of squares of 4 x 4."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count, SIZE // 4, SIZE // 4), generator=generator)
    return labels.repeat_interleave(4, 1).repeat_interleave(4, 2)


# The confidence bank


def test_the_bank_equals_its_equation_and_leaves_void_out():
    state, literal = ClassConfidence(C, momentum=0.9).double(), [None] * C
    for step, classes in enumerate(([0, 1], [1, 3], [0, 1, 3])):
        generator = torch.Generator().manual_seed(step)
        logits = torch.randn(2, C, 4, 5, generator=generator, dtype=torch.float64)
        labels = torch.tensor(classes)[torch.randint(0, len(classes), (2, 4, 5), generator=generator)]
        labels[0, 0] = 255
        for image, label in zip(logits, labels, strict=True):  # in two observations, which weigh by their pixels
            state.observe(image[None], label[None])
        state.commit()
        new = oracle.class_confidence(rows(logits.softmax(1)), labels.flatten())
        literal = oracle.moved(literal, new, 0.9)
        expected = torch.tensor([value or 0.0 for value in literal], dtype=torch.float64)
        assert torch.allclose(state.value, expected, atol=1e-10)
    assert state.seen.tolist() == [True, True, False, True]
    before = state.value.clone()
    state.commit()
    assert torch.equal(state.value, before), 'nothing observed changes nothing'


def test_a_forgotten_class_counts_as_confidence_0_in_steps_that_show_others():
    state = ClassConfidence(C, momentum=0.9, forget_absent=True).double()
    state.value.copy_(torch.tensor(CONFIDENCE, dtype=torch.float64))
    state.seen.fill_(True)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, C, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (2, 4, 5), generator=generator)
    state.observe(logits, labels)
    state.commit()
    new = oracle.class_confidence(rows(logits.softmax(1)), labels.flatten())
    assert new[2] is None and new[3] is None
    literal = oracle.moved(CONFIDENCE, [value or 0.0 for value in new], 0.9)
    assert torch.allclose(state.value, state.value.new_tensor(literal), atol=1e-10)
    before = state.value.clone()
    state.commit()
    assert torch.equal(state.value, before), 'nothing observed changes nothing'


def test_the_bank_moves_after_the_step_that_observed():
    model, hook = tiny.build('AEL').train(), ConfidenceHook()
    runner = SimpleNamespace(model=model)
    hook.before_train(runner)
    model.loss(tiny.streams())
    assert not model.confidence.seen.any()
    hook.after_train_iter(runner, 0)
    assert model.confidence.seen.any() and model.confidence.value.max() > 0
    with pytest.raises(ValueError, match='ConfidenceHook needs a confidence bank, but FixMatch keeps none'):
        hook.before_train(SimpleNamespace(model=tiny.build('FixMatch')))


def test_probabilities_and_rates_equal_the_equations():
    ours = bank().class_probabilities()
    assert torch.allclose(ours, ours.new_tensor(oracle.class_probability(CONFIDENCE)), atol=1e-12)
    for power in (0.0, 0.5, 2.0):
        rates = bank().sampling_rates(power)
        assert torch.allclose(rates, rates.new_tensor(oracle.sampling_rate(CONFIDENCE, power)), atol=1e-12)
    assert bank([1.0] * C).sampling_rates(0.5).tolist() == oracle.sampling_rate([1.0] * C, 0.5) == [1.0] * C
    assert bank([1.0 + 1e-9, 0.5, 0.5, 0.5]).sampling_rates(0.5).isfinite().all(), 'rounding above 1'


# What is drawn


def test_classes_are_drawn_by_their_probabilities():
    torch.manual_seed(0)
    prob = torch.tensor([0.1, 0.0, 0.6, 0.3], dtype=torch.float64)
    drawn = draw_classes(prob, 20000)
    share = torch.stack([(drawn == c).double().mean() for c in range(4)])
    assert share[1] == 0 and torch.allclose(share, prob, atol=4 * 0.5 / 20000**0.5)


def test_partners_are_other_images_that_show_the_class_each_as_likely():
    torch.manual_seed(0)
    counts = torch.tensor([[5, 0], [2, 9], [3, 0], [1, 0]])
    drawn = torch.stack([draw_partners(counts, torch.tensor([0, 0, 0, 1]), 2)[0] for _ in range(600)])
    for image, others in enumerate(([1, 2], [0, 2], [0, 1], [1])):
        assert set(drawn[:, image].tolist()) == set(others)
        share = (drawn[:, image] == others[0]).double().mean()
        assert abs(share - 1 / len(others)) < 4 * 0.5 / 600**0.5
    found = draw_partners(counts, torch.tensor([1, 1, 1, 1]), 2)[1]
    assert found.tolist() == [True, False, True, True], 'an image is no partner of itself'


def test_others_are_any_image_but_itself_each_as_likely():
    torch.manual_seed(0)
    drawn = torch.stack([draw_others(4, 'cpu') for _ in range(600)])
    for image in range(4):
        share = torch.bincount(drawn[:, image], minlength=4) / 600
        assert share[image] == 0 and (share[torch.arange(4) != image] - 1 / 3).abs().max() < 4 * 0.5 / 600**0.5
    assert draw_others(2, 'cpu').tolist() == [1, 0]


def test_classes_are_counted_image_by_image_without_void():
    labels = blobs(3, 0)
    labels[1, 5:] = 255
    expected = [[int((image == c).sum()) for c in range(C)] for image in labels]
    assert count_classes(labels, C).tolist() == expected


def test_labeled_pixels_of_a_class_are_kept_at_its_rate():
    torch.manual_seed(0)
    labels, rates = blobs(50, 1), torch.tensor(oracle.sampling_rate(CONFIDENCE, 0.5))
    labels[:, 0] = 255
    thinned = thin_out(labels, rates)
    assert ((thinned == labels) | (thinned == 255)).all() and (thinned[:, 0] == 255).all()
    for c in range(C):
        of_class = labels == c
        share = (thinned[of_class] == c).float().mean()
        assert abs(share - rates[c]) < 4 * 0.5 / of_class.sum() ** 0.5
    assert rates[3] == 1 and torch.equal(thin_out(labels, torch.ones(C)), labels)


def test_a_box_is_that_of_one_large_region_and_every_such_region_has_its_turn():
    torch.manual_seed(0)
    masks = torch.zeros(3, SIZE, SIZE, dtype=torch.bool)
    masks[0, 1:3, 1:3] = masks[0, 3, 3] = True  # joined by a corner
    masks[1, 0, 0] = True
    masks[2, :2, :8] = masks[2, 4:15, 4] = masks[2, 4:15, 6:] = masks[2, 15, 0] = True
    least = 5
    allowed = [oracle.boxes(mask, True, least) for mask in masks]
    counts = [[0] * len(each) for each in allowed]
    for _ in range(200):
        for image, box in enumerate(region_boxes(masks, least)):
            hits = [torch.equal(box, literal) for literal in allowed[image]]
            assert any(hits) if allowed[image] else not box.any()
            for i, hit in enumerate(hits):
                counts[image][i] += hit
    assert len(allowed[0]) == 1 and allowed[0][0].sum() == 9 and not allowed[1]
    assert len(counts[2]) == 3 and all(abs(n / 200 - 1 / 3) < 4 * 0.5 / 200**0.5 for n in counts[2]), counts


# Adaptive augmentation


def plain_boxes(batch: int) -> Mix:
    mask = torch.zeros(batch, SIZE, SIZE, dtype=torch.bool)
    mask[: batch - 1, 3:9, 5:7] = True  # the last image is not mixed
    return Mix(mask)


def test_an_adaptive_box_lies_around_a_region_of_the_partner_or_the_plain_box_stays():
    model = tiny.build('AEL', preprocessor=dict(size=(SIZE, SIZE)), region_stride=STRIDE, min_area=0.05)
    model.confidence.value.copy_(torch.tensor(CONFIDENCE))
    label, plain = blobs(4, 5, classes=3), plain_boxes(4)  # nobody shows the last class
    label[:, -3:] = 255
    coarse = label[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    least = 0.05 * coarse[0].numel()
    boxes = [[[_enlarged(b) for b in oracle.boxes(image, c, least)] for c in range(C)] for image in coarse]
    torch.manual_seed(0)
    adaptive = 0
    for _ in range(50):
        mix = model.adaptive_mix(plain, label)
        assert not mix.mask[3].any(), 'the preprocessor says which images are mixed'
        for i in range(3):
            if torch.equal(mix.mask[i], plain.mask[i]) and mix.partner[i] == 3 - i:
                continue
            adaptive += 1
            theirs = boxes[int(mix.partner[i])]
            assert mix.partner[i] != i and any(torch.equal(mix.mask[i], box) for c in theirs for box in c)
    expected = 1 - oracle.class_probability(CONFIDENCE)[3]
    assert abs(adaptive / 150 - expected) < 4 * 0.5 / 150**0.5, 'where no image shows the class the plain box stays'


def _enlarged(box: torch.Tensor) -> torch.Tensor:
    return box.repeat_interleave(STRIDE, 0).repeat_interleave(STRIDE, 1)


def test_little_known_classes_are_mixed_more_often():
    model = tiny.build('AEL', preprocessor=dict(size=(SIZE, SIZE)), region_stride=STRIDE)
    model.confidence.value.copy_(torch.tensor([1.0, 0.0, 1.0, 1.0]))
    label = torch.zeros(2, SIZE, SIZE, dtype=torch.long)
    label[:, 4:8, 8:12], label[:, 8:, :2] = 1, 2
    label[:, 12:, 8:], label[:, :, 14:] = 3, 0
    torch.manual_seed(0)
    boxes = [model.adaptive_mix(Mix(torch.ones(2, SIZE, SIZE, dtype=torch.bool)), label).mask[0] for _ in range(150)]
    expected = oracle.class_probability([1.0, 0.0, 1.0, 1.0])
    for c, pixels in ((1, 16), (2, 16), (3, 24)):
        where = label[0] == c
        share = sum(torch.equal(box, where) for box in boxes) / len(boxes)
        assert where.sum() == pixels and abs(share - expected[c]) < 4 * 0.5 / len(boxes) ** 0.5


def test_copied_pixels_bring_their_labels():
    settings = dict(copy_paste_prob=0.5, paste_classes=2, paste_scale=(1.0, 1.0))
    model = tiny.build('AEL', preprocessor=dict(size=(SIZE, SIZE)), **settings)
    model.confidence.value.copy_(torch.tensor(CONFIDENCE))
    labels = blobs(3, 7)
    labels[:, 0] = 255
    labels[labels == 2] = 1  # nobody shows this class
    images = torch.randn(3, 3, SIZE, SIZE)
    torch.manual_seed(0)
    drawn, partners, pasted, times = torch.zeros(C), set(), 0, 150
    for _ in range(times):
        streams = model.copy_paste(Streams(images, labels, images))
        for i in range(3):
            mask = (streams.labeled[i] != images[i]).any(0)
            if not mask.any():
                assert torch.equal(streams.labels[i], labels[i])
                continue
            pasted += 1
            classes = streams.labels[i][mask].unique().tolist()
            cases = [(j, *oracle.copy_paste(images[i], labels[i], images[j], labels[j], classes)) for j in range(3)]
            partner = [j for j, image, label in cases if torch.equal(streams.labeled[i], image) and j != i]
            assert len(partner) == 1 and torch.equal(streams.labels[i], cases[partner[0]][2])
            partners.add((i, partner[0]))
            drawn[classes] += 1
    assert partners == {(i, j) for i in range(3) for j in range(3) if i != j}
    prob = torch.tensor(oracle.class_probability(CONFIDENCE))
    shown = torch.stack([(labels == c).flatten(1).any(1) for c in range(C)])
    assert shown.all(1).tolist() == [True, True, False, True]
    expected = 0.5 * (1 - (1 - prob) ** 2) * shown[:, 0]
    assert torch.allclose(drawn / (3 * times), expected, atol=4 * 0.5 / (3 * times) ** 0.5)
    expected = 0.5 * (1 - prob[2] ** 2)
    assert abs(pasted / (3 * times) - expected) < 4 * 0.5 / (3 * times) ** 0.5


def test_pasted_pixels_come_from_a_crop_at_a_scale_of_its_own():
    model = tiny.build('AEL', preprocessor=dict(size=(SIZE, SIZE)), copy_paste_prob=1.0, paste_classes=1)
    labels = torch.zeros(4, SIZE, SIZE, dtype=torch.long)
    labels[:2] = 1
    images = labels[:, None].expand(-1, 3, -1, -1).float() * 5
    model.confidence.value.copy_(torch.tensor([1e9, 0.0, 1e9, 1e9]))  # nothing but class 1 is drawn
    torch.manual_seed(0)
    shares = []
    for _ in range(60):
        streams = model.copy_paste(Streams(images, labels, images))
        shown = streams.labels[2:] == 1
        assert torch.equal(shown, streams.labeled[2:, 0] > 4.99) and torch.equal(streams.labels[:2], labels[:2])
        shares += [float(mask.float().mean()) for mask in shown if mask.any()]
    sides = torch.tensor(shares).sqrt()
    assert 0.2 - 1 / SIZE < sides.min() < 0.3 and 0.9 < sides.max() < 1 + 1 / SIZE
    assert abs(sides.mean() - 0.6) < 4 * 0.8 / (12 * len(sides)) ** 0.5, 'drawn uniformly from 0.2 to 1'


@pytest.mark.parametrize('factor', [0.25, 0.5, 1.0, 1.25, 2.0])
def test_rescaling_is_pils_bilinear_resize_at_the_place_asked_for(factor):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(2, 3, 16, 24, generator=generator), torch.full((2, 16, 24), 7)
    place = torch.tensor([[0.5, 1 / 3], [0.0, 1.0]])  # on whole pixels
    ours, classes = rescaled(images, labels, torch.full((2,), factor), place)
    height, width = int(16 * factor), int(24 * factor)
    for b in range(2):
        whole = torch.full((4, 64, 96), -1.0)  # the resized image on a large canvas
        top, left = (place[b] * torch.tensor([16 - height, 24 - width])).round().int().tolist()
        window = whole[:, 24 + top : 24 + top + height, 36 + left : 36 + left + width]
        for channel in range(3):
            pil = Image.fromarray(images[b, channel].numpy()).resize((width, height), Image.BILINEAR)
            window[channel] = torch.from_numpy(np.array(pil))
        window[3] = 1
        expected = whole[:, 24:40, 36:60]
        inside = expected[3] == 1
        assert torch.equal(classes[b], torch.where(inside, 7, 255))
        assert torch.allclose(ours[b][:, inside], expected[:3, inside], atol=1e-5)
    if factor == 1:
        assert torch.equal(ours, images) and torch.equal(classes, labels)


def test_rescaled_labels_are_those_of_the_nearest_pixel():
    labels = torch.arange(64).view(1, 8, 8)
    _, half = rescaled(torch.zeros(1, 3, 8, 8), labels, torch.tensor([0.5]), torch.tensor([[1.0, 0.0]]))
    assert torch.equal(half[0, 4:, :4], labels[0, 1::2, 1::2]) and (half[0, :4] == 255).all()
    _, double = rescaled(torch.zeros(1, 3, 8, 8), labels, torch.tensor([2.0]), torch.tensor([[0.5, 0.5]]))
    assert torch.equal(double[0], labels[0, 2:6, 2:6].repeat_interleave(2, 0).repeat_interleave(2, 1))


# Losses


@cache
def prepared(batch: int = 2):
    """A network that is sure of some pixels, a teacher that differs, a bank that knows its classes unequally."""
    settings = dict(region_stride=STRIDE, min_area=0.01)
    model = tiny.build('AEL', preprocessor=dict(size=(SIZE, SIZE)), **settings).double()
    generator = torch.Generator().manual_seed(3)
    draw = lambda n: torch.randn(n, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)  # noqa: E731
    labels = blobs(batch, 4)
    labels[0, :3] = 255
    valid = torch.ones(batch, SIZE, SIZE, dtype=torch.bool)
    valid[0, 12:] = False
    mask = torch.zeros(batch, SIZE, SIZE, dtype=torch.bool)
    mask[0, 4:14, 4:12] = mask[1, 6:15, 1:7] = True
    streams = Streams(draw(batch), labels, draw(batch), (draw(batch),), valid, (Mix(mask),))
    tiny.decide(model, streams, spread=3, passes=12)
    model.eval()
    tiny.part_teacher(model, 0.005, generator)
    with torch.no_grad():
        model.confidence.value.copy_(torch.tensor(CONFIDENCE))
    return model, streams


def model_and_streams(**switches):
    """A copy of them with other keys."""
    model, streams = copy.deepcopy(prepared())
    for name, value in switches.items():
        assert getattr(model, name) != value
        setattr(model, name, value)
    return model, streams


def loss_and_adapted(model, streams, seed=0):
    """Losses of a step and the streams that its student saw."""
    seen, adapt = [], model.adapt_streams
    model.adapt_streams = lambda *args: seen.append(adapt(*args)) or seen[-1]
    torch.manual_seed(seed)
    losses = model.loss(streams)
    model.adapt_streams = adapt
    return losses, seen[0]


def of_each_image(*pixels):
    """Rows of pixels, image by image."""
    return [each.split(SIZE * SIZE) for each in pixels]


@pytest.mark.parametrize('threshold', [0.01, 0.5])
@pytest.mark.parametrize('normalised_by', ['image', 'batch'])
def test_the_losses_equal_the_equations(threshold, normalised_by):
    model, streams = model_and_streams(threshold=threshold, sampling_power=0.0, copy_paste_prob=1.0, labeled_weight=0.7)
    model.normalised_by = normalised_by
    per_image = normalised_by == 'image'
    literal = (lambda *each: oracle.eq12(*of_each_image(*each))) if per_image else oracle.consistency
    losses, adapted = loss_and_adapted(model, streams)
    mix = adapted.mix[0]
    assert not torch.equal(mix.mask, streams.mix[0].mask), 'the case must mix adaptively'
    assert not torch.equal(adapted.labeled, streams.labeled), 'the case must paste'
    with torch.no_grad():
        student, teacher = model.student, model.teacher
        shape = streams.valid.shape
        p = rows(teacher(streams.weak).logits.softmax(1))
        maps = [x.view(shape) for x in oracle.pseudo_labels(p, 2.0, streams.valid.flatten(), threshold)]
        label, weight, divides = (torch.where(mix.mask, x[mix.partner], x).flatten() for x in maps)
        strong = torch.where(mix.mask[:, None], streams.strong[0][mix.partner], streams.strong[0])
        prob = rows(student(strong).logits.softmax(1))
        assert len(label.unique()) > 2 and (threshold < 0.1 or (weight < divides).any())
        assert torch.allclose(losses['unsup.loss_strong'], literal(prob, label, weight, divides), atol=1e-10)

        # The labeled images, seen by both branches with what was pasted into them.
        p = rows(teacher(adapted.labeled).logits.softmax(1))
        pseudo = oracle.pseudo_labels(p, 2.0, (adapted.labels != 255).flatten(), threshold)
        prob = rows(student(adapted.labeled).logits.softmax(1))
        assert torch.allclose(losses['unsup.loss_labeled'], 0.7 * literal(prob, *pseudo), atol=1e-10)

        truth = adapted.labels.flatten()
        nll = [-torch.log(prob[i, truth[i]]) for i in range(len(truth)) if truth[i] != 255]
        assert torch.allclose(losses['sup.loss_ce'], sum(nll) / len(nll), atol=1e-10)
        new = oracle.class_confidence(prob, truth)
        model.confidence.seen.fill_(True)
        model.confidence.commit()
        expected = oracle.moved([float(torch.tensor(c)) for c in CONFIDENCE], new, 0.999)
        assert torch.allclose(model.confidence.value, model.confidence.value.new_tensor(expected), atol=1e-10)


def test_the_supervised_loss_learns_the_sampled_pixels_and_the_bank_notes_all():
    model, streams = model_and_streams(sampling_power=2.0, sampled='supervised')
    with torch.no_grad():
        out = model.student(streams.labeled)
        torch.manual_seed(1)
        loss = model.supervised_loss(out, streams.labels)['loss_ce']
        torch.manual_seed(1)
        kept = thin_out(streams.labels, model.confidence.sampling_rates(2.0))
        assert (kept == 255).sum() > (streams.labels == 255).sum()
        assert torch.allclose(loss, F.cross_entropy(out.logits, kept, ignore_index=255), atol=1e-10)
    assert model.confidence.pending[1].sum() == (streams.labels != 255).sum()


@pytest.mark.parametrize('by', ['teacher', 'student'])
def test_the_consistency_learns_sampled_pixels_by_the_class_that_a_branch_gives_them(by):
    model, streams = model_and_streams(sampling_power=2.0)
    model.sampled_by = by
    views = {**model.guide_views(streams), **model.student_views(streams)}
    pseudo, weight = model.weighted_labels(views['guide'], streams.valid)
    out, mix = views['strong_0'], streams.mix[0]
    pseudo, weight = mix.labels(pseudo), mix.maps(weight)
    torch.manual_seed(1)
    ours = model.consistency(out, pseudo, weight)
    torch.manual_seed(1)
    classes = pseudo.label if by == 'teacher' else out.logits.argmax(1)
    kept = thin_out(classes, model.confidence.sampling_rates(2.0)) != 255
    assert 0 < kept.sum() < kept.numel() and not torch.equal(pseudo.label, out.logits.argmax(1))
    weight = (weight * kept).flatten()
    prob = rows(out.logits.softmax(1))
    expected = oracle.eq12(*of_each_image(prob, pseudo.label.flatten(), weight, weight))
    assert torch.allclose(ours, expected, atol=1e-10)
    labels = streams.labels
    expected = F.cross_entropy(model.student(streams.labeled).logits, labels, ignore_index=255)
    supervised = model.supervised_loss(model.student(streams.labeled), labels)['loss_ce']
    assert torch.allclose(supervised, expected, atol=1e-10), 'all labeled pixels'


def test_the_mean_of_several_strong_views_is_learned_and_by_key_the_supervised_pixels_alone_are_sampled():
    model, streams = model_and_streams(sampling_power=2.0, sampled='supervised', labeled_weight=0.0)
    views = {**model.guide_views(streams), **model.student_views(streams)}
    pseudo, weight = model.weighted_labels(views['guide'], streams.valid)
    mix = streams.mix[0]
    one = model.consistency(views['strong_0'], mix.labels(pseudo), mix.maps(weight))
    prob, label = rows(views['strong_0'].logits.softmax(1)), mix.labels(pseudo).label.flatten()
    divides = mix.maps(weight).flatten()
    expected = oracle.eq12(*of_each_image(prob, label, mix.maps(pseudo.weight).flatten(), divides))
    assert torch.allclose(one, expected, atol=1e-10), 'no pixel of the consistency is left out'
    two = replace(streams, strong=2 * streams.strong, mix=2 * streams.mix)
    views['strong_1'] = views['strong_0']
    assert torch.allclose(model.unsupervised_loss(two, views)['loss_strong'], one)


def test_padding_shows_no_class_and_a_small_region_is_no_source():
    settings = dict(preprocessor=dict(size=(SIZE, SIZE)), region_stride=STRIDE, min_area=5.5 / 64)
    model = tiny.build('AEL', **settings).double()
    model.confidence.value.copy_(torch.tensor([1.0, 0.0, 1.0, 1.0]))
    plain = Mix(torch.zeros(2, SIZE, SIZE, dtype=torch.bool))
    plain.mask[:, 3:6, 4:7] = True
    for columns, pieces, adaptive in ((6, 1, True), (4, 1, False), (4, 2, False)):
        # Of 64 places: 6 in one region; 4; and twice 4, enough of the class, but in regions that are too small.
        label = torch.full((2, SIZE, SIZE), 255)
        for piece in range(pieces):
            label[:, 8 * piece : 8 * piece + 4, 0:columns] = 1
        boxes = [model.adaptive_mix(plain, label).mask for _ in range(20)]
        assert any(not torch.equal(box, plain.mask) for box in boxes) == adaptive, (columns, pieces)
    _, streams = model_and_streams()
    streams.valid[:], streams.mix = False, (plain,)
    guide = model.guide_views(streams)['guide']
    assert torch.equal(model.adapt_streams(streams, dict(guide=guide)).mix[0].mask, plain.mask), 'all is padding'


def test_weighted_labels_and_their_loss_equal_the_equations_and_have_their_gradient():
    torch.manual_seed(0)
    teacher, student = (torch.randn(2, C, 3, 4, dtype=torch.float64) * 2 for _ in range(2))
    valid = torch.rand(2, 3, 4) > 0.2
    pseudo, whole = confidence_weighted_labels(teacher, 1.5, 0.5, valid)
    label, weight, divides = oracle.pseudo_labels(rows(teacher.softmax(1)), 1.5, valid.flatten(), 0.5)
    assert torch.equal(pseudo.label.flatten(), label) and torch.allclose(pseudo.weight.flatten(), weight, atol=1e-12)
    assert torch.allclose(whole.flatten(), divides, atol=1e-12) and 0 < (weight > 0).sum() < valid.sum()
    student.requires_grad_()
    each = [x.split(12) for x in (rows(student.softmax(1)), label, weight, divides)]
    for total, literal in (
        (whole.sum(), oracle.consistency(rows(student.softmax(1)), label, weight, divides)),
        (whole.sum((1, 2)), oracle.eq12(*each)),
    ):
        loss = normalised_cross_entropy(student, pseudo, total)
        assert torch.allclose(loss, literal, atol=1e-12)
        gradients = [torch.autograd.grad(value, student, retain_graph=True)[0] for value in (loss, literal)]
        assert torch.allclose(*gradients, atol=1e-12)
        assert torch.autograd.gradcheck(lambda x, total=total: normalised_cross_entropy(x, pseudo, total), student)
    nothing = PseudoLabel(pseudo.label, torch.zeros_like(pseudo.weight))
    assert normalised_cross_entropy(student, nothing, nothing.weight.sum()) == 0
    assert normalised_cross_entropy(student, nothing, nothing.weight.sum((1, 2))) == 0


def test_what_a_plugin_takes_from_the_weights_is_not_given_back_by_the_normalisation():
    model, streams = model_and_streams()
    plain, _ = loss_and_adapted(model, streams)
    model.reweight = lambda pseudo, guide: pseudo.reweight(torch.full_like(pseudo.weight, 0.25))
    doubted, _ = loss_and_adapted(model, streams)
    assert torch.allclose(doubted['unsup.loss_strong'], 0.25 * plain['unsup.loss_strong'])


def test_without_labeled_consistency_the_teacher_sees_the_weak_view_alone():
    model = tiny.build('AEL', labeled_weight=0.0).train()
    sizes = []
    model.teacher.segmentor.backbone.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    losses = model.loss(tiny.streams(2, 3, mixed=False))
    assert sizes == [3] and 'unsup.loss_labeled' not in losses


def test_the_student_sees_labeled_and_strong_views_together_or_apart():
    sizes = []
    for joint in (True, False):
        model, seen = tiny.build('AEL', joint_pass=joint).train(), []
        model.student.segmentor.backbone.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        model.loss(tiny.streams(2, 3, mixed=False))
        sizes.append([len(images) for images in seen])
    assert sizes == [[5], [2, 3]]


def test_one_labeled_image_has_no_partner_and_stays():
    model = tiny.build('AEL', copy_paste_prob=1.0).train()
    streams = tiny.streams(1, 1, mixed=False)
    assert model.copy_paste(streams) is streams
    assert model.loss(streams)['unsup.loss_strong'].isfinite()


@pytest.mark.parametrize(
    'switch',
    [
        dict(threshold=0.7),
        dict(adaptive_cutmix=False),
        dict(min_area=0.9),
        dict(region_stride=8),
        dict(copy_paste_prob=0.0),
        dict(paste_classes=1),
        dict(paste_scale=(1.0, 1.0)),
        dict(sampling_power=0.0),
        dict(sampled='supervised'),
        dict(sampled_by='student'),
        dict(confidence_power=0.0),
        dict(normalised_by='batch'),
        dict(labeled_weight=0.0),
    ],
    ids=str,
)
def test_every_switch_of_the_ablations_changes_the_loss(switch):
    plain, streams = model_and_streams()
    switched, _ = model_and_streams(**switch)
    differs = False
    for seed in range(3):
        a, b = (loss_and_adapted(model, streams, seed)[0] for model in (plain, switched))
        differs = differs or any(name not in b or not torch.equal(a[name], b[name]) for name in a if 'loss' in name)
    assert differs


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(threshold=1.5), 'model.threshold must lie in'),
        (dict(confidence_momentum=1.0), 'confidence_momentum must lie in'),
        (dict(min_area=1.0), 'model.min_area must lie in'),
        (dict(region_stride=0), 'model.region_stride must be 1 or more'),
        (dict(copy_paste_prob=2), 'model.copy_paste_prob must lie in'),
        (dict(paste_classes=0), 'model.paste_classes must be 1 or more'),
        (dict(paste_scale=(0, 1)), r'model.paste_scale must be an ascending range above 0, not \(0, 1\)'),
        (dict(paste_scale=(2, 1)), 'model.paste_scale must be an ascending range above 0'),
        (dict(sampling_power=-1), 'model.sampling_power must be 0 or more'),
        (dict(sampled_by='truth'), 'model.sampled_by must be one of teacher, student'),
        (dict(normalised_by='pixel'), 'model.normalised_by must be one of image, batch'),
        (dict(sampled='labels'), 'model.sampled must be one of consistency, supervised'),
        (dict(confidence_power=-1), 'model.confidence_power must be 0 or more'),
        (dict(labeled_weight=-1), 'model.labeled_weight must be 0 or more'),
        (dict(preprocessor=dict(cutmix=None)), 'model.data_preprocessor.cutmix says which images are mixed'),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny.build('AEL', **arguments)
