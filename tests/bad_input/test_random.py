"""Random calls: each computes something of the right shape or is refused by our own raise.

What must never come out is an error of torch or of Python: those speak of dimension 3 and operand
1, not of the argument. `answers_or_refuses` fails on them.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from bad_input.refusal import answers_or_refuses
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import whatwhere as ww
from whatwhere.encodings import TABLE
from whatwhere.encodings.expression import option_names
from whatwhere.nn import Decoder, DecoderConfig

quick = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
#: Values that a slip of the keyboard or of a configuration file puts where a number belongs.
JUNK = st.sampled_from(
    [None, True, False, -1, 0, 1, 2, 3, 4, 7, 2.0, 0.5, -0.5, math.nan, math.inf, "a", "4", "", (),
     (1, 2), [3], {}, b"x", 1 + 2j]
)  # fmt: skip


@st.composite
def almost(draw: Any, *good: int) -> tuple[int, ...]:
    """The shape, mostly; else with one axis changed, missing or too many."""
    shape = list(good)
    kind = draw(st.sampled_from(["good"] * 5 + ["axis", "fewer", "more", "empty"]))
    if kind in ("axis", "empty"):
        size = 0 if kind == "empty" else draw(st.integers(1, 7))
        shape[draw(st.integers(0, len(shape) - 1))] = size
    elif kind == "fewer":
        del shape[0]
    elif kind == "more":
        shape.insert(0, 1)
    return tuple(shape)


def vector(*good: int) -> st.SearchStrategy[torch.Tensor]:
    return st.builds(
        lambda shape, dtype: torch.ones(shape).to(dtype),
        almost(*good),
        st.sampled_from([torch.float32] * 12 + DTYPES),
    )


def places(*good: int) -> st.SearchStrategy[Any]:
    at = st.builds(
        lambda shape, dtype: torch.ones(shape).to(dtype),
        almost(*good),
        st.sampled_from([torch.int64] * 6 + DTYPES),
    )
    return st.one_of(st.none(), at, JUNK)


RULES = {
    text: ww.make(text, heads=6, head_dim=8, kv_heads=3, train_length=16)
    for text in (*(n for n, e in TABLE.items() if not e.modifier), "pope+dual_chunk+logn")
}


@quick
@given(
    q=vector(2, 6, 5, 8),
    k=vector(2, 3, 5, 8),
    v=vector(2, 3, 5, 8),
    text=st.sampled_from(sorted(RULES)),
    options=st.fixed_dictionaries(
        {},
        optional={
            "q_pos": places(5),
            "k_pos": places(2, 5),
            "k_valid": places(2, 5),
            "q_documents": places(5),
            "k_documents": places(5),
            "window": JUNK,
            "causal": st.one_of(st.booleans(), JUNK),
            "scale": JUNK,
            "dropout": JUNK,
            "backend": st.sampled_from(["auto", "sdpa", "reference", "flex", "x", None, 3]),
        },
    ),
)
def test_attend(q: Any, k: Any, v: Any, text: str, options: dict[str, Any]) -> None:
    rule = RULES[text].rule(5)
    out = answers_or_refuses(lambda: ww.attend(q, k, v, rule, **options))
    if out is not None:
        assert out.shape == (*q.shape[:3], v.shape[-1])
        assert out.dtype == q.dtype


@quick
@given(text=st.one_of(st.text(max_size=30), st.text("rope+yan(f=8),. *'-[]{}12", max_size=30)))
def test_texts(text: str) -> None:
    answers_or_refuses(lambda: ww.parse(text))


PARTS = [(name, option) for name in TABLE for option in option_names(name)]


@pytest.mark.parametrize(("name", "option"), PARTS)
def test_options(name: str, option: str) -> None:
    """Every option of every encoding, with every piece of junk, by text and by keyword."""
    kind, preset = TABLE[name].kind, dict(TABLE[name].preset)
    inner: Any = RULES["rope"] if TABLE[name].modifier else ww.Shape(6, 8, 3)
    base: dict[str, Any] = {
        key: 16 for key in ("train_length", "max_length") if key in option_names(name)
    }
    q, k = torch.ones(1, 6, 3, 8), torch.ones(1, 3, 3, 8)
    for junk in JUNK.elements:
        encoding = answers_or_refuses(lambda j=junk: kind(inner, **(base | preset | {option: j})))
        if encoding is not None:
            out = answers_or_refuses(lambda e=encoding: ww.attend(q, k, k, e.rule(3)))
            assert out is None or bool(out.isfinite().all()), (name, option, junk)


SIZES = ("heads", "head_dim", "kv_heads", "width", "train_length", "factor", "max_length")


@quick
@given(
    text=st.sampled_from(["rope", "pope+yarn", "learned", "rope+dual_chunk", "sinusoidal+logn"]),
    sizes=st.fixed_dictionaries(
        dict.fromkeys(SIZES[:2], JUNK), optional=dict.fromkeys(SIZES[2:], JUNK)
    ),
)  # fmt: skip
def test_sizes(text: str, sizes: dict[str, Any]) -> None:
    answers_or_refuses(lambda: ww.make(text, **sizes))


FIELDS = [name for name in DecoderConfig.__dataclass_fields__ if name != "encoding"]


@quick
@given(st.dictionaries(st.sampled_from(FIELDS), JUNK, min_size=1, max_size=3))
def test_configurations(changes: dict[str, Any]) -> None:
    small: dict[str, Any] = {"vocab_size": 5, "width": 8, "layers": 1, "heads": 2}
    model = answers_or_refuses(lambda: Decoder(DecoderConfig(**(small | changes))))
    if model is not None:
        assert model(torch.zeros(1, 2).long()).shape == (1, 2, model.config.vocab_size)


MODELS = {
    text: Decoder(DecoderConfig(5, 8, 1, 2, encoding=text, train_length=8))
    for text in ("rope", "learned", "rope(spectrum=dynamic_ntk(factor=2,train_length=4))")
}


@quick
@given(
    text=st.sampled_from(sorted(MODELS)),
    steps=st.lists(
        st.tuples(
            st.one_of(vector(2, 3).map(torch.Tensor.long), places(2, 3)),
            st.fixed_dictionaries({}, optional={
                "positions": places(3),
                "documents": places(2, 3),
                "valid": places(2, 3),
                "horizon": JUNK,
            }),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    ),
)  # fmt: skip
def test_forward(text: str, steps: list[Any]) -> None:
    """Steps with and without a cache; a refused step ends the sequence."""
    model = MODELS[text].eval()
    cache = model.new_cache(7)
    for tokens, options, cached in steps:
        given_cache = {"cache": cache} if cached else {}
        out = answers_or_refuses(lambda t=tokens, o=options, c=given_cache: model(t, **o, **c))
        if out is None:
            return
        assert out.shape == (*tokens.shape, 5)


@quick
@given(
    prompt=st.one_of(vector(2, 3).map(torch.Tensor.long), places(2, 3)),
    options=st.fixed_dictionaries({"max_new_tokens": JUNK}, optional={
        "temperature": JUNK,
        "top_k": JUNK,
        "stop": JUNK,
        "generator": JUNK,
        "valid": places(2, 3),
    }),
)  # fmt: skip
def test_generate(prompt: Any, options: dict[str, Any]) -> None:
    out = answers_or_refuses(lambda: MODELS["learned"].generate(prompt, **options))
    if out is not None:
        assert out.shape[0] == prompt.shape[0]


CACHE_STEPS = st.one_of(
    st.tuples(st.just("advance"), places(1, 2), places(1, 2)),
    st.tuples(
        st.just("update"),
        st.one_of(st.integers(-2, 2), JUNK),
        st.one_of(vector(1, 1, 2, 3), JUNK),
        st.one_of(vector(1, 1, 2, 3), JUNK),
    ),
    st.tuples(st.just("crop"), JUNK),
    st.tuples(st.just("reindex"), places(1, 2)),
    st.tuples(st.just("keep"), places(1)),
    st.tuples(st.just("select"), places(1)),
)


@quick
@given(st.lists(CACHE_STEPS, max_size=8))
def test_cache(steps: list[Any]) -> None:
    """Any steps in any order; a second `advance` before the updates is a RuntimeError of ours."""
    cache = ww.KVCache(1, 5)
    for name, *arguments in [("advance", torch.arange(2)[None], None), *steps]:
        answers_or_refuses(lambda n=name, a=arguments: getattr(cache, n)(*a), RuntimeError)
        assert 0 <= cache.length <= cache.capacity


@pytest.mark.parametrize("name", sorted({"contiguous", "packed", "from_documents", "left_padded"}))
def test_positions(name: str) -> None:
    for junk in (*JUNK.elements, torch.zeros(2, 0), torch.zeros(()), torch.ones(2).cfloat()):
        answers_or_refuses(lambda j=junk: getattr(ww.positions, name)(j))
