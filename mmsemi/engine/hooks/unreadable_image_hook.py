"""Images that could not be read are told, not hidden."""

from __future__ import annotations

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner

from mmsemi.registry import HOOKS


@HOOKS.register_module()
class UnreadableImageHook(Hook):
    """Warn once for each unlabeled image that the data set had to skip, and count these images in the log.

    Only the first rank writes the log. The ranks tell each other what they skipped in the iterations after which the
    log is written and in the last one of an epoch; all other iterations communicate nothing.
    """

    priority = 'NORMAL'

    def __init__(self) -> None:
        self._interval = 0
        self._skipped: list[str] = []
        self._warned: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Find out how often the log is written; without a logger, ranks meet at the end of an epoch."""
        self._interval = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Look at what the workers report beside the images."""
        for sample in (data_batch or {}).get('data_samples', []):
            self._skipped += sample.metainfo.get('unreadable', ())
        # Neither depends on the rank, so that every rank takes part in the exchange.
        if self.every_n_inner_iters(batch_idx, self._interval) or self.end_of_epoch(runner.train_dataloader, batch_idx):
            self._tell(runner)

    def _tell(self, runner: Runner) -> None:
        """Warn of, and count, what all ranks skipped since the last time."""
        skipped = [path for paths in all_gather_object(self._skipped) for path in paths]
        self._skipped = []
        if is_main_process():
            for path in dict.fromkeys(skipped):
                if path not in self._warned:
                    runner.logger.warning(f'Skipped the unlabeled image {path}: it cannot be read.')
        self._warned.update(skipped)
        if self._warned:
            runner.message_hub.update_scalar('train/unreadable_images', len(self._warned))
