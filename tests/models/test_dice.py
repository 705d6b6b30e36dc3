"""The Dice loss against a count by hand, on one process and on two."""

import pytest
import torch
from torch.autograd import gradcheck

from mmsemi.models.losses.dice import PixelDiceLoss, dice_loss
from mmsemi.structures import IGNORE_INDEX, PseudoLabel
from tests import tiny
from tests.oracles import dice as oracle
from tests.ranks import WORLD_SIZE, on_two_ranks


def case(dtype: torch.dtype = torch.float64, images: int = 2):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(images, 3, 4, 5, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 3, (images, 4, 5), generator=generator)
    weight = torch.rand(images, 4, 5, generator=generator, dtype=torch.float64)
    weight = torch.where(weight > 0.4, weight, 0)
    valid = torch.rand(images, 4, 5, generator=generator) > 0.2
    return logits.to(dtype).requires_grad_(), PseudoLabel(label, weight.to(dtype)), valid


@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize('smooth', [1e-5, 0.5])
def test_it_equals_the_count_by_hand_in_value_and_gradient(dtype, tolerance, smooth):
    logits, pseudo, valid = case(dtype)
    ours = dice_loss(logits, pseudo, valid, smooth)
    exact = logits.detach().double().requires_grad_()
    literal = oracle.dice_loss(exact.softmax(1), pseudo.label, torch.where(valid, pseudo.weight, 0).double(), smooth)
    assert abs(ours - literal) < tolerance
    gradients = torch.autograd.grad(ours, logits)[0], torch.autograd.grad(literal, exact)[0]
    assert (gradients[0] - gradients[1]).abs().max() < tolerance
    if dtype == torch.float64:
        assert gradcheck(lambda x: dice_loss(x, pseudo, valid, smooth), (logits,))


def test_pixels_that_do_not_count_change_nothing_whatever_they_hold():
    logits, pseudo, valid = case()
    expected = dice_loss(logits, pseudo, valid)
    assert torch.equal(dice_loss(logits, pseudo), dice_loss(logits, pseudo, torch.ones_like(valid)))
    assert dice_loss(logits, pseudo) != expected
    left_out = ~valid | (pseudo.weight == 0)
    changed = PseudoLabel(torch.where(left_out, 2 - pseudo.label, pseudo.label), pseudo.weight)
    noisy = torch.where(left_out[:, None], 9.0, logits)
    assert torch.allclose(dice_loss(noisy, changed, valid), expected)
    void = PseudoLabel(torch.where(valid, pseudo.label, IGNORE_INDEX), pseudo.weight)
    assert torch.allclose(dice_loss(logits, void), expected)


def test_where_nothing_counts_nothing_is_lost_and_nothing_learned():
    logits, pseudo, _ = case()
    loss = dice_loss(logits, PseudoLabel(pseudo.label, torch.zeros_like(pseudo.weight)))
    assert loss == 0 and (torch.autograd.grad(loss, logits)[0] == 0).all()


def test_it_lies_between_0_for_perfect_scores_and_1():
    label = torch.arange(3).view(1, 1, 3).repeat(2, 4, 1)
    perfect = 100 * torch.nn.functional.one_hot(label, 3).movedim(-1, 1).double()
    ones = torch.ones(2, 4, 3, dtype=torch.float64)
    assert dice_loss(perfect, PseudoLabel(label, ones)) < 1e-6
    assert dice_loss(perfect, PseudoLabel((label + 1) % 3, ones)) > 1 - 1e-5


def test_a_class_that_is_absent_and_not_predicted_costs_nothing():
    label = torch.zeros(1, 4, 4, dtype=torch.long)
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0] = 200
    assert dice_loss(logits, PseudoLabel(label, torch.ones(1, 4, 4))) == 0


def test_half_precision_computes_in_full():
    logits, pseudo, valid = case(torch.float32)
    half = dice_loss(logits.half(), PseudoLabel(pseudo.label, pseudo.weight.half()), valid)
    assert half.dtype == torch.float32 and torch.allclose(half, dice_loss(logits, pseudo, valid), atol=1e-3)


@pytest.mark.parametrize('weighted', [False, True])
def test_the_loss_of_a_decode_head_is_that_of_the_labeled_pixels(weighted):
    logits, pseudo, valid = case()
    labels = torch.where(valid, pseudo.label, IGNORE_INDEX)
    weight = pseudo.weight if weighted else torch.ones_like(pseudo.weight)
    criterion = PixelDiceLoss(loss_weight=0.5, smooth=0.1)
    loss = criterion(logits, labels, weight if weighted else None)
    assert torch.allclose(loss, 0.5 * dice_loss(logits, PseudoLabel(labels, weight), valid, 0.1))
    assert criterion.loss_name == 'loss_dice'
    other = torch.where(valid, pseudo.label, 2)
    assert torch.allclose(
        criterion(logits, other, ignore_index=2),
        0.5 * dice_loss(logits, PseudoLabel(other, torch.ones_like(weight)), other != 2, 0.1),
    )
    with pytest.raises(ValueError, match='smooth must lie above 0, not 0'):
        PixelDiceLoss(smooth=0)


