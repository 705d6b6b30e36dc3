"""AugSeg's confidence, boxes and loss against the authors' released code."""

from __future__ import annotations

import torch

from mmsemi.models import AugSeg
from mmsemi.models.pseudo_labels import confident_labels, image_confidence
from mmsemi.models.views.cutmix import box_masks, centred_boxes
from mmsemi.structures import IGNORE_INDEX, Mix, Paste, PseudoLabel, Streams
from tests import tiny
from tests.golden.cases import cases, close, labels, output, tensor


@cases('augseg', 'image_confidence')
def test_the_confidence_of_an_image(case):
    ours = image_confidence(tensor(case['logits']))
    assert len(ours) == len(case['expected']['confidence'])
    assert all(close(value, expected) for value, expected in zip(ours, case['expected']['confidence'], strict=True))


@cases('augseg', 'adaptive_boxes')
def test_labeled_boxes_lie_in_copies_and_boxes_of_these_are_exchanged(case):
    count, size, draws, expected = case['images'], case['size'], case['draws'], case['expected']
    boxes = {
        name: centred_boxes(
            torch.tensor([draws[f'kept_share_{law}']], dtype=torch.float64),
            torch.tensor(draws[f'centres_{name}_box_rows']),
            torch.tensor(draws[f'centres_{name}_box_columns']),
            size,
            size,
        )
        for name, law in (('labeled', 'labeled'), ('exchanged', 'unlabeled'))
    }
    unsure = AugSeg.triggered(
        torch.tensor(draws['uniform'], dtype=torch.float64), torch.tensor(case['confidence'], dtype=torch.float64)
    )
    assert unsure.tolist() == [value == 1 for value in expected['triggered']]
    assert boxes['labeled'].tolist() == expected['labeled_boxes']
    assert boxes['exchanged'].tolist() == expected['exchanged_boxes']

    # Each image shows its number in every pixel, and is labeled with it; labeled ones count from 10.
    def maps(first: float, step: float = 1.0) -> torch.Tensor:
        return (first + step * torch.arange(count).view(-1, 1, 1)).expand(-1, size, size)

    def images(first: float) -> torch.Tensor:
        return maps(first)[:, None].expand(-1, 3, -1, -1)

    streams = Streams(
        labeled=images(10.0),
        labels=maps(10).long(),
        weak=images(0.0),
        strong=(images(0.0),),
        valid=torch.ones(count, size, size, dtype=torch.bool),
        mix=(Mix(box_masks(boxes['exchanged'], size, size)),),
    )
    pasted = box_masks(boxes['labeled'], size, size) & unsure[:, None, None]
    streams = AugSeg.with_labeled_boxes(streams, torch.tensor(draws['partner']), [pasted])
    target, _ = AugSeg.target(PseudoLabel(maps(0).long(), maps(0.5, 0.05)), streams, 0)
    source = torch.tensor(expected['source'])
    assert torch.equal(streams.strong_views()['strong_0'], source[:, None].expand(-1, 3, -1, -1).float())
    assert torch.equal(target.label, source)
    assert torch.allclose(target.weight, tensor(expected['weight']))


@cases('augseg', 'unsup_loss')
def test_the_loss(case):
    teacher, given = tensor(case['logits_teacher']), labels(case['labels'])
    count, height, width = given.shape
    # What is ignored are void pixels of labeled images in exchanged boxes; each image takes them from its own copy.
    void = given == IGNORE_INDEX
    itself = torch.arange(count)
    image = torch.zeros(count, 3, height, width)
    valid = torch.ones_like(void)
    paste, mix = Paste(void, torch.full_like(given, IGNORE_INDEX), image), Mix(void, itself)
    streams = Streams(image, given, image, (image,), valid, (mix,), (paste,))
    model = tiny.build('AugSeg', threshold=case['threshold'])
    views = dict(guide=output(teacher), strong_0=output(case['logits_student']))

    target, counted = model.target(confident_labels(teacher, model.threshold), streams, 0)
    kept = target.weight > 0
    assert torch.equal(target.label[kept], given[kept])
    assert close(kept.float().mean(), case['expected']['kept_share'])
    # Ours is a mean over the pixels that have something to teach, theirs over all pixels.
    ours = model.unsupervised_loss(streams, views)['loss_strong'] * counted.sum() / counted.numel()
    assert close(ours, case['expected']['loss'])
