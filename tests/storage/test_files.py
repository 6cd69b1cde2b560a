import errno
import os
import stat

import pytest

from normlab.errors import NormlabError
from normlab.storage.files import remove_leftovers, write_atomically


def test_bytes_and_text_are_written_and_replace_what_was_there(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_atomically(path, b"bytes")
    assert path.read_bytes() == b"bytes"
    write_atomically(path, "text ×")
    assert path.read_bytes() == "text ×".encode()
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def no_space(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(NormlabError, match=r"file\.txt cannot be written: No space left on device"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_file_that_cannot_be_written_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(NormlabError, match=r"cannot be written: \S[^\n]*$"):
        write_atomically(tmp_path / "file" / "below.txt", "x")


def test_a_file_gets_the_permissions_of_any_new_file(tmp_path):
    write_atomically(tmp_path / "one", "x")
    (tmp_path / "other").write_text("x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("one", "other")]
    assert modes[0] == modes[1]


def test_a_file_of_the_user_with_a_similar_name_is_no_leftover(tmp_path):
    for name in (".config-0123abcd.json", ".config-original.json"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "config.json")
    assert [path.name for path in tmp_path.iterdir()] == [".config-original.json"]
