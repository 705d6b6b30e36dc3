"""MPMC beside any method: its equations, its switches, and what it leaves alone."""

import copy
import inspect
import logging
import math

import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn
from torch.nn import functional as F

from mmsemi.models.heads.patch_classifier import PatchClassifier, average
from mmsemi.models.losses.multi_label import asymmetric_loss, weighted_binary_cross_entropy
from mmsemi.models.modules.receptive_field import Extent, receptive_fields
from mmsemi.models.plugins import mpmc as mpmc_module
from mmsemi.models.plugins.mpmc import MPMC, micro_f1, patch_targets
from mmsemi.registry import MODELS
from mmsemi.structures import Mix, Paste, PseudoLabel
from tests import tiny
from tests.oracles import mpmc as oracle, unimatch

FIELDS = [(4, -3, 3), (4, -5, 2), (2.5, -1.3, 2.1), (4, -math.inf, math.inf)]
SIZE = (tiny.SIZE, 24)


def plugin(**kwargs) -> dict:
    return {**dict(type='MPMC', pools=(3, 5), channels=4), **kwargs}


def model_and_streams(method: str = 'MeanTeacher', host: dict | None = None, **kwargs):
    """A method with the plugin in double precision, and a batch for it, whose images are higher than wide.

    Of one labeled image little is labeled; boxes reach into the padding and take some from the other image.
    """
    host = {**({} if method == 'Supervised' else dict(threshold=0.2)), **(host or {})}
    model = tiny.build(method, preprocessor=dict(size=SIZE), plugins=[plugin(**kwargs)], **host).double().eval()
    batch = tiny.streams_for(model)
    for name in ('labeled', 'weak'):
        setattr(batch, name, getattr(batch, name)[..., : SIZE[1]].double())
    batch.strong = tuple(x[..., : SIZE[1]].double() for x in batch.strong)
    batch.labels, batch.valid = batch.labels[..., : SIZE[1]].clone(), batch.valid[..., : SIZE[1]].clone()
    batch.labels[0, :28] = 255
    batch.valid[0, 16:] = False
    mask = torch.zeros_like(batch.valid)
    mask[0, 4:20, 8:16] = mask[1, 14:30, 3:12] = True
    batch.mix = tuple(Mix(mask.roll((2 * i, 5 * i), (1, 2))) for i in range(len(batch.strong)))
    return model, batch


def settle(model, streams):
    """Let branches predict several classes for pixels and patches, some surely, the teacher others than the student."""
    generator = torch.Generator().manual_seed(7)
    student = model.student
    with torch.no_grad():
        student.train()
        for _ in range(30):
            student(torch.cat([streams.weak, streams.labeled]))
        student.eval()
        out = student(streams.weak)
        for layer, scores in (
            (student.segmentor.decode_head.conv_seg, out.coarse_logits),
            (student.heads['patch_classifier'].layers[-1], out.heads['patch_classifier']),
        ):
            scale = 3 / scores.std((0, 2, 3))
            layer.weight *= scale[:, None, None, None]
            layer.bias.copy_((layer.bias - scores.mean((0, 2, 3))) * scale)
        if model.has_teacher:
            model.teacher.load_state_dict(student.state_dict())
            for parameter in model.teacher.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


# Parts


@pytest.mark.parametrize('field', FIELDS)
def test_targets_are_the_classes_inside_each_receptive_field(field):
    labels = torch.randint(0, 5, (2, 13, 11), generator=torch.Generator().manual_seed(0))
    labels[:, 3:6] = 255
    labels[1, :, :4] = 255
    extents = (Extent(*field), Extent(field[0], field[1] - 1, field[2]))
    ours, known = patch_targets(labels, 4, extents, (4, 3))
    expected = oracle.patch_targets(
        labels.masked_fill(labels == 4, 255), 4, [field, (field[0], field[1] - 1, field[2])], (4, 3)
    )
    assert torch.equal(ours, expected) and torch.equal(known, expected.any(1))


def test_a_patch_of_ignored_pixels_shows_no_class_and_is_not_known():
    labels = torch.full((1, 8, 8), 255)
    labels[0, 0, 0] = 2
    targets, known = patch_targets(labels, 3, (Extent(4, -1, 1),) * 2, (2, 2))
    assert targets.nonzero().tolist() == [[0, 2, 0, 0]] and known.nonzero().tolist() == [[0, 0, 0]]


