r"""Cut the cardiac MR scans of the ACDC challenge into 2D slices, and draw the lists of the semi-supervised benchmark.

    python tools/dataset_converters/acdc.py ACDC/database/training data/acdc

reads, of each patient, ``patient001/Info.cfg`` and the scans that it names, at the end of diastole (ED) and of systole
(ES): ``patient001/patient001_frame01.nii.gz`` and ``patient001_frame01_gt.nii.gz``. nibabel reads them
(``pip install -e '.[acdc]'``). It writes, once everything has been read and checked,

    images/patient001_frame01_00.png   8 bit, gray: the scan's intensities, clipped to its 1st and 99th percentile and
                                       scaled so that these become 0 and 255; rows run along the scan's second axis
    masks/patient001_frame01_00.png    ids: 0 background, 1 right ventricle, 2 myocardium, 3 left ventricle
    lists/train.txt, lists/val.txt     the slices of 70 and of 30 patients
    lists/cases_3.txt, cases_7.txt     the slices of 3 and of 7 cases, which are labeled
    lists/unlabeled_3.txt, ...         the other slices of train.txt

A case is a patient with both scans; a list never splits one. Patients are drawn by ``--seed``, whatever their
diagnosis, and 3 cases are part of 7. Another split is given by list files, one patient or scan a line:

    ... --val my_val.txt --cases my_cases.txt

``--percentiles 0 100`` scales intensities between the scan's lowest and highest instead, as the published data sets of
UniMatch and SSL4MIS are.
"""

from __future__ import annotations

import argparse
import gzip
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmsemi.datasets import ACDCDataset, draw_partition, read_list, write_list

NUM_CLASSES = len(ACDCDataset.METAINFO['classes'])
PERCENTILES = (1, 99)
MOST_BYTES = 1 << 29
Patients = dict[str, list['Scan']]


class Scan(NamedTuple):
    """One volume and its label map: a patient's heart at the end of diastole or of systole."""

    name: str
    image: Path
    mask: Path


# --- what there is


def find_patients(source: Path) -> Patients:
    """The scans of each patient below ``source``.

    Raises:
        FileNotFoundError: If there is no patient, or a file of one is missing.
        ValueError: If an ``Info.cfg`` does not say which frames are annotated.
    """
    folders = sorted(path for path in source.glob('patient*') if re.fullmatch(r'patient\d+', path.name))
    if not folders:
        raise FileNotFoundError(f'{source} holds no folder patient001; give the folder of the patients.')
    return {folder.name: [_scan(folder, frame) for frame in _annotated_frames(folder)] for folder in folders}


def _annotated_frames(folder: Path) -> list[int]:
    path = folder / 'Info.cfg'
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; take it from the challenge.')
    frames = {int(number) for number in re.findall(r'^(?:ED|ES)\s*:\s*(\d+)', path.read_text(), re.MULTILINE)}
    if len(frames) != 2:
        raise ValueError(f'{path} does not name two frames, ED and ES; take it from the challenge.')
    return sorted(frames)


def _scan(folder: Path, frame: int) -> Scan:
    name = f'{folder.name}_frame{frame:02d}'
    return Scan(name, _nifti(folder / name), _nifti(folder / f'{name}_gt'))


def _nifti(path: Path) -> Path:
    for suffix in ('.nii.gz', '.nii'):
        if (file := path.parent / f'{path.name}{suffix}').is_file():
            return file
    raise FileNotFoundError(f'{path}.nii.gz does not exist; complete the data set.')


# --- slices


