"""One data set of two streams: a few labeled images, and many unlabeled ones."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256

import numpy as np
import torch
from mmengine.dataset import Compose
from mmengine.logging import print_log
from torch.utils.data import Dataset

from mmsemi.registry import DATASETS, TRANSFORMS

from .contents import Shown
from .masks import classes_of_masks, is_decodable
from .partition import is_amount
from .pool import Pool
from .split import (
    LABELED,
    UNLABELED,
    check_exist,
    check_masks,
    check_overlap,
    class_names,
    list_labeled,
    list_unlabeled,
)


@DATASETS.register_module()
class SemiDataset(Dataset):
    """Labeled and unlabeled images of any mmseg data set.

    Images ``0 .. num_labeled - 1`` are the labeled ones, the others are unlabeled. List files name one image a line, by
    its id or path (``2007_000032``, ``aachen/aachen_000000_000019``, with or without suffix), or as ``image_path
    mask_path`` relative to the data root; their paths may be absolute, relative to the working directory, or to the
    data root.

    Nothing on disk is touched before :meth:`full_init`, which the Runner calls before training, and which checks all
    files.

    Args:
        dataset (dict | list): Config of the mmseg data set that holds the images, of a ``ConcatDataset``, or a list of
            configs.
        labeled (str | int | float): Which images are labeled: a fraction (``'1/8'``, ``0.125``, rounded up), a count
            (``92``), or the path of a list file.
        unlabeled (str | dict | None): ``'rest'`` (all others of ``dataset``), the path of a list file or of a folder of
            images without masks, the config of another data set, or ``'none'``.
        pipeline (list): Transforms of both streams; unlabeled images come without ``seg_map_path``.
        unlabeled_pipeline (list, optional): Other transforms for unlabeled images.
        candidates (str | dict, optional): List file of the images from which labeled ones are drawn, or the config of a
            data set that holds them; a fraction is one of these.
        require_all_classes (bool): Whether the labeled images must show every class.
        seed (int): Seed of the draw.
        allow_overlap (bool): Whether an image may be both labeled and unlabeled, or a group of them (the slices of one
            patient; their data set says so by ``info['group']``) be split between the two.
        check_files (bool): Whether all files, and the ids in all masks that will be read, are checked before training.
        unlabeled_gt (bool): Whether unlabeled images bring their masks, for diagnostics.
    """

    def __init__(
        self,
        dataset: dict | Sequence,
        labeled: str | int | float,
        unlabeled: str | dict | None = 'rest',
        pipeline: Sequence = (),
        unlabeled_pipeline: Sequence | None = None,
        candidates: str | dict | None = None,
        require_all_classes: bool = False,
        seed: int = 0,
        allow_overlap: bool = False,
        check_files: bool = True,
        unlabeled_gt: bool = False,
    ) -> None:
        self.dataset = dataset
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.candidates = candidates
        self.require_all_classes = require_all_classes
        self.seed = seed
        self.allow_overlap = allow_overlap
        self.check_files = check_files
        self.unlabeled_gt = unlabeled_gt
        # What the labeled masks show (this rank's share of them), and sentences on files that are left out.
        self.shown: Shown | None = None
        self.lost: list[str] = []
        self.pipelines = {LABELED: _compose(pipeline), UNLABELED: _compose(unlabeled_pipeline or pipeline)}
        self._fully_initialized = False

    def full_init(self) -> None:
        """List the images, draw the partition and check the files.

        Raises:
            FileNotFoundError: If a data root, list file, image or mask is missing.
            ValueError: If a list is empty or names an unknown image, the lists overlap or split a group, more labeled
                images are asked for than there are, or a mask holds an id outside the classes.
            RuntimeError: If the mask of a labeled image cannot be decoded.
        """
        if self._fully_initialized:
            return
        pool = Pool(self.dataset)
        self._metainfo = pool.metainfo
        labeled = list_labeled(pool, self.labeled, self.candidates, self.require_all_classes, self.seed)
        unlabeled = list_unlabeled(pool, self.unlabeled, labeled)
        if not self.allow_overlap:
            check_overlap(pool, labeled, unlabeled)
        self._labeled_ids = [pool.name(info['img_path']) for info in labeled]
        if not self.unlabeled_gt:
            unlabeled = unlabeled.without('seg_map_path')
        if self.check_files:
            check_exist(labeled, LABELED, masks=True)
            check_exist(unlabeled, UNLABELED, masks=self.unlabeled_gt)
            self.shown = check_masks(labeled, class_names(pool.metainfo))
            if self.unlabeled_gt:
                check_masks(list(unlabeled), class_names(pool.metainfo))
        self.lost = pool.lost if is_amount(self.labeled) else []
        self._labeled, self._unlabeled = labeled, unlabeled
        self._fully_initialized = True
        print_log(f'SemiDataset: {len(labeled)} labeled and {len(unlabeled)} unlabeled images.', logger='current')

    @property
    def metainfo(self) -> dict:
        """Classes and palette, as mmseg's data sets give them."""
        self.full_init()
        return copy.deepcopy(self._metainfo)

    @property
    def paths(self) -> dict[str, Sequence[str]]:
        """Paths of the 'labeled' and of the 'unlabeled' images."""
        self.full_init()
        return {
            LABELED: [info['img_path'] for info in self._labeled],
            UNLABELED: self._unlabeled.column('img_path'),
        }

    @property
    def num_labeled(self) -> int:
        """Number of labeled images."""
        self.full_init()
        return len(self._labeled)

    @property
    def num_unlabeled(self) -> int:
        """Number of unlabeled images."""
        self.full_init()
        return len(self._unlabeled)

    @property
    def labeled_ids(self) -> list[str]:
        """Ids of the labeled images, as a list file would give them."""
        self.full_init()
        return list(self._labeled_ids)

    @property
    def unlabeled_ids(self) -> list[str]:
        """Ids of the unlabeled images, as a list file would give them."""
        self.full_init()
        pool = Pool(self.dataset)
        return [pool.name(path) for path in self._unlabeled.column('img_path')]

    @functools.cached_property
    def partition(self) -> str:
        """How many images are labeled and unlabeled, and a digest of which; found out once, since it lists folders."""
        digest = sha256('\n'.join([*self.labeled_ids, '', *self.unlabeled_ids]).encode()).hexdigest()
        return f'{self.num_labeled} labeled and {self.num_unlabeled} unlabeled images, {digest[:16]}'

    def __len__(self) -> int:
        return self.num_labeled + self.num_unlabeled

    def get_data_info(self, index: int) -> dict:
        """What is known of an image before loading it: ``img_path``, ``stream``, ``seg_map_path`` if it is labeled."""
        index = range(len(self))[index]
        is_labeled = index < self.num_labeled
        info = copy.deepcopy(self._labeled[index]) if is_labeled else self._unlabeled[index - self.num_labeled]
        info.update(stream=LABELED if is_labeled else UNLABELED, sample_idx=index)
        return info

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        """Load and transform one image.

        Args:
            key (int | tuple[int, int]): Its index, and by choice a seed, as ``StreamSampler`` gives them. With a seed,
                the transforms draw from it alone: what they do depends neither on the number of workers nor on when a
                run was resumed.

        Raises:
            RuntimeError: If a labeled image or its mask, or every unlabeled image, is unreadable.
        """
        index, seed = key if isinstance(key, (tuple, list)) else (key, None)
        index = range(len(self))[index]
        return self._load_labeled(index, seed) if index < self.num_labeled else self._load_unlabeled(index, seed)

    def _load_labeled(self, index: int, seed: int | None) -> dict:
        info = self.get_data_info(index)
        try:
            return self._transform(index, seed)
        except Exception as error:
            for key, backend in (('img_path', 'cv2'), ('seg_map_path', 'pillow')):
                if key in info and not is_decodable(info[key], backend):
                    kind = 'image' if key == 'img_path' else 'mask'
                    raise RuntimeError(
                        f'The labeled {kind} {info[key]} cannot be read; replace the file or take it out of the list.'
                    ) from error
            raise

    def _load_unlabeled(self, index: int, seed: int | None) -> dict:
        """Load an unlabeled image, or the next readable one; the paths of those skipped go into its metainfo."""
        skipped: list[str] = []
        for step in range(self.num_unlabeled):
            number = self.num_labeled + (index - self.num_labeled + step) % self.num_unlabeled
            try:
                results = self._transform(number, seed)
            except Exception:
                path = self.get_data_info(number)['img_path']
                # Any other failure is an error in the transforms and must not be hidden.
                if is_decodable(path):
                    raise
                skipped.append(path)
                continue
            if skipped:
                _set_meta(results, unreadable=skipped)
            return results
        raise RuntimeError(
            f'None of the {self.num_unlabeled} unlabeled images can be read, among them {skipped[0]}; check the files.'
        )

    def _transform(self, index: int, seed: int | None) -> dict:
        info = self.get_data_info(index)
        with seeded(seed):
            results = self.pipelines[info['stream']](info)
        if results is None:
            raise RuntimeError(
                f'The pipeline gave nothing for {info["img_path"]}; its transforms must not drop images.'
            )
        _set_meta(results, stream=info['stream'])
        _as_bytes(results)
        return results

    def class_coverage(self) -> dict[str, int]:
        """Number of labeled images that show each class."""
        self.full_init()
        names = class_names(self._metainfo)
        counts = dict.fromkeys(names, 0)
        for classes in classes_of_masks(self._labeled, len(names)):
            for label in classes:
                counts[names[label]] += 1
        return counts


def _as_bytes(results: dict) -> None:
    """Make a mask uint8 again, which mmseg's packing has made eight times as large: it goes from process to process."""
    sample = results.get('data_samples')
    if sample is not None and 'gt_sem_seg' in sample and sample.gt_sem_seg.data.dtype == torch.int64:
        sample.gt_sem_seg.data = sample.gt_sem_seg.data.to(torch.uint8)


def _compose(pipeline: Sequence) -> Compose:
    # Built by our registry, so that a data set works where no Runner has set the default scope, as in a notebook.
    return Compose([TRANSFORMS.build(step) if isinstance(step, dict) else step for step in pipeline])


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch (CPU), and restore them afterwards; None changes nothing."""
    if seed is None:
        yield
        return
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
        # torch.manual_seed would seed the GPUs as well, which are not ours to touch here.
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _set_meta(results: dict, **meta) -> None:
    """Put ``meta`` where the model and the hooks read it, whatever the keys that the pipeline packs."""
    if 'data_samples' in results:
        results['data_samples'].set_metainfo(meta)
    else:
        results.update(meta)
