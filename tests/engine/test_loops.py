"""The loops: validation of every branch leaves the model as it was."""

from types import SimpleNamespace

import pytest

from mmsemi.engine import TeacherStudentValLoop
from tests import tiny


def loop_over(model, val_step):
    """A loop over one batch, of which ``val_step`` makes predictions."""
    model.val_step = val_step
    loop = object.__new__(TeacherStudentValLoop)
    loop._runner, loop.fp16 = SimpleNamespace(model=model, call_hook=lambda *args, **kwargs: None), False
    seen = []
    evaluator = SimpleNamespace(process=lambda data_samples, data_batch: seen.append(data_samples))
    loop._branch_evaluators = dict.fromkeys(model.branches, evaluator)
    return loop, seen


@pytest.mark.parametrize('branch', ['student', 'teacher'])
def test_after_a_validation_the_branch_that_predicts_is_the_one_before(branch):
    model = tiny.build('MeanTeacher', test_cfg=dict(predict_on=branch))
    loop, seen = loop_over(model, lambda batch: [model.predict_on])
    loop.run_iter(0, {})
    assert seen == [['student'], ['teacher']]
    assert model.predict_on == branch


def test_a_validation_that_fails_leaves_the_branch_that_predicts():
    def fail(batch):
        raise RuntimeError('no memory left')

    model = tiny.build('MeanTeacher', test_cfg=dict(predict_on='teacher'))
    with pytest.raises(RuntimeError):
        loop_over(model, fail)[0].run_iter(0, {})
    assert model.predict_on == 'teacher'
