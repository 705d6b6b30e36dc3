"""Batches of labeled and unlabeled images, in which an epoch is one pass over the unlabeled list."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import BatchSampler, Sampler

from mmsemi.registry import DATA_SAMPLERS

from .semi_dataset import SemiDataset


@DATA_SAMPLERS.register_module()
class StreamSampler(Sampler):
    """Draws, for each batch, ``labeled`` labeled images and then ``unlabeled`` unlabeled ones.

    It yields ``(index, seed)``, where the seed is that of the image's augmentation. All is a function of the sampler's
    seed and the epoch: a resumed run sees the same images in the same views, in the middle of an epoch too, where the
    loop sets ``start``, the number of batches to leave out. An epoch is one pass over the unlabeled
    list, less the images that fill no batch; the labeled list is repeated, each time in another order, to match.
    Without unlabeled images in the batch, an epoch has as many batches as if there were ``pace`` of them; without any
    in the data set, it is one pass over the labeled list. A list shorter than one batch is repeated.

    The ranks share each global batch without overlap, and together see what one rank with all their batches would see.

    Args:
        dataset (SemiDataset): The data set; the Runner gives it.
        labeled (int): Labeled images a batch and rank.
        unlabeled (int): Unlabeled images a batch and rank.
        seed (int, optional): Seed, the same on all ranks; None draws one and shares it.
        shuffle (bool): Whether the lists are shuffled each epoch.
        pace (int, optional): Without unlabeled images in the batch, an epoch is as long as with so many of them.
            Defaults to ``labeled``.

    Raises:
        TypeError: If ``dataset`` is no SemiDataset.
        ValueError: If the numbers are negative, both 0, or ask for images of an empty list.
    """

    def __init__(
        self,
        dataset: SemiDataset,
        labeled: int,
        unlabeled: int,
        seed: int | None = None,
        shuffle: bool = True,
        pace: int | None = None,
    ) -> None:
        if not isinstance(dataset, SemiDataset):
            raise TypeError(
                f'StreamSampler draws from a SemiDataset, but train_dataloader.dataset is a {type(dataset).__name__}; '
                "wrap it: dataset=dict(type='SemiDataset', dataset=..., labeled=...)."
            )
        for key, count, available in (
            ('labeled', labeled, dataset.num_labeled),
            ('unlabeled', unlabeled, dataset.num_unlabeled),
        ):
            if count < 0:
                raise ValueError(f'train_dataloader.sampler.{key}={count} must not be negative.')
            if count and not available:
                raise ValueError(
                    f'train_dataloader.sampler.{key}={count}, but the data set has no {key} images; '
                    f'set it to 0 or change train_dataloader.dataset.{key}.'
                )
        if labeled + unlabeled == 0:
            raise ValueError('train_dataloader.sampler.labeled and .unlabeled are both 0; a batch needs images.')
        self.dataset = dataset
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.shuffle = shuffle
        self.pace = pace or labeled
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()
        self.epoch = 0
        self.start = 0

    @property
    def num_batches(self) -> int:
        """Batches an epoch, the same on every rank."""
        if self.dataset.num_unlabeled:
            total, share = self.dataset.num_unlabeled, self.unlabeled or self.pace
        else:
            total, share = self.dataset.num_labeled, self.labeled
        return max(1, total // (share * self.world_size))

    def __len__(self) -> int:
        return self.num_batches * (self.labeled + self.unlabeled)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; mmengine's ``DistSamplerSeedHook`` calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        num_labeled = self.dataset.num_labeled
        labeled = self._draws(0, num_labeled, self.labeled)
        unlabeled = self._draws(1, self.dataset.num_unlabeled, self.unlabeled)
        for labeled_batch, unlabeled_batch in zip(labeled, unlabeled, strict=True):
            yield from labeled_batch
            for index, seed in unlabeled_batch:
                yield num_labeled + index, seed

    def _draws(self, stream: int, available: int, share: int) -> Iterator[list[tuple[int, int]]]:
        """This rank's part of each batch of one stream.

        The draws of all ranks are laid out in one row, so that they depend on the world's size only by the batch it
        makes.
        """
        per_batch = share * self.world_size
        total = per_batch * self.num_batches
        # Apart, so that neither depends on how many images fill no batch, which the number of ranks decides.
        rng = np.random.default_rng([self.seed, self.epoch, stream])
        seeds = np.random.default_rng([self.seed, self.epoch, stream, 1]).integers(0, 2**63, size=total)
        passes = -(-total // available) if total else 0
        order = [rng.permutation(available) if self.shuffle else np.arange(available) for _ in range(passes)]
        indices = np.concatenate(order)[:total] if order else np.empty(0, dtype=np.int64)
        for batch in range(self.start, self.num_batches):
            start = batch * per_batch + self.rank * share
            part = slice(start, start + share)
            yield list(zip(indices[part].tolist(), seeds[part].tolist(), strict=True))


@DATA_SAMPLERS.register_module()
class StreamBatchSampler(BatchSampler):
    """Groups what a :class:`StreamSampler` draws into batches, whose size must be what it draws for one.

    Args:
        sampler (StreamSampler): The sampler; the Runner gives it.
        batch_size (int): Images a batch and rank; the Runner gives it.
        drop_last (bool): Without effect, since all batches are full; kept because other batch samplers have it.

    Raises:
        TypeError: If ``sampler`` is no StreamSampler.
        ValueError: If ``batch_size`` is not ``sampler.labeled + sampler.unlabeled``.
    """

    def __init__(self, sampler: StreamSampler, batch_size: int, drop_last: bool = True) -> None:
        if not isinstance(sampler, StreamSampler):
            raise TypeError(
                f'StreamBatchSampler needs a StreamSampler, but train_dataloader.sampler is a {type(sampler).__name__}.'
            )
        if sampler.labeled + sampler.unlabeled != batch_size:
            raise ValueError(
                f'train_dataloader.sampler.labeled={sampler.labeled} and train_dataloader.sampler.unlabeled='
                f'{sampler.unlabeled} make {sampler.labeled + sampler.unlabeled} images a batch, but '
                f'train_dataloader.batch_size={batch_size}; set batch_size to their sum.'
            )
        super().__init__(sampler, batch_size, drop_last)
