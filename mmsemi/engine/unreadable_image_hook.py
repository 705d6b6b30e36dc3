"""Images that could not be read are told, not hidden."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsemi.registry import HOOKS


@HOOKS.register_module()
class UnreadableImageHook(Hook):
    """Warn once for each unlabeled image that the data set had to skip, and count the skips in the log."""

    priority = 'NORMAL'

    def __init__(self) -> None:
        self._warned: set[str] = set()
        self._count = 0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Look at what the workers report beside the images."""
        for sample in (data_batch or {}).get('data_samples', []):
            for path in sample.metainfo.get('unreadable', ()):
                self._count += 1
                if path not in self._warned:
                    self._warned.add(path)
                    runner.logger.warning(f'Skipped the unlabeled image {path}: it cannot be read.')
        if self._count:
            runner.message_hub.update_scalar('train/unreadable_images', self._count)
