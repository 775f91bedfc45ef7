"""What `attend` and `Where` refuse."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from bad_input.refusal import refuses

import whatwhere as ww

B, H, G, N, D = 2, 6, 3, 5, 4
GOOD = {"q": torch.zeros(B, H, N, D), "k": torch.zeros(B, G, N, D), "v": torch.zeros(B, G, N, D)}
AT = torch.arange(N)
LOW = torch.float8_e4m3fn


def attend(rule: Any = None, **changes: Any) -> Any:
    vectors = [changes.pop(name, GOOD[name]) for name in "qkv"]
    return functools.partial(ww.attend, *vectors, rule, **changes)


def kv(*shape: int, **options: Any) -> dict[str, torch.Tensor]:
    return {"k": torch.zeros(*shape, **options), "v": torch.zeros(*shape, **options)}


def rule(text: str) -> ww.ScoreRule:
    return ww.make(text, heads=H, head_dim=D, kv_heads=G, train_length=16).rule(N)


NAN = torch.zeros(B, G, N, D)
NAN[1, 2, 3, 0] = math.nan

RAGGED = torch.nested.nested_tensor([torch.zeros(4, D), torch.zeros(5, D)], layout=torch.jagged)

VECTORS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a list": (attend(q=[1.0]), ("q is list", "tensor")),
    "three axes": (attend(q=torch.zeros(H, N, D)), ("q has shape (6, 5, 4)", "(batch, heads")),
    "no tokens": (attend(q=torch.zeros(B, H, 0, D)), ("q has shape (2, 6, 0, 4)", "1 or more")),
    "no batch": (attend(v=torch.zeros(0, G, N, D)), ("v has shape (0, 3, 5, 4)", "empty")),
    "integers": (attend(k=torch.zeros(B, G, N, D).long()), ("k has dtype torch.int64", "float64")),
    "complex": (attend(v=torch.zeros(B, G, N, D).cfloat()), ("v has dtype torch.complex64",)),
    "eight bits": (attend(q=torch.zeros(B, H, N, D).to(LOW)), ("q has dtype torch.float8", "bfl")),
    "two dtypes": (attend(k=torch.zeros(B, G, N, D).half()), ("k has dtype torch.float16", "one")),
    "two devices": (attend(v=torch.zeros(B, G, N, D, device="meta")), ("v is on meta", "move")),
    "unequal widths": (attend(**kv(B, G, N, 6)), ("q has 4 channels and k 6", "agree")),
    "batches": (attend(**kv(3, G, N, D)), ("batches differ: q 2, k 3",)),
    "k without v": (attend(k=torch.zeros(B, G, 7, D)), ("k is (2, 3, 7, 4)", "must agree")),
    "no multiple": (attend(**kv(B, 4, N, D)), ("6 query heads over 4", "multiple")),
    "NaN": (attend(v=NAN), ("v contains NaN",)),
    "sparse": (attend(k=torch.zeros(B, G, N, D).to_sparse()), ("k is a torch.sparse_coo", "dense")),
    "ragged": (attend(q=RAGGED), ("q is a nested tensor", "padded")),
}

OPTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "scale NaN": (attend(scale=math.nan), ("scale is nan", "finite")),
    "scale text": (attend(scale="1"), ("scale is '1'", "finite number")),
    "dropout 1": (attend(dropout=1.0), ("dropout is 1.0", "[0, 1)")),
    "dropout NaN": (attend(dropout=math.nan), ("dropout is nan",)),
    "dropout text": (attend(dropout="0.1"), ("dropout is '0.1'",)),
    "backend typo": (attend(backend="sdap"), ("backend 'sdap'", "did you mean 'sdpa'", "auto")),
    "backend None": (attend(backend=None), ("backend None", "Known")),
    "where text": (attend(where="causal"), ("where is str", "Where")),
    "where twice": (attend(where=ww.Where(N, N), causal=False), ("where or causal", "not both")),
    "where of others": (attend(where=ww.Where(7, 7)), ("7 queries and 7 keys", "q has 5")),
    "keyword typo": (attend(qpos=AT), ("'qpos'", "did you mean 'q_pos'")),
    "the encoding": (attend(ww.make("rope", heads=H, head_dim=D)), ("rule is RoPE", ".rule(")),
    "causal text": (attend(causal="no"), ("causal is 'no'", "True or False")),
    "window 0": (attend(window=0), ("window is 0", "at least 1")),
    "window -3": (attend(window=-3), ("window is -3", "at least 1")),
    "window 2.5": (attend(window=2.5), ("window is 2.5", "whole number")),
    "window True": (attend(window=True), ("window is True", "whole number")),
    "CoPE both ways": (attend(rule("cope"), causal=False), ("causal is False",)),
}

POSITIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "list": (attend(q_pos=[0, 1], k_pos=AT), ("q_pos is list", "int64")),
    "floats": (attend(q_pos=AT.float(), k_pos=AT), ("q_pos", "torch.float32", "int64")),
    "array": (attend(q_pos=AT.numpy(), k_pos=AT), ("q_pos is an array", "give an int64 tensor")),
    "bool": (attend(q_pos=AT > 1, k_pos=AT), ("q_pos", "torch.bool", "int64")),
    "short": (attend(q_pos=AT[:3], k_pos=AT), ("q_pos has shape (3,)", "(5,) or (batch, 5)")),
    "three axes": (attend(q_pos=AT, k_pos=AT[None, None]), ("k_pos has shape (1, 1, 5)", "(5,)")),
    "three rows": (attend(q_pos=AT.expand(3, N), k_pos=AT), ("q_pos has 3 rows", "(2, n)")),
    "only queries": (attend(q_pos=AT), ("k_pos is missing", "together")),
    "only keys": (attend(k_pos=AT), ("q_pos is missing", "together")),
    "cache, none": (attend(q=torch.zeros(B, H, 1, D)), ("1 queries and 5 keys", "pass both")),
    "other device": (
        attend(where=ww.Where(N, N, device="meta")),
        ("q_pos is on meta", "q on cpu", "move"),
    ),
    "one-sided documents": (attend(q_documents=AT), ("q_documents and k_documents together",)),
    "float documents": (
        attend(q_documents=AT.float(), k_documents=AT),
        ("q_documents", "torch.float32", "int64"),
    ),
    "short documents": (attend(q_documents=AT, k_documents=AT[1:]), ("k_documents has shape",)),
    "valid list": (attend(k_valid=[True] * N), ("k_valid is list", "bool")),
    "valid ints": (attend(k_valid=torch.ones(N).long()), ("k_valid", "torch.int64", "bool")),
    "valid short": (attend(k_valid=torch.ones(4).bool()), ("k_valid has shape (4,)", "(5,)")),
    "no queries": (functools.partial(ww.Where, 0, N), ("queries is 0", "at least 1")),
    "float keys": (functools.partial(ww.Where, N, 5.0), ("keys is 5.0", "at least 1")),
}


@pytest.mark.parametrize("case", VECTORS)
def test_vectors(case: str) -> None:
    call, words = VECTORS[case]
    refuses(call, *words)


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case: str) -> None:
    call, words = OPTIONS[case]
    refuses(call, *words)


@pytest.mark.parametrize("case", POSITIONS)
def test_positions_and_masks(case: str) -> None:
    call, words = POSITIONS[case]
    refuses(call, *words)


def test_the_good_call_is_good() -> None:
    """Otherwise every refusal above would prove nothing."""
    assert attend(q_pos=AT, k_pos=AT, k_valid=AT > 0, window=3)().shape == (B, H, N, D)


@pytest.mark.parametrize("text", ["alibi", "t5", "kerple", "fire", "sandwich", "pope", "shaw"])
@pytest.mark.parametrize("heads", [3, 12])
def test_a_rule_of_other_heads(text: str, heads: int) -> None:
    """Slopes of six heads would serve three, and some of twelve, without a word."""
    call = attend(rule(text), q=torch.zeros(B, heads, N, D))
    refuses(call, f"q has {heads} heads", "made for 6")


@pytest.mark.parametrize("text", ["rope", "rope_partial", "pope", "xpos", "shaw", "cope"])
@pytest.mark.parametrize("width", [2, 8])
def test_a_rule_of_another_width(text: str, width: int) -> None:
    """Frequencies of 4 channels would turn the first half of 8: partial RoPE by accident."""
    if text == "rope_partial":
        made = ww.make("rope(partial=0.5)", heads=H, head_dim=D).rule(N)
    else:
        made = rule(text)
    wide = {"q": torch.zeros(B, H, N, width), **kv(B, G, N, width)}
    refuses(attend(made, **wide), f"q has {width} channels", "made for 4")


def test_values_of_another_width() -> None:
    refuses(attend(rule("shaw"), v=torch.zeros(B, G, N, 7)), "v has 7 channels", "made for 4")
    assert attend(rule("pope"), v=torch.zeros(B, G, N, 7))().shape == (B, H, N, 7)


def test_a_named_backend_gives_its_reason() -> None:
    refuses(attend(rule("shaw"), backend="sdpa"), "'sdpa'", "Shaw adds a vector per pair")
    refuses(attend(rule("rope"), backend="flex", dropout=0.1), "flex", "dropout is 0.1")
    with pytest.raises(ww.Unsupported):
        attend(rule("cope"), backend="flex")()
