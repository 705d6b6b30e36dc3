"""Branch: a stock mmseg segmentor with named auxiliary heads, the unit that the EMA teacher copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from mmengine.model import BaseModule
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmsemi.registry import MODELS


@dataclass
class BranchOutput:
    """What a branch computed for ``B`` images of ``size`` (H, W).

    Args:
        features (tuple[Tensor]): The levels of the backbone (or neck), each (B, C_l, h_l, w_l).
        coarse_logits (Tensor): Class scores at the decode head's resolution, (B, C, h, w).
        size (tuple[int, int]): Height and width of the input.
        align_corners (bool): How the decode head resizes.
        decoder (Tensor, optional): The feature that the last classifier reads, (B, D, h, w); kept when a head asks for
            it.
        heads (dict): What auxiliary heads computed, by name: tensors (B, ...), or objects with their own ``split``.
    """

    features: tuple[Tensor, ...]
    coarse_logits: Tensor
    size: tuple[int, int]
    align_corners: bool = False
    decoder: Tensor | None = None
    heads: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def logits(self) -> Tensor:
        """Class scores at the resolution of the input, (B, C, H, W)."""
        return resize(self.coarse_logits, size=self.size, mode='bilinear', align_corners=self.align_corners)

    def split(self, sizes: list[int]) -> list[BranchOutput]:
        """Take apart the images of a joint pass, ``sizes`` images each."""
        features = zip(*(level.split(sizes) for level in self.features), strict=True)
        logits = self.coarse_logits.split(sizes)
        decoder = [None] * len(sizes) if self.decoder is None else self.decoder.split(sizes)
        parts = [
            BranchOutput(f, x, self.size, self.align_corners, d)
            for f, x, d in zip(features, logits, decoder, strict=True)
        ]
        for name, value in self.heads.items():
            for part, piece in zip(parts, value.split(sizes), strict=True):
                part.heads[name] = piece
        return parts


class Branch(BaseModule):
    """A segmentor and the auxiliary heads that a method adds to it.

    ``segmentor`` is an ordinary mmseg ``EncoderDecoder``: any backbone and any decode head that scores pixels go in
    unchanged, and exporting is taking it out.

    Args:
        segmentor (dict): Config of the segmentor.
        heads (dict[str, dict], optional): Configs of the auxiliary heads by name. Those with a ``source`` read one
            feature and run in every pass, ``source = 'decoder'`` on the feature in front of the decode head's
            classifier; the others are called by their method.

    Raises:
        ValueError: If a head reads the decoder's feature, and the decode head has none in front of one classifier.
    """

    def __init__(self, segmentor: dict, heads: dict[str, dict] | None = None) -> None:
        super().__init__()
        # A copy: mmseg writes `pretrained` into the config it is given, and the teacher is built from the same one.
        self.segmentor = MODELS.build(copy.deepcopy(segmentor))
        self.heads = nn.ModuleDict({name: MODELS.build(head) for name, head in (heads or {}).items()})
        self._decoder: Tensor | None = None
        readers = [name for name, head in self.heads.items() if getattr(head, 'source', None) == 'decoder']
        if readers:
            self._tap_decoder(readers[0])

    def _tap_decoder(self, reader: str) -> None:
        decode_head = self.segmentor.decode_head
        classifier = getattr(decode_head, 'conv_seg', None)
        if classifier is None:
            raise ValueError(
                f"The head '{reader}' reads source='decoder', but {type(decode_head).__name__} classifies the "
                f"backbone's features directly; set model.heads.{reader}.source='backbone'."
            )
        # Dropout belongs to the classifier: what other heads read is the feature in front of it.
        dropout = getattr(decode_head, 'dropout', None)
        (classifier if dropout is None else dropout).register_forward_pre_hook(self._keep_decoder)

    def _keep_decoder(self, module: nn.Module, args: tuple[Tensor]) -> None:
        self._decoder = args[0]

    @property
    def num_classes(self) -> int:
        """Number of classes that the decode head scores."""
        return self.segmentor.decode_head.num_classes

    def forward(self, images: Tensor) -> BranchOutput:
        """Score ``images`` (B, 3, H, W)."""
        features = tuple(self.segmentor.extract_feat(images))
        logits, decoder = self._decode(features)
        return self._with_heads(features, logits, decoder, images)

    def forward_together(self, **views: Tensor) -> dict[str, BranchOutput]:
        """Score several views in one pass, so that they share batch statistics.

        Args:
            **views (Tensor): Images by name, (B_v, 3, H, W).

        Returns:
            dict[str, BranchOutput]: The outputs under the same names.
        """
        sizes = [view.shape[0] for view in views.values()]
        return dict(zip(views, self(torch.cat(list(views.values()))).split(sizes), strict=True))

    def forward_perturbed(
        self, perturb: Callable[[Tensor], Tensor], copies: int = 1, **views: Tensor
    ) -> dict[str, BranchOutput]:
        """:meth:`forward_together`, where the decoder also scores the last view with perturbed features.

        The backbone runs once for each image; one pass of the decoder scores clean and perturbed features, so that they
        share batch statistics, as in the released code of UniMatch. Auxiliary heads read the clean features alone.

        Args:
            perturb (Callable): Applied to every feature level that the decoder reads, (B_v, C_l, h_l, w_l).
            copies (int): How often it is drawn. Defaults to 1.
            **views (Tensor): Images by name, (B_v, 3, H, W).

        Returns:
            dict[str, BranchOutput]: The outputs under the same names, and 'perturbed_0', 'perturbed_1', ..., which have
            logits and no features.
        """
        sizes = [view.shape[0] for view in views.values()]
        images = torch.cat(list(views.values()))
        clean, last = len(images), sizes[-1]
        features = tuple(self.segmentor.extract_feat(images))
        read = self._levels_read(len(features))
        levels = tuple(
            torch.cat([level, *(perturb(level[-last:]) for _ in range(copies))]) if i in read else level
            for i, level in enumerate(features)
        )
        logits, decoder = self._decode(levels)
        out = self._with_heads(features, logits[:clean], None if decoder is None else decoder[:clean], images)
        outputs = dict(zip(views, out.split(sizes), strict=True))
        for i, scores in enumerate(logits[clean:].split(last)):
            outputs[f'perturbed_{i}'] = BranchOutput((), scores, out.size, out.align_corners)
        return outputs

    def _levels_read(self, count: int) -> set[int]:
        """Which of ``count`` feature levels the decode head reads."""
        head = self.segmentor.decode_head
        if not hasattr(head, 'low_level_index') and not isinstance(head.in_index, int):
            return {i % count for i in head.in_index}
        if hasattr(head, 'low_level_index'):
            return {head.in_index % count, head.low_level_index % count}
        # A head with one input may still look at others (mmseg's DepthwiseSeparableASPPHead does).
        return set(range(count))

    def _decode(self, features: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        """Scores, and the feature that the classifier read where a head asks for it."""
        logits = self.segmentor.decode_head(features)
        decoder, self._decoder = self._decoder, None
        return logits, decoder

    def _with_heads(
        self, features: tuple[Tensor, ...], logits: Tensor, decoder: Tensor | None, images: Tensor
    ) -> BranchOutput:
        out = BranchOutput(features, logits, tuple(images.shape[-2:]), self.segmentor.align_corners, decoder)
        for name, head in self.heads.items():
            if hasattr(head, 'source'):
                out.heads[name] = head(out)
        return out
