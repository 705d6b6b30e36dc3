"""AugSeg's step against its literal transcription, and the law by which labeled boxes are pasted."""

import dataclasses

import pytest
import torch

from mmsemi.models import AugSeg, BetaCutMix
from mmsemi.models.branch import BranchOutput
from mmsemi.models.plugins.plugin import Plugin
from mmsemi.models.pseudo_labels import image_confidence
from mmsemi.structures import Mix, Streams
from tests import tiny
from tests.oracles import augseg as oracle

SIZE, CLASSES = 16, tiny.NUM_CLASSES


def make(**kwargs):
    return tiny.build('AugSeg', preprocessor=dict(size=(SIZE, SIZE)), **kwargs).double().eval()


def batch() -> Streams:
    """Two labeled images with void labels, three unlabeled ones, the first with padding."""
    generator = torch.Generator().manual_seed(3)

    def draw(count):
        return torch.randn(count, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)

    labels = torch.randint(0, CLASSES, (2, SIZE, SIZE), generator=generator)
    labels[0, :, :3] = labels[1, 9:12] = 255
    valid = torch.ones(3, SIZE, SIZE, dtype=torch.bool)
    valid[0, 10:] = False
    mask = torch.zeros(3, SIZE, SIZE, dtype=torch.bool)
    mask[0, 4:14, 4:12] = mask[2, 2:9, 1:13] = True
    return Streams(draw(2), labels, draw(3), (draw(3),), valid, (Mix(mask),))


PARTNER = torch.tensor([2, 0, 1])


def with_boxes(streams: Streams) -> Streams:
    """Labeled boxes in the copies of all three images, over padding and void labels too."""
    mask = torch.zeros_like(streams.valid)
    mask[0, 6:15, 1:9] = mask[1, 1:12, 5:14] = mask[2, 6:16, 3:9] = True
    return AugSeg.with_labeled_boxes(streams, PARTNER, [mask])


