"""UniMatch V2 against the authors' released code."""

from __future__ import annotations

import torch

from mmsemi.models.branch import BranchOutput
from mmsemi.models.modules.channel_dropout import ComplementaryDropout, complementary_masks
from mmsemi.structures import Streams
from tests import tiny
from tests.golden.cases import cases, close, labels, mask, mix, output, tensor, valid


def outputs_and_streams(case: dict) -> tuple[dict[str, BranchOutput], Streams]:
    """What the branches hand out, by view, and the batch they would have seen."""
    views = {name: output(logits) for name, logits in case['logits'].items()}
    boxes = [mix(case[key]) for key in sorted(case) if key.startswith('cutmix_box_')]
    size = views['labeled'].size
    images = torch.zeros(len(case['ignore']), 3, *size)
    streams = Streams(
        labeled=torch.zeros(len(case['ground_truth']), 3, *size),
        labels=labels(case['ground_truth']),
        weak=images,
        strong=(images,) * len(boxes),
        valid=valid(case['ignore']),
        mix=tuple(boxes),
    )
    return views, streams


@cases('unimatch_v2', 'loss')
def test_the_step_has_the_released_loss(case, monkeypatch):
    views, streams = outputs_and_streams(case)
    model = tiny.build('UniMatchV2', threshold=case['threshold'], preprocessor=dict(num_strong=len(streams.mix)))
    teacher = views.pop('teacher')
    monkeypatch.setattr(model, 'guide_views', lambda streams: {'guide': teacher})
    monkeypatch.setattr(model, 'student_views', lambda streams: views)
    losses, expected = model.loss(streams), case['expected']
    assert close(2 * losses['sup.loss_ce'], expected['labeled'])
    terms = [expected[f'strong_{i}'] for i in range(len(streams.mix))]
    assert close(2 * losses['unsup.loss_strong'], sum(terms) / len(terms))
    assert close(model.parse_losses(losses)[0], expected['total'])


@cases('unimatch_v2', 'dropout_mask')
def test_channels_are_divided_as_released(case):
    order, expected = torch.tensor(case['permutation']), case['expected']
    dropout = ComplementaryDropout()
    whole = int(len(order) * (1 - dropout.share))
    assert whole == expected['pairs_left_whole'] and len(order) == case['pairs']
    masks = complementary_masks(mask(case['binomial']), order, whole)
    assert torch.equal(masks, tensor(expected['mask'])) and masks.shape[1] == case['channels']


@cases('unimatch_v2', 'dropout_law')
def test_channels_are_divided_by_the_released_law(case):
    torch.manual_seed(0)
    pairs, channels, draws, expected = case['pairs'], case['channels'], case['draws'], case['expected']
    dropout = ComplementaryDropout().train()
    levels = tuple(torch.ones(2 * pairs, channels, *size) for size in ((1, 2), (2, 1)))
    shares, whole, values = [], [], set()
    for _ in range(draws):
        low, high = dropout(levels)
        assert torch.equal(low.flatten(1), high.flatten(1)) == expected['same_at_all_levels']
        factors = low[..., 0, 0]
        assert torch.equal(factors, low[..., 0, 1]), 'the same at all places'
        first, second = factors.view(2, pairs, channels)
        assert (first + second == 2).all() == expected['first_plus_second_is_two']
        dropped = (first != 1).any(1)
        whole.append(int((~dropped).sum()))
        shares.append((first[dropped] == 0).double().mean())
        values |= set(factors.unique().tolist())
    assert (min(whole), max(whole)) == (expected['pairs_left_whole_min'], expected['pairs_left_whole_max'])
    assert close(1 - sum(whole) / draws / pairs, float(expected['share_of_pairs_dropped']))
    assert sorted(values) == expected['values']
    zero, spread = torch.stack(shares), expected['zero_share_in_dropped_sd']
    # Two means of as many draws each differ by this standard error, two deviations by one of 1 / sqrt(2) of it.
    error = spread * (2 / draws) ** 0.5
    assert abs(zero.mean() - expected['zero_share_in_dropped_mean']) < 4 * error
    assert abs(zero.std() - spread) < 4 * error / 2**0.5