def slices(scan: Scan, percentiles: Sequence[float] = PERCENTILES) -> tuple[np.ndarray, np.ndarray]:
    """Slices of a scan and their label maps, both uint8 (Z, H, W); ``percentiles`` are those of :func:`to_gray`.

    Raises:
        RuntimeError: If a file cannot be read.
        ValueError: If image and labels do not fit each other, an intensity is no number, or a label id is unknown.
    """
    image, mask = _read(scan.image), _read(scan.mask)
    if image.ndim != 3:
        raise ValueError(f'{scan.image} has the shape {image.shape}, but a scan has three axes; replace the file.')
    if mask.shape != image.shape:
        raise ValueError(
            f'The label map {scan.mask} has the shape {mask.shape}, but its scan {scan.image.name} has {image.shape}; '
            'give the label map of that scan.'
        )
    if not np.isfinite(image).all():
        raise ValueError(f'{scan.image} holds intensities that are no finite numbers; replace the file.')
    unknown = np.setdiff1d(mask, range(NUM_CLASSES))
    if unknown.size:
        raise ValueError(
            f'The label map {scan.mask} holds the label id {unknown[0]:g}, which is none of 0 to {NUM_CLASSES - 1}; '
            'correct it.'
        )
    # The file's axes are x, y, z.
    return to_gray(image, percentiles).transpose(2, 1, 0), mask.astype(np.uint8).transpose(2, 1, 0)


def to_gray(volume: np.ndarray, percentiles: Sequence[float] = PERCENTILES) -> np.ndarray:
    """Intensities as uint8: 0 at the lower percentile and below, 255 at the upper one and above, linear between."""
    low, high = np.percentile(volume, percentiles)
    scale = 255 / (high - low) if high > low else 0.0
    return np.round((np.clip(volume, low, high) - low) * scale).astype(np.uint8)


def _read(path: Path) -> np.ndarray:
    import nibabel

    try:
        _check_size(path)
        return nibabel.load(path).get_fdata()
    except Exception as error:
        # nibabel, gzip and zlib raise errors of their own kinds for damaged files.
        raise RuntimeError(f'{path} cannot be read ({error}); replace the file.') from error


def _check_size(path: Path) -> None:
    """Refuse a file that unpacks to, or whose header asks for, more than any scan of the heart has."""
    import nibabel

    with (gzip.open if path.suffix == '.gz' else open)(path) as file:
        size = 0
        while chunk := file.read(1 << 20):
            size += len(chunk)
            if size > MOST_BYTES:
                raise ValueError(f'it unpacks to more than {MOST_BYTES >> 20} MB')
    voxels = math.prod(nibabel.load(path).shape)
    if voxels > MOST_BYTES // 8:
        raise ValueError(f'its header asks for {voxels} voxels')


# --- lists


def choose(key: str, amount: str | int, patients: Patients, among: Sequence[str], seed: int) -> list[str]:
    """Patients: a count of them, drawn, or those of a list file.

    Args:
        key (str): The option, for messages.
        amount (str | int): A count, or the path of a list file.
        patients (dict): All patients.
        among (Sequence[str]): Those who may be chosen; at least one must be left.
        seed (int): Seed of the draw.

    Raises:
        FileNotFoundError: If there is no such list.
        ValueError: If a list splits a patient or names an unknown one, or nobody is chosen or left.
    """
    if str(amount).isdigit():
        if not 0 < int(amount) < len(among):
            raise ValueError(
                f'{key} {amount}: there are {len(among)} patients to draw from, and at least one must be drawn and '
                'one be left.'
            )
        return [among[i] for i in draw_partition(len(among), int(amount), seed)]
    chosen = read_cases(str(amount), patients)
    foreign = sorted(set(chosen) - set(among))
    if foreign:
        raise ValueError(f'The case list {amount} names {foreign[0]}, who is in the validation set; take one out.')
    if len(chosen) == len(among):
        raise ValueError(f'The case list {amount} names all {len(among)} patients; at least one must be left.')
    return chosen


def read_cases(path: str, patients: Patients) -> list[str]:
    """Patients in a list of patients or scans.

    Raises:
        FileNotFoundError: If there is no such list.
        ValueError: If it names one scan of a patient without the other, or something unknown.
    """
    parts = {scan.name: (patient, {scan.name}) for patient, scans in patients.items() for scan in scans}
    parts |= {patient: (patient, {scan.name for scan in scans}) for patient, scans in patients.items()}
    named: dict[str, set[str]] = {}
    for entry in read_list(path):
        if entry.image not in parts:
            raise ValueError(
                f"The case list {path}, line {entry.line}: '{entry.image}' is none of the patients (patient001) and "
                'scans (patient001_frame01) that are there; correct the line.'
            )
        patient, scans = parts[entry.image]
        named.setdefault(patient, set()).update(scans)
    for patient, scans in named.items():
        missing = [scan.name for scan in patients[patient] if scan.name not in scans]
        if missing:
            raise ValueError(
                f'The case list {path} splits {patient}: it names {min(scans)} and not {missing[0]}; '
                'name both scans of a patient or none.'
            )
    return sorted(named)