def scores(*shape) -> BranchOutput:
    generator = torch.Generator().manual_seed(len(shape))
    logits = 3 * torch.randn(3, CLASSES, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return BranchOutput((), logits, (SIZE, SIZE))


def test_the_confidence_of_an_image_equals_its_literal_form():
    logits, valid = scores().coarse_logits, batch().valid
    for ours, image, exists in zip(image_confidence(logits, valid), logits, valid, strict=True):
        assert abs(ours - oracle.confidence(image.softmax(0), exists)) < 1e-10
    assert torch.allclose(image_confidence(logits[1:], valid[1:]), image_confidence(logits[1:]), atol=1e-12)
    assert not torch.allclose(image_confidence(logits), image_confidence(logits, valid), atol=1e-3)


def test_the_confidence_is_one_without_doubt_and_zero_where_nothing_is_known():
    sure = 1e3 * torch.nn.functional.one_hot(torch.zeros(1, 2, 2).long(), CLASSES).permute(0, 3, 1, 2)
    assert image_confidence(sure.double()) == 1
    assert image_confidence(torch.zeros(1, CLASSES, 2, 2).double()).abs() < 1e-12
    assert image_confidence(sure.double(), torch.zeros(1, 2, 2).bool()) == 0


def test_labeled_boxes_come_with_the_probability_of_doubt_and_the_share_of_their_law():
    model, streams = make(), batch()
    guide = scores()
    guide.coarse_logits[1] *= 0.3
    guide.coarse_logits[2] *= 3.0
    torch.manual_seed(0)
    masks = torch.stack([model.adapt_streams(streams, dict(guide=guide)).pasted[0].mask for _ in range(1000)])
    frequency = masks.flatten(2).any(2).float().mean(0)
    for ours, image, exists in zip(frequency, guide.coarse_logits, streams.valid, strict=True):
        assert abs(ours - (1 - oracle.confidence(image.softmax(0), exists))) < 0.05
    assert frequency[1] > frequency[0] > frequency[2] + 0.1
    share = masks.flatten(2).double().mean(2)
    law = BetaCutMix(beta=(8, 2), shared=False)(20_000, SIZE, SIZE, 'cpu').mask.flatten(1).double().mean(1)
    assert abs(share[share > 0].mean() - law[law > 0].mean()) < 0.01


def test_labeled_pixels_take_a_fifteenth_of_the_views_when_every_copy_has_some():
    torch.manual_seed(0)
    exchanged, labeled, shown = BetaCutMix(), BetaCutMix(beta=(8, 2)), []
    for _ in range(300):
        mix, partner = exchanged(8, 160, 160, 'cpu'), torch.rand(8).argsort()
        shown.append((mix.mask & labeled(8, 160, 160, 'cpu').mask[partner]).double().mean())
    assert abs(torch.stack(shown).mean() - 0.065) < 0.006


@pytest.mark.parametrize('prob, frequency', [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_a_fixed_probability_does_not_ask_the_teacher(prob, frequency):
    model, streams = make(label_prob=prob), batch()
    torch.manual_seed(0)
    masks = torch.stack([model.adapt_streams(streams, {}).pasted[0].mask for _ in range(300)])
    assert abs(masks.flatten(2).any(2).float().mean() - frequency) < 0.05


def test_every_strong_view_gets_boxes_of_its_own():
    model, streams = make(label_prob=1.0), batch()
    streams = dataclasses.replace(streams, strong=streams.strong * 2, mix=streams.mix * 2)
    torch.manual_seed(0)
    adapted = model.adapt_streams(streams, {})
    first, second = adapted.pasted
    assert not torch.equal(first.mask, second.mask)
    assert all(torch.equal(mix.partner, adapted.mix[0].partner) for mix in adapted.mix)
    losses = model.loss(streams)
    assert losses['unsup.loss_strong'].isfinite() and 0 < losses['unsup.pasted'] < 0.4


def test_partners_are_one_permutation_drawn_anew():
    model, streams = make(label_prob=1.0), batch()
    torch.manual_seed(0)
    drawn = [model.adapt_streams(streams, {}) for _ in range(60)]
    partners = {tuple(adapted.mix[0].partner.tolist()) for adapted in drawn}
    assert len(partners) == 6 and all(sorted(partner) == [0, 1, 2] for partner in partners)
    for adapted in drawn:
        labeled = adapted.mix[0].partner % 2
        assert torch.equal(adapted.pasted[0].images, streams.labeled[labeled])
        assert torch.equal(adapted.pasted[0].labels, streams.labels[labeled])


def test_an_image_keeps_its_own_pixels_outside_of_its_exchanged_box():
    streams = with_boxes(batch())
    mixed, mask = streams.strong_views()['strong_0'], streams.mix[0].mask[:, None]
    assert torch.equal(torch.where(mask, 0, mixed), torch.where(mask, 0, streams.strong[0]))
    assert (streams.pasted[0].mask & ~mask[:, 0]).any(), 'the case must have labeled boxes outside'


def test_the_step_equals_its_literal_form():
    streams = batch()
    with torch.no_grad():
        confidence = make().teacher(streams.weak).logits.softmax(1).amax(1)
    # A small network that has learned nothing: half of its pixels count as sure.
    tau = confidence.median().item()
    model = make(threshold=tau, label_box=dict(type='BetaCutMix', beta=(4, 6)))
    seen = []
    model.student.segmentor.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    torch.manual_seed(1)
    losses = model.loss(streams)
    torch.manual_seed(1)
    guides = model.guide_views(streams)
    adapted = model.adapt_streams(streams, guides)
    box, partner, exchanged = adapted.pasted[0].mask, adapted.mix[0].partner, streams.mix[0].mask
    strong = oracle.strong_view(streams.strong[0], streams.labeled, box, exchanged, partner)
    (images,) = seen
    assert torch.equal(images, torch.cat([streams.labeled, strong])), (
        'labeled and strong views in one pass, no weak one'
    )
    with torch.no_grad():
        h, p = model.student(strong).logits, guides['guide'].logits.softmax(1)
        expected = oracle.unsupervised(h, p, streams.labels, box, exchanged, partner, streams.valid, tau)
    assert torch.allclose(losses['unsup.loss_strong'], expected, atol=1e-10) and expected > 0.1
    shown = exchanged & box[partner]
    assert 0.05 < shown.float().mean() < 0.6, 'the case must tell pixels apart'
    assert torch.allclose(losses['unsup.pasted'].double(), shown.double().mean())
    kept = (confidence >= tau) & streams.valid
    assert torch.allclose(losses['unsup.confident'].double(), kept.sum() / streams.valid.sum().double())


def test_the_gradient_equals_that_of_the_literal_form():
    model, streams = make(threshold=0.8), with_boxes(batch())
    guide, strong = scores(), scores(1)
    values = []
    for literal in (False, True):
        h = strong.coarse_logits.clone().requires_grad_()
        if literal:
            arguments = streams.pasted[0].mask, streams.mix[0].mask, PARTNER, streams.valid
            loss = oracle.unsupervised(h, guide.logits.softmax(1), streams.labels, *arguments, 0.8)
        else:
            views = dict(guide=guide, strong_0=BranchOutput((), h, (SIZE, SIZE)))
            loss = model.unsupervised_loss(streams, views)['loss_strong']
        values.append((loss.detach(), *torch.autograd.grad(loss, h)))
    for ours, theirs in zip(*values, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10) and theirs.any()


def test_plugins_weigh_the_teachers_labels_and_not_the_ground_truth():
    model, streams = make(threshold=0.0), with_boxes(batch())

    class Nothing(Plugin):
        def reweight(self, pseudo, guide):
            return pseudo.reweight(torch.zeros_like(pseudo.weight))

    model.plugins.append(Nothing())
    h = scores(1).coarse_logits.requires_grad_()
    views = dict(guide=scores(), strong_0=BranchOutput((), h, (SIZE, SIZE)))
    model.unsupervised_loss(streams, views)['loss_strong'].backward()
    paste, mix = streams.pasted[0], streams.mix[0]
    truth = (paste.mask & (paste.labels != 255))[PARTNER]
    assert torch.equal(h.grad.any(1), mix.mask & truth) and (mix.mask & truth).any()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(label_prob=1.5), r'model.label_prob must lie in \[0, 1\]'),
        (dict(label_prob=-0.1), r'model.label_prob must lie in \[0, 1\]'),
        (dict(label_box=dict(type='BetaCutMix', beta=(0, 2))), 'beta must be two whole numbers'),
        (dict(preprocessor=dict(num_strong=0)), 'num_strong must be 1 or more'),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny.build('AugSeg', **arguments)
