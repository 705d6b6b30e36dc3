import copy

import pytest
import torch

from mmsemi.models import SemiDataPreprocessor, data_preprocessor
from mmsemi.models.views.changes import Change, change_images
from mmsemi.models.views.strong import PhotometricView
from tests import tiny
from tests.launches import Launches

MEAN = torch.tensor(tiny.PREPROCESSOR['mean']).view(3, 1, 1)


def preprocessor(**kwargs) -> SemiDataPreprocessor:
    cfg = {**tiny.PREPROCESSOR, **kwargs}
    cfg.pop('type')
    return SemiDataPreprocessor(**cfg)


def test_streams_are_split_padded_and_normalised():
    data = tiny.batch(2, 2)
    streams = preprocessor(num_strong=2)(data, training=True)['inputs']
    size = (tiny.SIZE, tiny.SIZE)
    assert streams.labeled.shape == (2, 3, *size) and streams.weak.shape == (2, 3, *size)
    assert [view.shape for view in streams.strong] == [streams.weak.shape] * 2
    assert streams.labels.dtype == torch.long and (streams.labels[1, -4:] == 255).all()
    assert streams.valid[0].all() and not streams.valid[1, -4:].any() and streams.valid[1, :-4].all()
    rgb = data['inputs'][2].flip(0).float()
    assert torch.allclose(streams.weak[0], (rgb - MEAN) / 60, atol=1e-4)


def padded(images: torch.Tensor) -> torch.Tensor:
    """The padding of tiny.batch's second image of a stream, each color of each pixel."""
    return images[1, :, -4:].flatten(1).T


def test_padding_is_black_before_normalisation():
    streams = preprocessor()(tiny.batch(2, 2), training=True)['inputs']
    for images in (streams.labeled, streams.weak):
        assert torch.allclose(padded(images), (-MEAN / 60).flatten(), atol=1e-6)


def test_padding_may_be_what_normalisation_makes_zero():
    streams = preprocessor(padding='mean')(tiny.batch(2, 2), training=True)['inputs']
    for images in (streams.labeled, streams.weak):
        assert padded(images).abs().max() < 1e-6


class Half(PhotometricView):
    """Contrast of a half for every image."""

    def orders(self, batch: int) -> list[list[Change]]:
        return [[Change('contrast', 0.5)]] * batch


@pytest.mark.parametrize('padding', ['black', 'mean'])
def test_strong_views_are_made_of_the_padded_images(padding):
    made = preprocessor(padding=padding)
    made.strong = [Half()]
    streams = made(tiny.batch(1, 3), training=True)['inputs']
    images = (streams.weak * 60 + MEAN) / 255
    expected = change_images(images, Half().orders(3))
    assert torch.allclose(streams.strong[0], (expected * 255 - MEAN) / 60, atol=1e-4)


def test_changes_may_follow_each_other():
    made = preprocessor(strong=[dict(type='StrongView'), dict(type='RandomIntensity', max_ops=1)])
    assert [type(view).__name__ for view in made.strong] == ['StrongView', 'RandomIntensity']
    made.strong = [Half(), Half()]
    data = tiny.batch(1, 2)
    twice = made(copy.deepcopy(data), training=True)['inputs'].strong[0]
    made.strong = [Half()]
    assert not torch.allclose(twice, made(data, training=True)['inputs'].strong[0])


def test_all_strong_views_are_made_together():
    made, seen = preprocessor(num_strong=3), []
    inner = made.strong[0]
    made.strong = [lambda images: seen.append(images) or inner(images)]
    streams = made(tiny.batch(1, 2), training=True)['inputs']
    [images] = seen
    assert all(torch.equal(part, images[:2]) for part in images.split(2)) and len(images) == 6
    assert len({view.sum().item() for view in streams.strong}) == 3


STRONG = ['StrongView', 'RandomIntensity']
MIXES = [dict(type='CutMix', prob=1), dict(type='FixedAreaCutMix', prob=1), dict(type='BetaCutMix')]


@pytest.mark.parametrize(
    'strong, cutmix', [*((name, MIXES[0]) for name in STRONG), *((None, mix) for mix in MIXES[1:])]
)
def test_views_do_not_depend_on_autocast(strong, cutmix):
    made = preprocessor(strong=strong and dict(type=strong), cutmix=cutmix, num_strong=2)
    streams = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            streams.append(made(tiny.batch(4, 12), training=True)['inputs'])
    plain, mixed = streams
    for name in ('labeled', 'labels', 'weak', 'valid'):
        assert torch.equal(getattr(plain, name), getattr(mixed, name))
    for first, second in zip(plain.strong, mixed.strong, strict=True):
        assert first.dtype == torch.float32 and torch.equal(first, second)
    for first, second in zip(plain.mix, mixed.mix, strict=True):
        assert torch.equal(first.mask, second.mask) and first.mask.any()