def draw_lists(
    patients: Patients, val: str | int = 30, cases: Sequence[str | int] = (3, 7), seed: int = 0
) -> dict[str, list[str]]:
    """Patients of each list, by its name; errors are those of :func:`choose`."""
    everyone = list(patients)
    lists = {'val': choose('--val', val, patients, everyone, seed)}
    lists['train'] = [patient for patient in everyone if patient not in lists['val']]
    for amount in cases:
        labeled = choose('--cases', amount, patients, lists['train'], seed)
        if f'cases_{len(labeled)}' in lists:
            raise ValueError(f'--cases {amount}: two lists of {len(labeled)} cases would be one file; leave one out.')
        lists[f'cases_{len(labeled)}'] = labeled
        lists[f'unlabeled_{len(labeled)}'] = [patient for patient in lists['train'] if patient not in labeled]
    return lists


# --- the files


def convert(
    source: Path,
    out: Path,
    val: str | int = 30,
    cases: Sequence[str | int] = (3, 7),
    seed: int = 0,
    percentiles: Sequence[float] = PERCENTILES,
) -> dict[str, list[str]]:
    """Write slices and lists; nothing is written before all scans are read, which takes some 250 MB for 100 patients.

    Returns:
        dict[str, list[str]]: Slices of each list, by its name.

    Raises:
        FileExistsError: If ``out`` holds slices or lists.
        FileNotFoundError, RuntimeError, ValueError: As :func:`find_patients`, :func:`draw_lists` and :func:`slices`;
            if ``percentiles`` are not two ascending numbers from 0 to 100.
    """
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f'--percentiles must be two ascending numbers from 0 to 100, not {tuple(percentiles)}.')
    for folder in ('images', 'masks', 'lists'):
        if (out / folder).exists():
            raise FileExistsError(f'{out / folder} exists; remove it or give another folder.')
    patients = find_patients(source)
    lists = draw_lists(patients, val, cases, seed)
    volumes = {scan.name: slices(scan, percentiles) for scans in patients.values() for scan in scans}

    for number, folder in enumerate(('images', 'masks')):
        (out / folder).mkdir(parents=True)
        for name, pair in volumes.items():
            for z, pixels in enumerate(pair[number]):
                Image.fromarray(np.ascontiguousarray(pixels)).save(out / folder / f'{name}_{z:02d}.png')
    written = {}
    for key, chosen in lists.items():
        scans = [scan.name for patient in chosen for scan in patients[patient]]
        written[key] = [f'{name}_{z:02d}' for name in scans for z in range(len(volumes[name][0]))]
        write_list(out / 'lists' / f'{key}.txt', written[key])
    return written


def main(args: Sequence[str] | None = None) -> None:
    """Read the command line, convert, and print what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='folder that holds patient001, patient002, ...')
    parser.add_argument('out', type=Path, help='folder to write, data/acdc in the configs')
    parser.add_argument('--val', default='30', help='number of patients for validation, or a list of them')
    parser.add_argument('--cases', nargs='+', default=['3', '7'], help='numbers of labeled cases, or lists of them')
    parser.add_argument('--seed', type=int, default=0, help='seed of the draws')
    parser.add_argument(
        '--percentiles',
        nargs=2,
        type=float,
        default=PERCENTILES,
        metavar=('LOW', 'HIGH'),
        help='percentiles of a scan that become black and white; 0 100 are its lowest and highest intensity',
    )
    options = parser.parse_args(args)
    try:
        import nibabel  # noqa: F401
    except ImportError:
        sys.exit("acdc: NIfTI files are read by nibabel, which is missing; run pip install 'nibabel>=5.0'.")
    try:
        written = convert(options.source, options.out, options.val, options.cases, options.seed, options.percentiles)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f'acdc: {error}')
    for key, names in written.items():
        print(f'{options.out / "lists" / f"{key}.txt"}: {len(names)} slices')


if __name__ == '__main__':
    main()
