"""The first run's picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

spec = importlib.util.spec_from_file_location('demo', Path(__file__).parents[2] / 'tools' / 'demo.py')
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)


def test_the_score_of_an_image_is_over_the_classes_that_it_or_its_prediction_shows():
    truth = np.array([[0, 0, 1, 255]], dtype=np.uint8)
    assert demo.image_score(truth, truth, 9) == 100
    # Class 0: one of two pixels; class 1: one of one; class 2: predicted, and not there.
    assert demo.image_score(np.array([[0, 2, 1, 4]], dtype=np.uint8), truth, 9) == pytest.approx(50.0)
    assert demo.image_score(truth, np.full_like(truth, 255), 9) == 0


def test_images_stand_in_the_order_of_their_gain_each_with_its_scores(tmp_path, monkeypatch):
    gains = {'a': 0, 'b': 4, 'c': -4, 'd': 2}
    for folder in ('ImageSets/Segmentation', 'SegmentationClass', 'JPEGImages', 'supervised', 'mllc'):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / 'ImageSets/Segmentation/val.txt').write_text('\n'.join(gains))
    for name, gain in gains.items():
        truth = np.zeros((1, 10), dtype=np.uint8)
        Image.fromarray(np.zeros((1, 10, 3), dtype=np.uint8)).save(tmp_path / f'JPEGImages/{name}.jpg')
        for folder, wrong in (('SegmentationClass', 0), ('supervised', max(gain, 0)), ('mllc', max(-gain, 0))):
            mask = truth.copy()
            mask[:, :wrong] = 1
            Image.fromarray(mask).save(tmp_path / folder / f'{name}.png')
    titles = []
    monkeypatch.setattr(pyplot.Axes, 'set_title', lambda axis, text, **_: titles.append(text))
    folders = {'supervised': tmp_path / 'supervised', 'MLLC': tmp_path / 'mllc'}
    demo.draw_picture(tmp_path, folders, tmp_path / 'all.png')
    # Right in 60 %: 30 % over the two classes.
    assert titles[::4] == ['image\n', '', '', '']
    assert titles[2::4] == ['supervised\n30.0', '40.0', '100.0', '100.0']
    assert titles[3::4] == ['MLLC\n100.0 (+70.0)', '100.0 (+60.0)', '100.0 (+0.0)', '30.0 (-70.0)']
    titles.clear()
    demo.draw_picture(tmp_path, folders, tmp_path / 'ends.png', count=2)
    assert titles[3::4] == ['MLLC\n100.0 (+70.0)', '30.0 (-70.0)'], 'the largest gain and the largest loss'
    assert Image.open(tmp_path / 'ends.png').size[1] < Image.open(tmp_path / 'all.png').size[1]
