import pytest

from tests.wrong_input.project import Project


@pytest.fixture
def project(tmp_path, capsys, monkeypatch) -> Project:
    """A project that trains as it stands."""
    monkeypatch.delenv('MMSEMI_ERROR_FILE', raising=False)
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, capsys)
