"""The cache directory, and a write that is whole or not at all."""

import os
import sys

import pytest

from whatwhere.tasks.cache import cache_dir, write_atomically


def test_the_variable_chooses_the_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("WHATWHERE_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path


@pytest.mark.skipif(os.name != "posix", reason="XDG is a POSIX convention")
def test_the_platform_chooses_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("WHATWHERE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "whatwhere"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == tmp_path / ".cache" / "whatwhere"


def test_a_write_replaces_the_old_file(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_atomically(path, "old")
    write_atomically(path, "ü")
    assert path.read_text(encoding="utf-8") == "ü"
    assert list(path.parent.iterdir()) == [path]
    write_atomically(path, b"\r\n\0")
    assert path.read_bytes() == b"\r\n\0"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_others_may_read_what_was_written(tmp_path):
    write_atomically(tmp_path / "file.json", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "file.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_write_that_dies_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_atomically(path, "old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
