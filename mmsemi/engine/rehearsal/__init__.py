"""What would end a run later ends it at the start: each part of training and validation is tried once, in small.

Nothing is computed: the model's step runs on the meta device, where tensors have shapes and no values.
"""

from __future__ import annotations

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.runner import Runner

from .data import check_batch, check_classes, judge_data, shown_of_all_ranks, try_training_images
from .step import meta_copy, meta_streams, try_step
from .validation import check_work_dir, try_validation

__all__ = [
    'RehearsalError',
    'check_classes',
    'check_work_dir',
    'meta_copy',
    'meta_streams',
    'rehearse',
    'shown_of_all_ranks',
    'try_step',
]


class RehearsalError(ValueError):
    """All that a rehearsal found, each a sentence with the key and the mend.

    Args:
        problems (list[str]): The sentences.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__('\n'.join(problems))
        self.problems = problems


def rehearse(runner: Runner, thorough: bool = False, write: bool = True) -> list[str]:
    """Try what a run will do, on the first rank, and look at what was seen of the data on all.

    Args:
        runner (Runner): Ready to train.
        thorough (bool): Whether contents of files are compared however many there are. Defaults to False.
        write (bool): Whether writing to the work folder is tried. Defaults to True.

    Returns:
        list[str]: What the user should know and what does not end the run.

    Raises:
        RehearsalError: On every rank, if any part fails; the message has a sentence for each.
    """
    shown, told = shown_of_all_ranks(runner), [[], []]
    if is_main_process():
        for check in (
            lambda: judge_data(runner, shown, thorough),
            lambda: (check_classes(runner), []),
            lambda: check_batch(runner),
            lambda: (try_training_images(runner), []),
            lambda: (try_step(runner), []),
            lambda: (try_validation(runner), []),
            lambda: (check_work_dir(runner) if write else [], []),
        ):
            problems, warnings = check()
            told[0] += problems
            told[1] += warnings
    broadcast_object_list(told)
    if told[0]:
        raise RehearsalError(list(dict.fromkeys(told[0])))
    return told[1]
