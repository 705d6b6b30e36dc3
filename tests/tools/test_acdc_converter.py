"""From NIfTI volumes to slices and lists: what is written, and what is refused before anything is."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from mmsemi.datasets import ACDCDataset, SemiDataset
from tests.tools.test_runs import load_tool

acdc = load_tool('dataset_converters/acdc.py')

SHAPE = (9, 7, 3)  # x, y, z
PATIENTS = 12


def save(path: Path, volume: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)


def frames(patient: int) -> tuple[int, int]:
    return 1 + patient % 2, 10 + patient


def make_source(root: Path) -> Path:
    """Patients as the challenge hands them out, a four-dimensional film beside the annotated frames."""
    rng = np.random.default_rng(0)
    for patient in range(1, PATIENTS + 1):
        folder = root / f'patient{patient:03d}'
        folder.mkdir(parents=True)
        ed, es = frames(patient)
        (folder / 'Info.cfg').write_text(f'ED: {ed}\nES: {es}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n')
        (folder / f'{folder.name}_4d.nii.gz').write_bytes(b'')
        for frame in (ed, es):
            name = f'{folder.name}_frame{frame:02d}'
            save(folder / f'{name}.nii.gz', rng.integers(0, 900, SHAPE).astype(np.int16))
            save(folder / f'{name}_gt.nii.gz', rng.integers(0, 4, SHAPE).astype(np.uint8))
    return root


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> Path:
    return make_source(tmp_path_factory.mktemp('challenge'))


@pytest.fixture(scope='module')
def out(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('acdc')
    acdc.convert(source, out, val=2)
    return out


def lines(out: Path, name: str) -> list[str]:
    return (out / f'lists/{name}.txt').read_text().splitlines()


def patients(out: Path, name: str) -> set[str]:
    return {line.partition('_')[0] for line in lines(out, name)}


def refused(source: Path, out: Path, **kwargs) -> str:
    """The message of a refusal that has left nothing on the disk."""
    with pytest.raises((ValueError, OSError, RuntimeError)) as error:
        acdc.convert(source, out, **{'val': 2, **kwargs})
    assert not out.exists()
    return str(error.value)


@pytest.fixture
def broken(source, tmp_path) -> Path:
    """A copy of the source to break."""
    return Path(shutil.copytree(source, tmp_path / 'challenge'))


def test_every_slice_of_both_frames_becomes_an_image_and_a_mask(source, out):
    expected = {
        f'patient{p:03d}_frame{f:02d}_{z:02d}.png' for p in range(1, PATIENTS + 1) for f in frames(p) for z in range(3)
    }
    for folder in ('images', 'masks'):
        assert {path.name for path in (out / folder).iterdir()} == expected
    folder = source / 'patient003'
    for z in range(3):
        label = nibabel.load(folder / 'patient003_frame13_gt.nii.gz').get_fdata()[:, :, z]
        with Image.open(out / f'masks/patient003_frame13_{z:02d}.png') as mask:
            assert mask.mode == 'L' and mask.size == SHAPE[:2]
            assert np.array_equal(np.asarray(mask), label.T)


def test_intensities_are_scaled_between_the_percentiles_of_the_whole_scan(source, out):
    volume = nibabel.load(source / 'patient001/patient001_frame02.nii.gz').get_fdata()
    low, high = np.percentile(volume, 1), np.percentile(volume, 99)
    for z in range(3):
        with Image.open(out / f'images/patient001_frame02_{z:02d}.png') as image:
            pixels = np.asarray(image)
        assert image.mode == 'L'
        for x in range(SHAPE[0]):
            for y in range(SHAPE[1]):
                value = min(max(volume[x, y, z], low), high)
                assert pixels[y, x] == round(255 * (value - low) / (high - low))
    ramp = acdc.to_gray(np.arange(1001.0))
    assert [ramp[i] for i in (0, 10, 12, 510, 988, 990, 1000)] == [0, 0, 1, 130, 254, 255, 255]


def test_intensities_may_be_scaled_between_the_lowest_and_the_highest(source, tmp_path, capsys):
    out = tmp_path / 'out'
    acdc.main([str(source), str(out), '--val', '2', '--cases', '3', '--percentiles', '0', '100'])
    volume = nibabel.load(source / 'patient001/patient001_frame02.nii.gz').get_fdata()
    for z in range(3):
        pixels = np.asarray(Image.open(out / f'images/patient001_frame02_{z:02d}.png'))
        scaled = 255 * (volume[:, :, z].T - volume.min()) / (volume.max() - volume.min())
        assert np.abs(pixels - scaled).max() <= 0.5 + 1e-9
    for wrong in ((99, 1), (-1, 50), (0, 101)):
        message = refused(source, tmp_path / 'other', percentiles=wrong)
        assert message.startswith('--percentiles must be two ascending numbers from 0 to 100')


def test_a_scan_of_one_intensity_is_black():
    assert (acdc.to_gray(np.full(SHAPE, 7.0)) == 0).all()


def test_lists_part_patients_and_three_cases_are_part_of_seven(out):
    assert {path.stem for path in (out / 'lists').iterdir()} == {
        'train', 'val', 'cases_3', 'cases_7', 'unlabeled_3', 'unlabeled_7',
    }  # fmt: skip
    train, val = patients(out, 'train'), patients(out, 'val')
    assert (len(train), len(val)) == (PATIENTS - 2, 2) and not train & val
    for cases in (3, 7):
        labeled, rest = patients(out, f'cases_{cases}'), patients(out, f'unlabeled_{cases}')
        assert len(labeled) == cases and not labeled & rest and labeled | rest == train
        assert len(lines(out, f'cases_{cases}')) == cases * 2 * SHAPE[2]
    assert patients(out, 'cases_3') < patients(out, 'cases_7')


def test_the_published_split_has_70_and_30_patients_and_140_and_60_scans():
    everyone = {f'patient{i:03d}': [None, None] for i in range(1, 101)}
    lists = acdc.draw_lists(everyone)
    assert {key: len(names) for key, names in lists.items()} == {
        'val': 30, 'train': 70, 'cases_3': 3, 'unlabeled_3': 67, 'cases_7': 7, 'unlabeled_7': 63,
    }  # fmt: skip


def test_the_seed_decides_who_is_drawn(source, out, tmp_path):
    acdc.convert(source, tmp_path / 'same', val=2)
    contents = {path.relative_to(out): path.read_bytes() for path in out.rglob('*.*')}
    assert {p.relative_to(tmp_path / 'same'): p.read_bytes() for p in (tmp_path / 'same').rglob('*.*')} == contents
    found = acdc.find_patients(source)
    assert acdc.draw_lists(found, 2, seed=1)['val'] != acdc.draw_lists(found, 2)['val']


def test_the_data_set_reads_what_is_written(out):
    pool = dict(type='ACDCDataset', data_root=str(out), ann_file='lists/train.txt', apart_from='lists/val.txt')
    dataset = SemiDataset(pool, labeled='lists/cases_7.txt')
    assert (dataset.num_labeled, dataset.num_unlabeled) == (42, 18)
    assert dataset.unlabeled_ids == lines(out, 'unlabeled_7')
    assert len(ACDCDataset(data_root=str(out), ann_file='lists/val.txt')) == 12


def test_lists_of_patients_or_scans_replace_the_draws(source, tmp_path):
    (tmp_path / 'val.txt').write_text('patient004\npatient009\n')
    (tmp_path / 'cases.txt').write_text('patient001_frame11\npatient005\npatient001_frame02\n')
    out = tmp_path / 'out'
    acdc.convert(source, out, val=str(tmp_path / 'val.txt'), cases=[str(tmp_path / 'cases.txt'), 3])
    assert patients(out, 'val') == {'patient004', 'patient009'}
    assert patients(out, 'cases_2') == {'patient001', 'patient005'} and len(lines(out, 'cases_2')) == 12
    assert len(patients(out, 'unlabeled_2')) == 8 and len(patients(out, 'cases_3')) == 3


def test_a_case_list_that_splits_a_patient_is_refused_with_file_and_patient(source, tmp_path):
    path = tmp_path / 'cases.txt'
    path.write_text('patient001\npatient005_frame02\n')
    message = refused(source, tmp_path / 'out', cases=[str(path)])
    assert message.startswith(f'The case list {path} splits patient005: it names patient005_frame02 and not')
    assert 'patient005_frame15' in message
    assert 'splits patient005' in refused(source, tmp_path / 'out', val=str(path))


def test_a_labeled_case_may_not_be_one_of_validation(source, tmp_path):
    (tmp_path / 'val.txt').write_text('patient004\npatient009\n')
    path = tmp_path / 'cases.txt'
    path.write_text('patient001\npatient009\n')
    message = refused(source, tmp_path / 'out', val=str(tmp_path / 'val.txt'), cases=[str(path)])
    assert message == f'The case list {path} names patient009, who is in the validation set; take one out.'


def test_counts_and_lists_that_cannot_be_are_refused(source, tmp_path):
    out, path = tmp_path / 'out', tmp_path / 'cases.txt'
    for wrong in ('patient099', 'patient001_frame05', 'patient001_frame02_00'):
        path.write_text(f'patient002\n{wrong}\n')
        assert f"{path}, line 2: '{wrong}' is none of the patients" in refused(source, out, cases=[str(path)])
    for kwargs in (dict(val=0), dict(val=12), dict(cases=[10]), dict(cases=[0])):
        assert 'at least one must be drawn and one be left' in refused(source, out, **kwargs)
    path.write_text(''.join(f'patient{i:03d}\n' for i in range(1, PATIENTS + 1)))
    assert 'names all 12 patients' in refused(source, out, val=str(path))
    assert 'two lists of 3 cases' in refused(source, out, cases=[3, 3])


def test_a_label_map_of_another_shape_is_refused_before_anything_is_written(broken, tmp_path):
    mask = broken / 'patient012/patient012_frame22_gt.nii.gz'
    save(mask, np.zeros((9, 7, 4), np.uint8))
    message = refused(broken, tmp_path / 'out')
    assert str(mask) in message and '(9, 7, 4)' in message and '(9, 7, 3)' in message


@pytest.mark.parametrize(
    ('dtype', 'label', 'shown'), [(np.uint8, 4, '4'), (np.int16, -1, '-1'), (np.float32, 1.5, '1.5')]
)
def test_an_unknown_label_id_is_refused_with_its_file(broken, tmp_path, dtype, label, shown):
    mask = broken / 'patient012/patient012_frame22_gt.nii.gz'
    volume = np.zeros(SHAPE, dtype)
    volume[3, 2, 1] = label
    save(mask, volume)
    assert f'{mask} holds the label id {shown}, which is none of 0 to 3' in refused(broken, tmp_path / 'out')


def test_damaged_and_missing_files_are_refused_by_name(broken, tmp_path):
    out, folder = tmp_path / 'out', broken / 'patient012'
    scan = folder / 'patient012_frame22.nii.gz'
    save(scan, np.zeros((*SHAPE, 2), np.int16))
    assert f'{scan} has the shape (9, 7, 3, 2)' in refused(broken, out)
    save(scan, np.full(SHAPE, np.nan, np.float32))
    assert f'{scan} holds intensities that are no finite numbers' in refused(broken, out)
    scan.write_bytes(scan.read_bytes()[:40])
    assert f'{scan} cannot be read' in refused(broken, out)
    scan.unlink()
    assert f'{scan} does not exist' in refused(broken, out)
    (folder / 'Info.cfg').write_text('ED: 1\n')
    assert f'{folder}/Info.cfg does not name two frames' in refused(broken, out)
    (folder / 'Info.cfg').unlink()
    assert f'{folder}/Info.cfg does not exist' in refused(broken, out)
    assert 'holds no folder patient001' in refused(tmp_path, out)


def test_plain_nifti_files_are_read_as_well(broken, tmp_path):
    for path in list((broken / 'patient001').glob('*frame*.nii.gz')):
        nibabel.save(nibabel.load(path), path.with_suffix(''))
        path.unlink()
    acdc.convert(broken, tmp_path / 'out', val=2)
    assert len(list((tmp_path / 'out/images').glob('patient001_*'))) == 6


def test_older_slices_are_not_mixed_with_new_ones(source, out):
    with pytest.raises(FileExistsError, match=r'images exists; remove it or give another folder'):
        acdc.convert(source, out, val=2)


def test_command_line_says_what_it_wrote(source, tmp_path, capsys):
    acdc.main([str(source), str(tmp_path / 'out'), '--val', '2', '--cases', '3', '--seed', '5'])
    report = capsys.readouterr().out.splitlines()
    assert report[:2] == [f'{tmp_path}/out/lists/{name}' for name in ('val.txt: 12 slices', 'train.txt: 60 slices')]
    with pytest.raises(SystemExit, match=r'^acdc: .*images exists'):
        acdc.main([str(source), str(tmp_path / 'out')])


def test_missing_nibabel_is_said_in_one_sentence(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'nibabel', None)
    with pytest.raises(SystemExit, match=r"nibabel, which is missing; run pip install 'nibabel>=5\.0'"):
        acdc.main([str(source), str(tmp_path / 'out')])
    assert not (tmp_path / 'out').exists()
