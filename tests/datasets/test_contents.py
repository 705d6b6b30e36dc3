"""What files say of a data set: images that are both trained on and judged."""

from mmsemi.datasets import contents


def write(path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def test_images_that_are_trained_on_and_judged_are_found_by_path_also_behind_a_linked_folder(tmp_path, monkeypatch):
    train = [write(tmp_path / 'train' / f'{i}.png', f'{i}') for i in range(6)]
    (tmp_path / 'link').symlink_to(tmp_path / 'train', target_is_directory=True)
    judged = [write(tmp_path / 'val/x.png', 'x'), str(tmp_path / 'link/3.png')]
    parts = {'labeled': train[:2], 'unlabeled': train[2:], 'validation': judged}
    [told] = contents.leaks(parts)
    assert told.startswith(f'1 of 2 validation images are unlabeled images of training, too (first: {train[3]})')

    # Of many files, links of folders are followed once a folder, and no file is asked for.
    monkeypatch.setattr(contents, '_MOST_COMPARED', 3)
    asked, realpath = [], contents.os.path.realpath
    monkeypatch.setattr(contents.os.path, 'realpath', lambda path: asked.append(path) or realpath(path))
    assert contents.leaks(parts) == [told]
    assert sorted(asked) == sorted(str(tmp_path / name) for name in ('link', 'train', 'val'))


def test_copies_under_another_name_are_found_where_files_are_few_or_all_are_asked_for(tmp_path, monkeypatch):
    parts = {
        'labeled': [write(tmp_path / 'train/a.png', 'same')],
        'unlabeled': [write(tmp_path / 'train/b.png', 'other')],
        'validation': [write(tmp_path / 'val/c.png', 'same')],
    }
    [told] = contents.leaks(parts)
    assert told.startswith('1 validation images have the content of labeled images of training')
    monkeypatch.setattr(contents, '_MOST_COMPARED', 2)
    assert contents.leaks(parts) == []
    assert contents.leaks(parts, thorough=True) == [told]
