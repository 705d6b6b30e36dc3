"""A trained network as an ONNX file, held against PyTorch before it is given away: ``mmsemi export --onnx``."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from mmseg.models.segmentors import BaseSegmentor
from torch import Tensor, nn

from mmsemi.models.branch import image_channels

from .launch import UsageError

PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
TOLERANCE = 1e-3
"""How far a score may be from PyTorch's, as a share of the largest one (or of 1, if that is larger)."""
_OPSET = 18
_OTHER = (32, 64)
"""By how much the size is larger at which a file that claims to take any size is tried."""
_LARGEST_FILE = 1.8e9
"""Bytes of weights that fit into one file with room to spare; the format's limit is 2 GiB."""
_FREE = (('batch', 'height', 'width'), ('batch',), ())
"""Which dimensions are left free, the most first."""


class Scores(nn.Module):
    """From images as they are to class scores of their own size.

    Args:
        segmentor (BaseSegmentor): The network, in evaluation mode.
    """

    def __init__(self, segmentor: BaseSegmentor) -> None:
        super().__init__()
        preprocessor = segmentor.data_preprocessor
        self.segmentor = segmentor
        normalises = getattr(preprocessor, '_enable_normalize', False)
        self.register_buffer('mean', preprocessor.mean.clone() if normalises else torch.zeros(1, 1, 1))
        self.register_buffer('std', preprocessor.std.clone() if normalises else torch.ones(1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, C, H, W) of images (B, channels, H, W), float, in levels of 255 (RGB where training took RGB)."""
        normalised = (images - self.mean) / self.std
        return self.segmentor.encode_decode(normalised, [dict(img_shape=tuple(images.shape[2:]))])


def need_packages() -> None:
    """Check that what writes, and checks, ONNX files is installed.

    Raises:
        UsageError: If a package is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"--onnx needs {' and '.join(missing)}; install it: pip install 'mmsemi[onnx]'.")


def export_onnx(
    segmentor: BaseSegmentor, path: Path, size: Sequence[int], classes: Sequence[str] | None = None
) -> tuple[tuple[str, ...], float]:
    """Write ``path``, with as many free dimensions as the network allows, and compare it with PyTorch.

    Its input ``images`` is (batch, channels, height, width), float32, in levels of 255; normalisation is inside. Its
    output ``scores`` is (batch, classes, height, width), before softmax. ``classes`` is in the file's metadata.

    Args:
        segmentor (BaseSegmentor): The network; left in evaluation mode, on the CPU.
        path (Path): The file.
        size (Sequence[int]): Height and width that the file takes, or at which it is traced.
        classes (Sequence[str], optional): Their names.

    Returns:
        tuple[tuple[str, ...], float]: The free dimensions, and the largest difference from PyTorch as a share of the
        largest score.

    Raises:
        UsageError: If a package is missing, or torch cannot export the network, or no file agrees with it.
    """
    need_packages()
    network = Scores(segmentor.cpu().eval()).eval()
    channels = image_channels(segmentor)
    problem = ''
    for free in _FREE:
        other = [side + more for side, more in zip(size, _OTHER, strict=True)] if 'height' in free else size
        shapes = [(2, *size), (1, *other), (3, *other)] if free else [(1, *size)]
        generator = torch.Generator().manual_seed(0)
        images = [torch.rand(batch, channels, *sides, generator=generator) * 255 for batch, *sides in shapes]
        try:
            _write(network, images[0], path, free, classes)
            difference = max(_difference(network, each, path) for each in images)
        except Exception as error:
            problem = (' '.join(str(error).split()) or type(error).__name__)[:200]
            continue
        if difference <= TOLERANCE:
            return free, difference
        problem = f'its scores differ from those of PyTorch by {difference:.1e} of the largest'
    path.unlink(missing_ok=True)
    raise UsageError(f'{type(segmentor.backbone).__name__} cannot be exported to ONNX at {tuple(size)}: {problem}.')


def _write(network: nn.Module, images: Tensor, path: Path, free: Sequence[str], classes: Sequence[str] | None) -> None:
    axes = {{'batch': 0, 'height': 2, 'width': 3}[name]: torch.export.Dim.DYNAMIC for name in free}
    with torch.no_grad(), _silent():
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            opset_version=_OPSET,
            input_names=['images'],
            output_names=['scores'],
            dynamic_shapes={'images': axes} if axes else None,
            verbose=False,
        )
    if classes:
        program.model.metadata_props['classes'] = json.dumps(list(classes), ensure_ascii=False)
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    program.save(path, external_data=weights > _LARGEST_FILE)


def _difference(network: nn.Module, images: Tensor, path: Path) -> float:
    """How far the file's scores are from the network's, as a share of the largest one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    found = torch.from_numpy(session.run(None, {'images': images.numpy()})[0])
    with torch.no_grad():
        expected = network(images)
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The exporter tells of its steps, and of much that it finds in other packages."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
