"""The images of any mmseg data set as one list, in which images are found by the ids that list files use."""

from __future__ import annotations

import copy
import functools
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmsemi.registry import DATASETS

from .lost_files import lost_files
from .partition import IMAGE_SUFFIXES

_WRAPPERS = {'ConcatDataset': 'datasets', 'RepeatDataset': 'dataset'}


class Pool:
    """The images of one or several mmseg data sets.

    Images are ordered by id within each data set, so that nothing depends on the order in which a file system lists
    them. An image that several data sets hold counts once.

    Args:
        dataset (dict | BaseDataset | list): Config of a data set, of a ``ConcatDataset`` or ``RepeatDataset``, a built
            data set, or a list of these.

    Attributes:
        items (list[dict]): What mmseg's data sets say of each image: ``img_path``, ``seg_map_path``, ``label_map``, ...
        ids (list[str]): Id of each image: its path under the image folder, without suffix.
        roots (list[str]): Folders that relative paths may refer to.
        metainfo (dict): Classes and palette.

    Raises:
        FileNotFoundError: If a data root, an annotation file or an image folder is missing.
        ValueError: If an annotation file is empty, there is no image, or the data sets differ in their classes.
    """

    def __init__(self, dataset: dict | Sequence) -> None:
        self.items: list[dict] = []
        self.ids: list[str] = []
        self.roots: list[str] = []
        self.metainfo: dict = {}
        self._datasets: list[Any] = []
        self._by_name: dict[str, list[int]] = defaultdict(list)
        self._position: dict[str, int] = {}
        for config in flatten(dataset):
            self._add(_build(config))
        if not self.items:
            raise ValueError(
                f'The data set has no images under {", ".join(self.roots)}; check its ann_file, data_prefix and '
                f'img_suffix. {" ".join(self.lost)}'.strip()
            )

    @functools.cached_property
    def lost(self) -> list[str]:
        """Files that suffixes leave out, in sentences; folders are listed for it."""
        return [sentence for dataset in self._datasets for sentence in lost_files(dataset)]

    def __len__(self) -> int:
        return len(self.items)

    def _add(self, dataset) -> None:
        """Take in the images of a built data set."""
        metainfo = dataset.metainfo
        self.metainfo = self.metainfo or metainfo
        if metainfo.get('classes') != self.metainfo.get('classes'):
            raise ValueError(
                f'The data sets of a pool must have the same classes, but one has {self.metainfo.get("classes")} '
                f'and another {metainfo.get("classes")}; set metainfo.classes.'
            )
        folder = os.path.abspath(dataset.data_prefix.get('img_path') or '')
        root = os.path.abspath(dataset.data_root) if dataset.data_root else folder
        if root not in self.roots:
            self.roots.append(root)
        suffix = getattr(dataset, 'img_suffix', '')

        self._datasets.append(dataset)
        found = []
        for i in range(len(dataset)):
            info = dataset.get_data_info(i)
            info.pop('sample_idx', None)
            found.append((_image_id(info['img_path'], folder, root, suffix), info))
        for name, info in sorted(found, key=lambda pair: (pair[0], pair[1]['img_path'])):
            path = os.path.abspath(info['img_path'])
            if path in self._position:
                continue
            position = self._position[path] = len(self.items)
            self.items.append(info)
            self.ids.append(name)
            base = os.path.basename(path)
            for key in {base, os.path.splitext(base)[0], name.rpartition('/')[2]}:
                self._by_name[key].append(position)

    def position(self, path: str) -> int | None:
        """Number of the image at ``path``, None if the pool has no such image."""
        return self._position.get(os.path.abspath(path))

    def find(self, text: str) -> list[int]:
        """Numbers of the images that ``text`` may name.

        It names an image if it is the end of its path, with or without the suffix ('x', 'folder/x', 'folder/x.jpg').
        Where several images fit, one for which it is the whole path under the data root or the image folder goes first.
        """
        text = os.path.normpath(text).replace('\\', '/')
        stem, suffix = os.path.splitext(text)
        # A list may say x.png where the user keeps x.jpg.
        queries = [text, stem] if suffix.lower() in IMAGE_SUFFIXES else [text]
        for query in queries:
            folder, _, name = query.strip('/').rpartition('/')
            hits = [p for p in self._by_name.get(name, ()) if self._in_folder(p, folder)]
            if len(hits) > 1:
                exact = [p for p in hits if self._is_whole_path(p, query)]
                return exact if len(exact) == 1 else hits
            if hits:
                return hits
        return []

    def _in_folder(self, position: int, folder: str) -> bool:
        path = os.path.abspath(self.items[position]['img_path']).replace('\\', '/')
        return not folder or f'/{path.strip("/")}'.rpartition('/')[0].endswith(f'/{folder}')

    def _is_whole_path(self, position: int, query: str) -> bool:
        path = os.path.abspath(self.items[position]['img_path'])
        names = {self.ids[position], self.ids[position] + os.path.splitext(path)[1], path}
        for root in self.roots:
            relative = os.path.relpath(path, root).replace('\\', '/')
            names |= {relative, os.path.splitext(relative)[0]}
        return query in names

    def name(self, path: str) -> str:
        """Shortest id by which a list file can name the image at ``path``; the path itself outside all roots."""
        position = self.position(path)
        path = os.path.abspath(path)
        relative = [os.path.relpath(path, root).replace('\\', '/') for root in self.roots]
        under = [name for name in relative if not name.startswith('..')]
        if position is None:
            return under[0] if under else path
        for name in [self.ids[position], *under]:
            if self.find(name) == [position]:
                return name
        return path

    def under_root(self, path: str) -> str | None:
        """Path of the file ``path``, given absolute or relative to a data root; None if there is no such file."""
        return next((p for root in self.roots if os.path.isfile(p := os.path.join(root, path))), None)

    def locate(self, path: str, key: str) -> str:
        """Path of a file or folder that is given absolute, relative to the working directory, or to a data root.

        Raises:
            FileNotFoundError: If it is in none of these places; the message names the config ``key``.
        """
        for candidate in [path, *(os.path.join(root, path) for root in self.roots)]:
            if os.path.exists(candidate):
                return candidate
        raise FileNotFoundError(
            f"{key}='{path}' does not exist, neither in the working directory nor under {', '.join(self.roots)}; "
            'correct its path.'
        )


