"""ls, explain, cite: they say what the tables and the backends say, in 80 columns."""

import json
from pathlib import Path

import pytest
from fresh import ROOT, run_python

from whatwhere import citations, spectra
from whatwhere.attention import BACKENDS, attend
from whatwhere.cli.gallery import gallery, reasons
from whatwhere.cli.sources import keys_of
from whatwhere.cli.words import reindex_words
from whatwhere.encodings import TABLE, Context, Shape, build, encodings, modifiers
from whatwhere.maps import Reindex
from whatwhere.tasks import TABLE as TASKS

EVERY = [*encodings(), *(f"rope+{name}" for name in modifiers())]


def fits(text: str) -> bool:
    return all(len(line.rstrip()) <= 80 for line in text.splitlines())


@pytest.mark.parametrize("kind", ["encodings", "spectra", "backends", "tasks"])
def test_ls_names_everything_in_80_columns(run, kind) -> None:
    done = run("ls", kind)
    assert (done.code, done.err) == (0, "")
    assert fits(done.out)
    known = {
        "encodings": TABLE,
        "spectra": spectra.TABLE,
        "backends": [backend.name for backend in BACKENDS],
        "tasks": TASKS,
    }[kind]
    first = {line.split()[0] for line in done.out.splitlines() if line.strip()}
    assert set(known) <= first


def test_ls_alone_shows_all_kinds_without_options(run) -> None:
    out = run("ls").out
    assert all(word in out for word in ("pope", "yarn", "sdpa", "chorales"))
    assert "delta_init" not in out
    assert "delta_init=zero" in run("ls", "encodings").out


def test_ls_shows_what_a_name_presets(run) -> None:
    lines = run("ls", "encodings").out.splitlines()
    below = next(lines[n + 1] for n, line in enumerate(lines) if line.startswith("rope_partial"))
    assert "partial=0.25" in below


@pytest.mark.parametrize("expression", EVERY)
def test_explain_works_for_every_encoding(run, expression) -> None:
    done = run("explain", expression, "--device", "cpu")
    assert (done.code, done.err) == (0, "")
    assert fits(done.out)
    assert "backend='auto' takes it" in " ".join(done.out.split())


def test_explain_says_what_the_rule_holds(run) -> None:
    out = " ".join(run("explain", "pope+dual_chunk+logn", "--train-length", "64").out.split())
    for part in ("term 3 of 3", "i // 48 - j // 48", "the constant 63", "128 from 64 channels"):
        assert part in out
    assert "log_L(i + 1)" in out
    assert "cite pope, dual_chunk, logn" in out
    assert "trained as pope" in out
    assert "parameters 512 in every layer" in out


def test_explain_shows_each_backends_own_reason(run) -> None:
    out = " ".join(run("explain", "cope", "--device", "cpu").out.split())
    encoding = build("cope", Shape(8, 64), Context(2048, 8.0))
    reason = reasons(encoding, "cpu", False, 16384, named=False)["sdpa"]
    assert reason
    assert f"sdpa no: {reason}" in out


def test_explain_distinguishes_training_and_devices(run) -> None:
    flat = {
        words: " ".join(run("explain", "rope+rerope", *words.split()).out.split())
        for words in ("--device cpu --train", "--device cpu", "--device cuda")
    }
    assert "computes no gradients" in flat["--device cpu --train"]
    assert "computes no gradients" not in flat["--device cpu"]
    assert "flex yes" in flat["--device cuda"]


@pytest.mark.parametrize("name", EVERY)
def test_the_gallery_tells_the_truth_about_this_cpu(name) -> None:
    """What it calls computable runs; what it refuses raises the reason it gives."""
    import torch

    encoding = build(name, Shape(4, 16), Context(256, 8.0))
    q, k, v = (torch.randn(1, 4, 5, 16) for _ in range(3))
    with torch.no_grad():
        rule = encoding.rule(2048)
        for backend, reason in reasons(encoding, "cpu", False, 2048).items():
            if backend == "flex":
                continue  # minutes of compilation; the conformance suite runs it
            if reason is None:
                assert attend(q, k, v, rule, backend=backend).shape == q.shape
            else:
                with pytest.raises(NotImplementedError) as refused:
                    attend(q, k, v, rule, backend=backend)
                assert reason in str(refused.value)