@pytest.mark.parametrize('gammas', [(0, 1), (0, 0), (1, 2), (0.5, 1.5)])
def test_asymmetric_loss_is_eq_3(gammas):
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 4, 2, 3, dtype=torch.float64, generator=generator)).requires_grad_()
    targets = torch.rand(2, 4, 2, 3, generator=generator) > 0.6
    ours = asymmetric_loss(logits, targets, *gammas)
    expected = torch.stack(
        [
            oracle.asymmetric(logits[b, :, i, j], targets[b, :, i, j], *gammas)
            for b in range(2)
            for i in range(2)
            for j in range(3)
        ]
    )
    assert torch.allclose(ours.flatten(), expected, atol=1e-10)
    weight = torch.rand(expected.shape, dtype=torch.float64, generator=generator)
    for a, b in zip(
        torch.autograd.grad((ours.flatten() * weight).sum(), logits),
        torch.autograd.grad((expected * weight).sum(), logits),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-10)
    assert torch.autograd.gradcheck(lambda x: asymmetric_loss(x, targets, *gammas), (logits,))


def test_asymmetric_loss_stays_finite_where_probabilities_round_to_0_and_1():
    logits = torch.tensor([200.0, -200.0, 200.0, -200.0]).view(1, 4, 1, 1).requires_grad_()
    targets = torch.tensor([True, True, False, False]).view(1, 4, 1, 1)
    loss = asymmetric_loss(logits, targets, 0.0, 1.0).sum()
    loss.backward()
    assert loss.item() == pytest.approx(100) and logits.grad.isfinite().all()


def test_soft_binary_cross_entropy_is_weighted_for_each_class():
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, 2, 4, 2, 3, dtype=torch.float64, generator=generator)
    student.requires_grad_()
    loss = weighted_binary_cross_entropy(student, teacher.sigmoid(), teacher.softmax(1)).mean()
    expected = oracle.unlabeled_loss(teacher, student.detach(), torch.ones(2, 2, 3, dtype=torch.bool))
    assert torch.allclose(loss, expected, atol=1e-10)
    assert torch.autograd.gradcheck(
        lambda x: weighted_binary_cross_entropy(x, teacher.sigmoid(), teacher.softmax(1)), (student,)
    )


