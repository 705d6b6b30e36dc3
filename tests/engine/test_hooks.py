"""Hooks, one by one, on a runner that is only as real as they need."""

import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.logging import MessageHub
from mmseg.structures import SegDataSample
from torch import nn
from torch.utils.data import DataLoader

from mmsemi.engine import (
    CheckpointFitHook,
    DeferredRuntimeInfoHook,
    EMATeacherHook,
    FiniteLossHook,
    ProgressHook,
    PrototypeHook,
    UnreadableImageHook,
)
from mmsemi.engine.hooks import unreadable_image_hook
from tests import tiny
from tests.host_round_trips import HostRoundTrip, no_host_round_trip
from tests.ranks import on_two_ranks


def runner(model, **kwargs) -> SimpleNamespace:
    hub = MessageHub.get_instance(f'test-{id(model)}')
    defaults = dict(
        model=model, iter=0, seed=0, optim_wrapper=SimpleNamespace(), train_dataloader=range(10), message_hub=hub,
        logger=logging.getLogger('test'),
    )  # fmt: skip
    return SimpleNamespace(**{**defaults, **kwargs})


def shift(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(torch.rand_like(parameter))
        for name, buffer in model.student.named_buffers():
            buffer.add_(3 if name.endswith('tracked') else torch.rand_like(buffer))


@pytest.mark.parametrize('buffers', ['average', 'copy'])
def test_the_teacher_is_the_moving_average_with_warm_up(buffers):
    model = tiny.build('MeanTeacher')
    hook = EMATeacherHook(momentum=0.7, buffers=buffers)
    hook.before_train(runner(model))
    expected = {key: value.clone() for key, value in model.teacher.state_dict().items()}
    parameters = dict(model.teacher.named_parameters())
    for iteration in range(5):
        shift(model)
        hook.after_train_iter(runner(model, iter=iteration), 0)
        momentum = min(1 - 1 / (iteration + 1), 0.7)
        for key, student in model.student.state_dict().items():
            averaged = key in parameters or (buffers == 'average' and student.is_floating_point())
            expected[key] = momentum * expected[key] + (1 - momentum) * student if averaged else student.clone()
    for key, value in model.teacher.state_dict().items():
        assert torch.allclose(value, expected[key], atol=1e-6), key


@pytest.mark.parametrize(
    'settings, expected',
    [
        (dict(), [0, 1 / 2, 2 / 3, 0.7, 0.7]),
        (dict(warmup=False), [0, 0.7, 0.7, 0.7, 0.7]),
        (dict(copy_epochs=1), [0, 0, 0, 1 / 2, 2 / 3]),
        (dict(copy_epochs=1, warmup=False), [0, 0, 0, 0.7, 0.7]),
        (dict(copy_epochs=0.5), [0, 0, 1 / 2, 2 / 3, 0.7]),
        (dict(copy_epochs=1, count_copies=True), [0, 0, 2 / 3, 0.7, 0.7]),
    ],
    ids=str,
)
def test_the_teacher_is_a_copy_as_long_as_it_is_told_and_warms_up_from_there_or_not_at_all(settings, expected):
    model = tiny.build('MeanTeacher')
    hook = EMATeacherHook(momentum=0.7, **settings)
    hook.before_train(runner(model))
    student, teacher = (next(getattr(model, name).parameters()) for name in ('student', 'teacher'))
    for iteration, momentum in enumerate(expected):
        shift(model)
        before = teacher.detach().clone()
        hook.after_train_iter(runner(model, iter=iteration, train_dataloader=range(2)), 0)
        assert torch.allclose(teacher, momentum * before + (1 - momentum) * student, atol=1e-6)
        assert momentum or torch.equal(teacher, student)


def test_the_teacher_waits_while_gradients_accumulate():
    model = tiny.build('MeanTeacher')
    hook = EMATeacherHook()
    hook.before_train(runner(model))
    shift(model)
    before = {key: value.clone() for key, value in model.teacher.state_dict().items()}
    waiting = runner(model, optim_wrapper=SimpleNamespace(should_update=lambda: False))
    hook.after_train_iter(waiting, 0)
    assert all(torch.equal(value, before[key]) for key, value in model.teacher.state_dict().items())


def test_a_hook_without_its_part_of_the_model_is_named():
    model = tiny.build('FixMatch')
    with pytest.raises(ValueError, match='EMATeacherHook needs a teacher, but FixMatch has none'):
        EMATeacherHook().before_train(runner(model))
    with pytest.raises(ValueError, match='PrototypeHook needs prototypes, but FixMatch keeps none'):
        PrototypeHook().before_train(runner(model))


def test_prototypes_move_after_the_step():
    model = tiny.build('MLLC').train()
    hook = PrototypeHook()
    hook.before_train(runner(model))
    model.loss(tiny.streams())
    assert not model.prototypes[0].seen.any()
    hook.after_train_iter(runner(model), 0)
    assert model.prototypes[0].seen.any() and model.prototypes[0].value.abs().sum() > 0


def test_an_epoch_draws_the_same_numbers_whatever_came_before():
    model, draws = tiny.build('FixMatch'), []
    for disturbed in (False, True):
        hook = ProgressHook()
        hook.before_train(runner(model))
        for iteration in (10, 11):
            if disturbed and iteration == 10:
                torch.rand(7)
            hook.before_train_iter(runner(model, iter=iteration), 0)
            draws.append(torch.rand(2))
    assert torch.equal(draws[0], draws[2]) and torch.equal(draws[1], draws[3]) and not torch.equal(draws[0], draws[1])
    assert float(model.epoch) == pytest.approx(1.1)


def test_iterations_seeds_and_ranks_draw_different_numbers(monkeypatch):
    model, draws = tiny.build('FixMatch'), set()
    for seed, iteration, rank in ((0, 0, 0), (0, 10, 0), (1, 0, 0), (0, 0, 1)):
        monkeypatch.setattr('mmsemi.engine.hooks.progress_hook.get_rank', lambda rank=rank: rank)
        hook = ProgressHook()
        hook.before_train(runner(model))
        hook.before_train_iter(runner(model, iter=iteration, seed=seed), 0)
        draws.add(float(torch.rand(())))
    assert len(draws) == 4


def test_a_broken_loss_is_named_with_its_iteration_before_a_checkpoint_is_written(tmp_path):
    hook, model = FiniteLossHook(interval=100), tiny.build('FixMatch')
    at = runner(model, work_dir=str(tmp_path))
    (tmp_path / 'last_checkpoint').write_text('epoch_3.pth')
    (tmp_path / 'epoch_3.pth').touch()
    for iteration, value in enumerate([1.0, float('nan'), float('nan')]):
        at.iter = iteration
        outputs = {'loss': torch.tensor(value), 'sup.loss_ce': torch.tensor(1.0), 'unsup.loss_x': torch.tensor(value)}
        hook.after_train_iter(at, iteration, outputs=outputs)
    with pytest.raises(FloatingPointError, match=r'^unsup.loss_x became .* at iteration 2; .*/epoch_3.pth'):
        hook.before_save_checkpoint(at, {})


def test_a_broken_loss_stops_the_run_at_the_next_look(tmp_path):
    hook, at = FiniteLossHook(interval=2), runner(tiny.build('FixMatch'), work_dir=str(tmp_path))
    hook.after_train_iter(at, 0, outputs={'sup.loss_ce': torch.tensor(float('inf'))})
    at.iter = 1
    with pytest.raises(FloatingPointError, match='iteration 1; no checkpoint'):
        hook.after_train_iter(at, 1, outputs={'sup.loss_ce': torch.tensor(1.0)})


def test_finite_losses_pass():
    hook, at = FiniteLossHook(interval=1), runner(tiny.build('FixMatch'))
    hook.after_train_iter(at, 0, outputs={'sup.loss_ce': torch.tensor(1.0)})
    hook.before_save_checkpoint(at, {})


def skips(*paths: str) -> dict:
    """A batch of one image that could not be read for each path, and of one that could."""
    return dict(data_samples=[SegDataSample(metainfo=dict(unreadable=[p])) for p in paths] + [SegDataSample()])


def logging_runner(**kwargs) -> SimpleNamespace:
    """A runner whose log is written every two of the five iterations of an epoch."""
    return runner(nn.Identity(), hooks=[LoggerHook(interval=2)], train_dataloader=range(5), **kwargs)


def steps_of_logged_run(hook, length: int = 10, interval: int = 4) -> Iterator[SimpleNamespace]:
    """Train a model that is nowhere, with a loss of its own each step; one more each third step. Yields after each."""
    loader = DataLoader(range(10))
    at = runner(
        nn.Identity(), hooks=[LoggerHook(interval=interval), hook], epoch=0, max_epochs=1, max_iters=length,
        train_dataloader=loader, message_hub=MessageHub('losses'),
    )  # fmt: skip
    hook.before_train(at)
    for at.iter in range(length):
        losses = {'loss': torch.full((), at.iter / 7)}
        if at.iter % 3 == 0:
            losses['extra'] = torch.full((), at.iter, dtype=torch.bfloat16)
        hook.after_train_iter(at, at.iter, None, losses)
        yield at
    hook.after_train(at)


def history(at: SimpleNamespace) -> dict[str, list[float]]:
    return {name: buffer.data[0].tolist() for name, buffer in at.message_hub.log_scalars.items()}


def test_deferred_losses_are_those_of_mmengine_wherever_the_log_is_written():
    runs = zip(steps_of_logged_run(DeferredRuntimeInfoHook()), steps_of_logged_run(RuntimeInfoHook()), strict=True)
    for step, (ours, theirs) in enumerate(runs, 1):
        if step in (4, 8, 10):  # of ten steps an epoch
            assert history(ours) == history(theirs) and len(history(ours)['train/loss']) == step


def test_losses_stay_on_the_device_in_between():
    steps = steps_of_logged_run(DeferredRuntimeInfoHook())
    for _ in range(2):
        with no_host_round_trip():
            for _ in range(3):
                next(steps)
        assert len(history(next(steps))['train/loss']) % 4 == 0
    with pytest.raises(HostRoundTrip), no_host_round_trip():
        next(steps_of_logged_run(RuntimeInfoHook()))


def test_losses_after_the_last_line_of_the_log_are_kept():
    *_, at = steps_of_logged_run(DeferredRuntimeInfoHook(), length=7)
    assert len(history(at)['train/loss']) == 7
    assert 'loop_stage' not in at.message_hub.runtime_info, "the end of training is mmengine's"


def test_skipped_images_are_named_once_and_counted(caplog):
    hook, at = UnreadableImageHook(), logging_runner()
    hook.before_train(at)
    with caplog.at_level(logging.WARNING):
        for batch, paths in enumerate([['a.jpg'], [], ['a.jpg', 'b.jpg'], [], ['a.jpg']]):
            hook.before_train_iter(at, batch, skips(*paths))
    assert [caplog.text.count(path) for path in ('a.jpg', 'b.jpg')] == [1, 1]
    assert at.message_hub.get_scalar('train/unreadable_images').current() == 2


def test_nothing_is_counted_where_all_images_can_be_read():
    hook, at = UnreadableImageHook(), logging_runner()
    hook.before_train(at)
    for batch in range(5):
        hook.before_train_iter(at, batch, skips())
    assert 'train/unreadable_images' not in at.message_hub.log_scalars


def skip_on(rank: int, folder: str) -> None:
    """One epoch in which each of two ranks skips images; note what it warned of, counted and how often ranks met."""
    warnings, meetings = [], []
    exchange = unreadable_image_hook.all_gather_object
    unreadable_image_hook.all_gather_object = lambda paths: meetings.append(batch) or exchange(paths)
    hook, at = UnreadableImageHook(), logging_runner(logger=SimpleNamespace(warning=warnings.append))
    hook.before_train(at)
    ours = {0: [[], [], ['a.jpg'], [], []], 1: [['b.jpg'], [], ['a.jpg', 'b.jpg'], [], ['c.jpg']]}
    for batch, paths in enumerate(ours[rank]):
        hook.before_train_iter(at, batch, skips(*paths))
    count = int(at.message_hub.get_scalar('train/unreadable_images').current())
    torch.save((warnings, count, meetings), f'{folder}/{rank}.pt')


def test_the_first_rank_names_and_counts_what_all_ranks_skipped(tmp_path):
    on_two_ranks(skip_on, tmp_path)
    (warnings, *first), (silence, *second) = [torch.load(tmp_path / f'{rank}.pt') for rank in (0, 1)]
    assert [warning.split()[4] for warning in warnings] == ['b.jpg:', 'a.jpg:', 'c.jpg:'] and not silence
    # The log is written after the second and the fourth of five batches.
    assert first == second == [3, [1, 3, 4]]


def checkpoint_of(model: nn.Module) -> dict:
    return dict(state_dict={key: value.clone() for key, value in model.state_dict().items()})


def test_a_checkpoint_of_the_same_model_fits():
    model = tiny.build('MLLC')
    CheckpointFitHook().after_load_checkpoint(runner(model), checkpoint_of(model))


def test_a_checkpoint_of_another_architecture_is_summarised():
    model, other = tiny.build('MLLC'), tiny.build('FixMatch')
    with pytest.raises(ValueError, match=r'does not fit this FixMatch: \d+ keys are unexpected \(first: '):
        CheckpointFitHook().after_load_checkpoint(runner(other), checkpoint_of(model))
    with pytest.raises(ValueError, match=r'does not fit this MLLC: \d+ keys are missing \(first: '):
        CheckpointFitHook().after_load_checkpoint(runner(model), checkpoint_of(other))
    CheckpointFitHook(strict=False).after_load_checkpoint(runner(other), checkpoint_of(model))


def test_tensors_of_another_shape_are_summarised():
    model = tiny.build('FixMatch')
    checkpoint = checkpoint_of(model)
    key = 'student.segmentor.decode_head.conv_seg.weight'
    checkpoint['state_dict'][key] = checkpoint['state_dict'][key][:2]
    with pytest.raises(ValueError, match=rf'1 keys are of another shape \(first: {key}\)'):
        CheckpointFitHook().after_load_checkpoint(runner(model), checkpoint)


def test_a_plain_mmseg_checkpoint_fits_with_parts_to_spare_but_not_with_parts_missing():
    model = tiny.build('MLLC')
    plain = dict(model.student.segmentor.state_dict())
    CheckpointFitHook().after_load_checkpoint(
        runner(model), dict(state_dict={**plain, 'auxiliary_head.x': plain[next(iter(plain))]})
    )
    plain.pop('decode_head.conv_seg.weight')
    with pytest.raises(ValueError, match='1 keys are missing'):
        CheckpointFitHook().after_load_checkpoint(runner(model), dict(state_dict=plain))


@pytest.mark.parametrize(
    'make',
    [
        lambda: EMATeacherHook(momentum=1),
        lambda: EMATeacherHook(buffers='x'),
        lambda: EMATeacherHook(copy_epochs=-1),
        lambda: FiniteLossHook(interval=0),
    ],
)
def test_arguments_out_of_range_are_named(make):
    with pytest.raises(ValueError, match='Hook: '):
        make()
