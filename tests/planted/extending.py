"""Faults of measuring and choosing ways to make a model longer."""

from __future__ import annotations

import builtins
import math
from typing import Any

import pytest
import torch
from extend import test_advice, test_reports, test_search
from planted import longer
from planted.registry import fault

from whatwhere.extend import adaptation, advice, forward, measure, objective, retrieval
from whatwhere.extend.search import candidates, critical
from whatwhere.report import extension, searches
from whatwhere.spectra import parts


@fault(longer.transformers_own_yarn_is_ours)
def _(patch: pytest.MonkeyPatch) -> None:
    """YaRN's mscale takes the logarithm to base ten"""
    patch.setattr(parts, "magnitude", lambda s, m=1.0: 0.1 * m * math.log10(s) + 1)


@fault(longer.every_token_weighs_the_same)
def _(patch: pytest.MonkeyPatch) -> None:
    """perplexity is the mean of windows' means, short windows included"""
    true = measure.summary

    def by_window(losses: Any, length: int, trained: int) -> Any:
        means = [float(part.double().mean()) for part in losses.split(length)]
        return true(losses, length, trained) | {"value": sum(means) / len(means)}

    patch.setattr(measure, "summary", by_window)


@fault(longer.a_window_slides_over_each_token_once)
def _(patch: pytest.MonkeyPatch) -> None:
    """windows are a stride apart, and two strides of each are scored"""
    true = measure.places
    patch.setattr(measure, "places", lambda *a: [(s, e, 2 * n) for s, e, n in true(*a)])


@fault(longer.a_window_slides_over_each_token_once)
def _(patch: pytest.MonkeyPatch) -> None:
    """a sliding window scores the tokens at its beginning too"""
    true = measure.places
    patch.setattr(measure, "places", lambda *a: [(s, e, e - s - 1) for s, e, _ in true(*a)])


@fault(longer.pieces_are_one_pass)
def _(patch: pytest.MonkeyPatch) -> None:
    """streamed pieces do not see what came before them"""

    def alone(self: Any, ids: torch.Tensor) -> Any:
        for part in ids.split(self.pieces or ids.shape[1], dim=1):
            yield self.decoder(input_ids=part, use_cache=False).last_hidden_state

    patch.setattr(forward.Reader, "_hidden", alone)


@fault(longer.keys_stand_at_their_depth)
def _(patch: pytest.MonkeyPatch) -> None:
    """a pass key stands one token behind its depth"""
    later = lambda x: builtins.round(x) + 1  # noqa: E731
    patch.setattr(retrieval, "round", later, raising=False)


@fault(longer.answers_are_the_digits_alone)
def _(patch: pytest.MonkeyPatch) -> None:
    """the last token of the question counts as part of the answer"""
    true = retrieval._asked

    def earlier(*a: Any) -> Any:
        question, answer = true(*a)
        return question[:-1], torch.cat([question[-1:], answer])

    patch.setattr(retrieval, "_asked", earlier)


@fault(longer.a_key_is_found_if_every_token_of_it_is)
def _(patch: pytest.MonkeyPatch) -> None:
    """a pass key counts as found by its last token"""
    true = retrieval.score

    def last(reader: Any, samples: Any, *a: Any) -> Any:
        return true(reader, retrieval.Samples(samples.rows, [1] * len(samples.rows)), *a)

    patch.setattr(retrieval, "score", last)


@fault(test_advice.test_the_lowest_perplexity_within_the_limits)
def _(patch: pytest.MonkeyPatch) -> None:
    """the advice ignores what can not be exported"""
    costly = "more than one product"
    patch.setattr(
        advice.Measured,
        "refused",
        lambda self, limits: costly if self.terms > 1 and not limits.extra_cost else "",
    )


@fault(
    test_advice.test_what_lies_within_the_noise_is_decided_by_pass_keys_then_short_texts_then_cost
)
def _(patch: pytest.MonkeyPatch) -> None:
    """methods are compared by the spread of each, not of their differences"""

    def unpaired(a: Any, b: Any) -> tuple[float, float]:
        def error(parts: Any) -> float:
            return float(torch.tensor(parts).var()) / len(parts)

        return a.nll - b.nll, math.sqrt(error(a.blocks) + error(b.blocks)) + 0.02

    patch.setattr(advice, "difference", unpaired)


@fault(test_advice.test_a_method_made_for_the_target_counts_not_one_made_for_another)
def _(patch: pytest.MonkeyPatch) -> None:
    """the advice takes the row of a method that was made for another length"""
    patch.setattr(advice, "min", builtins.max, raising=False)


@fault(test_reports.test_a_cell_is_the_row_of_a_method_made_for_its_length)
def _(patch: pytest.MonkeyPatch) -> None:
    """the table shows a method that was made for another length"""
    patch.setattr(extension, "min", builtins.max, raising=False)


@fault(test_reports.test_searches_stand_beside_the_closed_forms)
def _(patch: pytest.MonkeyPatch) -> None:
    """the standard error of a gain is its spread"""
    patch.setattr(searches.math, "sqrt", lambda x: x**0.5 * 2**0.5)


@fault(longer.factors_do_not_decrease)
def _(patch: pytest.MonkeyPatch) -> None:
    """searched factors may decrease"""

    def free(self: Any, factors: Any, n_hat: int = 0) -> Any:
        clipped = (max(100, min(self.most, round(100 * value))) for value in factors)
        return candidates.Candidate(tuple(clipped), n_hat)

    patch.setattr(candidates.Space, "candidate", free)


@fault(test_search.test_the_critical_dimension_is_the_papers)
def _(patch: pytest.MonkeyPatch) -> None:
    """the critical dimension is rounded down"""
    patch.setattr(critical.math, "ceil", math.floor)


@fault(longer.windows_reach_the_end_of_the_text)
def _(patch: pytest.MonkeyPatch) -> None:
    """windows of a search crowd at the beginning of the text"""

    def first(text: torch.Tensor, length: int, count: int) -> torch.Tensor:
        starts = torch.arange(count) * (len(text) - length - 1) // (4 * count)
        return text[starts[:, None] + torch.arange(length + 1)]

    patch.setattr(objective, "windows", first)


@fault(longer.the_rate_starts_above_zero_and_ends_there)
def _(patch: pytest.MonkeyPatch) -> None:
    """the first step of a warm-up has no rate"""
    true = adaptation.Adaptation.rate
    patch.setattr(adaptation.Adaptation, "rate", lambda self, step: true(self, step - 1))


@fault(longer.training_never_sees_the_held_out_end)
def _(patch: pytest.MonkeyPatch) -> None:
    """a short training sees the text that it is judged on"""
    true = adaptation.Batches.__init__

    def whole(self: Any, plan: Any, text: torch.Tensor) -> None:
        true(self, plan, text)
        self.text = text

    patch.setattr(adaptation.Batches, "__init__", whole)


@fault(longer.equal_seeds_draw_equal_batches)
def _(patch: pytest.MonkeyPatch) -> None:
    """batches come from the process's generator, which a kill forgets"""

    def drawn(self: Any, step: int) -> torch.Tensor:
        room = len(self.text) - self.plan.target
        starts = torch.randint(room, (self.plan.batch_size,))
        return self.text[starts[:, None] + torch.arange(self.plan.target + 1)]

    patch.setattr(adaptation.Batches, "__call__", drawn)