@pytest.mark.parametrize('window', [1, 3, 7])
def test_averages_count_the_pixels_of_the_map_alone(window):
    maps = torch.randn(2, 3, 8, 7, dtype=torch.float64)
    expected = F.avg_pool2d(maps, window, 1, padding=window // 2, count_include_pad=False)
    assert torch.allclose(average(maps, window), expected, atol=1e-12)


# The plugin in a step


def fields(model):
    return [(x.jump, x.first, x.last) for x in model.plugins[0].field]


def middles(field, count, side):
    """The pixels in the middle of the locations' fields; of fields without bounds, of their share."""
    jump, first, last = field
    if math.isinf(last):
        return [int((place + 0.5) * side / count) for place in range(count)]
    return [min(max(round(place * jump + (first + last) / 2), 0), side - 1) for place in range(count)]


def guide_of(model, streams):
    return (model.teacher if model.has_teacher else model.student)(streams.weak)


@pytest.mark.parametrize('method', ['MeanTeacher', 'UniMatch'])
@pytest.mark.parametrize('position', ['stage1', 'stage2', 'decoder'])
def test_losses_are_eq_4_and_6(position, method):
    gammas = (0, 1) if method == 'UniMatch' else (0.5, 2)
    switches = dict(zip(('gamma_pos', 'gamma_neg'), gammas, strict=True))
    model, streams = model_and_streams(method, position=position, beta=0.3, pools=(3,), **switches)
    settle(model, streams)
    losses = model.loss(streams)
    common = 0.5 if method == 'UniMatch' else 1
    scores = model.student(streams.labeled).heads['patch_classifier']
    expected = common * oracle.labeled_loss(scores, streams.labels, fields(model), *gammas)
    assert torch.allclose(losses['sup.loss_patch'], expected, rtol=0, atol=1e-10)
    targets = oracle.patch_targets(streams.labels, 4, fields(model), scores.shape[2:])
    assert position != 'stage1' or not targets.any(1).all(), 'some patches show no labeled pixel'

    teacher = guide_of(model, streams).heads['patch_classifier'].detach()
    rows, columns = map(middles, fields(model), teacher.shape[2:], SIZE)
    terms = []
    for strong, mix in zip(streams.strong, streams.mix, strict=True):
        student = model.student(unimatch.mixed(strong, mix.mask)).heads['patch_classifier'].detach()
        mask, valid = (x[:, rows][:, :, columns] for x in (mix.mask, streams.valid))
        counted = unimatch.mixed(valid, mask)
        assert (counted & ~valid).any() and (valid & ~counted).any(), 'boxes show padding, and hide some'
        terms.append(oracle.unlabeled_loss(unimatch.mixed(teacher, mask), student, counted))
    expected = common * 0.3 * sum(terms) / len(terms)
    assert torch.allclose(losses['unsup.loss_patch'], expected, rtol=0, atol=1e-10)
    assert len(terms) == 1 or abs(terms[0] - terms[1]) > 1e-3


def weighted_cross_entropy(h, label, kept, valid, weight):
    """Eq. 5 for one view: each pixel's cross-entropy times its weight, over the number of valid pixels."""
    total = 0
    for b in range(len(label)):
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                pixel = (slice(b, b + 1), ..., slice(y, y + 1), slice(x, x + 1))
                loss = unimatch.cross_entropy(h[pixel], label[pixel], kept[pixel], valid[pixel])
                total = total + loss * weight[b, y, x]
    return total / valid.sum()


@pytest.mark.parametrize('method', ['MeanTeacher', 'UniMatch'])
def test_losses_are_eq_5_mixed_pixel_by_pixel(method):
    model, streams = model_and_streams(method, host=dict(threshold=0.7), alpha=0.3)
    settle(model, streams)
    losses = model.loss(streams)
    with torch.no_grad():
        guide = guide_of(model, streams)
        label, kept = unimatch.pseudo_labels(guide.logits.softmax(1), 0.7)
        patches = guide.heads['patch_classifier']
        weight = torch.stack([oracle.pixel_weight(x, y, fields(model)) for x, y in zip(label, patches, strict=True)])
        assert len(label.unique()) > 2 and 0.1 < kept.double().mean() < 0.9 and weight.std() > 0.1
        terms = []
        for strong, mix in zip(streams.strong, streams.mix, strict=True):
            h = model.student(unimatch.mixed(strong, mix.mask)).logits
            maps = (unimatch.mixed(x, mix.mask) for x in (label, kept, streams.valid, weight))
            terms.append(weighted_cross_entropy(h, *maps))
        perturbed = weighted_cross_entropy(guide.logits, label, kept, streams.valid, weight)
    if method == 'MeanTeacher':
        expected = dict(loss_strong=0.3 * terms[0])
    else:
        # In evaluation mode no channel is dropped.
        strong = {f'loss_strong_{i}': 0.3 * 0.25 * term / 2 for i, term in enumerate(terms)}
        expected = dict(strong, loss_feature=0.3 * 0.5 * perturbed / 2)
    assert {name for name in losses if 'loss' in name and 'unsup' in name} == {
        f'unsup.{name}' for name in (*expected, 'loss_patch')
    }
    for name, value in expected.items():
        assert torch.allclose(losses[f'unsup.{name}'], value, rtol=0, atol=1e-10)


@pytest.mark.parametrize('method', ['FixMatch', 'UniMatch', 'CorrMatch'])
def test_without_a_teacher_the_weak_views_patches_learn_nothing(method):
    model, streams = model_and_streams(method)
    scores = []
    model.student.heads['patch_classifier'].register_forward_hook(lambda module, args, out: scores.append(out))
    total = model.parse_losses(model.loss(streams))[0]
    first, strong = torch.autograd.grad(total, scores)
    labeled, weak = first.split([len(streams.labeled), len(streams.weak)])
    assert (weak == 0).all() and labeled.abs().sum() > 0 and strong.abs().sum() > 0


def test_a_pixels_weight_is_its_patchs_confidence_in_its_class():
    model, streams = model_and_streams()
    settle(model, streams)
    guide = model.guide_views(streams)['guide']
    label = guide.logits.argmax(1)
    pseudo = PseudoLabel(label, 2 * torch.ones(label.shape, dtype=torch.float64))
    weighted = model.reweight(pseudo, guide)
    expected = [
        oracle.pixel_weight(x, y, fields(model)) for x, y in zip(label, guide.heads['patch_classifier'], strict=True)
    ]
    assert torch.allclose(weighted.weight, 2 * torch.stack(expected), rtol=0, atol=1e-10)
    assert torch.equal(weighted.label, label)


@pytest.mark.parametrize('pair', [(0, 1), (1, 2), (2, 0)])
def test_rows_and_columns_have_patches_of_their_own(pair):
    model, _ = model_and_streams()
    [mpmc] = model.plugins
    mpmc.field = tuple(Extent(*FIELDS[i]) for i in pair)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 4, 3, 5, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 4, (1, 13, 17), generator=generator)
    weight = oracle.pixel_weight(label[0], logits[0], [FIELDS[i] for i in pair])
    assert torch.allclose(mpmc.pixel_weights(label, logits)[0], weight, rtol=0, atol=1e-10)
    # What belongs to no class has some weight, and is learned by no loss.
    assert mpmc.pixel_weights(torch.full_like(label, 255), logits).isfinite().all()


