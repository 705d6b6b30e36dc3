"""What a plugin may add to a method."""

from __future__ import annotations

from mmengine.model import BaseModule
from torch import Tensor

from mmsemi.models.branch import Branch, BranchOutput
from mmsemi.structures import PseudoLabel, Streams


class Plugin(BaseModule):
    """Losses of its own beside a method's, and a say in how much its pseudo-labels count.

    ``unsup_scale`` multiplies the method's unsupervised losses. Its heads belong to the branches: the teacher's are the
    moving averages of the student's, and an exported segmentor has none of them.
    """

    unsup_scale: float = 1.0

    def head_configs(self, student: Branch, crop: tuple[int, int]) -> dict[str, dict]:
        """Heads that every branch gets, by name, for crops of this height and width."""
        return {}

    def supervised_loss(self, out: BranchOutput, labels: Tensor) -> dict[str, Tensor]:
        """Losses of the labeled images, whose ground truth is ``labels`` (B, H, W)."""
        return {}

    def reweight(self, pseudo: PseudoLabel, guide: BranchOutput) -> PseudoLabel:
        """Change the weights of the labels that ``guide`` gave the weak view."""
        return pseudo

    def unsupervised_loss(self, streams: Streams, views: dict[str, BranchOutput]) -> dict[str, Tensor]:
        """Losses of the unlabeled images: 'strong_0', ... are to agree with 'guide', which saw the weak view."""
        return {}
