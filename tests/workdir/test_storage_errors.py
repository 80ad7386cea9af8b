"""What happens when the disk takes nothing at the start of a run or at its end."""

import errno
import os

import pytest

from kanana_jax.workdir import storage


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_refusal_to_write_says_what_to_do(tmp_path, number):
    path = tmp_path / "result.json"
    with (
        pytest.raises(storage.StorageError, match=f"{path} .*{os.strerror(number)}.*same command"),
        storage.needed(tmp_path),
    ):
        raise OSError(number, os.strerror(number), str(path))


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), storage.needed(tmp_path):
        (tmp_path / "missing").read_text()


def test_the_last_checkpoint_must_be_there(tmp_path):
    storage.expect_last_checkpoint(tmp_path, [50, 60], 60)
    with pytest.raises(storage.StorageError, match=r"of step 60, .* goes on from step 50"):
        storage.expect_last_checkpoint(tmp_path, [40, 50], 60)
    with pytest.raises(storage.StorageError, match="goes on from the start"):
        storage.expect_last_checkpoint(tmp_path, [], 60)
