"""From the workers' uint8 crops to the views of a training step, on the device, whole batches at a time.

The images of a batch are stacked on the host and sent in one piece, from pinned memory, and so are their labels: the
host does not wait for what the device still has to do.
"""

from __future__ import annotations

import torch
from mmseg.models import SegDataPreProcessor
from torch import Tensor

from mmsemi.registry import MODELS
from mmsemi.structures import Mix, Streams


@MODELS.register_module()
class SemiDataPreprocessor(SegDataPreProcessor):
    """Pad, split into streams, make the strong views, draw CutMix boxes, normalise.

    In validation and testing it is mmseg's ``SegDataPreProcessor``.

    Args:
        size (tuple[int, int]): Height and width of the training crop; smaller crops are padded at the right and below.
        strong (dict, optional): Config of the strong view; without it strong views are the weak ones.
        num_strong (int): Number of strong views of each unlabeled image. Defaults to 1.
        cutmix (dict, optional): Config of CutMix; without it nothing is mixed.
        **kwargs: Those of ``SegDataPreProcessor`` (``mean``, ``std``, ``bgr_to_rgb``, ...).

    Raises:
        ValueError: If ``num_strong`` is negative; in the step, if a crop is larger than ``size``.
    """

    def __init__(
        self,
        size: tuple[int, int],
        strong: dict | None = None,
        num_strong: int = 1,
        cutmix: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(size=tuple(size), **kwargs)
        if num_strong < 0:
            raise ValueError(f'model.data_preprocessor.num_strong must be 0 or more, not {num_strong}.')
        self.num_strong = num_strong
        self.strong = MODELS.build(strong) if strong else None
        self.cutmix = MODELS.build(cutmix) if cutmix else None

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return ``dict(inputs=Streams, data_samples=None)`` in training, else what mmseg returns."""
        if not training:
            return super().forward(data, training=False)
        with torch.no_grad():
            return dict(inputs=self._streams(data), data_samples=None)

    def _streams(self, data: dict) -> Streams:
        samples = data['data_samples']
        labeled = [sample.metainfo.get('stream', 'labeled') == 'labeled' for sample in samples]
        count = sum(labeled)
        if not all(labeled[:count]):
            raise ValueError('A training batch must hold its labeled images first; use StreamSampler.')

        pixels, valid = (self._send(part) for part in self._pad(data['inputs']))
        pixels = self._to_rgb(pixels)
        unlabeled, valid_u = pixels[count:], valid[count:]
        have_gt = count < len(samples) and all('gt_sem_seg' in sample for sample in samples[count:])
        return Streams(
            labeled=self._normalise(pixels[:count], valid[:count]),
            labels=self._send(self._label_maps(samples[:count])),
            weak=self._normalise(unlabeled, valid_u),
            strong=tuple(self._normalise(self._change(unlabeled), valid_u) for _ in range(self.num_strong)),
            valid=valid_u,
            mix=tuple(self._draw_mix(valid_u) for _ in range(self.num_strong)),
            unlabeled_gt=self._send(self._label_maps(samples[count:])) if have_gt else None,
        )

    def _pad(self, images: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Stack uint8 images to (B, C, H, W), and say which pixels are theirs, (B, H, W)."""
        height, width = self.size
        for image in images:
            if image.shape[1] > height or image.shape[2] > width:
                raise ValueError(
                    f'A training crop of {tuple(image.shape[1:])} is larger than '
                    f'model.data_preprocessor.size={self.size}; set it to the crop size of the pipeline.'
                )
        pixels = images[0].new_zeros(len(images), len(images[0]), height, width)
        valid = torch.zeros(len(images), height, width, dtype=torch.bool, device=pixels.device)
        for i, image in enumerate(images):
            pixels[i, :, : image.shape[1], : image.shape[2]] = image
            # Not `= True`, which torch 2.14 turns into a tensor on the host first.
            valid[i, : image.shape[1], : image.shape[2]].fill_(True)
        return pixels, valid

    def _label_maps(self, samples: list) -> Tensor:
        labels = torch.full((len(samples), *self.size), self.seg_pad_val, dtype=torch.long)
        for i, sample in enumerate(samples):
            label = sample.gt_sem_seg.data[0]
            labels[i, : label.shape[0], : label.shape[1]] = label
        return labels

    def _send(self, x: Tensor) -> Tensor:
        if x.is_cpu and self.device.type == 'cuda':
            x = x.pin_memory()
        return x.to(self.device, non_blocking=True)

    def _to_rgb(self, pixels: Tensor) -> Tensor:
        """From uint8 to [0, 1], and from BGR to RGB where the images have three channels, as mmseg does in testing."""
        swap = self._channel_conversion and pixels.shape[1] == 3
        return (pixels.flip(1) if swap else pixels).float() / 255

    def _change(self, images: Tensor) -> Tensor:
        return self.strong(images) if self.strong and len(images) else images

    def _draw_mix(self, valid: Tensor) -> Mix:
        if self.cutmix is None:
            return Mix(torch.zeros_like(valid))
        return self.cutmix(*valid.shape, device=valid.device)

    def _normalise(self, images: Tensor, valid: Tensor) -> Tensor:
        """Standardise; padding becomes 0, the mean colour, as mmseg pads after normalising."""
        images = images * 255
        if self._enable_normalize:
            images = (images - self.mean) / self.std
        return images * valid[:, None]
