"""Rows on disk: a kill loses at most the line it tore."""

import json
from pathlib import Path

import pytest
from fresh import ROOT
from hypothesis import given
from hypothesis import strategies as st

from whatwhere.study import rows
from whatwhere.study.directory import write_whole


def test_a_torn_last_line_is_no_row_and_is_cut_off(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert rows.read_rows(path) == []
    rows.mend(path)
    rows.append(path, {"a": 1})
    whole = path.read_bytes()
    for torn in (b'{"a": 2, "b', b'{"a": 2}', b"\xff\xfe"):
        path.write_bytes(whole + torn)
        assert rows.read_rows(path) == [{"a": 1}]
        rows.mend(path)
        assert path.read_bytes() == whole
        rows.append(path, {"a": 3})
        assert rows.read_rows(path) == [{"a": 1}, {"a": 3}]


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text()), max_size=4), st.data())
def test_any_cut_keeps_the_whole_lines(tmp_path_factory, written, data):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.touch()
    for row in written:
        rows.append(path, row)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    assert rows.read_rows(path) == written[: content[:cut].count(b"\n")]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a":\n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl:2 is no JSON"):
        rows.read_rows(path)


def test_numbers_that_are_none_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        rows.append(tmp_path / "rows.jsonl", {"value": float("nan")})
    assert rows.read_rows(tmp_path / "rows.jsonl") == []


def test_provenance_is_json():
    found = {"commit": rows.commit(), "versions": rows.versions(), "d": rows.device_name("cpu")}
    assert json.loads(json.dumps(found)) == found
    assert "thread" in found["d"]
    if (ROOT / ".git").exists():
        assert len(found["commit"].removesuffix("+")) == 40


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_is_named(tmp_path):
    """The system's error says "No space left on device", but not where."""
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        rows.append(Path("/dev/full"), {"a": 1})
    path = tmp_path / "cells.json"
    path.with_name(".cells.json.new").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*/cells\.json'"):
        write_whole(path, "{}")