def flatten(dataset: dict | Sequence) -> list:
    """The data sets in a list, in a ``ConcatDataset`` or in a ``RepeatDataset``; configs stay configs."""
    if isinstance(dataset, (list, tuple)):
        return [part for item in dataset for part in flatten(item)]
    if isinstance(dataset, dict):
        key = _WRAPPERS.get(str(dataset.get('type')).rpartition('.')[2])
        if key:
            return flatten(dataset[key])
    return [dataset]


def _build(dataset):
    """Build a data set that only lists its files, once its paths are known to be there."""
    if not isinstance(dataset, dict):
        dataset.full_init()
        return dataset
    config = copy.deepcopy(dataset)
    root = config.get('data_root') or ''
    if root and not os.path.isdir(root):
        raise FileNotFoundError(f'The data root {root} does not exist; put the data set there or set data_root.')
    ann_file = config.get('ann_file') and os.path.join(root, config['ann_file'])
    if ann_file and not os.path.exists(ann_file):
        raise FileNotFoundError(f'The list file {ann_file} does not exist; correct ann_file.')
    if ann_file and os.path.isfile(ann_file) and not Path(ann_file).read_bytes().strip():
        raise ValueError(f'The list file {ann_file} is empty; write one image id a line into it.')
    folder = (config.get('data_prefix') or {}).get('img_path')
    if folder and not os.path.isdir(os.path.join(root, folder)):
        raise FileNotFoundError(
            f'The image folder {os.path.join(root, folder)} does not exist; correct data_root or data_prefix.img_path.'
        )
    # Only its list is wanted, once: packing it for worker processes would cost time.
    config.update(pipeline=[], lazy_init=True, serialize_data=False)
    built = DATASETS.build(config)
    built.full_init()
    return built


def _image_id(path: str, folder: str, root: str, suffix: str) -> str:
    path = os.path.abspath(path)
    base = next((b for b in (folder, root) if path.startswith(os.path.join(b, ''))), os.path.dirname(path))
    name = os.path.relpath(path, base).replace('\\', '/')
    if suffix and name.endswith(suffix) and name != suffix:
        return name[: -len(suffix)]
    return os.path.splitext(name)[0]
