"""PrevMatch: networks of earlier epochs, a few of them at a time and mixed at random, label beside UniMatch's student.

Revisiting and Maximizing Temporal Knowledge in Semi-supervised Semantic Segmentation, https://arxiv.org/abs/2405.20610
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from mmsemi.models.branch import Branch, BranchOutput
from mmsemi.models.precision import full_precision
from mmsemi.models.pseudo_labels import confident_labels
from mmsemi.registry import MODELS
from mmsemi.structures import PseudoLabel, Streams

from .semi_segmentor import check_settings
from .unimatch import UniMatch


@MODELS.register_module()
class PrevMatch(UniMatch):
    """UniMatch, whose views also learn what earlier versions of the student say of the weak view.

    ``PreviousNetworksHook`` keeps them, the latest ``length``, in the model's state. In each step 1 to ``teachers`` of
    them are drawn and their logits added with weights drawn from a flat Dirichlet law. The loss is
    ``(L_x + L_u + lambda L_prev) / (2 + lambda)``, where L_u and L_prev weigh the views as UniMatch does and lambda
    rises from 0 to 1 over the first half of training and falls again.

    Source: Shin et al., 2024 (arXiv:2405.20610), as released.

    Args:
        student (dict): Config of an mmseg ``EncoderDecoder``.
        length (int): Networks kept, 1 or more; the oldest one goes. Defaults to 8.
        teachers (int): Most of them that label in a step (K), 1 or more. Defaults to 3.
        random_number (bool): Draw their number from 1 to K in each step; else it is K. Defaults to True.
        previous_threshold (float): Least probability of their pseudo-labels, in [0, 1]. Defaults to 0.9.
        previous_weight (float): Factor of lambda, >= 0. Defaults to 1.
        **kwargs: Those of :class:`UniMatch`.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        student: dict,
        length: int = 8,
        teachers: int = 3,
        random_number: bool = True,
        previous_threshold: float = 0.9,
        previous_weight: float = 1.0,
        **kwargs,
    ) -> None:
        super().__init__(student=student, **kwargs)
        check_settings(
            'PrevMatch',
            ('length', length, length >= 1, 'be 1 or more'),
            ('teachers', teachers, teachers >= 1, 'be 1 or more'),
            ('previous_threshold', previous_threshold, 0 <= previous_threshold <= 1, 'lie in [0, 1]'),
            ('previous_weight', previous_weight, previous_weight >= 0, 'be 0 or more'),
        )
        self.teachers = teachers
        self.random_number = random_number
        self.previous_threshold = previous_threshold
        self.previous_weight = previous_weight
        crop = self.data_preprocessor.size
        self.previous = nn.ModuleList(Branch(student, crop=crop).segmentor for _ in range(length))
        self.previous.requires_grad_(False)
        if self.encoder_frozen:
            for network in self.previous:
                network.backbone = self.student.segmentor.backbone
        # Their number so far, and the same for the host, which chooses among them without asking the device.
        self.register_buffer('kept', torch.zeros((), dtype=torch.long))
        self.num_kept = 0
        # Set by ProgressHook: the share of training that is over.
        self.register_buffer('progress', torch.zeros(()))

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.num_kept = int(self.kept)

    def train(self, mode: bool = True) -> PrevMatch:
        """Set the mode of all parts but the earlier networks, which always predict with their running statistics."""
        super().train(mode)
        self.previous.eval()
        return self

    def init_weights(self) -> None:
        """Initialise the student alone; the places of earlier networks are filled as they come."""
        for network in self.previous:
            network._is_init = True
        super().init_weights()

    @torch.no_grad()
    def remember(self) -> None:
        """Keep the student as it is, in place of the oldest network kept."""
        place = self.previous[self.num_kept % len(self.previous)]
        place.load_state_dict(self.student.segmentor.state_dict())
        self.num_kept += 1
        self.kept.fill_(self.num_kept)

    def loss(self, inputs: Streams, data_samples: None = None) -> dict[str, Tensor]:
        """UniMatch's terms and those of the earlier networks, divided by 2 + lambda."""
        losses, scale = super().loss(inputs, data_samples), 2 / (2 + self.share())
        return {name: value * scale if 'loss' in name else value for name, value in losses.items()}

    def share(self) -> Tensor | float:
        """lambda: what the earlier networks' labels count at this point of training; 0 without any."""
        if not self.num_kept:
            return 0.0
        return self.previous_weight * torch.minimum(2 * self.progress, 2 - 2 * self.progress)

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """UniMatch's terms, and the same views' cross-entropy to the labels of earlier networks."""
        losses = super().unsupervised_loss(streams, views)
        if not self.num_kept:
            return losses
        pseudo = self.reweight(self.previous_labels(streams), views['guide'])
        terms = self.view_losses(pseudo, streams, views).values()
        told = {f'{name}_previous': value for name, value in self.describe(pseudo, streams).items()}
        return {**losses, 'loss_previous': self.share() * sum(terms), **told}

    @torch.no_grad()
    def previous_labels(self, streams: Streams) -> PseudoLabel:
        """What the earlier networks of this step say of the weak view."""
        available = min(self.num_kept, len(self.previous))
        most = random.randint(1, self.teachers) if self.random_number else self.teachers
        chosen = random.sample(range(available), min(most, available))
        # Exponential numbers divided by their sum follow the flat Dirichlet law.
        weights = -torch.rand(len(chosen), device=streams.weak.device).clamp(min=1e-12).log()
        weights = weights / weights.sum()
        coarse = self.coarse_scores([self.previous[i] for i in chosen], streams.weak)
        # Resizing is linear: the mean is resized, not each network's scores; in full precision.
        mean = sum(weight * full_precision(scores) for weight, scores in zip(weights, coarse, strict=True))
        size = tuple(streams.weak.shape[2:])
        scores = BranchOutput((), mean, size, self.student.segmentor.align_corners).logits
        return confident_labels(scores, self.previous_threshold, streams.valid)

    def coarse_scores(self, networks: list[nn.Module], images: Tensor) -> list[Tensor]:
        """Scores of each network, (B, C, h, w); a frozen encoder, which is one for all, sees the images once."""
        if self.encoder_frozen:
            features = tuple(networks[0].extract_feat(images))
            return [network.decode_head(features) for network in networks]
        return [network.decode_head(tuple(network.extract_feat(images))) for network in networks]
