"""Convert released weights of DINOv2, or of UniMatch V2 and its kin over it, to what mmseg and mmpretrain load.

    python tools/model_converters/dinov2.py dinov2_vits14_pretrain.pth weights/dinov2-s.pth
    python tools/model_converters/dinov2.py unimatch_v2_base_92.pth weights/unimatch_v2-b.pth --weights model_ema

The first is an encoder alone: mmpretrain's ``VisionTransformer`` reads what is written, our ``DINOv2`` the original,
too. ``--size`` interpolates its position embedding for images of that many pixels; mmsemi does so by
itself for any size. The second is a whole network, encoder and DPT decoder, which becomes a checkpoint of the segmentor
in ``configs/unimatch_v2``: ``load_from`` starts both branches from it, ``tools/test.py`` evaluates it.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from torch import Tensor

from mmsemi.apis.launch import UsageError, quiet, run

PATCH = 14
_HEAD = (
    (r'^projects\.(\d)\.', r'reassemble_blocks.projects.\1.conv.'),
    (r'^resize_layers\.', r'reassemble_blocks.resize_layers.'),
    (r'^scratch\.output_conv\.0\.', 'project.conv.'),
    (r'^scratch\.output_conv\.2\.', 'conv_seg.'),
)


def head_name(name: str) -> str | None:
    """Our name of a tensor of the authors' decoder, ``head.*``; None for the unit of the coarsest level that no pass
    uses.

    Raises:
        UsageError: If their decoder has no such tensor.
    """
    inner = name.removeprefix('head.')
    for pattern, replacement in _HEAD:
        changed, hits = re.subn(pattern, replacement, inner)
        if hits:
            return f'decode_head.{changed}'
    # They count levels from the finest, we count from where the decoder starts.
    if match := re.match(r'^scratch\.layer(\d)_rn\.(.+)$', inner):
        return f'decode_head.convs.{int(match[1]) - 1}.conv.{match[2]}'
    if match := re.match(r'^scratch\.refinenet(\d)\.(.+)$', inner):
        block, rest = 4 - int(match[1]), match[2]
        if block == 0 and rest.startswith('resConfUnit1.'):
            return None
        rest = re.sub(r'^resConfUnit(\d)\.conv(\d)\.', r'res_conv_unit\1.conv\2.conv.', rest)
        return f'decode_head.fusion_blocks.{block}.{rest.replace("out_conv.", "project.conv.")}'
    raise UsageError(f'The decoder of UniMatch V2 has no tensor {name}; convert one of its checkpoints.')


def tensors_of(checkpoint: dict, weights: str) -> dict[str, Tensor]:
    """The network's tensors in a file: at its top, or under ``weights``, without what a wrapper put before their names.

    Raises:
        UsageError: If the file has neither.
    """
    if not any(isinstance(value, Tensor) for value in checkpoint.values()):
        if weights not in checkpoint:
            raise UsageError(f'The file holds no {weights}; --weights takes one of {", ".join(map(str, checkpoint))}.')
        checkpoint = checkpoint[weights]
    return {name.removeprefix('module.'): value for name, value in checkpoint.items()}


def convert(state: dict[str, Tensor], size: int | None = None) -> dict[str, Tensor]:
    """The tensors of an encoder, or of encoder and decoder, under our names.

    Args:
        state (dict[str, Tensor]): As released, ``blocks.0.norm1.weight`` or ``backbone.blocks.0.norm1.weight``.
        size (int, optional): Side of the images, in pixels, for which the position embedding is interpolated.

    Raises:
        UsageError: If these are no tensors of such a network, or ``size`` is not made of whole patches.
    """
    from mmsemi.models.backbones.dinov2 import position_embedding, renamed

    whole = any(name.startswith('head.') for name in state)
    encoder = 'backbone.' if whole else ''
    if f'{encoder}pos_embed' not in state or f'{encoder}blocks.0.norm1.weight' not in state:
        raise UsageError(f'These are no weights of DINOv2: there is no {encoder}blocks.0.norm1.weight.')
    converted = {}
    for name, value in state.items():
        if name.startswith('head.'):
            ours = head_name(name)
        else:
            ours = renamed(name)
            ours = ours and encoder + ours
        if ours is not None:
            converted[ours] = value
    if size is not None:
        if size % PATCH or size < PATCH:
            raise UsageError(f'--size {size} is not made of whole patches of {PATCH} pixels.')
        position = converted[f'{encoder}pos_embed']
        side = round((position.shape[1] - 1) ** 0.5)
        converted[f'{encoder}pos_embed'] = position_embedding(position, (side, side), (size // PATCH,) * 2).contiguous()
    return converted


def main() -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description='Convert released weights of DINOv2 or UniMatch V2')
    parser.add_argument('source', help='a .pth file as released')
    parser.add_argument('out', help='where to write')
    parser.add_argument(
        '--weights', default='model_ema', help='part of a checkpoint: model_ema, the teacher (default), or model'
    )
    parser.add_argument('--size', type=int, help='interpolate the position embedding for images of so many pixels')
    args = parser.parse_args()
    if not Path(args.source).is_file():
        raise UsageError(f'The file {args.source} does not exist.')
    with quiet():
        import mmsemi.models.backbones.dinov2  # noqa: F401
        from mmsemi.engine import checkpoints
    state = convert(tensors_of(checkpoints.read(args.source), args.weights), args.size)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write(dict(meta={}, state_dict=state), args.out)
    print(f'wrote {len(state)} tensors to {args.out}')


if __name__ == '__main__':
    run(main)
