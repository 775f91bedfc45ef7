"""The studies here as data: what they train is what their claims and their papers say."""

from __future__ import annotations

import runpy

import pytest
from fresh import ROOT, run_python

from whatwhere.encodings import parse
from whatwhere.nn import Decoder, DecoderConfig
from whatwhere.report.paper import read_paper
from whatwhere.study.cell_checks import check
from whatwhere.study.cells import Study
from whatwhere.study.data import SOURCES, Library
from whatwhere.study.model import decoder_config
from whatwhere.study.recipes import LANGUAGE, TASKS, language, recipe, tuned
from whatwhere.study.wanted import wanted

NAMES = sorted(file.parent.name for file in (ROOT / "studies").glob("*/study.py"))
STUDIES: dict[str, Study] = {
    name: runpy.run_path(str(ROOT / "studies" / name / "study.py"))["STUDY"] for name in NAMES
}
# Word-level WikiText-103 and a model that the fact sheet does not know: no cell for these.
WITHOUT_A_CELL = {f"{name}_wikitext" for name in ("sinusoidal", "rope", "t5", "alibi")}


def test_every_study_with_claims_has_cells() -> None:
    assert {file.parent.name for file in (ROOT / "studies").glob("*/paper.csv")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_the_runs_of_the_claims(name: str) -> None:
    study, paper = STUDIES[name], read_paper(ROOT / "studies" / name)
    assert study.name == name
    assert {cell.name for cell in study.cells} == set(paper.runs) - WITHOUT_A_CELL
    claimed = {run for claim in paper.claims for run in claim.runs} - WITHOUT_A_CELL
    for cell in study.cells:
        if cell.name in claimed:
            assert len(cell.seeds) >= paper.rule.seeds
        assert parse(cell.encoding).text == cell.encoding
        assert cell.start is not None or len(parse(cell.encoding).modifiers) == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_has_a_row_that_fits(name: str) -> None:
    """Encoding, metric and every row.KEY of a claim are those of a row that a cell will write."""
    library = Library({"zero_shot": "hub:"})
    rows = [
        {"encoding": w.encoding, "metric": w.metric, "eval_length": w.eval_length,
         "task": w.task or SOURCES[w.data].task, "corpus": SOURCES[w.data].corpus, "run": cell.name,
         "steps": cell.config.steps, "train_length": cell.config.train_length,
         "width": cell.config.width, "layers": cell.config.layers,
         **cell.columns, **each.columns}
        for cell in STUDIES[name].cells
        for each in cell.evaluations
        for w in wanted(cell, each, library)
        if not w.probe
    ]  # fmt: skip
    for claim in read_paper(ROOT / "studies" / name).claims:
        if set(claim.runs) <= WITHOUT_A_CELL:
            continue
        sides = [(claim.encoding, claim.where)]
        sides += [(claim.other, claim.other_where)] if claim.kind == "ranking" else []
        for encoding, where in sides:
            fitting = [
                row for row in rows
                if row["encoding"] == encoding and row["metric"] == claim.metric
                and row["run"] in claim.runs
                and all(str(row[key]) == value for key, value in where.items())
            ]  # fmt: skip
            assert len(fitting) == 1, (claim.name, encoding)


@pytest.mark.parametrize("name", NAMES)
def test_the_cells_can_be_run_as_they_are(name: str) -> None:
    """Every expression can be built at every length, whatever the device."""
    study = STUDIES[name].on("cpu")
    library = Library({name: __file__ for name in SOURCES if name != "indirect"})
    check(study.cells, library)


def test_the_recipes_are_the_papers_tables_7_and_8() -> None:
    sizes = {name: (c.width, c.heads, c.layers) for name, c in _recipes()}
    assert sizes == {
        "indirect": (512, 8, 8), "jsb": (256, 8, 6), "maestro": (384, 8, 6),
        "genome": (1024, 16, 16), "124M": (768, 12, 12), "253M": (1024, 16, 16),
        "774M": (1280, 20, 36),
    }  # fmt: skip
    schedules = {
        n: (c.batch_size, c.lr, c.beta2, c.steps, c.warmup, c.dropout) for n, c in _recipes()
    }
    words = (64, 6e-4, 0.95, 100_000, 1000, 0.0)
    assert schedules == {
        "indirect": (64, 2e-4, 0.99, 100_000, 4000, 0.0),
        "jsb": (4, 6e-4, 0.99, 3000, 10, 0.2),
        "maestro": (16, 6e-4, 0.99, 60_000, 500, 0.1),
        "genome": (64, 2.5e-4, 0.999, 100_000, 4000, 0.1),
        "124M": words, "253M": words, "774M": words,
    }  # fmt: skip
    for _, config in _recipes():
        assert (config.weight_decay, config.clip, config.final_lr) == (0.01, 1.0, 0.1)
    longer = tuned()
    assert (longer.train_length, longer.steps, longer.warmup, longer.lr) == (4096, 500, 20, 6e-5)
    assert longer.final_lr == 1.0
    with pytest.raises(ValueError, match="did you mean 'maestro'"):
        recipe("maestr")
    with pytest.raises(ValueError, match="unknown size of language model '124'"):
        language("124")


@pytest.mark.parametrize(("size", "millions"), [("124M", 123.5), ("253M", 252.8), ("774M", 772.1)])
def test_parameter_counts_of_the_language_models(size: str, millions: float) -> None:
    """Of their matrices: sizes that fit tied embeddings and an MLP of four widths alone."""
    import torch

    config = decoder_config(language(size), "rope", 50257)
    assert isinstance(config, DecoderConfig)
    with torch.device("meta"):
        count = sum(p.numel() for p in Decoder(config).parameters() if p.dim() > 1)
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_study_is_read_without_loading_what_it_does_not_need() -> None:
    script = (
        "import runpy, sys\n"
        f"runpy.run_path({str(ROOT / 'studies/pope_table_2/study.py')!r})\n"
        "print({'triton', 'transformers', 'matplotlib', 'accelerate'} & set(sys.modules))"
    )
    assert run_python(script) == "set()\n"


def _recipes() -> list:
    return [(n, recipe(n)) for n in TASKS] + [(n, language(n)) for n in LANGUAGE]
