"""Models by name from a hub on this machine: found, refused, and read from the cache without it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from extend.hub import GATED, Hub, serve
from fresh import run_python

NAME, BARE, NO_MODEL = "owner/tiny", "owner/bare", "owner/notes"
SHORT = ("--to", "2x", "--methods", "none,yarn", "--keys", "1", "--depths", "0.5", "--copies", "0")
WITHOUT = (("extend", NAME, *SHORT, "--text", "book.txt", "--out", "w"), ("extend", "owner/tny"))
SCRIPT = """
import contextlib, io, json, sys, time, urllib.request
from huggingface_hub import constants
from whatwhere.cli import main
found = []
for words in json.load(sys.stdin):
    if words == "stop":
        urllib.request.urlopen(constants.ENDPOINT + "/stop").read()
        continue
    constants.HF_HUB_OFFLINE = "HF_HUB_OFFLINE" in words[0]
    out, err, began = io.StringIO(), io.StringIO(), time.monotonic()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words[constants.HF_HUB_OFFLINE :])
        except SystemExit as exit_:
            code = exit_.code
    seconds = time.monotonic() - began
    found.append({"code": code, "out": out.getvalue(), "err": err.getvalue(), "seconds": seconds})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def hub(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The tiny model, another revision of it, one without a tokenizer, and a repository of none."""
    place = tmp_path_factory.mktemp("hub")
    made, later, bare = Hub(), shutil.copytree(folder, place / "later"), place / "bare"
    config = json.loads((later / "config.json").read_text())
    (later / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 120}))
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("token*", "trained*"))
    (place / "notes").mkdir()
    made.push(NAME, folder)
    made.push(NAME, later, "half")
    made.push(BARE, bare)
    made.push(NO_MODEL, place / "notes")
    with serve(made):
        yield made


@pytest.fixture
def run(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run command lines one after another in a fresh process whose hub is this one."""
    for name in [name for name in os.environ if name.startswith(("HF_", "TRANSFORMERS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*lines: Any) -> list[dict[str, Any]]:
        hub.asked.clear()
        return json.loads(run_python(SCRIPT, tmp_path, given=json.dumps(lines)).splitlines()[-1])

    return call


def test_by_name(run: Any, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(
        "The whale is what we make of it, and it makes of us what it will. " * 200
    )
    text = ("--text", "book.txt")
    whole, searched, adapted, half, *refused = run(
        ("extend", NAME, *SHORT, *text, "--save", "saved"),
        ("search", NAME, "--factor", "2", *text, "--evaluations", "16", "--samples", "1",
         "--held-out", "1", "--out", "searched"),
        ("adapt", NAME, "--method", "yarn", "--to", "2x", *text, "--steps", "1", "--batch-size",
         "1", "--out", "adapted", "--cpu"),
        ("extend", f"{NAME}@half", *SHORT, *text),
        ("extend", "owner/tny", *SHORT),
        ("extend", GATED, *SHORT),
        ("extend", f"{NAME}@v9", *SHORT),
        ("extend", BARE, *SHORT),
        ("extend", NO_MODEL, *SHORT),
        ("extend", "./tiny", *SHORT),
        ("extend", NAME, *SHORT, *text, "--adapter", "nowhere", "--out", "other"),
        "stop", *WITHOUT, *(("HF_HUB_OFFLINE", *words) for words in WITHOUT),
    )  # fmt: skip
    *refused, again, gone, offline, may_not = refused
    commit, other = hub.commit(NAME, "main")[:12], hub.commit(NAME, "half")[:12]
    for each in (whole, searched, adapted, half):
        assert each["code"] == 0, each["err"]
    assert "trained at 128 tokens" in whole["out"]
    assert (tmp_path / "saved" / "model.safetensors").is_file()
    rows = _rows(tmp_path / "results" / f"extend-tiny@{commit}")
    assert {row["model"] for row in rows} == {f"{NAME}@{commit}"}
    assert json.loads((tmp_path / "searched" / "result.json").read_text())["rope_parameters"]
    assert (tmp_path / "adapted" / "adapter" / "adapter_config.json").is_file()
    rows = _rows(tmp_path / "results" / f"extend-tiny@{other}")
    assert {(row["model"], row["train_length"]) for row in rows} == {(f"{NAME}@{other}", 120)}

    said = [each["err"] for each in refused]
    assert all(each["code"] == 2 and each["err"].count("\n") == 1 for each in refused), said
    for part, err in zip(
        ["did you mean 'owner/tiny'", "hf auth login", "no revision 'v9'", "no tokenizer",
         "no config.json", "./tiny does not exist", "no adapter_config.json"], said, strict=True,
    ):  # fmt: skip
        assert part in err
    assert "the hub has none of that name" in said[0]
    # Without the hub the cache is read, and nothing is waited for.
    for each in (again, offline):
        assert each["code"] == 0, each["err"]
        assert each["out"].split("\nrows")[0] == whole["out"].split("\nrows")[0]
    for each, why in ((gone, "can not be reached"), (may_not, "HF_HUB_OFFLINE is set")):
        assert each["code"] == 2
        assert each["seconds"] < 5
        assert "did you mean 'owner/tiny'" in each["err"]
        assert why in each["err"]
    asked = [line.split()[1] for line in hub.asked]
    assert [path for path in asked if "tny" in path] == ["/owner/tny/resolve/main/config.json"]
    assert [path for path in asked if GATED in path] == [f"/{GATED}/resolve/main/config.json"]
    assert not any(BARE in path and "safetensors" in path for path in asked)


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
