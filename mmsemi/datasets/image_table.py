"""A million images in a few arrays.

A Python object an image takes a kilobyte, and worker processes copy each that they touch, since reading one counts its
references. Arrays are shared as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class StringList(Sequence[str]):
    """Strings in two arrays, one behind another and where each ends; read-only.

    Args:
        strings (Iterable[str]): What to hold.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        # Names of files need not be valid text.
        encoded = [text.encode('utf-8', 'surrogateescape') for text in strings]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._text = np.frombuffer(b''.join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._text[self._ends[index] : self._ends[index + 1]].tobytes().decode('utf-8', 'surrogateescape')

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self._ends.nbytes + self._text.nbytes


class ImageTable(Sequence[dict]):
    """What mmseg's data sets say of each image, held compactly: an item is a dict of its own.

    Args:
        columns (dict[str, Sequence]): What differs from image to image, by key; all of one length.
        common (dict): What is the same for all.
        listed (bool): Whether a listing of folders just said that the images are there. Defaults to False.
    """

    def __init__(self, columns: dict[str, Sequence], common: dict[str, Any], listed: bool = False) -> None:
        self._columns = columns
        self._common = common
        self.listed = listed

    @classmethod
    def of_paths(cls, paths: Iterable[str], **common: Any) -> ImageTable:
        """Images without masks, which a listing of folders just found."""
        return cls({'img_path': StringList(paths)}, {'seg_fields': [], **common}, listed=True)

    @classmethod
    def of(cls, infos: Sequence[dict]) -> ImageTable:
        """The same as a list of dicts."""
        columns, common = {}, {}
        for key in dict.fromkeys(key for info in infos for key in info):
            values = [info.get(key) for info in infos]
            first = values[0]
            if key != 'img_path' and all(value is first or value == first for value in values):
                common[key] = first
            elif all(isinstance(value, str) for value in values):
                columns[key] = StringList(values)
            else:
                columns[key] = values
        return cls(columns or {'img_path': StringList(())}, common)

    def __len__(self) -> int:
        return len(self._columns['img_path'])

    def __getitem__(self, index: int | slice) -> dict | list[dict]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        info = copy.deepcopy(self._common)
        info.update((key, column[index]) for key, column in self._columns.items())
        return {key: value for key, value in info.items() if value is not None or key in self._common}

    def column(self, key: str) -> Sequence | None:
        """The values of a key for all images; None where no image has it."""
        if key in self._columns:
            return self._columns[key]
        value = self._common.get(key)
        return None if value is None else [value] * len(self)

    def without(self, key: str) -> ImageTable:
        """The same without one key."""
        columns = {name: column for name, column in self._columns.items() if name != key}
        return ImageTable(columns, {name: v for name, v in self._common.items() if name != key}, self.listed)
