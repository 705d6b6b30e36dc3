"""DINOv2's vision transformer as its authors run it, read from their own files or from mmpretrain's."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from mmpretrain.models import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from mmsemi.registry import MODELS

_OFFSET = 0.1
"""What the authors add to the number of patches before they divide by that of the pretrained grid, against rounding."""

_RENAMED = (
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^blocks\.(\d+)\.norm([12])\.', r'layers.\1.ln\2.'),
    (r'^blocks\.(\d+)\.ls1\.gamma$', r'layers.\1.attn.gamma1.weight'),
    (r'^blocks\.(\d+)\.ls2\.gamma$', r'layers.\1.ffn.gamma2.weight'),
    (r'^blocks\.(\d+)\.mlp\.fc1\.', r'layers.\1.ffn.layers.0.0.'),
    (r'^blocks\.(\d+)\.mlp\.fc2\.', r'layers.\1.ffn.layers.1.'),
    (r'^blocks\.(\d+)\.', r'layers.\1.'),
    (r'^norm\.', 'ln1.'),
)


def renamed(name: str) -> str | None:
    """mmpretrain's name of a tensor of the authors' file, ``dinov2_vits14_pretrain.pth``; None if no pass uses it.

    Names that are mmpretrain's already stay, without the ``backbone.`` that its classifiers put before them.
    """
    name = name.removeprefix('backbone.')
    if name == 'mask_token' or name.startswith('head.'):
        return None
    for pattern, replacement in _RENAMED:
        name, hits = re.subn(pattern, replacement, name)
        if hits:
            break
    return name


def position_embedding(position: Tensor, native: Sequence[int], grid: Sequence[int]) -> Tensor:
    """The position embedding of a grid of patches, interpolated from the pretrained one.

    Source: DINOv2 (Oquab et al., 2023, arXiv:2304.07193), its released code: bicubic, without antialiasing, by a factor
    that is 0.1 patches too large, so that a point lies a little closer to the first corner.

    Args:
        position (Tensor): Of the class token and the native grid's patches, (1, 1 + h w, D).
        native (Sequence[int]): Height and width of the pretrained grid (h, w), in patches.
        grid (Sequence[int]): Height and width wanted (H, W).

    Returns:
        Tensor: (1, 1 + H W, D).
    """
    if tuple(native) == tuple(grid):
        return position
    maps = position[:, 1:].float().unflatten(1, tuple(native)).permute(0, 3, 1, 2)
    factors = [(wanted + _OFFSET) / given for wanted, given in zip(grid, native, strict=True)]
    maps = F.interpolate(maps, scale_factor=factors, mode='bicubic').flatten(2).transpose(1, 2)
    return torch.cat([position[:, :1], maps.to(position.dtype)], 1)


@MODELS.register_module()
class DINOv2(VisionTransformer):
    """mmpretrain's ``VisionTransformer`` with what DINOv2's own code does: every level that leaves it is normalised by
    the last layer norm, and position embeddings are interpolated as there.

    Weights are read from the authors' files (Apache-2.0, ``dinov2_vits14_pretrain.pth``) and from mmpretrain's.

    Source: Oquab et al., DINOv2, 2023 (arXiv:2304.07193); the levels as UniMatch V2 takes them.

    Args:
        arch (str | dict): 'dinov2-s', 'dinov2-b', 'dinov2-l', or mmpretrain's dict of widths and depths.
        img_size (int): Side of the images that the position embedding is for, in pixels. Defaults to 518.
        patch_size (int): Side of a patch in pixels. Defaults to 14.
        out_indices (Sequence[int]): Layers whose outputs are the levels. Defaults to (2, 5, 8, 11).
        layer_scale_init_value (float): Layer scale of a network that is not pretrained. Defaults to 1.
        pretrained (str, optional): File or address of the weights to start from.
        **kwargs: Those of mmpretrain's ``VisionTransformer`` that say how layers are built and learn (``drop_rate``,
            ``drop_path_rate``, ``qkv_bias``, ``norm_cfg``, ``patch_cfg``, ``layer_cfgs``, ``frozen_stages``,
            ``init_cfg``; as many ``frozen_stages`` as layers freeze all). What it makes of the class token and of
            positions is fixed here.

    Raises:
        ValueError: In the forward pass, if an image is not made of whole patches.
    """

    # mmpretrain has a name of its own for the smallest and the largest.
    arch_zoo = {
        **VisionTransformer.arch_zoo,
        'dinov2-b': VisionTransformer.arch_zoo['base'],
        'dinov2-l': VisionTransformer.arch_zoo['large'],
    }

    def __init__(
        self,
        arch: str | dict = 'dinov2-s',
        img_size: int = 518,
        patch_size: int = 14,
        out_indices: Sequence[int] = (2, 5, 8, 11),
        layer_scale_init_value: float = 1.0,
        pretrained: str | None = None,
        init_cfg: dict | list | None = None,
        **kwargs,
    ) -> None:
        if pretrained:
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        super().__init__(
            arch=arch,
            img_size=img_size,
            patch_size=patch_size,
            out_indices=list(out_indices),
            out_type='featmap',
            layer_scale_init_value=layer_scale_init_value,
            init_cfg=init_cfg,
            **kwargs,
        )
        self.patch_size = patch_size
        self._register_load_state_dict_pre_hook(self._rename)

    def _rename(self, state_dict: dict, prefix: str, *_) -> None:
        """Read the authors' names and mmpretrain's, where the weights of this part come by themselves."""
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = renamed(key[len(prefix) :])
            if name is None or prefix + name != key:
                value = state_dict.pop(key)
                if name is not None:
                    state_dict[prefix + name] = value

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The levels of ``images`` (B, 3, H, W), each (B, D, H / patch_size, W / patch_size)."""
        if any(side % self.patch_size for side in images.shape[-2:]):
            raise ValueError(
                f'DINOv2: an image of {tuple(images.shape[-2:])} pixels is not made of whole patches of '
                f'{self.patch_size}; set crop_size to multiples of it, and take PatchEncoderDecoder for evaluation.'
            )
        x, grid = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        x = self.drop_after_pos(x + position_embedding(self.pos_embed, self.patch_resolution, grid).to(x.dtype))
        levels = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.out_indices:
                levels.append(self._format_output(self.ln1(x), grid))
        return tuple(levels)
