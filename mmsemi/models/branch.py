"""Branch: a stock mmseg segmentor with named auxiliary heads, the unit that the EMA teacher copies."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModule
from mmseg.models.utils import resize
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from mmsemi.models.checkpointing import recompute_blocks
from mmsemi.models.frozen_encoder import EncodedViews
from mmsemi.models.losses.at_once import with_gradient_at_once
from mmsemi.models.resizing import with_align_corners
from mmsemi.registry import MODELS

Perturbation = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
"""Changes the levels of a backbone together."""

BRANCH_KEYS = ('with_cp', 'norm_eval')
"""Keys of a backbone that :class:`Branch` sees to, in training alone; not every backbone knows them."""
_ANY_SIZE = (224, 224)
"""Height and width of an image that networks take, where the training crop is not known."""


@dataclass
class BranchOutput:
    """What a branch computed for ``B`` images of ``size`` (H, W).

    Args:
        features (tuple[Tensor]): The levels of the backbone (or neck), each (B, C_l, h_l, w_l).
        coarse_logits (Tensor): Class scores at the decode head's resolution, (B, C, h, w).
        size (tuple[int, int]): Height and width of the input.
        align_corners (bool): How the decode head resizes, and with it whatever lays features over pixels.
        taps (dict[str, Tensor]): Features inside the decode head, (B, D, h, w), by position; kept when a head asks for
            them.
        heads (dict): What auxiliary heads computed, by name: tensors (B, ...), or objects with their own ``split``.
    """

    features: tuple[Tensor, ...]
    coarse_logits: Tensor
    size: tuple[int, int]
    align_corners: bool = False
    taps: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Any] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """Class scores at the resolution of the input, (B, C, H, W); made anew, since these maps are large."""
        return resize(self.coarse_logits, size=self.size, mode='bilinear', align_corners=self.align_corners)

    @property
    def decoder(self) -> Tensor | None:
        """The feature that the last classifier reads, (B, D, h, w)."""
        return self.taps.get('decoder')

    def feature(self, source: str, in_index: int = -1) -> Tensor:
        """What a head with this ``source`` reads: a level of the backbone, class scores, or what the decoder tapped."""
        if source == 'backbone':
            return self.features[in_index]
        return self.coarse_logits if source == 'classifier' else self.taps[source]

    def without_features(self) -> BranchOutput:
        """The same scores and heads alone: what no one reads need not stay in memory while the student's pass runs."""
        return replace(self, features=(), taps={})

    def split(self, sizes: list[int]) -> list[BranchOutput]:
        """Take apart the images of a joint pass, ``sizes`` images each."""
        features = zip(*(level.split(sizes) for level in self.features), strict=True)
        logits = self.coarse_logits.split(sizes)
        parts = [BranchOutput(f, x, self.size, self.align_corners) for f, x in zip(features, logits, strict=True)]
        for named in ('taps', 'heads'):
            for name, value in getattr(self, named).items():
                for part, piece in zip(parts, value.split(sizes), strict=True):
                    getattr(part, named)[name] = piece
        return parts


def of_logits(function: Callable[..., Tensor], outputs: BranchOutput | Sequence[BranchOutput], *args: Any) -> Tensor:
    """``function(logits, *args)``, and no map of the input's size kept for the backward pass.

    Class scores are small where the decode head makes them, a sixteenth of a crop's pixels: the loss's gradient is
    computed with its value and kept there, in full precision (:mod:`mmsemi.models.losses.at_once`).

    Args:
        function (Callable): A loss of class scores, of one view or of several.
        outputs (BranchOutput | Sequence[BranchOutput]): Where they come from.
        *args: What else it takes; no gradient goes into it.

    Returns:
        Tensor: Its value.
    """
    outputs = [outputs] if isinstance(outputs, BranchOutput) else list(outputs)

    def of_coarse(*coarse: Tensor) -> Tensor:
        return function(*(replace(out, coarse_logits=x).logits for out, x in zip(outputs, coarse, strict=True)), *args)

    return with_gradient_at_once(of_coarse, *(out.coarse_logits for out in outputs))


