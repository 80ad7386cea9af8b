import os
import subprocess
from pathlib import Path

import processes
import pytest
import tiny_jobs


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    text = tiny_jobs.write_text(tmp_path_factory.mktemp("text") / "words.txt")
    return processes.Lab(text=text, compiled=tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="session")
def unbroken(lab, tmp_path_factory) -> Path:
    """The directory of a run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("unbroken")
    code, shown = lab.run(workdir)
    assert code == 0, shown
    return workdir


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
