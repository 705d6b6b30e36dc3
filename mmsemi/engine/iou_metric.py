"""mmseg's IoU, for images without masks too."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.evaluation import metrics

from mmsemi.registry import METRICS


@METRICS.register_module()
class IoUMetric(metrics.IoUMetric):
    """mmseg's ``IoUMetric``. With ``format_only`` nothing is judged, and masks are saved where they are asked for.

    Args:
        *args, **kwargs: Those of mmseg's.

    Raises:
        ValueError: If an image that shall be judged has no mask.
    """

    def process(self, data_batch: dict | None, data_samples: Sequence[dict]) -> None:
        """Take in the predictions of a batch."""
        for sample in data_samples:
            if not self.format_only and 'gt_sem_seg' not in sample:
                raise ValueError(
                    f'{sample.get("img_path", "An image")} has no mask to be judged by; add LoadSegAnnotations to '
                    'test_dataloader.dataset.pipeline, or set test_evaluator.format_only=True for images without '
                    'masks (as `mmsemi predict` takes them).'
                )
        super().process(data_batch, data_samples)

    def evaluate(self, size: int) -> dict[str, float]:
        """The scores over ``size`` images, reduced over ranks."""
        if self.format_only and self.output_dir is None:
            return {}
        return super().evaluate(size)
