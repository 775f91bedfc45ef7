"""Laws of making a model longer, small enough to check under a fault."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from extend import tiny

from whatwhere import hf
from whatwhere.extend import measure, objective, retrieval, stock
from whatwhere.extend.adaptation import Adaptation, Batches
from whatwhere.extend.forward import Reader
from whatwhere.extend.plan import Plan
from whatwhere.extend.search import Candidate, Space

PLAN = Plan("tiny", (256, 512), ("none",), tokens=600, sliding=64, sliding_windows=3)


def naive(ids: torch.Tensor) -> torch.Tensor:
    """-ln p of every token but the first, by the model's own forward pass."""
    with torch.no_grad():
        logits = tiny.model()(ids[None]).logits[0].double().log_softmax(-1)
    return torch.stack([-logits[i, ids[i + 1]] for i in range(len(ids) - 1)])


def close(a: float, b: float, error: float = 1e-5) -> None:
    assert math.isclose(a, b, rel_tol=0, abs_tol=error), (a, b)


def every_token_weighs_the_same() -> None:
    """600 tokens in windows of 256: the last one is short."""
    text = tiny.tokens()
    expected = torch.cat([naive(text[s : min(s + 256, 600) + 1]) for s in range(0, 600, 256)])
    reader = Reader(tiny.model())
    row = measure.summary(measure.losses(PLAN, reader, text, 256), 256, tiny.LENGTH)
    assert len(expected) == row["n"] == 600
    close(row["value"], float(expected.mean()))


def a_window_slides_over_each_token_once() -> None:
    """192 tokens after token 448, whatever the length, each with 192 or more before it."""
    text, reader = tiny.tokens(), Reader(tiny.model())
    ends = (512, 576, 640)
    expected = torch.cat([naive(text[end - 256 : end + 1])[-64:] for end in ends])
    row = measure.sliding(PLAN, reader, text, 256)
    assert row["n"] == 192
    close(row["value"], float(expected.mean()))


def pieces_are_one_pass() -> None:
    text, net = tiny.tokens()[None, :200], tiny.model()
    with hf.use(net, "rope+rerope"):
        whole, pieces = Reader(net).losses(text), Reader(net, 37).losses(text)
    assert float((whole - pieces).abs().max()) < 2e-4


def transformers_own_yarn_is_ours() -> None:
    """By the same rope_parameters, to 1e-5 nats a token: 3e-4 of a perplexity of 30.

    This random model's perplexity is 15,598: 1e-3 of it would be less than float32 tells apart.
    """
    text, net, source = tiny.tokens()[None, :257], tiny.model(), tiny.source()
    with hf.use(net, "rope+yarn(factor=2)"):
        ours = float(Reader(net).losses(text).mean())
    undo = stock.use(net, hf.to_rope_parameters("rope+yarn(factor=2)", source.config))
    theirs = float(Reader(net).losses(text).mean())
    undo()
    close(ours, theirs, 1e-5)


def keys_stand_at_their_depth() -> None:
    """At depth 0 before all text, at depth 1 right before the question, in between at the place."""
    tokenizer = tiny.source().tokenizer
    for depth in (0.0, 0.5, 1.0):
        made = retrieval.passkeys(tiny.tokens(), tokenizer, 300, depth, 1, 0)
        row, answer = made.rows[0], made.counts[0]
        key = tokenizer.decode(row[-answer:]).strip()
        needle = retrieval._ids(tokenizer, retrieval.NEEDLE.format(key=key))
        question = len(retrieval._asked(tokenizer, key)[0])
        room = 300 - len(needle) - question - answer
        place = round(depth * room)
        assert torch.equal(row[place : place + len(needle)], needle), depth


def answers_are_the_digits_alone() -> None:
    tokenizer = tiny.source().tokenizer
    made = retrieval.passkeys(tiny.tokens(), tokenizer, 200, 0.5, 3, 1)
    for row, count in zip(made.rows, made.counts, strict=True):
        key = tokenizer.decode(row[-count:])  # here a blank is a token of its own
        assert len(key) == 5, key
        assert key.isdigit(), key


def a_key_is_found_if_every_token_of_it_is() -> None:
    """A reader that gets all but the first token of each answer right finds none."""
    made = retrieval.Samples([torch.arange(20), torch.arange(3, 23)], [4, 4])

    class Half(Reader):
        def __init__(self) -> None:
            pass

        def at_end(self, rows: torch.Tensor, most: int) -> torch.Tensor:
            logits = torch.nn.functional.one_hot(rows[:, -most:], 30).float() * 50
            logits[:, 0] = logits[:, 0].roll(1, dims=-1)
            return logits

    found = retrieval.score(Half(), made, "cpu", 100)
    assert (found.hits, found.right, found.samples, found.tokens) == (0, 6, 2, 8)


def factors_do_not_decrease() -> None:
    space = Space(16, 8.0, 128)
    made = space.candidate([1.0, 3.0, 2.0, 4.0, 4.0, 11.0, 5.0, 6.0])
    assert made == Candidate((100, 300, 300, 400, 400, 1000, 1000, 1000))


def windows_reach_the_end_of_the_text() -> None:
    text = torch.arange(1000)
    found = objective.windows(text, 100, 4)
    assert found.shape == (4, 101)
    assert int(found[0, 0]) == 0
    assert int(found[-1, -1]) == 999


def the_rate_starts_above_zero_and_ends_there() -> None:
    plan = Adaptation("tiny", "yarn", 256, steps=10, warmup=4, lr=0.8)
    expected = [0.2, 0.4, 0.6, 0.8, 0.8]
    assert [round(plan.rate(step), 6) for step in range(5)] == expected
    assert 0 < plan.rate(9) < 0.5


def training_never_sees_the_held_out_end() -> None:
    text = torch.arange(4000)
    plan = Adaptation("tiny", "yarn", 256, steps=4, batch_size=64)
    batches = Batches(plan, text)
    seen = max(int(batches(step).max()) for step in range(8))
    kept = min(int(part.min()) for part in batches.held_out(tiny.LENGTH).values())
    assert seen < kept, (seen, kept)


def equal_seeds_draw_equal_batches() -> None:
    plan = Adaptation("tiny", "yarn", 256, steps=4, batch_size=3)
    one, other = (Batches(plan, tiny.tokens()) for _ in range(2))
    torch.manual_seed(1)
    first = one(2)
    torch.manual_seed(2)
    assert torch.equal(first, other(2))
    assert not torch.equal(first, Batches(replace(plan, seed=1), tiny.tokens())(2))