def test_weights_of_half_precision_scores_are_in_full():
    model, _ = model_and_streams()
    logits = 8 * torch.randn(1, 4, 3, 3).half()
    weight = model.plugins[0].patch_weights(logits)
    assert weight.dtype == torch.float32 and torch.equal(weight, logits.float().softmax(1))


def test_the_softmax_of_probabilities_is_nearly_flat():
    weights = []
    for confidence in ('logits', 'probabilities'):
        model, _ = model_and_streams(confidence=confidence)
        weights.append(model.plugins[0].patch_weights(torch.tensor([9.0, -9.0, -9.0, -9.0]).view(1, 4, 1, 1)))
    assert weights[0].max() > 0.99 and weights[1].max() < 0.5


def test_alpha_scales_the_methods_unsupervised_losses_and_nothing_else():
    plain = tiny.build('MeanTeacher', threshold=0.2).double().eval()
    model, streams = model_and_streams(alpha=0.3, pixel_weight=False)
    expected, losses = plain.loss(streams), model.loss(streams)
    assert torch.allclose(losses['unsup.loss_strong'], 0.3 * expected['unsup.loss_strong'], atol=1e-10)
    assert torch.allclose(losses['sup.loss_ce'], expected['sup.loss_ce'], atol=1e-10)
    assert torch.equal(losses['unsup.confident'], expected['unsup.confident'])


def test_with_weights_of_0_and_alpha_1_a_method_is_itself():
    plain = tiny.build('MeanTeacher', threshold=0.2).double().eval()
    model, streams = model_and_streams(alpha=1.0, pixel_weight=False, patch_consistency=False)
    expected, losses = plain.loss(streams), model.loss(streams)
    assert losses.keys() - expected.keys() == {'sup.loss_patch', 'sup.patch_f1'}
    assert all(torch.equal(losses[name], expected[name]) for name in expected)


# What the log tells


def test_f1_counts_known_patches_and_all_classes_together():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 5, generator=generator)
    targets = torch.rand(2, 4, 3, 5, generator=generator) > 0.6
    known = torch.rand(2, 3, 5, generator=generator) > 0.3
    hits = claims = presences = 0
    for b, i, j in known.nonzero().tolist():
        for c in range(4):
            claimed, present = logits[b, c, i, j].sigmoid() > 0.5, targets[b, c, i, j]
            hits, claims, presences = hits + (claimed & present), claims + claimed, presences + present
    precision, recall = hits / claims, hits / presences
    assert torch.allclose(micro_f1(logits, targets, known), 2 * precision * recall / (precision + recall))
    assert micro_f1(logits, logits > 0, known) == 1 and micro_f1(logits, logits < 0, known) == 0
    assert micro_f1(logits, targets, known & False) == 0


