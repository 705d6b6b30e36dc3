"""Data are what they should be: classes, batches, and one image of each stream."""

from __future__ import annotations

import functools
import operator
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.runner import Runner
from torch import Tensor, nn

from mmsemi.datasets.contents import Shown, leaks
from mmsemi.datasets.semi_dataset import seeded
from mmsemi.engine.utils import sampler_of, segmentor_of

from .parts import channel_problem, datasets_of, same_draws, words


def shown_of_all_ranks(runner: Runner) -> dict[str, Shown]:
    """What the masks of the 'labeled' and 'validation' images show; each rank has read its share of them."""
    parts = {
        'labeled': getattr(runner.train_dataloader.dataset, 'shown', None),
        'validation': getattr(runner.val_loop, 'shown', None),
    }
    return {
        part: functools.reduce(operator.add, shares)
        for part, own in parts.items()
        if (shares := [share for share in all_gather_object(own) if share is not None])
    }


def judge_data(runner: Runner, shown: dict[str, Shown], thorough: bool = False) -> tuple[list[str], list[str]]:
    """What masks and files say: problems and warnings."""
    problems, warnings = [], []
    for part, of_part in shown.items():
        found = of_part.judge(part)
        problems += found[0]
        warnings += found[1]
    data, loop = runner.train_dataloader.dataset, runner.val_loop
    warnings += [*getattr(data, 'lost', []), *getattr(loop, 'lost', [])]
    judged = loop.dataloader.dataset if loop is not None else None
    if hasattr(data, 'paths') and hasattr(judged, 'get_data_info'):
        paths = [judged.get_data_info(index).get('img_path') for index in range(len(judged))]
        warnings += leaks({**data.paths, 'validation': [path for path in paths if path]}, thorough)
    return problems, list(dict.fromkeys(warnings))


def check_batch(runner: Runner) -> tuple[list[str], list[str]]:
    """What a step takes of either stream: problems and warnings."""
    sampler, model = sampler_of(runner.train_dataloader), segmentor_of(runner)
    if getattr(sampler, 'labeled', 1) == 0:
        return ['train_dataloader.sampler.labeled=0: nothing says what a class is; set it to 1 or more.'], []
    if getattr(sampler, 'unlabeled', 1) == 0 and type(model).__name__ != 'Supervised':
        return [], [
            f'train_dataloader.sampler.unlabeled=0: of {type(model).__name__} the supervised half alone is trained.'
        ]
    return [], []


def check_classes(runner: Runner) -> list[str]:
    """Hold the number of classes that the decode head scores against those of the data."""
    model = segmentor_of(runner)
    head = model.student.segmentor.decode_head
    problems = []
    for key, dataset in datasets_of(runner):
        classes = dataset.metainfo.get('classes')
        if classes and len(classes) != head.num_classes:
            problems.append(
                f'model.student.decode_head.num_classes={head.num_classes}, but the data of {key} has {len(classes)} '
                f'classes; set num_classes={len(classes)} (network.decode_head.num_classes in most configs), or '
                'correct metainfo.classes.'
            )
    return [*problems[:1], *_check_class_weights(model)]


def _check_class_weights(model: nn.Module) -> list[str]:
    """Losses weigh as many classes as there are."""
    problems = []
    for name, module in model.student.named_modules():
        weights = getattr(module, 'class_weight', None)
        if isinstance(weights, (list, tuple, Tensor)) and len(weights) != model.num_classes:
            problems.append(
                f'model.student.{name.removeprefix("segmentor.")}.class_weight has {len(weights)} numbers, but there '
                f'are {model.num_classes} classes; give one number a class.'
            )
    return problems


def try_training_images(runner: Runner) -> list[str]:
    """Load and transform one image of each stream, and make a batch of them as a step gets it."""
    dataset, sampler = runner.train_dataloader.dataset, sampler_of(runner.train_dataloader)
    problems, samples = [], []
    for stream, index in (('labeled', 0), ('unlabeled', dataset.num_labeled)):
        if index >= len(dataset) or not getattr(sampler, stream, 1):
            continue
        try:
            sample = dataset[index, 0]
        except Exception as error:
            problems.append(_load_problem(dataset, index, stream, error))
            continue
        found = _check_sample(sample, stream)
        problems += found
        if not found:
            samples.append(sample)
    return problems + _check_crop(runner) + (_try_batch(segmentor_of(runner), samples) if samples else [])


