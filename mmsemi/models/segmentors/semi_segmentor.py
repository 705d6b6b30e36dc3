"""The base of all methods: a student, where a method has one its teacher, and the two halves of the loss."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModule
from mmseg.models.segmentors import BaseSegmentor
from mmseg.models.utils import resize
from mmseg.utils import add_prefix
from torch import Tensor, nn

from mmsemi.models.branch import Branch, BranchOutput
from mmsemi.models.frozen_encoder import encoded_once, is_frozen
from mmsemi.models.losses.at_once import with_gradient_at_once
from mmsemi.models.pseudo_labels import label_accuracy
from mmsemi.registry import MODELS
from mmsemi.structures import IGNORE_INDEX, PseudoLabel, Seen, Streams

_PREDICTORS = ('student', 'teacher')
SHOWN_VIEWS = ('labeled', 'guide', 'strong_0')
"""Views whose predictions those see who watch a step."""


class SemiSegmentor(BaseSegmentor):
    """Base class: builds the branches and adds up ``supervised_loss`` and ``unsupervised_loss``.

    A method says which views share a forward pass (``student_views``: batch statistics depend on it), who labels the
    weak view (``guide_views``) and what the unlabeled views are taught (``unsupervised_loss``). All methods name the
    student's views 'labeled', 'weak', 'strong_0', 'strong_1', ..., and the output that labels the weak view 'guide'.

    Args:
        student (dict): Config of an mmseg ``EncoderDecoder``. Heads that do not say ``align_corners`` resize as the
            crop asks (:mod:`mmsemi.models.resizing`).
        data_preprocessor (dict): Config of :class:`SemiDataPreprocessor`.
        heads (dict[str, dict], optional): Auxiliary heads of a branch by name.
        sup_weight (float): Factor of all supervised terms. Defaults to 1.
        unsup_weight (float): Factor of all unsupervised terms (lambda_unsup). Defaults to 1.
        unsup_start (float): Epochs in which that factor is 0. Defaults to 0.
        unsup_warmup (float): Epochs over which it then rises from (nearly) 0. Defaults to 0.
        freeze_encoder (bool): The backbone does not learn, whatever its own config says. A frozen backbone, by this key
            or its own (``frozen_stages``), runs in evaluation mode; student and teacher share it, and an image that
            both see in a step is encoded once. Defaults to False.
        channels_last (bool): Weights and maps lie in memory with the channels of a pixel side by side, which
            convolutions of CPUs, and of GPUs in half precision and TF32, want. Defaults to True.
        plugins (list[dict], optional): Configs of :class:`Plugin` that add losses to those of the method.
        test_cfg (dict, optional): ``predict_on``: the branch that predicts, 'student' or 'teacher'. Defaults to the
            teacher where there is one.

    Raises:
        ValueError: If a weight is negative, or ``predict_on`` names no branch of this method.
    """

    has_teacher = False
    # Whether the teacher looks at the labeled images, too.
    labeled_guide = False
    # Whether the method reads the teacher's features, which else are let go before the student's pass.
    guide_features = False

    def __init__(
        self,
        student: dict,
        data_preprocessor: dict,
        heads: dict[str, dict] | None = None,
        sup_weight: float = 1.0,
        unsup_weight: float = 1.0,
        unsup_start: float = 0.0,
        unsup_warmup: float = 0.0,
        freeze_encoder: bool = False,
        channels_last: bool = True,
        plugins: list[dict] | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        check_settings(
            type(self).__name__,
            ('sup_weight', sup_weight, sup_weight >= 0, 'be 0 or more'),
            ('unsup_weight', unsup_weight, unsup_weight >= 0, 'be 0 or more'),
            ('unsup_start', unsup_start, unsup_start >= 0, 'be 0 or more'),
            ('unsup_warmup', unsup_warmup, unsup_warmup >= 0, 'be 0 or more'),
        )
        self.sup_weight = sup_weight
        self.unsup_weight = unsup_weight
        self.unsup_start = unsup_start
        self.unsup_warmup = unsup_warmup
        self.channels_last = channels_last
        crop = self.data_preprocessor.size
        self.student = Branch(student, heads, crop)
        encoder = self.student.segmentor.backbone
        if freeze_encoder:
            encoder.requires_grad_(False)
        self.encoder_frozen = is_frozen(encoder)
        if self.has_teacher:
            self.teacher = Branch(student, heads, crop)
            if self.encoder_frozen:
                self.teacher.segmentor.backbone = encoder
        self.plugins = nn.ModuleList(MODELS.build(plugin) for plugin in plugins or ())
        for plugin in self.plugins:
            plugin_heads = plugin.head_configs(self.student, crop)
            for name in self.branches:
                getattr(self, name).add_heads(plugin_heads)
        if self.has_teacher:
            self.teacher.requires_grad_(False)
            self._copy_student()
        self.test_cfg = dict(test_cfg or {})
        self.predict_on = self.test_cfg.get('predict_on') or self.branches[-1]
        # PseudoLabelHook asks for what a step saw.
        self.watching = False
        self.seen: Seen | None = None
        # Set by ProgressHook before each step, in epochs; a buffer, so that what depends on it needs no host number.
        self.register_buffer('epoch', torch.zeros(()))
        self._register_load_state_dict_pre_hook(self._accept_plain_checkpoint)

    # Branches

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches that can predict."""
        return _PREDICTORS if self.has_teacher else _PREDICTORS[:1]

    @property
    def predict_on(self) -> str:
        """Name of the branch that predicts."""
        return self._predict_on

    @predict_on.setter
    def predict_on(self, name: str) -> None:
        if name not in self.branches:
            raise ValueError(
                f"model.test_cfg.predict_on='{name}' names no branch of {type(self).__name__}; it has "
                f'{" and ".join(self.branches)}.'
            )
        self._predict_on = name

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.student.num_classes

    @property
    def out_channels(self) -> int:
        """Number of score maps, as mmseg's test-time augmentation asks for it."""
        return self.student.segmentor.out_channels

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """Which layer of the student's network a parameter belongs to, and how many there are, as mmpretrain asks for
        learning rates that fall layer by layer; whatever is behind the backbone is in the last.

        Raises:
            ValueError: If the backbone does not tell its layers.
        """
        backbone = self.student.segmentor.backbone
        if not hasattr(backbone, 'get_layer_depth'):
            raise ValueError(
                f'optim_wrapper.constructor: {type(backbone).__name__} does not tell its layers (get_layer_depth), by '
                'which learning rates could fall; take a backbone of mmpretrain that does, or set rates by name: '
                "constructor='SemiOptimWrapperConstructor' with paramwise_cfg.custom_keys."
            )
        return backbone.get_layer_depth(param_name, 'student.segmentor.backbone.')

    def init_weights(self) -> None:
        """Initialise the student, and start the teacher as its copy."""
        if self.has_teacher:
            self.teacher._is_init = True
        super().init_weights()
        if self.has_teacher:
            self._copy_student()

    def _copy_student(self) -> None:
        self.teacher.load_state_dict(self.student.state_dict())

    def to(self, *args, **kwargs) -> SemiSegmentor:
        """Move the model, and lay its weights out as ``channels_last`` wants them.

        Convolutions hand on the format of their weights: no image needs to be changed for it.
        """
        if self.channels_last:
            kwargs.setdefault('memory_format', torch.channels_last)
        return super().to(*args, **kwargs)

    def train(self, mode: bool = True) -> SemiSegmentor:
        """Set the mode of all parts but the teacher and a frozen encoder, which always are in evaluation mode."""
        super().train(mode)
        if self.encoder_frozen:
            self.student.segmentor.backbone.eval()
        if self.has_teacher:
            self.teacher.eval()
        return self

    def _accept_plain_checkpoint(self, state_dict: dict, prefix: str, *_) -> None:
        """Let the weights of a plain mmseg segmentor start every branch."""
        plain = [key for key in state_dict if key.startswith(prefix + 'backbone.')]
        if not plain:
            return
        for key in [key for key in state_dict if key.startswith(prefix)]:
            value = state_dict.pop(key)
            for branch in self.branches:
                state_dict[f'{prefix}{branch}.segmentor.{key[len(prefix) :]}'] = value

    # Losses

    def loss(self, inputs: Streams, data_samples: None = None) -> dict[str, Tensor]:
        """Losses of one step by name, ``sup.*`` and ``unsup.*``; what has 'loss' in its name is minimised.

        A batch without unlabeled images is learned from by the supervised half alone.
        """
        if not len(inputs.weak):
            return self._loss_of_labels_alone(inputs)
        branches = [getattr(self, name) for name in self.branches]
        with encoded_once(branches if self.encoder_frozen and self.has_teacher else []):
            guides = self.guide_views(inputs)
            if not self.guide_features:
                guides = {name: out.without_features() for name, out in guides.items()}
            streams = self.adapt_streams(inputs, guides)
            views = {**self.student_views(streams), **guides}
        self.seen = Seen(streams) if self.watching else None
        supervised = self.supervised_loss(views['labeled'], streams.labels)
        unsupervised = self.unsupervised_loss(streams, views)
        for plugin in self.plugins:
            unsupervised = _weighted(unsupervised, plugin.unsup_scale)
        for plugin in self.plugins:
            supervised.update(plugin.supervised_loss(views['labeled'], streams.labels))
            unsupervised.update(plugin.unsupervised_loss(streams, views))
        if self.seen:
            shown = {name: out.logits for name, out in views.items() if name in SHOWN_VIEWS}
            self.seen.predictions = {name: logits.detach().argmax(1) for name, logits in shown.items()}
        return {
            **add_prefix(_weighted(supervised, self.sup_weight), 'sup'),
            **add_prefix(_weighted(unsupervised, self.unsup_factor()), 'unsup'),
        }

    def labeled_view(self, streams: Streams) -> BranchOutput:
        """Run the student on the labeled images of a batch that has no others."""
        return self.student(streams.labeled)

    def _loss_of_labels_alone(self, streams: Streams) -> dict[str, Tensor]:
        self.seen = Seen(streams) if self.watching else None
        out = self.labeled_view(streams)
        losses = self.supervised_loss(out, streams.labels)
        for plugin in self.plugins:
            losses.update(plugin.supervised_loss(out, streams.labels))
        return add_prefix(_weighted(losses, self.sup_weight), 'sup')

    @torch.no_grad()
    def guide_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Run the teacher, where there is one, on the weak view: 'guide'.

        With ``labeled_guide``, 'guide_labeled', the labeled images, are in the same pass.
        """
        if not self.has_teacher:
            return {}
        labeled = {'guide_labeled': streams.labeled} if self.labeled_guide else {}
        return self.teacher.forward_together(**labeled, guide=streams.weak)

    def adapt_streams(self, streams: Streams, guides: dict[str, BranchOutput]) -> Streams:
        """Mix the images by what the teacher sees in them; by default they stay as they are."""
        return streams

    @abstractmethod
    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """Run the student on the views it learns from; 'labeled' is one of them.

        Without a teacher that labels the weak view, 'guide' is one too: the student's own output of it.
        """

    @abstractmethod
    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """Losses of the unlabeled views, and what the log should tell of them."""

    def reweight(self, pseudo: PseudoLabel, guide: BranchOutput) -> PseudoLabel:
        """Let the plugins weigh the labels that ``guide`` gave the weak view."""
        for plugin in self.plugins:
            before, pseudo = pseudo.weight, plugin.reweight(pseudo, guide)
            if self.seen:
                share = pseudo.weight / before.masked_fill(before == 0, torch.nan)
                self.show(**{f'weight by {type(plugin).__name__}': share})
        return pseudo

    def unsup_factor(self) -> Tensor | float:
        """Weight of the unsupervised terms at this point of training.

        After ``unsup_start`` it rises as ``exp(-5 (1 - t)^2)``, slowly while the first pseudo-labels are poor (Laine
        and Aila, 2017, arXiv:1610.02242).
        """
        if not (self.unsup_start or self.unsup_warmup):
            return self.unsup_weight
        past = self.epoch - self.unsup_start
        factor = self.unsup_weight * (past >= 0)
        if not self.unsup_warmup:
            return factor
        return factor * (-5 * (1 - past / self.unsup_warmup).clamp(min=0).square()).exp()

    def supervised_loss(self, out: BranchOutput, labels: Tensor) -> dict[str, Tensor]:
        """Losses of the segmentor's heads on labeled images, as their configs state.

        mmseg's ``loss_by_feat`` without its training accuracy, which waits for the device in every step.

        Args:
            out (BranchOutput): The labeled images.
            labels (Tensor): Ground truth, (B, H, W).
        """
        segmentor = self.student.segmentor
        losses = head_losses(segmentor.decode_head, out.coarse_logits, labels)
        if segmentor.with_auxiliary_head:
            heads = segmentor.auxiliary_head
            for i, head in enumerate([heads] if isinstance(heads, BaseModule) else heads):
                losses.update(add_prefix(head_losses(head, head(out.features), labels), f'aux_{i}'))
        return losses

    def describe(self, pseudo: PseudoLabel, streams: Streams) -> dict[str, Tensor]:
        """What the log tells of pseudo-labels of the weak view: the share of pixels kept, and, where the unlabeled
        images come with ground truth for diagnosis, how many of all and of the kept labels are right.
        """
        self.show(pseudo)
        kept = pseudo.weight > 0
        report = {'confident': (kept & streams.valid).sum() / streams.valid.sum().clamp(min=1)}
        if streams.unlabeled_gt is not None:
            counted = streams.valid & (streams.unlabeled_gt != IGNORE_INDEX)
            report['accuracy'] = label_accuracy(pseudo.label, streams.unlabeled_gt, counted)
            report['accuracy_confident'] = label_accuracy(pseudo.label, streams.unlabeled_gt, counted & kept)
        return report

    def show(self, pseudo: PseudoLabel | None = None, **maps: Tensor) -> None:
        """Let those who watch the step see it; without them it does nothing. What is shown first under a name stays.

        What is made for them alone belongs behind ``if self.seen``.

        Args:
            pseudo (PseudoLabel, optional): The weak view's labels as losses count them, where :meth:`describe` is told
                others.
            **maps (Tensor): Maps of the unlabeled images, (Bu, h, w), by name: class maps, long, or others, floating;
                nan where there is nothing to show.
        """
        if not self.seen:
            return
        self.seen.pseudo = self.seen.pseudo or pseudo
        for name, values in maps.items():
            self.seen.maps.setdefault(name.replace('_', ' '), values.detach())

    # Prediction: the predicting branch's segmentor does all of it

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """Predict as mmseg's ``EncoderDecoder`` does, with the branch ``predict_on``."""
        return getattr(self, self.predict_on).segmentor.predict(inputs, data_samples)

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Features of the predicting branch."""
        return getattr(self, self.predict_on).segmentor.extract_feat(inputs)

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Class scores of the predicting branch."""
        return getattr(self, self.predict_on).segmentor.encode_decode(inputs, batch_img_metas)

    def _forward(self, inputs: Tensor, data_samples: list | None = None) -> Tensor:
        return getattr(self, self.predict_on)(inputs).logits