@pytest.mark.parametrize('method, labeled', [('MeanTeacher', True), ('MeanTeacher', False), ('Supervised', True)])
def test_the_log_tells_the_f1_of_the_students_classifier_on_labeled_patches(method, labeled):
    model, streams = model_and_streams(method, labeled=labeled)
    settle(model, streams)
    scores = model.student(streams.labeled).heads['patch_classifier']
    targets, known = patch_targets(streams.labels, 4, model.plugins[0].field, scores.shape[2:])
    told = model.loss(streams)['sup.patch_f1']
    assert torch.allclose(told, micro_f1(scores, targets, known)) and 0.2 < told < 0.9 and not known.all()


@pytest.mark.parametrize('method, patch_consistency', [('MeanTeacher', True), ('MeanTeacher', False), ('DSSN', True)])
def test_the_log_tells_the_mean_of_lambda_s_over_the_pixels_that_count(method, patch_consistency):
    host = {} if method == 'DSSN' else dict(threshold=0.7)
    model, streams = model_and_streams(method, host, patch_consistency=patch_consistency)
    settle(model, streams)
    [mpmc], seen, plain = model.plugins, [], MPMC.reweight
    # Weights that a method gives: 0, or what counts.
    mpmc.reweight = lambda pseudo, guide: seen.append((pseudo, guide)) or plain(mpmc, pseudo, guide)
    for step in range(2):
        seen.clear()
        streams.weak = streams.weak.flip(3)
        told = model.loss(streams)['unsup.lambda_s']
        means = []
        for pseudo, guide in seen:
            pairs = zip(pseudo.label, guide.heads['patch_classifier'].detach(), strict=True)
            weight = torch.stack([oracle.pixel_weight(*pair, fields(model)) for pair in pairs])
            kept = pseudo.weight > 0
            assert 0.05 < kept.double().mean() < 0.95 and abs(weight[kept].mean() - weight.mean()) > 1e-3
            means.append(weight[kept].mean())
        assert len(means) == (2 if method == 'DSSN' else 1)
        assert torch.allclose(told, sum(means) / len(means), rtol=0, atol=1e-10), f'step {step}'


def test_where_no_pixel_counts_the_mean_of_lambda_s_is_that_of_all():
    model, streams = model_and_streams(host=dict(threshold=1.0))
    settle(model, streams)
    guide = guide_of(model, streams)
    label, patches = guide.logits.argmax(1), guide.heads['patch_classifier'].detach()
    weight = torch.stack([oracle.pixel_weight(x, y, fields(model)) for x, y in zip(label, patches, strict=True)])
    losses = model.loss(streams)
    assert losses['unsup.confident'] == 0
    assert torch.allclose(losses['unsup.lambda_s'], weight.mean(), rtol=0, atol=1e-10)


def test_without_pixel_weights_the_log_tells_none():
    model, streams = model_and_streams(pixel_weight=False)
    assert 'unsup.lambda_s' not in model.loss(streams)


@pytest.mark.parametrize('labeled', [True, False])
def test_without_labeled_patches_a_warning_says_that_nothing_teaches_the_classifier(labeled, monkeypatch):
    told = []
    monkeypatch.setattr(mpmc_module, 'print_log', lambda message, level, **_: told.append((level, message)))
    model_and_streams(labeled=labeled)
    assert [level for level, _ in told] == ([] if labeled else [logging.WARNING])
    if not labeled:
        assert 'lambda_s stays near 1 / 4 for every class' in told[0][1] and 'Set labeled=True' in told[0][1]


@pytest.mark.parametrize('method', [m for m in tiny.METHODS if m != 'Supervised'])
def test_the_weights_reach_the_pseudo_labels_of_every_method(method):
    losses = []
    for pixel_weight in (False, True):
        model, streams = model_and_streams(method, pixel_weight=pixel_weight)
        torch.manual_seed(0)
        losses.append(model.loss(streams))
    weighed = {name for name in losses[0] if losses[0][name] > 1.2 * losses[1][name]}
    labels = {
        'CorrMatch': 'hard',
        'DSSN': 'label_low',
        'ESL': 'soft',
        'MLLC': 'clg',
        'PrevMatch': 'strong_0',
        'U2PL': 'pseudo',
        'UniMatch': 'strong_0',
    }
    assert f'unsup.loss_{labels.get(method, "strong")}' in weighed


