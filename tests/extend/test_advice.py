"""The advice follows from rows: lowest perplexity within limits, ties by retrieval and cost."""

from __future__ import annotations

import math
from typing import Any

import pytest

from whatwhere.errors import UnknownName
from whatwhere.extend.advice import Limits, advise, measured


def rows(
    method: str, nll: float, keys: float, *, short: float = 3.0, terms: int = 1, reason: str = "",
    vllm: str = "", noise: float = 0.001,
) -> list[dict[str, Any]]:  # fmt: skip
    """A method at 512 (short) and 2,048 tokens; parts differ from one another by `noise`."""
    shared = {
        "method": method, "encoding": f"rope+{method}", "engine": "whatwhere", "mode": "one_pass",
        "train_length": 512, "factor": 4.0, "terms": terms, "reason": reason,
        "vllm": vllm or reason,
    }  # fmt: skip
    crc = sum(map(ord, method))
    blocks = [nll + noise * math.sin(crc + 7 * i) for i in range(32)]
    return [
        {**shared, "task": "perplexity", "eval_length": 512, "value": short},
        {**shared, "task": "perplexity", "eval_length": 2048, "value": nll, "blocks": blocks},
        *({**shared, "task": "passkey", "eval_length": 2048, "depth": d, "value": keys}
          for d in (0.0, 1.0)),
    ]  # fmt: skip


NO_FORM = "splits pairs of tokens"
ROWS = [
    *rows("none", 6.0, 0.0),
    *rows("ntk", 3.4, 0.2, short=3.1),
    *rows("yarn", 3.2, 0.9, short=3.05),
    *rows("dynamic_ntk", 3.1, 0.3, vllm="static there"),
    *rows("dual_chunk", 3.0, 0.8, terms=3, reason=NO_FORM),
]


def choice(limits: Limits, found: list[dict[str, Any]] = ROWS) -> str | None:
    best = advise(found, 2048, limits).best
    return None if best is None else best.method


def test_the_lowest_perplexity_within_the_limits() -> None:
    assert choice(Limits()) == "dual_chunk"
    assert choice(Limits(extra_cost=False)) == "dynamic_ntk"
    assert choice(Limits(needs="transformers")) == "dynamic_ntk"
    assert choice(Limits(needs="vllm")) == "yarn"


def test_a_method_that_breaks_at_the_end_of_the_window_is_no_equal() -> None:
    """NTK and YaRN of SmolLM2 over 65,536 tokens, measured: 0.2 nats in the mean, all late."""
    good, breaks = rows("yarn", 3.2, 0.2), rows("ntk", 3.4, 0.9)
    late = [3.1] * 24 + [3.3, 3.7, 4.0, 4.3, 4.5, 4.8, 4.9, 5.0]
    breaks[1] |= {"blocks": late, "value": math.fsum(late) / 32}
    assert choice(Limits(), [*good, *breaks]) == "yarn"


def test_what_lies_within_the_noise_is_decided_by_pass_keys_then_short_texts_then_cost() -> None:
    close = {"noise": 0.2}
    equal = [*rows("a", 3.0, 0.2, **close), *rows("b", 3.01, 0.9, **close)]  # type: ignore[arg-type]
    assert choice(Limits(), equal) == "b"
    apart = [*rows("a", 3.0, 0.2), *rows("b", 3.01, 0.9)]  # the same means, parts that agree
    assert choice(Limits(), apart) == "a"
    short = [*rows("a", 3.0, 0.9, short=3.3, **close), *rows("b", 3.01, 0.9, **close)]  # type: ignore[arg-type]
    assert choice(Limits(), short) == "b"
    cost = [*rows("a", 3.0, 0.9, terms=2, **close), *rows("b", 3.01, 0.9, **close)]  # type: ignore[arg-type]
    assert choice(Limits(), cost) == "b"


def test_the_sentences_carry_the_numbers() -> None:
    text = " ".join(advise(ROWS, 2048, Limits(needs="vllm")).sentences)
    for part in (
        "2,048 tokens (4 times", "in vLLM: yarn, perplexity 24.53, 90% of the pass keys",
        "Without any method it has perplexity 403.4 and finds 0%", "yarn pays 0.050 nats a token",
        "Outside the limits dual_chunk reaches 20.09; excluded because splits pairs",
        "whatwhere adapt MODEL --method yarn --to 2048",
    ):  # fmt: skip
        assert part in text, text
    assert "adapt" not in " ".join(advise(ROWS, 2048, Limits("vllm", fine_tune=False)).sentences)
    more = " ".join(advise(ROWS, 2048, Limits(extra_cost=False)).sentences)
    assert "yarn finds more pass keys (90% against 30%)" in more


def test_a_searched_method_is_named_by_its_file() -> None:
    found = [row | {"encoding": "rope+longrope(" + "1.25," * 40} for row in rows("lr@4x", 2.9, 0.9)]
    text = " ".join(advise([*ROWS, *found], 2048, Limits(needs="vllm")).sentences)
    assert "--method RESULT.json --to 2048 (RESULT.json: what the search of lr@4x wrote)" in text
    assert "…)." in text
    assert "1.25," * 12 not in text
    gain = rows("yarn", 3.2, 0.9, short=2.95)
    kept = [row for row in ROWS if row["method"] == "none"]
    assert "yarn gains 0.050 nats" in " ".join(advise([*kept, *gain], 2048).sentences)


def test_nothing_fits_or_nothing_was_measured() -> None:
    only = rows("dual_chunk", 3.0, 0.8, terms=3, reason=NO_FORM)
    advice = advise(only, 2048, Limits(needs="vllm"))
    assert advice.best is None
    assert "no measured method is within the limits" in advice.sentences[0]
    assert "no method was measured" in advise(ROWS, 4096).sentences[0]


def test_rows_with_errors_and_of_other_engines_do_not_count() -> None:
    broken = [{**row, "error": "no memory"} for row in rows("best", 1.0, 1.0)]
    stock = [{**row, "engine": "transformers"} for row in rows("best", 1.0, 1.0)]
    assert choice(Limits(), [*ROWS, *broken, *stock]) == "dual_chunk"


def test_a_method_made_for_the_target_counts_not_one_made_for_another() -> None:
    other = [
        {**row, "factor": 8.0, "value": 1.0, "encoding": "x"} for row in rows("yarn", 3.2, 0.9)
    ]
    (found,) = measured([*other, *rows("yarn", 3.2, 0.9)], 2048)
    assert found.nll == 3.2


def test_unknown_needs() -> None:
    with pytest.raises(UnknownName, match="did you mean 'vllm'"):
        Limits(needs="vlm")