# On two ranks


def of_a_rank(rank: int, folder: str) -> None:
    logits, pseudo, valid = case(images=4)
    part = slice(2 * rank, 2 * rank + 2)
    mine = logits[part].detach().requires_grad_()
    loss = dice_loss(mine, PseudoLabel(pseudo.label[part], pseudo.weight[part]), valid[part])
    torch.save((loss.detach(), torch.autograd.grad(loss, mine)[0]), f'{folder}/{rank}')


def test_two_ranks_lose_and_learn_what_one_with_both_batches_does(tmp_path):
    logits, pseudo, valid = case(images=4)
    loss = dice_loss(logits, pseudo, valid)
    gradient = torch.autograd.grad(loss, logits)[0]
    on_two_ranks(of_a_rank, tmp_path)
    parts = [torch.load(tmp_path / str(rank)) for rank in range(WORLD_SIZE)]
    assert all(torch.allclose(value, loss, rtol=0, atol=1e-12) for value, _ in parts)
    # The mean over ranks is taken of gradients of parameters, to which each pixel's adds.
    ours = torch.cat([part for _, part in parts]) / WORLD_SIZE
    assert torch.allclose(ours, gradient, rtol=0, atol=1e-12)


# In methods


@pytest.mark.parametrize('method', ['FixMatch', 'MeanTeacher', 'UniMatch'])
def test_pseudo_labels_are_learned_by_dice_where_the_key_says_so(method):
    model, plain = (tiny.build(method, threshold=0.4, **key).double().eval() for key in (dict(unsup_loss='dice'), {}))
    for each in (model, plain):
        with torch.no_grad():
            # Sure and unsure pixels.
            for name in each.branches:
                getattr(each, name).segmentor.decode_head.conv_seg.weight *= 40
    streams = tiny.streams_for(model)
    for name in ('labeled', 'weak'):
        setattr(streams, name, getattr(streams, name).double())
    streams.strong = tuple(x.double() for x in streams.strong)
    losses, others = model.loss(streams), plain.loss(streams)
    guide = (model.teacher if model.has_teacher else model.student)(streams.weak)
    prob, label = guide.logits.softmax(1).max(1)
    kept = (prob >= 0.4) & streams.valid
    assert 0.1 < kept.double().mean() < 0.9 * streams.valid.double().mean()
    pseudo = PseudoLabel(label, kept.double())
    terms = []
    for strong, mix in zip(streams.strong, streams.mix, strict=True):
        logits = model.student(mix.images(strong)).logits
        terms.append(dice_loss(logits, mix.labels(pseudo), mix.maps(streams.valid)))
    if method == 'UniMatch':
        expected = {f'unsup.loss_strong_{i}': 0.5 * 0.25 * term for i, term in enumerate(terms)}
        # In evaluation mode no channel is dropped.
        expected['unsup.loss_feature'] = 0.5 * 0.5 * dice_loss(guide.logits, pseudo, streams.valid)
    else:
        expected = {'unsup.loss_strong': terms[0]}
    for name, value in expected.items():
        assert torch.allclose(losses[name], value, rtol=0, atol=1e-10) and losses[name] != others[name]
    assert losses.keys() == others.keys() and losses['sup.loss_ce'] == others['sup.loss_ce']


@pytest.mark.parametrize(
    'method', [m for m in tiny.METHODS if m not in ('FixMatch', 'MeanTeacher', 'UniMatch', 'UniMatchV2')]
)
def test_methods_that_do_not_learn_by_dice_refuse_it(method):
    with pytest.raises((ValueError, TypeError), match='unsup_loss'):
        tiny.build(method, unsup_loss='dice')


def test_a_loss_that_there_is_not_is_named():
    with pytest.raises(ValueError, match=r"model.unsup_loss must be cross_entropy or dice, not 'mse'"):
        tiny.build('UniMatch', unsup_loss='mse')


def test_a_method_of_the_users_own_that_keeps_the_loss_takes_the_key():
    from mmsemi.models import FixMatch

    class Mine(FixMatch):
        pass

    class Other(FixMatch):
        def unsupervised_loss(self, streams, views):
            return {}

    assert Mine.unsup_losses == ('cross_entropy', 'dice') and Other.unsup_losses == ('cross_entropy',)