def test_each_half_can_be_switched_off():
    for switch, gone in ((dict(labeled=False), 'sup.loss_patch'), (dict(patch_consistency=False), 'unsup.loss_patch')):
        model, streams = model_and_streams(**switch)
        losses = model.loss(streams)
        assert gone not in losses and sum('loss_patch' in name for name in losses) == 1


@pytest.mark.parametrize(
    'switch', [dict(pools=()), dict(pools=(3,)), dict(raw=False), dict(pools=(5,), raw=False)], ids=str
)
def test_each_scale_can_be_switched_off(switch):
    model, streams = model_and_streams(**switch)
    scales = len(switch.get('pools', (3, 5))) + switch.get('raw', True)
    head = model.student.heads['patch_classifier']
    assert type(head).__name__ == 'PatchClassifier' and head.layers[0].conv.in_channels == 8 * scales
    assert model.parse_losses(model.loss(streams))[0].isfinite()


def test_supervised_learns_the_patches_of_labeled_images():
    model, streams = model_and_streams('Supervised')
    assert {name for name in model.loss(streams) if 'patch' in name} == {'sup.loss_patch', 'sup.patch_f1'}


def test_the_teacher_learns_nothing_and_its_classifier_follows():
    model, streams = model_and_streams()
    model.train().parse_losses(model.loss(streams))[0].backward()
    heads = model.student.heads['patch_classifier'], model.teacher.heads['patch_classifier']
    assert all(p.grad is not None for p in heads[0].parameters()) and not any(
        p.requires_grad for p in heads[1].parameters()
    )
    assert all(torch.equal(a, b) for a, b in zip(heads[0].parameters(), heads[1].parameters(), strict=True))


def test_pasted_labeled_pixels_teach_no_patches():
    model, streams = model_and_streams()
    whole = torch.ones_like(streams.valid)
    streams.pasted = (Paste(whole, torch.zeros_like(streams.labels), streams.labeled),)
    assert model.loss(streams)['unsup.loss_patch'] > 0, 'images keep their own pixels'
    streams.mix = (Mix(whole),)
    assert model.loss(streams)['unsup.loss_patch'] == 0


def test_each_strong_view_leaves_out_what_was_pasted_into_it_and_one_that_is_not_there_is_none():
    model, streams = model_and_streams('UniMatch', beta=1.0)
    settle(model, streams)
    [mpmc], views = model.plugins, {**model.student_views(streams)}
    streams.mix = tuple(Mix(torch.zeros_like(mix.mask)) for mix in streams.mix)
    alone = []
    for name in ('strong_0', 'strong_1'):
        alone.append(mpmc.unsupervised_loss(streams, {key: views[key] for key in ('guide', name)})['loss_patch'])
    assert not torch.allclose(*alone)
    both = mpmc.unsupervised_loss(streams, views)['loss_patch']
    assert torch.allclose(both, sum(alone) / 2)
    nothing, everything = torch.zeros_like(streams.valid), torch.ones_like(streams.valid)
    for pasted, expected in (((nothing, everything), alone[0] / 2), ((everything, nothing), alone[1] / 2)):
        streams.mix = tuple(Mix(mask) for mask in pasted)
        streams.pasted = tuple(Paste(mask, torch.zeros_like(streams.labels), streams.labeled) for mask in pasted)
        assert torch.allclose(mpmc.unsupervised_loss(streams, views)['loss_patch'], expected)
    assert 'loss_patch' not in mpmc.unsupervised_loss(streams, {'guide': views['guide']})


def test_building_leaves_the_network_as_it_was():
    plain = tiny.build('MeanTeacher').state_dict()
    model = tiny.build('MeanTeacher', plugins=[plugin()])
    modes = {module.training for module in model.student.modules()}
    assert modes == {True}
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.items() if 'num_batches' in name)


