"""The searches, on an objective whose best point is known; killed and started again."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from whatwhere import spectra
from whatwhere.extend.search import (
    Candidate,
    Evolution,
    Ledger,
    Smooth,
    Space,
    critical_pair,
    descend,
    evolve,
    evolve_critical,
    from_critical,
)

SPACE = Space(dim=32, factor=8, train_length=512)
SMALL = Evolution(population=12, parents=6, mutations=4, crossovers=2, iterations=4, seed=1)


def target(candidate: Candidate) -> float:
    """A bowl around a curve that is none of the closed forms, with a preference for n̂ = 8."""
    count = len(candidate.factors)
    wanted = [math.exp(math.log(9.0) * min(1.0, 1.6 * i / count) ** 2) for i in range(count)]
    errors = zip(candidate.factors, wanted, strict=True)
    distance = sum((math.log(a) - math.log(b)) ** 2 for a, b in errors) / count
    return distance + 0.01 * (candidate.n_hat != 8)


def ledger(path: Path, **options) -> Ledger:  # type: ignore[no-untyped-def]
    return Ledger(path / "evaluations.jsonl", [target], {"model": "a bowl"}, **options)


def test_closed_forms_are_the_formulas() -> None:
    forms = SPACE.closed_forms()
    assert set(forms["pi"].factors) == {8.0}
    ntk = [8 ** (2 * i / 30) for i in range(16)]
    assert forms["ntk"].factors == pytest.approx(ntk, abs=0.005)
    own = spectra.geometric()(32).inv_freq
    yarn = spectra.yarn(factor=8, train_length=512)(32).inv_freq
    expected = [a / b for a, b in zip(own, yarn, strict=True)]
    assert forms["yarn"].factors == pytest.approx(expected, abs=0.005)


def test_a_candidate_is_a_spectrum() -> None:
    made = SPACE.spectrum(Candidate(tuple(range(100, 260, 10)), n_hat=4))(32)
    plain = spectra.geometric()(32).inv_freq
    assert made.inv_freq[1] == pytest.approx(plain[1] / 1.1)
    assert (made.start, made.start_inv_freq) == (4, plain)


def test_candidates_are_clipped_and_made_monotone_once() -> None:
    made = SPACE.candidate([0.5, 3.0, 2.0, *[99.0] * 13])
    assert made.factors[:3] == (1.0, 3.0, 3.0)
    assert made.factors[-1] == 10.0
    assert made.monotone
    assert SPACE.candidate(list(made.factors)) == made
    assert Candidate.from_key(made.key) == made


def test_mutants_and_children_stay_in_the_space() -> None:
    draw, known = random.Random(0), set(SPACE.closed_forms().values())
    parent = SPACE.closed_forms()["yarn"]
    for _ in range(300):
        child = SPACE.mutated(parent, draw, 0.3, known)
        assert child.monotone
        assert child not in known
        assert child.n_hat in SPACE.starts
        assert min(child.hundredths) >= 100
        assert max(child.hundredths) <= SPACE.most
        crossed = SPACE.crossed(parent, child, draw, 0.3, known)
        assert crossed is None or (crossed.monotone and crossed not in known)
        known.add(child)
        parent = child
    assert SPACE.crossed(parent, parent, draw, 0.3, known) is None


def test_the_papers_search_makes_the_papers_number_of_evaluations(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    best = evolve(SPACE, book)
    assert len(book.used) == 64 + 40 * 32
    assert target(best) < min(map(target, SPACE.closed_forms().values()))
    lines = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    assert len(lines) == 1 + len(book.used)


@pytest.mark.parametrize("walk", ["evolve", "descend", "evolve_critical"])
def test_a_search_killed_anywhere_goes_on_as_if_it_had_not_been(walk: str, tmp_path: Path) -> None:
    def run(path: Path, objective=target):  # type: ignore[no-untyped-def]
        path.mkdir(exist_ok=True)
        book = Ledger(path / "evaluations.jsonl", [objective], {"model": "a bowl"})
        if walk == "descend":
            return descend(SPACE, book, Smooth(generations=3)), book
        return {"evolve": evolve, "evolve_critical": evolve_critical}[walk](
            SPACE, book, SMALL
        ), book

    whole, first = run(tmp_path / "whole")
    calls = 0

    def dying(candidate: Candidate) -> float:
        nonlocal calls
        calls += 1
        if calls == 13:
            raise KeyboardInterrupt
        return target(candidate)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", dying)
    file = tmp_path / "killed" / "evaluations.jsonl"
    file.write_text(file.read_text() + '{"candidate": "10')  # and the last line was cut off
    before = len(file.read_text().splitlines())
    again, second = run(tmp_path / "killed")
    assert again == whole
    assert second.used == first.used
    assert file.read_text().splitlines()[: before - 1] != []
    assert len(file.read_text().splitlines()) == 1 + len(second.used)  # nothing computed twice


def test_at_equal_cost_the_smooth_curve_is_far_ahead_of_the_papers_search(tmp_path: Path) -> None:
    paper, smooth = ledger(tmp_path / "a", limit=134), ledger(tmp_path / "b", limit=134)
    found = evolve(SPACE, paper), descend(SPACE, smooth)
    assert len(smooth.used) <= 134
    assert target(found[1]) < target(found[0]) / 4
    assert found[1].n_hat == 8


def test_the_limit_counts_what_the_file_already_holds(tmp_path: Path) -> None:
    evolve(SPACE, ledger(tmp_path, limit=30), SMALL)
    book = ledger(tmp_path, limit=30)
    evolve(SPACE, book, SMALL)
    assert len(book.used) == 30
    assert len((tmp_path / "evaluations.jsonl").read_text().splitlines()) == 31


def test_the_critical_dimension_is_the_papers() -> None:
    assert 2 * critical_pair(Space(128, 16, 8192, 5e5)) == 70
    assert 2 * critical_pair(Space(128, 16, 4096, 1e4)) == 92


def test_below_the_critical_pair_stands_the_ntk_rule(tmp_path: Path) -> None:
    made = from_critical(SPACE, 8, [8.0] * 8)
    assert made.factors[0] == 1.0
    assert made.factors[8:] == (8.0,) * 8
    assert made.factors[4] == pytest.approx(8**0.5, abs=0.005)
    best = evolve_critical(SPACE, ledger(tmp_path), SMALL)
    assert best.monotone


@pytest.mark.parametrize("walk", [evolve, evolve_critical])
def test_every_evaluation_that_is_allowed_is_made(
    walk: Callable[..., object], tmp_path: Path
) -> None:
    book = ledger(tmp_path, limit=40)
    walk(SPACE, book, replace(SMALL, population=5, parents=2, mutations=1, crossovers=1,
                              iterations=40))  # fmt: skip
    assert len(book.used) == len(set(book.used)) == 40


def test_a_broken_candidate_loses(tmp_path: Path) -> None:
    def broken(candidate: Candidate) -> float:
        return math.nan if candidate.n_hat else target(candidate)

    book = Ledger(tmp_path / "x.jsonl", [broken], {})
    assert evolve(SPACE, book, SMALL).n_hat == 0
    assert math.isinf(max(book.values.values()))
    json.loads((tmp_path / "x.jsonl").read_text().splitlines()[1])


def test_several_devices_share_the_work(tmp_path: Path) -> None:
    counts = [0, 0]

    def on(device: int):  # type: ignore[no-untyped-def]
        def run(candidate: Candidate) -> float:
            counts[device] += 1
            return target(candidate)

        return run

    book = Ledger(tmp_path / "x.jsonl", [on(0), on(1)], {"model": "a bowl"})
    assert evolve(SPACE, book, SMALL) == evolve(SPACE, ledger(tmp_path), SMALL)
    assert min(counts) > 0
    assert sum(counts) == len(book.used)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="factor is 1"):
        Space(64, 1, 512)
    with pytest.raises(ValueError, match="dim is 63"):
        Space(63, 2, 512)
    with pytest.raises(ValueError, match="parents is 80, more than population 64"):
        Evolution(parents=80)
    with pytest.raises(ValueError, match="objectives is empty"):
        Ledger(tmp_path / "x.jsonl", [], {})
    ledger(tmp_path)
    with pytest.raises(ValueError, match=r"something else .model: 'a bowl', now 'another'"):
        Ledger(tmp_path / "evaluations.jsonl", [target], {"model": "another"})
