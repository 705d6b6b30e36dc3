from .checkpoint_fit_hook import CheckpointFitHook
from .confidence_hook import ConfidenceHook
from .deferred_runtime_info_hook import DeferredRuntimeInfoHook
from .dynamic_threshold_hook import DynamicThresholdHook
from .ema_teacher_hook import EMATeacherHook
from .finite_loss_hook import FiniteLossHook
from .foreground_dice import ForegroundDice
from .loops import CheckedTestLoop, TeacherStudentValLoop
from .optim_constructor import SemiOptimWrapperConstructor
from .progress_hook import ProgressHook
from .prototype_hook import PrototypeHook
from .sync_statistics_hook import SyncStatisticsHook
from .unreadable_image_hook import UnreadableImageHook

__all__ = [
    'CheckpointFitHook',
    'CheckedTestLoop',
    'ConfidenceHook',
    'DeferredRuntimeInfoHook',
    'DynamicThresholdHook',
    'EMATeacherHook',
    'FiniteLossHook',
    'ForegroundDice',
    'PrototypeHook',
    'ProgressHook',
    'SemiOptimWrapperConstructor',
    'SyncStatisticsHook',
    'TeacherStudentValLoop',
    'UnreadableImageHook',
]
