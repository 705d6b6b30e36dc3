from .checkpoints import AtomicBackend, CheckpointError
from .foreground_dice import ForegroundDice
from .hooks.checkpoint_fit_hook import CheckpointFitHook
from .hooks.checkpoint_hook import CheckpointHook
from .hooks.confidence_hook import ConfidenceHook
from .hooks.console_hook import ConsoleHook
from .hooks.deferred_runtime_info_hook import DeferredRuntimeInfoHook
from .hooks.dynamic_threshold_hook import DynamicThresholdHook
from .hooks.ema_teacher_hook import EMATeacherHook
from .hooks.finite_loss_hook import FiniteLossHook
from .hooks.previous_networks_hook import PreviousNetworksHook
from .hooks.progress_hook import ProgressHook
from .hooks.prototype_hook import PrototypeHook
from .hooks.pseudo_label_hook import PseudoLabelHook
from .hooks.rehearsal_hook import RehearsalHook
from .hooks.save_masks_hook import SaveMasksHook
from .hooks.sync_statistics_hook import SyncStatisticsHook
from .hooks.unreadable_image_hook import UnreadableImageHook
from .iou_metric import IoUMetric
from .layer_decay import LayerDecayOptimizerConstructor, LearningRateDecayOptimizerConstructor
from .loops import (
    CheckedTestLoop,
    ResumableEpochLoop,
    ResumableIterLoop,
    TeacherStudentValLoop,
    choose_train_loop,
)
from .optim_constructor import SemiOptimWrapperConstructor
from .optim_wrapper import AutocastOptimWrapper
from .stopping import RESUME_ME, Stopped

__all__ = [
    'AtomicBackend',
    'AutocastOptimWrapper',
    'CheckpointError',
    'CheckpointHook',
    'RESUME_ME',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'Stopped',
    'choose_train_loop',
    'CheckpointFitHook',
    'CheckedTestLoop',
    'ConfidenceHook',
    'ConsoleHook',
    'DeferredRuntimeInfoHook',
    'DynamicThresholdHook',
    'EMATeacherHook',
    'FiniteLossHook',
    'ForegroundDice',
    'IoUMetric',
    'PreviousNetworksHook',
    'PrototypeHook',
    'PseudoLabelHook',
    'RehearsalHook',
    'ProgressHook',
    'LayerDecayOptimizerConstructor',
    'LearningRateDecayOptimizerConstructor',
    'SaveMasksHook',
    'SemiOptimWrapperConstructor',
    'SyncStatisticsHook',
    'TeacherStudentValLoop',
    'UnreadableImageHook',
]