def _load_problem(dataset: Any, index: int, stream: str, error: Exception) -> str:
    """Why an image cannot be loaded: the transform that fails, if it can be found."""
    if isinstance(error, RuntimeError) and str(error).startswith(('None of the', 'The ')):
        return words(error)
    results = dataset.get_data_info(index) if hasattr(dataset, 'get_data_info') else None
    pipelines = getattr(dataset, 'pipelines', {})
    key = 'pipeline' if stream == 'labeled' else 'unlabeled_pipeline'
    for step in getattr(pipelines.get(stream), 'transforms', ()) if results else ():
        try:
            with seeded(0):
                results = step(results)
        except Exception as failed:
            name = type(step).__name__
            if stream == 'unlabeled' and 'gt_seg_map' not in results and 'gt_seg_map' in f'{failed!r}':
                return (
                    f'The transform {name} needs a mask, which unlabeled images do not have; leave it out of '
                    'train_dataloader.dataset.unlabeled_pipeline (a pipeline of their own).'
                )
            return f'The {stream} images cannot be loaded: {name} of train_dataloader.dataset.{key}: {words(failed)}'
    return f'The {stream} images cannot be loaded: {words(error)}'


def _check_sample(sample: dict, stream: str) -> list[str]:
    pixels = sample.get('inputs') if isinstance(sample, dict) else None
    if not isinstance(pixels, Tensor) or 'data_samples' not in sample:
        return [
            f'The pipeline of the {stream} images does not end in PackSegInputs; add it to train_dataloader.dataset.'
            'pipeline.'
        ]
    if stream == 'labeled' and 'gt_sem_seg' not in sample['data_samples']:
        return ['The pipeline of the labeled images loads no masks; add LoadSegAnnotations behind LoadImageFromFile.']
    return []


def _check_crop(runner: Runner) -> list[str]:
    """Hold what the pipeline crops to against what the preprocessor pads to."""
    size = tuple(segmentor_of(runner).data_preprocessor.size)
    pipelines = getattr(runner.train_dataloader.dataset, 'pipelines', {})
    for step in (step for pipeline in pipelines.values() for step in getattr(pipeline, 'transforms', ())):
        crop = getattr(step, 'crop_size', None) if 'Crop' in type(step).__name__ else None
        if isinstance(crop, (tuple, list)) and tuple(crop) != size:
            what = 'padding would fill the rest' if min(crop) < max(size) else 'they do not fit'
            return [
                f'The pipeline crops images to {tuple(crop)}, but model.data_preprocessor.size={size}: {what}; set '
                'both to one crop (crop_size where the config has it).'
            ]
    return []


def _try_batch(model: nn.Module, samples: list[dict]) -> list[str]:
    """One batch through the preprocessor: what it refuses, and whether the network takes what it gives."""
    inputs, wanted = [sample['inputs'] for sample in samples], model.student.in_channels
    for pixels in inputs:
        if len(pixels) != wanted:
            return [channel_problem('training images', len(pixels), wanted)]
    preprocessor = model.data_preprocessor
    lowest, highest = min(float(x.double().min()) for x in inputs), max(float(x.double().max()) for x in inputs)
    if lowest < 0 or (preprocessor.max_value and highest > preprocessor.max_value):
        return [
            f'The images hold values from {lowest:g} to {highest:g}, outside of 0 to model.data_preprocessor.'
            f'max_value={preprocessor.max_value}; set max_value to the largest, and shift negative ones when reading.'
        ]
    try:
        with same_draws():
            preprocessor(dict(inputs=inputs, data_samples=[sample['data_samples'] for sample in samples]), True)
    except Exception as error:
        return [f'model.data_preprocessor cannot take the images: {words(error)}']
    return []
