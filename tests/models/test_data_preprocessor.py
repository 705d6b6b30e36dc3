import pytest
import torch

from mmsemi.models import SemiDataPreprocessor
from tests import tiny


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
    mean = torch.tensor(tiny.PREPROCESSOR['mean']).view(3, 1, 1)
    assert torch.allclose(streams.weak[0], (rgb - mean) / 60, atol=1e-4)
    assert (streams.weak[1, :, -4:] == 0).all() and (streams.strong[0][1, :, -4:] == 0).all()


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
