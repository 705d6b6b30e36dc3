"""StreamSampler: what an epoch is, how ranks share it, and what it refuses."""

from __future__ import annotations

import types

import pytest
from mmengine.hooks import DistSamplerSeedHook
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, DataLoader

from mmsemi.datasets import SemiDataset, StreamBatchSampler, StreamSampler, stream_sampler as module
from tests.data import make_voc


class Counts(SemiDataset):
    """As many labeled and unlabeled images as it is told."""

    num_labeled = num_unlabeled = 0

    def __init__(self, num_labeled, num_unlabeled):
        self.num_labeled, self.num_unlabeled = num_labeled, num_unlabeled

    def __len__(self):
        return self.num_labeled + self.num_unlabeled

    def __getitem__(self, key):
        return key


@pytest.fixture
def on_rank(monkeypatch):
    """Build samplers as one of several ranks would."""

    def build(rank, world, counts, labeled, unlabeled, **kwargs):
        monkeypatch.setattr(module, 'get_dist_info', lambda: (rank, world))
        return StreamSampler(Counts(*counts), labeled, unlabeled, **{'seed': 0, **kwargs})

    return build


def as_batches(sampler):
    drawn = list(sampler)
    size = sampler.labeled + sampler.unlabeled
    assert len(drawn) == len(sampler) and len(drawn) % size == 0
    return [(drawn[i : i + sampler.labeled], drawn[i + sampler.labeled : i + size]) for i in range(0, len(drawn), size)]


def indices(draws):
    return [index for index, _ in draws]


def test_batch_is_labeled_then_unlabeled(on_rank):
    for labeled, unlabeled in as_batches(on_rank(0, 1, (5, 20), 2, 3)):
        assert len(labeled) == 2 and all(0 <= i < 5 for i in indices(labeled))
        assert len(unlabeled) == 3 and all(5 <= i < 25 for i in indices(unlabeled))


def test_labels_alone_keep_the_pace_of_the_unlabeled_images_that_are_not_loaded(on_rank):
    for labeled, unlabeled, world in ((2, 4, 1), (2, 2, 2), (4, 1, 2)):
        method = on_rank(0, world, (5, 40), labeled, unlabeled)
        alone = on_rank(0, world, (5, 40), labeled, 0, pace=unlabeled)
        assert alone.num_batches == method.num_batches == 40 // (unlabeled * world)
    assert on_rank(0, 1, (5, 40), 4, 0).num_batches == 10


def test_epoch_is_one_pass_over_the_unlabeled_list(on_rank):
    batches = as_batches(on_rank(0, 1, (5, 21), 2, 4))
    assert len(batches) == 5
    seen = [i for _, unlabeled in batches for i in indices(unlabeled)]
    assert len(set(seen)) == len(seen) == 20
    sampler = on_rank(0, 1, (5, 20), 2, 4)
    assert {i for _, unlabeled in as_batches(sampler) for i in indices(unlabeled)} == set(range(5, 25))


def test_leftover_images_differ_between_epochs(on_rank):
    sampler = on_rank(0, 1, (5, 21), 2, 4)
    left_out = set()
    for epoch in range(10):
        sampler.set_epoch(epoch)
        left_out |= set(range(5, 26)) - {i for _, unlabeled in as_batches(sampler) for i in indices(unlabeled)}
    assert len(left_out) > 3


def test_labeled_list_is_repeated_by_permutations(on_rank):
    drawn = [i for labeled, _ in as_batches(on_rank(0, 1, (5, 40), 2, 2)) for i in indices(labeled)]
    assert len(drawn) == 40
    passes = [drawn[i : i + 5] for i in range(0, 40, 5)]
    assert all(sorted(p) == list(range(5)) for p in passes)
    assert len({tuple(p) for p in passes}) > 1


@pytest.mark.parametrize('world', [2, 3])
@pytest.mark.parametrize('counts', [(5, 50), (7, 61)])
def test_ranks_share_what_one_rank_with_all_batches_sees(on_rank, world, counts):
    ranks = [as_batches(on_rank(rank, world, counts, 2, 3)) for rank in range(world)]
    one = as_batches(on_rank(0, 1, counts, 2 * world, 3 * world))
    assert {len(batches) for batches in ranks} == {len(one)}
    for parts, (labeled, unlabeled) in zip(zip(*ranks, strict=True), one, strict=True):
        # Seeds included: the views are the same, too.
        assert [draw for part in parts for draw in part[0]] == labeled
        assert [draw for part in parts for draw in part[1]] == unlabeled
    seen = [i for batches in ranks for _, unlabeled in batches for i in indices(unlabeled)]
    assert len(set(seen)) == len(seen)