def check_settings(method: str, *settings: tuple[str, Any, bool, str]) -> None:
    """Refuse settings of a method that are out of range.

    Args:
        method (str): Name of the method.
        *settings (tuple[str, Any, bool, str]): Key below ``model``, value, whether it fits, and what it must do.

    Raises:
        ValueError: For the first that does not fit.
    """
    for name, value, fits, mend in settings:
        if not fits:
            raise ValueError(f'{method}: model.{name} must {mend}, not {value!r}.')


def _weighted(terms: dict[str, Tensor], factor: float | Tensor) -> dict[str, Tensor]:
    """Multiply what is minimised, and leave what is only told."""
    return {name: value * factor if 'loss' in name else value for name, value in terms.items()}


def head_losses(head: BaseModule, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The losses that a decode head's config states, for ``logits`` (B, C, h, w) and ``labels`` (B, H, W), by name.

    Nothing of the labels' size is kept for the backward pass.
    """

    def at_labels(criterion: nn.Module, coarse: Tensor) -> Tensor:
        logits = resize(coarse, size=labels.shape[1:], mode='bilinear', align_corners=head.align_corners)
        weight = None if head.sampler is None else head.sampler.sample(logits, labels[:, None])
        return criterion(logits, labels, weight=weight, ignore_index=head.ignore_index)

    losses: dict[str, Tensor] = {}
    for criterion in head.loss_decode if hasattr(head.loss_decode, '__iter__') else [head.loss_decode]:
        value = with_gradient_at_once(partial(at_labels, criterion), logits)
        losses[criterion.loss_name] = losses.get(criterion.loss_name, 0) + value
    return losses


@MODELS.register_module()
class Supervised(SemiSegmentor):
    """The baseline: the same network on the labeled images alone."""

    def student_views(self, streams: Streams) -> dict[str, BranchOutput]:
        """The labeled images."""
        return {'labeled': self.student(streams.labeled)}

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """Nothing."""
        return {}