def test_the_gallery_has_every_encoding_and_footnote() -> None:
    found = gallery()
    text = found.markdown()
    assert [name for name, _ in found.rows] == [
        *encodings(),
        "rope+yarn",
        *EVERY[len(encodings()) :],
    ]
    numbers = {n for _, cells in found.rows for _, n in cells.values() if n}
    assert numbers == set(range(1, len(found.footnotes) + 1))
    assert "| `cope` | no<sup>" in text
    (rope,) = (line for line in text.splitlines() if line.startswith("| `rope` |"))
    assert rope.split("|")[2 + [b.name for b in BACKENDS].index("sdpa")].strip() == "yes"
    # what depends on this machine (a GPU, triton) is no part of it
    assert "not installed" not in text


def test_the_readme_shows_the_generated_table(run) -> None:
    text = (ROOT / "README.md").read_text()
    begin, end = "<!-- table:backends -->", "<!-- /table:backends -->"
    if begin not in text:
        pytest.skip("the README has no generated table yet")
    shown = text.partition(begin)[2].partition(end)[0].strip()
    assert shown == run("ls", "backends", "--markdown").out.strip()


@pytest.mark.parametrize(
    ("reindex", "words"),
    [
        (None, "i"),
        (Reindex(modulo=1, offset=7), "the constant 7"),
        (Reindex(modulo=48), "i mod 48"),
        (Reindex(modulo=48, offset=48, most=63), "min((i mod 48) + 48, 63)"),
        (Reindex(group=8, offset=-3), "(i // 8) - 3"),
    ],
)
def test_reindex_words_are_the_formula(reindex, words) -> None:
    assert reindex_words(reindex, "i") == words
    if reindex is not None and "constant" not in words:
        import torch

        formula = words.replace("mod", "%")
        for i in (0, 5, 47, 48, 100, 1000):
            assert int(reindex(torch.tensor(i))) == eval(formula, {"min": min, "i": i})


def test_cite_gives_what_was_used_once(run) -> None:
    out = run("cite", "rope+yarn", "pope(spectrum=yarn)", "rope").out
    assert [out.count(f"{{{key},") for key in ("rope", "yarn", "pope")] == [1, 1, 1]
    assert out.count("@") == 3


def test_cite_reads_rows_names_and_keys(run, tmp_path: Path) -> None:
    row = {"encoding": "alibi", "train_length": 8, "eval_length": 8, "metric": "nll", "value": 1.0}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    for word in (str(tmp_path), str(tmp_path / "rows.jsonl"), "alibi"):
        assert "{alibi," in run("cite", word).out
    assert "{yarn," in run("cite", "yarn").out
    assert "{rerope," in run("cite", "leaky_rerope").out
    assert "{path," in run("cite", "path").out


def test_every_encoding_and_spectrum_has_a_source() -> None:
    for text in (*EVERY, *(f"rope+{name}" for name in spectra.TABLE if name != "longrope")):
        assert citations.bibtex(*keys_of(text))
    assert keys_of("rope_abf") == ["rope", "abf"]


HEAVY = "{'torch', 'matplotlib', 'pandas', 'transformers', 'jinja2'}"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["angles", "yarn", "--json"], ["compare", "--help"]],
    ids=" ".join,
)
def test_quick_commands_load_nothing_heavy(arguments) -> None:
    script = (
        "import sys\nfrom whatwhere.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as done:\n    assert not done.code\n"
        f"print('loaded:', *(set(sys.modules) & {HEAVY}))"
    )
    assert run_python(script).rstrip().endswith("loaded:")