def test_all_is_a_function_of_seed_and_epoch(on_rank):
    def drawn(epoch, seed=0):
        sampler = on_rank(0, 1, (5, 20), 2, 4, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4) and drawn(3) != drawn(3, seed=1)
    sampler = on_rank(0, 1, (5, 20), 2, 4)
    sampler.set_epoch(3)
    assert list(sampler) == list(sampler) == drawn(3)


def test_no_two_draws_share_a_seed(on_rank):
    sampler = on_rank(0, 1, (5, 1000), 4, 4)
    seeds = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        seeds += [seed for _, seed in sampler]
    assert len(set(seeds)) == len(seeds) == 3 * 2000


def test_without_shuffling_the_order_is_that_of_the_lists(on_rank):
    assert indices(on_rank(0, 1, (2, 4), 1, 2, shuffle=False)) == [0, 2, 3, 1, 4, 5]


def test_supervised_baseline_trains_as_long_as_its_methods(on_rank):
    assert on_rank(0, 1, (5, 40), 4, 0).num_batches == on_rank(0, 1, (5, 40), 4, 4).num_batches == 10
    alone = on_rank(0, 1, (9, 0), 4, 0)
    assert alone.num_batches == 2 and len(set(indices(alone))) == 8


def test_lists_shorter_than_a_batch_are_repeated(on_rank):
    batches = as_batches(on_rank(1, 2, (1, 3), 2, 4))
    assert len(batches) == 1
    assert indices(batches[0][0]) == [0, 0] and set(indices(batches[0][1])) <= {1, 2, 3}
    assert len(as_batches(on_rank(0, 1, (2, 0), 4, 0))) == 1


@pytest.mark.parametrize(
    ('counts', 'labeled', 'unlabeled', 'message'),
    [
        ((4, 4), -1, 2, r'sampler\.labeled=-1 must not be negative'),
        ((4, 4), 2, -1, r'sampler\.unlabeled=-1 must not be negative'),
        ((4, 4), 0, 0, 'both 0'),
        ((4, 0), 2, 2, r'sampler\.unlabeled=2, but the data set has no unlabeled images'),
        ((0, 4), 2, 2, r'sampler\.labeled=2, but the data set has no labeled images'),
    ],
)
def test_numbers_that_make_no_batch_are_refused(on_rank, counts, labeled, unlabeled, message):
    with pytest.raises(ValueError, match=message):
        on_rank(0, 1, counts, labeled, unlabeled)


def test_other_datasets_and_samplers_are_refused():
    with pytest.raises(TypeError, match=r'from a SemiDataset, but train_dataloader\.dataset is a list'):
        StreamSampler([1, 2], 1, 1)
    with pytest.raises(TypeError, match=r'needs a StreamSampler, but train_dataloader\.sampler is a range'):
        StreamBatchSampler(range(3), 2)


def test_batch_size_must_be_what_is_drawn(on_rank):
    message = r'sampler\.labeled=2 and train_dataloader\.sampler\.unlabeled=3 make 5 .* train_dataloader\.batch_size=8;'
    with pytest.raises(ValueError, match=message):
        StreamBatchSampler(on_rank(0, 1, (5, 20), 2, 3), 8)
    batches = StreamBatchSampler(on_rank(0, 1, (5, 20), 2, 3), 5)
    assert isinstance(batches, BatchSampler) and len(batches) == len(list(batches)) == 6


def test_hook_reaches_the_sampler_through_the_loader(on_rank):
    sampler = on_rank(0, 1, (5, 20), 2, 3)
    loader = DataLoader(sampler.dataset, batch_sampler=StreamBatchSampler(sampler, 5))
    runner = types.SimpleNamespace(train_loop=types.SimpleNamespace(dataloader=loader), epoch=7)
    DistSamplerSeedHook().before_train_epoch(runner)
    assert sampler.epoch == 7


def test_runner_builds_the_loader_of_a_config(tmp_path):
    root = make_voc(tmp_path)
    pipeline = [{'type': 'LoadImageFromFile'}, {'type': 'LoadSegAnnotations'}, {'type': 'PackSegInputs'}]
    config = {
        'batch_size': 3,
        'num_workers': 0,
        'sampler': {'type': 'StreamSampler', 'labeled': 1, 'unlabeled': 2},
        'batch_sampler': {'type': 'StreamBatchSampler'},
        'dataset': {
            'type': 'SemiDataset',
            'dataset': {'type': 'PascalVOCAugDataset', 'data_root': str(root)},
            'labeled': 4,
            'pipeline': pipeline,
        },
    }
    loader = Runner.build_dataloader(config, seed=0)
    assert len(loader) == 3
    for batch in loader:
        assert [s.stream for s in batch['data_samples']] == ['labeled', 'unlabeled', 'unlabeled']
        assert [hasattr(s, 'gt_sem_seg') for s in batch['data_samples']] == [True, False, False]