def transformer(**kwargs) -> dict:
    """A tiny ViT with a plain decoder."""
    student = copy.deepcopy(tiny.segmentor())
    student['backbone'] = dict(
        type='VisionTransformer',
        img_size=(32, 32),
        patch_size=8,
        embed_dims=8,
        num_layers=2,
        num_heads=2,
        out_indices=(0, 1),
    )
    student['decode_head'] = dict(
        type='FCNHead',
        in_channels=8,
        in_index=1,
        channels=8,
        num_classes=4,
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    )
    return {**student, **kwargs}


def test_a_transformers_levels_are_stages():
    student = transformer()
    model = tiny.build('MeanTeacher', student=student, plugins=[plugin(pools=(3,))]).train()
    assert (model.plugins[0].field[0].jump, model.plugins[0].field[0].size) == (8, 8)
    assert model.parse_losses(model.loss(tiny.streams()))[0].isfinite()
    with pytest.raises(ValueError, match='stage1, stage2, decoder'):
        tiny.build('MeanTeacher', student=student, plugins=[plugin(position='stage3')])


@pytest.mark.parametrize('position, stride', [('stage1', 4), ('stage2', 8), ('decoder', 8)])
def test_a_pyramid_of_transposed_convolutions_has_patches_at_every_level(position, stride):
    student = transformer(neck=dict(type='Feature2Pyramid', embed_dim=8, norm_cfg=dict(type='BN')))
    student['backbone'].update(num_layers=4, out_indices=(0, 1, 2, 3), patch_size=16)
    model = tiny.build('MeanTeacher', student=student, plugins=[plugin(position=position, pools=(3,))]).train()
    assert [extent.jump for extent in model.plugins[0].field] == [stride] * 2
    if position != 'decoder':
        assert [(extent.size, extent.shared) for extent in model.plugins[0].field] == [(16, 16 // stride)] * 2
    assert model.parse_losses(model.loss(tiny.streams()))[0].isfinite()


class SkippingNeck(nn.Module):
    """Passes the first level on, and every other pixel of the others."""

    def forward(self, levels):
        return (levels[0], *(level[:, :, ::2, ::2] for level in levels[1:]))


def test_what_a_level_sees_matters_where_it_is_classified():
    student = tiny.build('MeanTeacher').student
    crop, expected = (128, 96), MODELS.build(plugin(position='stage1'))
    expected.head_configs(student, crop)
    student.segmentor.neck = SkippingNeck()
    ours = MODELS.build(plugin(position='stage1'))
    ours.head_configs(student, crop)
    assert ours.field == expected.field
    with pytest.raises(ValueError, match='skips pixels'):
        MODELS.build(plugin(position='stage2', pools=())).head_configs(student, crop)


def test_the_fields_are_those_of_the_crop():
    student = copy.deepcopy(tiny.segmentor())
    student['decode_head'] = dict(
        type='SegformerHead',
        in_channels=[8, 16, 32, 64],
        in_index=[0, 1, 2, 3],
        channels=8,
        num_classes=4,
        align_corners=True,
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    )
    branch = tiny.build('MeanTeacher', student=student).student.eval()
    fields = {}
    for crop in ((160, 97), (224, 224)):
        mpmc = MODELS.build(plugin(position='decoder'))
        mpmc.head_configs(branch, crop)
        fields[crop] = mpmc.field
        assert mpmc.field == receptive_fields(lambda image: branch(image).coarse_logits, crop)
    assert len({extent for field in fields.values() for extent in field}) == 3


# Settings


def test_the_defaults_are_the_papers():
    defaults = {name: x.default for name, x in inspect.signature(MPMC).parameters.items()}
    assert defaults == dict(
        alpha=0.25, beta=0.15, position='stage1', pools=(7, 19), raw=True, channels=32, gamma_pos=0.0, gamma_neg=1.0,
        labeled=True, patch_consistency=True, pixel_weight=True, confidence='logits', norm_cfg=None,
    )  # fmt: skip
    mpmc = MPMC()
    assert (mpmc.unsup_scale, mpmc.beta, mpmc.gamma) == (0.25, 0.15, (0.0, 1.0))
    student = tiny.build('MeanTeacher').student
    head = MODELS.build(ConfigDict(mpmc.head_configs(student, (96, 80))['patch_classifier']))
    assert (head.source, head.in_index, head.pools, head.raw) == ('backbone', 0, (7, 19), True)


def test_the_classifier_has_three_blocks_of_two_3x3_and_one_1x1_and_a_linear_layer():
    head = PatchClassifier(in_channels=8, num_classes=4)
    assert head.pools == (7, 19) and head.raw and len(head.layers) == 10
    widths = [(layer.conv.in_channels, layer.conv.out_channels, layer.conv.kernel_size[0]) for layer in head.layers[:9]]
    assert widths == [(24, 32, 3), (32, 32, 3), (32, 32, 1)] + 2 * [(32, 32, 3), (32, 32, 3), (32, 32, 1)]
    assert all(layer.with_norm and layer.with_activation for layer in head.layers[:9])
    assert isinstance(head.layers[9], nn.Conv2d) and head.layers[9].kernel_size == (1, 1)


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(alpha=-0.1), 'alpha must be a finite number, 0 or more, not -0.1'),
        (dict(alpha='0.1'), "alpha must be a finite number, 0 or more, not '0.1'"),
        (dict(alpha=math.nan), 'alpha must be a finite number, 0 or more, not nan'),
        (dict(beta=-1), 'beta must be a finite number, 0 or more, not -1'),
        (dict(beta=math.inf), 'beta must be a finite number, 0 or more, not inf'),
        (dict(gamma_pos=None), 'gamma_pos must be a finite number, 0 or more, not None'),
        (dict(gamma_neg=-1), 'gamma_neg'),
        (dict(confidence='softmax'), "'logits' or 'probabilities'"),
        (dict(position='layer1'), "position='layer1' .* stage1, stage2, stage3, stage4, decoder"),
        (dict(labeled=False, patch_consistency=False), 'nothing trains the classifier'),
        (dict(pools=(4,)), r'pools must be odd whole numbers, .* not \(4,\)'),
        (dict(pools=(0,)), r'pools must be odd whole numbers, .* not \(0,\)'),
        (dict(pools=(3, -3)), 'pools must be odd whole numbers'),
        (dict(pools='7'), "pools must be odd whole numbers, .* not '7'"),
        (dict(pools=None), 'pools must be odd whole numbers, .* not None'),
        (dict(pools=(3.5,)), r'pools must be odd whole numbers, .* not \(3.5,\)'),
        (dict(pools=(), raw=False), 'nothing'),
        (dict(channels=0), 'channels'),
    ],
)
def test_bad_settings_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        tiny.build('MeanTeacher', plugins=[plugin(**bad)])