class Branch(BaseModule):
    """A segmentor and the auxiliary heads that a method adds to it.

    ``segmentor`` is an ordinary mmseg ``EncoderDecoder``: any backbone and any decode head that scores pixels go in
    unchanged, and exporting is taking it out.

    Args:
        segmentor (dict): Config of the segmentor. ``backbone.with_cp=True`` computes the blocks of any backbone again
            in the backward pass, which saves memory (:mod:`mmsemi.models.checkpointing`). ``backbone.norm_eval=True``
            is that of mmseg's ResNet for any backbone: batch normalisation has the statistics that it was loaded with,
            in training too, so that no view depends on the others of its pass.
        heads (dict[str, dict], optional): Configs of the auxiliary heads by name. Those with a ``source`` read one
            feature and run in every pass: ``'backbone'``, ``'classifier'`` (class scores), ``'decoder'``, the feature
            in front of the decode head's classifier, or a name in the decode head's ``positions``. The others are
            called by their method. What the segmentor fixes may be left out of a head's config: see
            :meth:`add_heads`.
        crop (tuple[int, int], optional): Height and width of the training crops; it decides how heads of the segmentor
            resize whose config does not say so (``align_corners``), and is a size that the segmentor takes, from which
            the widths of its features are known.

    Raises:
        ValueError: If a head does not fit the segmentor.
    """

    def __init__(
        self, segmentor: dict, heads: dict[str, dict] | None = None, crop: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.size = tuple(crop or _ANY_SIZE)
        # A copy: mmseg writes `pretrained` into the config it is given, and the teacher is built from the same one.
        segmentor = with_align_corners(_with_init_cfg(copy.deepcopy(segmentor)), crop)
        share_classes(segmentor)
        backbone = segmentor.get('backbone', {})
        recompute, self.norm_eval = (backbone.pop(key, False) for key in BRANCH_KEYS)
        self.segmentor = MODELS.build(segmentor)
        _check_scores(self.segmentor)
        if recompute:
            recompute_blocks(self.segmentor.backbone)
        self.heads = nn.ModuleDict()
        self._taps: dict[str, Tensor] = {}
        self._tapped: set[str] = {'backbone', 'classifier'}
        # In a step, where student and teacher have one frozen encoder: what it made of the images so far.
        self.encoded: EncodedViews | None = None
        self.add_heads(heads or {})

    def train(self, mode: bool = True) -> Branch:
        """Training mode, but for the backbone's batch normalisation with ``norm_eval``."""
        super().train(mode)
        if self.norm_eval:
            for module in self.segmentor.backbone.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def add_heads(self, heads: dict[str, dict]) -> None:
        """Add auxiliary heads by name.

        Where a head's config leaves them out, ``num_classes`` is the decode head's, ``in_channels`` the width of the
        feature that the head reads, and ``feature_channels`` that of the head 'embedding', if the head takes them.

        Raises:
            ValueError: If a name is taken, a head reads a feature that the decode head does not have, or its number of
                classes is another.
        """
        for name, config in heads.items():
            if name in self.heads:
                raise ValueError(f"There is a head '{name}' already; name the other one differently.")
            kind = config['type'] if inspect.isclass(config['type']) else MODELS.get(config['type'])
            settings = {} if kind is None else inspect.signature(kind).parameters
            default = settings['source'].default if 'source' in settings else 'backbone'
            source = config.get('source', default)
            if source not in self._tapped:
                self._tap(source, name)
                self._tapped.add(source)
            self.heads[name] = MODELS.build({**self._facts(name, config, settings, source), **config})

    def _facts(self, name: str, config: dict, settings: Mapping, source: str) -> dict[str, int]:
        """What a head's config leaves to the segmentor, of the ``settings`` that the head has."""
        classes = self.num_classes
        if 'num_classes' in settings and config.get('num_classes', classes) != classes:
            raise ValueError(
                f'model.heads.{name}.num_classes={config["num_classes"]}, but the decode head scores {classes} '
                f'classes; leave model.heads.{name}.num_classes out.'
            )
        facts, missing = {}, settings.keys() - config.keys()
        if 'num_classes' in missing:
            facts['num_classes'] = classes
        if 'in_channels' in missing:
            in_index = config.get('in_index', settings['in_index'].default if 'in_index' in settings else -1)
            planned = self.dry_run(torch.empty(1, self.in_channels, *self.size, device='meta'))
            facts['in_channels'] = planned.feature(source, in_index).shape[1]
        if 'feature_channels' in missing and 'embedding' in self.heads:
            facts['feature_channels'] = self.heads['embedding'].out_channels
        return facts

    def _tap(self, source: str, reader: str) -> None:
        """Keep a feature inside the decode head for the heads that read it."""
        decode_head = self.segmentor.decode_head
        positions = getattr(decode_head, 'positions', {})
        classifier = getattr(decode_head, 'conv_seg', None)
        if source in positions:
            module = decode_head.get_submodule(positions[source])
            module.register_forward_hook(partial(self._keep_output, source))
        elif source == 'decoder' and classifier is not None:
            # Dropout belongs to the classifier: what other heads read is the feature in front of it.
            dropout = getattr(decode_head, 'dropout', None)
            module = classifier if dropout is None else dropout
            module.register_forward_pre_hook(partial(self._keep_input, source))
        else:
            known = ['backbone', 'classifier', *positions, *(['decoder'] if classifier is not None else [])]
            raise ValueError(
                f"The head '{reader}' reads source='{source}', which {type(decode_head).__name__} does not have; set "
                f'model.heads.{reader}.source to a feature that it has: {", ".join(known)}.'
            )

    def _keep_input(self, source: str, module: nn.Module, args: tuple[Tensor]) -> None:
        self._taps[source] = args[0]

    def _keep_output(self, source: str, module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        self._taps[source] = output

    @property
    def num_classes(self) -> int:
        """Number of classes that the decode head scores."""
        return self.segmentor.decode_head.num_classes

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return image_channels(self.segmentor)

    def forward(self, *views: Tensor, perturb: Perturbation | None = None) -> BranchOutput:
        """Score images in one pass.

        Args:
            *views (Tensor): (B_v, in_channels, H, W); more than one are scored as one batch.
            perturb (Callable, optional): Applied to the levels that the decoder reads, a tuple of (B, C_l, h_l, w_l).
                Auxiliary heads that read the backbone read it clean.
        """
        features = self._encode(views)
        logits, taps = self._decode(features if perturb is None else self._perturbed(features, perturb))
        return self._with_heads(features, logits, taps, views[0].shape)

    @torch.no_grad()
    def dry_run(self, image: Tensor) -> BranchOutput:
        """What a pass in evaluation mode gives, without computing; nothing is copied or changed.

        Args:
            image (Tensor): On the meta device, (1, in_channels, H, W).
        """
        own = {name: tensor.to('meta') for name, tensor in (*self.named_parameters(), *self.named_buffers())}
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            return functional_call(self, own, (image,))
        finally:
            for module in training:
                module.training = True

    def forward_together(self, perturb: Perturbation | None = None, **views: Tensor) -> dict[str, BranchOutput]:
        """Score several views in one pass, so that they share batch statistics.

        Args:
            perturb (Callable, optional): That of :meth:`forward`, for the images of all views, one after the other.
            **views (Tensor): Images by name, (B_v, in_channels, H, W).

        Returns:
            dict[str, BranchOutput]: The outputs under the same names.
        """
        sizes = [view.shape[0] for view in views.values()]
        return dict(zip(views, self(*views.values(), perturb=perturb).split(sizes), strict=True))

    def forward_perturbed(
        self, perturb: Callable[[Tensor], Tensor], copies: int = 1, **views: Tensor
    ) -> dict[str, BranchOutput]:
        """:meth:`forward_together`, where the decoder also scores the last view with perturbed features.

        The backbone runs once for each image; one pass of the decoder scores clean and perturbed features, so that they
        share batch statistics, as in the released code of UniMatch. Auxiliary heads read the clean features alone.

        Args:
            perturb (Callable): Applied to every feature level that the decoder reads, (B_v, C_l, h_l, w_l).
            copies (int): How often it is drawn; 0 leaves :meth:`forward_together`. Defaults to 1.
            **views (Tensor): Images by name, (B_v, in_channels, H, W).

        Returns:
            dict[str, BranchOutput]: The outputs under the same names, and 'perturbed_0', 'perturbed_1', ..., which have
            logits and no features.
        """
        if not copies:
            return self.forward_together(**views)
        sizes = [view.shape[0] for view in views.values()]
        clean, last = sum(sizes), sizes[-1]
        features = self._encode(tuple(views.values()))
        read = self._levels_read(len(features))
        levels = tuple(
            torch.cat([level, *(perturb(level[-last:]) for _ in range(copies))]) if i in read else level
            for i, level in enumerate(features)
        )
        logits, taps = self._decode(levels)
        taps = {name: tap[:clean] for name, tap in taps.items()}
        out = self._with_heads(features, logits[:clean], taps, next(iter(views.values())).shape)
        outputs = dict(zip(views, out.split(sizes), strict=True))
        for i, scores in enumerate(logits[clean:].split(last)):
            outputs[f'perturbed_{i}'] = BranchOutput((), scores, out.size, out.align_corners)
        return outputs

    def _encode(self, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The levels that the decoder gets of all views."""
        segmentor = self.segmentor
        if self.encoded is None:
            return tuple(segmentor.extract_feat(torch.cat(views) if len(views) > 1 else views[0]))
        levels = self.encoded(segmentor.backbone, views)
        return tuple(segmentor.neck(levels)) if segmentor.with_neck else levels

    def _perturbed(self, features: tuple[Tensor, ...], perturb: Perturbation) -> tuple[Tensor, ...]:
        """``features`` with those that the decode head reads perturbed together."""
        read = sorted(self._levels_read(len(features)))
        changed = dict(zip(read, perturb(tuple(features[i] for i in read)), strict=True))
        return tuple(changed.get(i, level) for i, level in enumerate(features))

    def _levels_read(self, count: int) -> set[int]:
        """Which of ``count`` feature levels the decode head reads."""
        head = self.segmentor.decode_head
        if not hasattr(head, 'low_level_index') and not isinstance(head.in_index, int):
            return {i % count for i in head.in_index}
        if hasattr(head, 'low_level_index'):
            return {head.in_index % count, head.low_level_index % count}
        # A head with one input may still look at others (mmseg's DepthwiseSeparableASPPHead does).
        return set(range(count))

    def _decode(self, features: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores, and the features on the way to them that heads ask for."""
        logits = self.segmentor.decode_head(features)
        if not isinstance(logits, Tensor):
            raise TypeError(
                f'model.student.decode_head: {type(self.segmentor.decode_head).__name__} gives '
                f'{type(logits).__name__}s in place of one map of scores, which the methods here learn from; take a '
                'head that scores pixels, such as DeepLabV3PlusHead or UPerHead.'
            )
        taps = dict(self._taps)
        self._taps.clear()
        return logits, taps

    def _with_heads(
        self, features: tuple[Tensor, ...], logits: Tensor, taps: dict[str, Tensor], shape: torch.Size
    ) -> BranchOutput:
        out = BranchOutput(features, logits, tuple(shape[-2:]), self.segmentor.align_corners, taps)
        for name, head in self.heads.items():
            if hasattr(head, 'source'):
                out.heads[name] = head(out)
        return out


def image_channels(segmentor: nn.Module) -> int:
    """Channels of the images that a segmentor reads: those of its backbone's first convolution."""
    return next(m.in_channels for m in segmentor.backbone.modules() if isinstance(m, nn.Conv2d))


def share_classes(segmentor: dict) -> None:
    """Give the auxiliary heads of a segmentor's config the classes of its decode head.

    Raises:
        ValueError: If one has another number of them.
    """
    decode_head = segmentor.get('decode_head')
    classes = decode_head.get('num_classes') if isinstance(decode_head, dict) else None
    heads = segmentor.get('auxiliary_head') or []
    for head in [heads] if isinstance(heads, dict) else heads:
        if classes and head.setdefault('num_classes', classes) != classes:
            raise ValueError(
                f'model.student.auxiliary_head.num_classes={head["num_classes"]}, but the decode head scores {classes} '
                'classes; leave it out of the auxiliary head.'
            )


def _check_scores(segmentor: nn.Module) -> None:
    """Refuse segmentors whose scores are not one map a class.

    Raises:
        ValueError: If there are several decode heads, less than two classes, or another number of maps.
    """
    head = segmentor.decode_head
    if isinstance(head, nn.ModuleList):
        raise ValueError(
            f'model.student: {type(segmentor).__name__} has {len(head)} decode heads, and the methods here learn from '
            "one map of scores; take type='EncoderDecoder' with one decode_head."
        )
    if head.num_classes < 2:
        raise ValueError(
            f'model.student.decode_head.num_classes={head.num_classes}: a pixel must be able to be something else; the '
            'background is a class of its own, so that one kind of object makes num_classes=2.'
        )
    maps = getattr(head, 'out_channels', head.num_classes)
    if maps != head.num_classes:
        raise ValueError(
            f'model.student.decode_head.out_channels={maps}, but num_classes={head.num_classes}: pseudo-labels need a '
            'score of each class; leave out_channels and threshold out, and take a softmax loss '
            "(loss_decode=dict(type='PixelCrossEntropyLoss')), also for two classes."
        )


def _with_init_cfg(segmentor: dict) -> dict:
    """Hand ``pretrained`` on as mmpretrain's backbones take it: classifiers' checkpoints, by ``init_cfg``."""
    backbone = segmentor.get('backbone', {})
    if str(backbone.get('type', '')).startswith('mmpretrain.') and 'pretrained' in segmentor:
        checkpoint = segmentor.pop('pretrained')
        if checkpoint:
            backbone['init_cfg'] = dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
    return segmentor