def test_a_batch_is_sent_in_one_piece(monkeypatch):
    sent = []
    monkeypatch.setattr(data_preprocessor, 'send', lambda x, device: sent.append(x) or x)
    streams = preprocessor()(tiny.batch(2, 2, gt=True), training=True)['inputs']
    [batch] = sent
    assert batch.dtype == torch.uint8 and batch.shape == (4, 5, tiny.SIZE, tiny.SIZE)
    assert torch.equal(batch[:2, 3].long(), streams.labels) and torch.equal(batch[2:, 3].long(), streams.unlabeled_gt)


def test_a_batch_without_strong_views_costs_few_launches():
    made, data = preprocessor(strong=None, num_strong=2), tiny.batch(8, 8)
    with Launches() as launches:
        made(data, training=True)
    assert launches.count <= 200


@pytest.mark.parametrize('channels', [1, 4])
def test_images_may_have_any_number_of_channels(channels):
    data = tiny.batch(1, 2)
    data['inputs'] = [image[:1].repeat(channels, 1, 1) for image in data['inputs']]
    made = preprocessor(mean=[100.0], std=[50.0], bgr_to_rgb=False)
    streams = made(data, training=True)['inputs']
    assert streams.weak.shape == streams.strong[0].shape == (2, channels, tiny.SIZE, tiny.SIZE)
    assert torch.allclose(streams.labeled[0], (data['inputs'][0].float() - 100) / 50, atol=1e-4)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(num_strong=-1), 'num_strong must be 0 or more'),
        (dict(padding='white'), "padding must be 'black' or"),
        (dict(padding='mean', mean=None, std=None), "padding must be 'black' or, with a mean to pad with, 'mean'"),
        (dict(cutmix=dict(type='CutMix', aspect=(5.0, 6.0))), r'no box of 0.4 of the image .* fits into 32 x 32'),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        preprocessor(**arguments)


def test_strong_views_differ_from_the_weak_one_and_from_each_other():
    torch.manual_seed(0)
    streams = preprocessor(num_strong=2)(tiny.batch(1, 6), training=True)['inputs']
    assert not torch.equal(streams.strong[0], streams.weak)
    assert not torch.equal(streams.strong[0], streams.strong[1])


def test_without_strong_and_cutmix_the_strong_view_is_the_weak_one():
    streams = preprocessor(strong=None, cutmix=None)(tiny.batch(1, 3), training=True)['inputs']
    assert torch.equal(streams.strong[0], streams.weak)
    assert torch.equal(streams.mix[0].images(streams.weak), streams.weak)


def test_ground_truth_of_unlabeled_images_is_kept_for_diagnosis_where_loaded():
    assert preprocessor()(tiny.batch(1, 2), training=True)['inputs'].unlabeled_gt is None
    streams = preprocessor()(tiny.batch(1, 2, gt=True), training=True)['inputs']
    assert streams.unlabeled_gt.shape == streams.valid.shape


def test_a_batch_without_unlabeled_images_has_empty_views():
    streams = preprocessor(num_strong=0)(tiny.batch(3, 0), training=True)['inputs']
    assert streams.weak.shape[0] == 0 and streams.strong == () and streams.labeled.shape[0] == 3


def test_a_crop_larger_than_size_is_named():
    with pytest.raises(ValueError, match=r'crop of \(32, 32\) is larger than model.data_preprocessor.size=\(16, 16\)'):
        preprocessor(size=(16, 16))(tiny.batch(1, 1), training=True)


def test_unlabeled_before_labeled_is_refused():
    data = tiny.batch(1, 1)
    data['data_samples'].reverse()
    with pytest.raises(ValueError, match='labeled images first'):
        preprocessor()(data, training=True)


def test_evaluation_is_mmsegs():
    data = tiny.batch(1, 0)
    out = preprocessor()(data, training=False)
    assert out['inputs'].shape == (1, 3, tiny.SIZE, tiny.SIZE) and len(out['data_samples']) == 1


@pytest.mark.parametrize('channels, mean, std', [(1, [10.0], [50.0]), (4, [20.0], [60.0])])
def test_channels_come_from_the_images(channels, mean, std):
    data = tiny.batch(2, 2)
    bands = torch.arange(channels, dtype=torch.uint8)[:, None, None]
    data['inputs'] = [image[:1] // 2 + bands for image in data['inputs']]
    streams = preprocessor(mean=mean, std=std, num_strong=2)(data, training=True)['inputs']
    assert streams.labeled.shape == streams.weak.shape == (2, channels, tiny.SIZE, tiny.SIZE)
    assert [view.shape for view in streams.strong] == [streams.weak.shape] * 2
    # Without colors there is no order of colors to change, in testing neither.
    image = data['inputs'][2].float()
    expected = (image - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    assert torch.allclose(streams.weak[0], expected, atol=1e-4)
    tested = preprocessor(mean=mean, std=std)(dict(inputs=data['inputs'][2:3], data_samples=[data['data_samples'][2]]))
    assert torch.allclose(tested['inputs'][0], expected, atol=1e-4)