def test_a_window_larger_than_the_feature_map_is_refused_before_training():
    with pytest.raises(ValueError, match=r'window of 19 .* 8 x 8'):
        tiny.build('MeanTeacher', plugins=[plugin(pools=(7, 19))])
    with pytest.raises(ValueError, match=r'window of 7 .* 8 x 6'):
        model_and_streams(pools=(3, 7))
    tiny.build('MeanTeacher', preprocessor=dict(size=(20, 32)), plugins=[plugin(pools=(5,))])  # 5 x 8


@pytest.mark.parametrize('norm', [None, dict(type='GN', num_groups=2)])
def test_the_classifiers_norm_is_the_decode_heads_or_its_own(norm):
    student = tiny.segmentor(dict(type='GN', num_groups=4))
    head = tiny.build('MeanTeacher', student=student, plugins=[plugin(norm_cfg=norm)]).student.heads['patch_classifier']
    assert [m.num_groups for m in head.modules() if isinstance(m, nn.GroupNorm)] == 9 * [2 if norm else 4]


def test_two_plugins_of_a_kind_are_refused():
    with pytest.raises(ValueError, match="a head 'patch_classifier' already"):
        tiny.build('MeanTeacher', plugins=[plugin(), plugin()])


def test_a_decoder_without_a_last_feature_is_not_offered():
    student = copy.deepcopy(tiny.segmentor())
    loss = dict(type='PixelCrossEntropyLoss')
    student['decode_head'] = dict(
        type='DeepLabV2Head', in_channels=64, in_index=3, num_classes=4, dilations=(1, 2), loss_decode=loss
    )
    with pytest.raises(ValueError, match=r'stage1, stage2, stage3, stage4\.$'):
        tiny.build('MeanTeacher', student=student, plugins=[plugin(position='decoder')])
