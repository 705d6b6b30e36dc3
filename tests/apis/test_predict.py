import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmsemi.apis import predictor as predicting
from mmsemi.apis.export import export
from mmsemi.apis.launch import UsageError
from mmsemi.apis.network import load_network
from mmsemi.apis.predict import predict
from mmsemi.apis.predictor import Predictor, cut, resize_band
from tests.apis.trained import CLASSES, PALETTE, save


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> str:
    return str(save('mean_teacher/mean_teacher_r18_shapes.py', tmp_path_factory.mktemp('run') / 'epoch_1.pth'))


def draw(path: Path, size=(40, 56), seed=0, bands=3, **options) -> Path:
    """An image of colored noise with large patches."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8), bands), dtype=np.uint8)
    image = small.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0] if bands == 1 else image).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    draw(tmp_path / 'in/a/x.png', seed=1)
    draw(tmp_path / 'in/b/x.png', seed=2)
    draw(tmp_path / 'in/b/größe 1 图.jpg', (33, 47), seed=3)
    return tmp_path / 'in'


def masks(out: Path) -> dict[str, np.ndarray]:
    return {p.relative_to(out).as_posix(): np.array(Image.open(p)) for p in sorted(out.rglob('*.png'))}


def table(out: Path) -> list[list[str]]:
    with (out / 'images.csv').open(encoding='utf-8', newline='') as file:
        return list(csv.reader(file))


def test_each_image_of_a_folder_gets_a_mask_of_ids_under_its_relative_path(checkpoint, folder, tmp_path):
    out = predict(checkpoint, str(folder), str(tmp_path / 'out'))
    found = masks(out)
    assert list(found) == ['a/x.png', 'b/größe 1 图.png', 'b/x.png']
    assert [found[name].shape for name in found] == [(40, 56), (33, 47), (40, 56)]
    assert not np.array_equal(found['a/x.png'], found['b/x.png'])
    assert all(mask.dtype == np.uint8 and mask.max() < len(CLASSES) for mask in found.values())
    assert all(len(np.unique(mask)) > 1 for mask in found.values())
    with Image.open(out / 'a/x.png') as image:
        assert image.mode == 'P' and image.getpalette()[: 3 * len(PALETTE)] == np.array(PALETTE).ravel().tolist()
    assert not (tmp_path / 'out/overlays').exists() and not (tmp_path / 'out/confidence').exists()


def test_masks_are_what_the_evaluation_of_the_branch_predicts(checkpoint, folder, tmp_path):
    for branch in ('student', 'teacher'):
        found = masks(predict(checkpoint, str(folder), str(tmp_path / branch), branch=branch))
        network = load_network(checkpoint, branch)
        image = cv2.imread(str(folder / 'a/x.png'))
        data = {'inputs': [torch.from_numpy(image).permute(2, 0, 1)]}
        with torch.no_grad():
            inputs = network.model.data_preprocessor(data, False)['inputs']
            expected = network.model.predict(inputs)[0].pred_sem_seg.data[0]
        assert np.array_equal(found['a/x.png'], expected.numpy())
    assert not np.array_equal(*(masks(tmp_path / name / 'masks')['a/x.png'] for name in ('student', 'teacher')))


def test_the_teacher_predicts_unless_asked_otherwise(checkpoint, folder, tmp_path):
    default = masks(predict(checkpoint, str(folder), str(tmp_path / 'default')))
    teacher = masks(predict(checkpoint, str(folder), str(tmp_path / 'teacher'), branch='teacher'))
    assert all(np.array_equal(default[name], teacher[name]) for name in default)


def test_unsure_pixels_are_255_and_the_least_sure_image_is_first_in_the_table(checkpoint, folder, tmp_path):
    plain = masks(predict(checkpoint, str(folder), str(tmp_path / 'plain'), confidence=True))
    out = tmp_path / 'out'
    limit = 0.5
    kept = masks(predict(checkpoint, str(folder), str(out), threshold=limit))
    sure = masks(tmp_path / 'plain/confidence')
    for name, mask in kept.items():
        known = mask != 255
        assert 0 < known.mean() < 1
        assert np.array_equal(mask[known], plain[name][known])
        # Confidences are rounded to 1/255, the decision is not.
        assert (sure[name][known] >= limit * 255 - 0.5).all() and (sure[name][~known] <= limit * 255 + 0.5).all()
    head, *rows = table(out)
    assert head == ['image', 'mean confidence', 'kept', 'problem']
    means = [float(row[1]) for row in rows]
    assert means == sorted(means) and len(rows) == 3
    for name, mean, share, problem in rows:
        assert float(mean) == pytest.approx(sure[f'{name}.png'].mean() / 255, abs=1e-4)
        assert float(share) == pytest.approx((kept[f'{name}.png'] != 255).mean(), abs=1e-4) and not problem


def test_overlays_show_the_colors_and_leave_ignored_pixels_alone(checkpoint, folder, tmp_path):
    out = tmp_path / 'out'
    predict(checkpoint, str(folder), str(out), overlays=True, threshold=0.5)
    mask = masks(out / 'masks')['a/x.png']
    shown = np.array(Image.open(out / 'overlays/a/x.jpg')).astype(float)
    image = np.array(Image.open(folder / 'a/x.png')).astype(float)
    painted = np.where((mask == 255)[..., None], image, (image + np.array(PALETTE)[np.minimum(mask, 7)]) / 2)
    assert np.abs(shown - painted).mean() < 12  # JPEG
    assert np.abs(shown - image).mean() > 20


def test_an_exported_network_predicts_the_same(checkpoint, folder, tmp_path):
    export(checkpoint, tmp_path / 'plain')
    ours = masks(predict(checkpoint, str(folder), str(tmp_path / 'a')))
    exported = masks(predict(str(tmp_path / 'plain.pth'), str(folder), str(tmp_path / 'b')))
    assert all(np.array_equal(ours[name], exported[name]) for name in ours)
    with pytest.raises(UsageError, match='leave --branch out'):
        predict(str(tmp_path / 'plain.pth'), str(folder), str(tmp_path / 'c'), branch='student')


def test_one_image_and_lists_and_names_that_differ_by_suffix_alone(checkpoint, folder, tmp_path):
    assert list(masks(predict(checkpoint, str(folder / 'a/x.png'), str(tmp_path / 'one')))) == ['x.png']

    (tmp_path / 'list.txt').write_text('in/b/x.png\nin/a/x.png\n')
    assert list(masks(predict(checkpoint, str(tmp_path / 'list.txt'), str(tmp_path / 'l')))) == [
        'in/a/x.png',
        'in/b/x.png',
    ]
    (tmp_path / 'absolute.txt').write_text(f'{folder}/b/x.png\t/mask.png\n{folder}/a/x.png\n')
    assert list(masks(predict(checkpoint, str(tmp_path / 'absolute.txt'), str(tmp_path / 'm')))) == [
        'a/x.png',
        'b/x.png',
    ]
    (tmp_path / 'wrong.txt').write_text('in/b/x.png\nin/b/y.png\n')
    with pytest.raises(UsageError, match=r'wrong.txt, line 2: there is no image in/b/y.png'):
        predict(checkpoint, str(tmp_path / 'wrong.txt'), str(tmp_path / 'w'))

    draw(folder / 'a/x.jpg', seed=5)
    found = masks(predict(checkpoint, str(folder / 'a'), str(tmp_path / 'two')))
    assert list(found) == ['x.jpg.png', 'x.png.png']


def test_lists_of_a_project_are_relative_to_its_data(folder, tmp_path, monkeypatch):
    cfg = Config.fromfile('configs/mean_teacher/mean_teacher_r18_shapes.py')
    cfg.data_root = str(folder)
    path = save(cfg, tmp_path / 'epoch_1.pth')
    (tmp_path / 'lists').mkdir()
    (tmp_path / 'lists/unlabeled.txt').write_text('a/x.png\nb/x.png\n')
    out = predict(str(path), str(tmp_path / 'lists/unlabeled.txt'), str(tmp_path / 'out'))
    assert list(masks(out)) == ['a/x.png', 'b/x.png']


def test_every_frame_of_a_video_gets_a_mask(checkpoint, tmp_path):
    path = tmp_path / 'drive.avi'
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5, (56, 40))
    assert video.isOpened()
    for seed in range(3):
        video.write(np.array(Image.open(draw(tmp_path / 'frame.png', seed=seed))))
    video.release()
    out = predict(checkpoint, str(path), str(tmp_path / 'out'))
    found = masks(out)
    assert list(found) == [f'drive/00000{number}.png' for number in range(3)]
    assert all(mask.shape == (40, 56) for mask in found.values())

    (tmp_path / 'broken.mp4').write_bytes(b'no video')
    with pytest.raises(UsageError, match=r'broken.mp4 cannot be read'):
        predict(checkpoint, str(tmp_path / 'broken.mp4'), str(tmp_path / 'out'))


def test_images_of_all_kinds_are_predicted_or_named(checkpoint, tmp_path, capsys):
    root = tmp_path / 'in'
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(root / 'turned.jpg', (40, 56), exif=exif.tobytes())
    draw(root / 'gray.png', bands=1)
    draw(root / 'bands.png', bands=4)
    draw(root / 'dot.png', (1, 1))
    draw(root / 'line.png', (1, 50))
    wide = np.random.default_rng(0).integers(0, 2**16, (40, 56), dtype=np.uint16)
    Image.fromarray(wide).save(root / 'wide.png')
    (root / 'empty.png').write_bytes(b'')
    (root / 'text.jpg').write_text('no image')
    found = masks(predict(checkpoint, str(root), str(tmp_path / 'out'), overlays=True))
    assert {name: mask.shape for name, mask in found.items()} == {
        'bands.png': (40, 56),
        'dot.png': (1, 1),
        'gray.png': (40, 56),
        'line.png': (1, 50),
        'turned.png': (56, 40),
        'wide.png': (40, 56),
    }
    assert Image.open(tmp_path / 'out/overlays/turned.jpg').size == (40, 56)
    assert [row[0] for row in table(tmp_path / 'out')[-2:]] == ['empty', 'text']
    assert [row[3] for row in table(tmp_path / 'out')[-2:]] == ['cannot be read'] * 2
    printed = capsys.readouterr().out
    assert 'wrote 6 masks' in printed and 'left out: empty cannot be read' in printed


@pytest.mark.parametrize(('color_type', 'bands'), [('grayscale', 1), ('unchanged', 4)])
def test_networks_of_other_channels_read_as_they_were_trained(color_type, bands, tmp_path):
    cfg = Config.fromfile('configs/mean_teacher/mean_teacher_r18_shapes.py')
    cfg.model.student.backbone.in_channels = bands
    cfg.model.data_preprocessor.update(mean=[100.0], std=[50.0], bgr_to_rgb=False)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline[0].color_type = color_type
    cfg.test_pipeline[0].color_type = color_type
    path = str(save(cfg, tmp_path / 'epoch_1.pth'))
    draw(tmp_path / 'in/fits.png', bands=bands)
    draw(tmp_path / 'in/color.png', bands=3)
    out = tmp_path / 'out'
    found = masks(predict(path, str(tmp_path / 'in'), str(out), overlays=True))
    if bands == 1:  # colors have a gray
        assert list(found) == ['color.png', 'fits.png']
    else:
        assert list(found) == ['fits.png']
        assert table(out)[-1] == ['color', '', '', 'has 3 channels, and the network takes 4']


def test_nothing_to_predict_is_told(checkpoint, tmp_path):
    (tmp_path / 'none').mkdir()
    with pytest.raises(UsageError, match='holds no image'):
        predict(checkpoint, str(tmp_path / 'none'), str(tmp_path / 'out'))
    with pytest.raises(UsageError, match='does not exist; name a folder'):
        predict(checkpoint, str(tmp_path / 'missing'), str(tmp_path / 'out'))
    (tmp_path / 'none/x.png').write_bytes(b'')
    with pytest.raises(UsageError, match='None of the 1 images can be used, the first: x cannot be read'):
        predict(checkpoint, str(tmp_path / 'none'), str(tmp_path / 'out'))
    with pytest.raises(UsageError, match=r'--threshold must lie in \[0, 1\], not 90'):
        predict(checkpoint, str(tmp_path / 'none'), str(tmp_path / 'out'), threshold=90)
    with pytest.raises(UsageError, match='--device nowhere cannot be used'):
        predict(checkpoint, str(tmp_path / 'none'), str(tmp_path / 'out'), device='nowhere')
    torch.save({'state_dict': {}}, tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match='holds no config of a run'):
        predict(str(tmp_path / 'weights.pth'), str(tmp_path / 'none'), str(tmp_path / 'out'))


def test_masks_written_into_the_folder_of_images_are_no_images(checkpoint, folder, tmp_path):
    first = masks(predict(checkpoint, str(folder), str(folder), overlays=True))
    again = masks(predict(checkpoint, str(folder), str(folder), overlays=True))
    assert list(first) == list(again)


# Large images


def test_windows_cover_every_pixel_once_with_context():
    for length in (1, 767, 768, 769, 1024, 5000):
        windows = list(cut(length))
        assert [begin for begin, *_ in windows] == [0, *(end for _, end, *_ in windows[:-1])]
        assert windows[-1][1] == length
        for begin, end, first, last in windows:
            assert last - first <= predicting.WINDOW
            assert first == max(0, begin - predicting.MARGIN) and last == min(length, end + predicting.MARGIN)


def test_windows_give_what_the_whole_gives_to_a_network_that_sees_no_farther_than_the_margin(
    checkpoint, tmp_path, monkeypatch
):
    path = str(draw(tmp_path / 'large.png', (200, 330)))
    predictor = Predictor(load_network(checkpoint, 'student'))
    local = torch.nn.Conv2d(3, len(CLASSES), 31, padding=15)
    monkeypatch.setattr(predictor.network.model, 'inference', lambda inputs, metas: local(inputs))
    expected = predictor(predictor.read(path))
    for name, value in dict(LARGEST=100 * 100, WINDOW=80, MARGIN=16).items():
        monkeypatch.setattr(predicting, name, value)
    steps = []
    found = predictor(predictor.read(path), lambda windows, number: steps.extend(windows) or windows)
    assert len(steps) == 5 * 7
    assert len(np.unique(found.labels)) > 1 and np.array_equal(found.labels, expected.labels)
    assert np.abs(found.confidence.astype(int) - expected.confidence).max() <= 1


def test_scores_exist_for_one_window_at_a_time(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(predicting, 'LARGEST', 100 * 100)
    monkeypatch.setattr(predicting, 'WINDOW', 96)
    monkeypatch.setattr(predicting, 'MARGIN', 16)
    predictor = Predictor(load_network(checkpoint))
    shapes = []
    scores = predictor._scores
    monkeypatch.setattr(predictor, '_scores', lambda results: shapes.append(results['img'].shape) or scores(results))
    predictor(predictor.read(str(draw(tmp_path / 'large.png', (200, 330)))))
    assert max(shape[0] for shape in shapes) <= 96 and max(shape[1] for shape in shapes) <= 96


def test_a_pipeline_that_shrinks_gives_masks_of_the_images_own_size(tmp_path, monkeypatch):
    cfg = Config.fromfile('configs/mean_teacher/mean_teacher_r18_shapes.py')
    cfg.test_pipeline.insert(1, dict(type='LimitSide', longest=64))
    path = str(save(cfg, tmp_path / 'epoch_1.pth'))
    image = str(draw(tmp_path / 'large.png', (90, 128)))
    predictor = Predictor(load_network(path))
    local = torch.nn.Conv2d(3, len(CLASSES), 3, padding=1)
    monkeypatch.setattr(predictor.network.model, 'inference', lambda inputs, metas: local(inputs))
    found = predictor(predictor.read(image)).labels
    for name, value in dict(LARGEST=1, WINDOW=48, MARGIN=8).items():
        monkeypatch.setattr(predicting, name, value)
    windows = predictor(predictor.read(image)).labels
    assert found.shape == windows.shape == (90, 128)
    # Windows are resized by their labels, the whole by its scores.
    assert len(np.unique(found)) > 1 and (windows == found).mean() > 0.75


def test_an_image_that_is_read_reduced_has_a_mask_and_an_overlay_of_its_own_size(tmp_path):
    cfg = Config.fromfile('configs/mean_teacher/mean_teacher_r18_shapes.py')
    cfg.test_pipeline[0] = dict(type='LoadReducedImage', longest=64)
    cfg.test_pipeline.insert(1, dict(type='LimitSide', longest=64))
    path = str(save(cfg, tmp_path / 'epoch_1.pth'))
    draw(tmp_path / 'in/large.jpg', (240, 320))
    out = tmp_path / 'out'
    assert masks(predict(path, str(tmp_path / 'in'), str(out), overlays=True))['large.png'].shape == (240, 320)
    assert Image.open(out / 'overlays/large.jpg').size == (320, 240)
    export(path, tmp_path / 'plain')
    assert Config.fromfile(tmp_path / 'plain.py').test_pipeline[0] == dict(type='LoadImageFromFile')


@pytest.mark.parametrize('align', [False, True])
@pytest.mark.parametrize('size', [(37, 53), (8, 100), (3, 5), (1, 1)])
def test_bands_of_a_resized_map_are_those_of_the_whole(align, size):
    scores = torch.randn(4, 12, 17, dtype=torch.double)
    options = dict(size=size, mode='bilinear', align_corners=align)
    whole = torch.nn.functional.interpolate(scores[None], **options)[0]
    bands = [resize_band(scores, size, top, min(size[0], top + 5), align) for top in range(0, size[0], 5)]
    assert torch.allclose(torch.cat(bands, dim=1), whole, atol=1e-12)


def test_the_command_says_what_it_wrote(checkpoint, folder, tmp_path):
    command = [sys.executable, '-m', 'mmsemi.apis.cli', 'predict', checkpoint, str(folder), str(tmp_path / 'out')]
    done = subprocess.run([*command, '--threshold', '0.9'], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f'wrote 3 masks to {tmp_path}/out/masks' in done.stdout and 'images.csv' in done.stdout
    done = subprocess.run([*command[:-2], 'nowhere', 'out'], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith('error: nowhere does not exist')
