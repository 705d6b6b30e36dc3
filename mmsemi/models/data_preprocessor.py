"""From the workers' uint8 crops to the views of a training step, on the device, whole batches at a time.

Images and labels of a batch are laid side by side on the host and sent in one piece, from pinned memory: the host does
not wait for what the device still has to do. Views are made in full precision, whatever autocast says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmseg.models import SegDataPreProcessor
from torch import Tensor

from mmsemi.models.device import send
from mmsemi.registry import MODELS
from mmsemi.structures import Mix, Streams

_PADDINGS = ('black', 'mean')
_LARGEST = {torch.uint8: 255.0, torch.uint16: 65535.0}


@MODELS.register_module()
class SemiDataPreprocessor(SegDataPreProcessor):
    """Pad, split into streams, make the strong views, draw CutMix boxes, normalise.

    In validation and testing it is mmseg's ``SegDataPreProcessor``.

    Args:
        size (tuple[int, int]): Height and width of the training crop; smaller crops are padded at the right and below.
        padding (str): What training crops are padded with before the strong views are made of them: 'black', or 'mean',
            the color that normalisation makes 0. Defaults to 'black'.
        strong (dict | list[dict], optional): Config of the strong view, or of several changes, one after another;
            without it strong views are the weak ones.
        num_strong (int): Number of strong views of each unlabeled image. Defaults to 1.
        cutmix (dict, optional): Config of CutMix; without it nothing is mixed.
        max_value (float, optional): What the brightest pixel of an image has, which is 1 to the strong views. Defaults
            to what the images' type can hold: 255 of 8 bits, 65535 of 16; images of other types need it.
        **kwargs: Those of ``SegDataPreProcessor`` (``mean``, ``std``, ``bgr_to_rgb``, ...). ``pad_val`` is what images
            of validation batches are padded with.

    Raises:
        ValueError: If ``num_strong`` is negative, ``padding`` is unknown, or no box of ``cutmix`` fits into ``size``;
            in the step, if a crop is larger than ``size``, or the images of a batch differ in type or channels or have
            a type without a largest value.
    """

    def __init__(
        self,
        size: tuple[int, int],
        padding: str = 'black',
        strong: dict | Sequence[dict] | None = None,
        num_strong: int = 1,
        cutmix: dict | None = None,
        max_value: float | None = None,
        **kwargs,
    ) -> None:
        channels = len(kwargs.get('mean') or ())
        # mmseg takes 1 or 3 numbers; images have as many channels as they have.
        of_many = {key: kwargs.pop(key) for key in ('mean', 'std') if channels not in (0, 1, 3) and key in kwargs}
        super().__init__(size=tuple(size), **kwargs, **{key: [0.0] for key in of_many})
        for key, values in of_many.items():
            self.register_buffer(key, torch.tensor(values).view(-1, 1, 1), False)
        if len(getattr(self, 'mean', ())) != len(getattr(self, 'std', ())):
            raise ValueError(
                f'model.data_preprocessor.mean has {len(self.mean)} numbers and std {len(self.std)}; give each one a '
                'channel.'
            )
        if max_value is not None and not max_value > 0:
            raise ValueError(f'model.data_preprocessor.max_value must be above 0, not {max_value}.')
        self.max_value = max_value
        if num_strong < 0:
            raise ValueError(f'model.data_preprocessor.num_strong must be 0 or more, not {num_strong}.')
        if padding not in _PADDINGS or (padding == 'mean' and not self._enable_normalize):
            raise ValueError(
                f"model.data_preprocessor.padding must be 'black' or, with a mean to pad with, 'mean', not {padding!r}."
            )
        self.padding = padding
        self.num_strong = num_strong
        self.strong = [MODELS.build(each) for each in ([strong] if isinstance(strong, dict) else strong or ())]
        self.cutmix = MODELS.build(cutmix) if cutmix else None
        if self.cutmix:
            self.cutmix.check(*self.size)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return ``dict(inputs=Streams, data_samples=None)`` in training, else what mmseg returns."""
        if not training:
            return super().forward(data, training=False)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return dict(inputs=self._streams(data), data_samples=None)

    def _streams(self, data: dict) -> Streams:
        samples = data['data_samples']
        labeled = [sample.metainfo.get('stream', 'labeled') == 'labeled' for sample in samples]
        count = sum(labeled)
        if not all(labeled[:count]):
            raise ValueError('A training batch must hold its labeled images first; use StreamSampler.')

        top = self._top(data['inputs'])
        batch = send(self._side_by_side(data['inputs'], samples), self.device)
        valid, labels = batch[:, -1].bool(), batch[:, -2]
        images = self._to_rgb(batch[:, :-2], valid, top)
        normalised, unlabeled = self._normalise(images, top), images[count:]
        have_gt = count < len(samples) and all('gt_sem_seg' in sample for sample in samples[count:])
        return Streams(
            labeled=normalised[:count],
            labels=labels[:count].long(),
            weak=normalised[count:],
            strong=self._strong_views(unlabeled, top) if self.strong else (normalised[count:],) * self.num_strong,
            valid=valid[count:],
            mix=tuple(self._draw_mix(valid[count:]) for _ in range(self.num_strong)),
            unlabeled_gt=labels[count:].long() if have_gt else None,
        )

    def _top(self, images: list[Tensor]) -> float:
        """The largest value that the images may have."""
        first = images[0]
        for image in images:
            if image.dtype != first.dtype or image.shape[0] != first.shape[0]:
                raise ValueError(
                    f'A batch holds images of {first.shape[0]} channels of {_name(first)} and of {image.shape[0]} of '
                    f'{_name(image)}; make them alike, or read all in one way: LoadImageFromFile with color_type='
                    "'color'."
                )
        top = self.max_value or _LARGEST.get(first.dtype)
        if top is None:
            raise ValueError(
                f'The images are {_name(first)}, whose largest value is not known; set model.data_preprocessor.'
                'max_value to the value of the brightest pixel, and mean and std in the same unit.'
            )
        return top

    def _side_by_side(self, images: list[Tensor], samples: list) -> Tensor:
        """Images, labels (``seg_pad_val`` where there is none) and which pixels are theirs, (B, C + 2, H, W)."""
        height, width = self.size
        for image in images:
            if image.shape[1] > height or image.shape[2] > width:
                raise ValueError(
                    f'A training crop of {tuple(image.shape[1:])} is larger than '
                    f'model.data_preprocessor.size={self.size}; set it to the crop size of the pipeline.'
                )
        if self._enable_normalize and len(self.mean) not in (1, len(images[0])):
            raise ValueError(
                f'model.data_preprocessor.mean has {len(self.mean)} values, but the images have {len(images[0])} '
                'channels; give mean and std one value a channel.'
            )
        batch = images[0].new_zeros(len(images), len(images[0]) + 2, height, width)
        batch[:, -2].fill_(self.seg_pad_val)
        for row, image, sample in zip(batch, images, samples, strict=True):
            row = row[:, : image.shape[1], : image.shape[2]]
            row[:-2] = image
            # Not `= 1`, which torch 2.14 turns into a tensor on the host first.
            row[-1].fill_(1)
            if 'gt_sem_seg' in sample:
                row[-2] = sample.gt_sem_seg.data[0]
        return batch

    def _to_rgb(self, pixels: Tensor, valid: Tensor, top: float) -> Tensor:
        """From values up to ``top`` to RGB in [0, 1], padded."""
        converted = self._channel_conversion and pixels.shape[1] == 3
        images = (pixels.flip(1) if converted else pixels).float() / top
        return images if self.padding == 'black' else torch.where(valid[:, None], images, self.mean / top)

    def _strong_views(self, images: Tensor, top: float) -> tuple[Tensor, ...]:
        """All strong views, made together: each image is there ``num_strong`` times."""
        if not (self.num_strong and len(images)):
            return (images,) * self.num_strong
        views = images.repeat(self.num_strong, 1, 1, 1)
        for change in self.strong:
            views = change(views)
        return self._normalise(views, top).chunk(self.num_strong)

    def _draw_mix(self, valid: Tensor) -> Mix:
        if self.cutmix is None:
            return Mix(torch.zeros_like(valid))
        return self.cutmix(*valid.shape, device=valid.device)

    def _normalise(self, images: Tensor, top: float) -> Tensor:
        images = images * top
        return (images - self.mean) / self.std if self._enable_normalize else images


def _name(image: Tensor) -> str:
    """Its type, as NumPy calls it."""
    return str(image.dtype).removeprefix('torch.')
