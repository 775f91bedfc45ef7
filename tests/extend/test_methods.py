"""Names of methods become expressions with every factor filled in; what is none is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hf.models import tiny_config

from whatwhere import hf, make
from whatwhere.extend import methods, text
from whatwhere.extend.models import Source
from whatwhere.extend.plan import Plan, lengths


@pytest.mark.parametrize(
    ("method", "expression"),
    [
        ("none", "rope"),
        ("pi", "rope+linear(factor=4)"),
        ("ntk+logn", "rope+ntk(factor=4)+logn"),
        ("dynamic_ntk", "rope+dynamic_ntk"),  # its factor multiplies the ratio, which it reads
        ("yarn+dual_chunk", "rope+yarn(factor=4)+dual_chunk"),
        ("yarn(beta_fast=16)", "rope+yarn(beta_fast=16,factor=4)"),
        ("rope+yarn(factor=2)", "rope+yarn(factor=2)"),
        ("abf", "rope+abf"),
        # A quarter of 512 is near: 128 + (2048 - 128) / 8 = 368, and with 4 it would be 608.
        ("self_extend", "rope+self_extend(group=8)"),
        ("leaky_rerope", "rope+leaky_rerope(factor=8)"),
    ],
)
def test_expressions(method: str, expression: str) -> None:
    assert methods.make(method, 4.0, 512).expression == expression


@pytest.mark.parametrize("factor", [2, 3, 4, 8, 16])
def test_groups_reach_the_target_and_half_of_them_do_not(factor: int) -> None:
    group = methods._reaching(factor, 512, None)
    assert 128 + (factor * 512 - 128) / group <= 512
    assert group == 1 or 128 + (factor * 512 - 128) / (group // 2) > 512


def test_a_broken_factor_stays_exact() -> None:
    assert methods.make("yarn", 2.5, 512).expression == "rope+yarn(factor=2.5)"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("yarm", "did you mean 'yarn'"),
        ("ntk+yarm", "did you mean 'yarn'"),
        ("rope+yarm", "did you mean 'yarn'"),
        ("yarn(factr=2)", "did you mean 'factor'"),
    ],
)
def test_what_is_no_method(method: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.make(method, 4.0, 512)


def test_a_factor_below_one() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        methods.make("yarn", 0.5, 512)


def test_a_result_of_search(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"name": "longrope:smooth", "expression": "rope+ntk(factor=3)"}))
    assert methods.make(str(file), 4.0, 512) == methods.Made(
        "longrope:smooth", "rope+ntk(factor=3)"
    )
    file.write_text('{"name": "longrope:smooth", "expression": "rope+ntk", "factor": 4.0}')
    assert methods.make(str(file), 2.0, 512).method == "longrope:smooth@4x"
    file.write_text("{}")
    with pytest.raises(ValueError, match="no result of"):
        methods.make(str(file), 4.0, 512)
    with pytest.raises(FileNotFoundError, match="no such file"):
        methods.make(str(tmp_path / "other.json"), 4.0, 512)


@pytest.mark.parametrize(
    ("method", "terms", "exports", "in_vllm"),
    [
        ("yarn", 1, True, True),
        ("dynamic_ntk", 1, True, False),
        ("ntk+logn", 1, False, False),
        ("rerope", 2, False, False),
        ("dual_chunk", 3, False, False),
    ],
)
def test_what_a_method_asks_for(
    source: Source, model: Any, method: str, terms: int, exports: bool, in_vllm: bool
) -> None:
    expression = methods.make(method, 4.0, source.train_length).expression
    with hf.use(model, expression) as handle:
        form = methods.form_of(expression, source.config, handle.decoder.rotary_emb.encoding(0)[0])
    assert form.terms == terms
    assert (form.parameters is not None, form.vllm == "") == (exports, in_vllm)
    assert exports == (form.reason == "")


LISTS = "longrope(long_factor=[1,2,3,4,5,6,7,8],factor=4"


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("llama", "rope+dynamic_ntk(factor=4)", "plain frequencies"),
        ("llama", "rope+proportional(share=0.5,divisor=2)", "factor of rope_type 'proportional'"),
        ("llama", "rope+proportional(share=0.5)", None),
        ("llama", f"rope+{LISTS})", None),
        ("llama", f"rope+{LISTS},short_factor=[1,1,1,1,1,1,1,2])", "--recover"),
        ("cohere", f"rope+{LISTS})", "interleaved"),
        ("gemma3_text", "rope+dynamic_ntk(factor=4)", "plain frequencies"),
    ],
)
def test_what_vllm_would_not_compute_is_said(kind: str, text: str, reason: str | None) -> None:
    """tests/hf/test_vllm.py sees vLLM itself do so."""
    encoding = make(text, heads=6, kv_heads=3, head_dim=16, train_length=64)
    form = methods.form_of(text, tiny_config(kind), encoding)
    assert form.parameters is not None
    assert form.vllm == "" if reason is None else reason in form.vllm


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("A word.", encoding="utf-8-sig")
    assert text.of_files([tmp_path / "book.txt"]).content == "A word."


def test_lengths() -> None:
    assert lengths("8x,2x,700", 512) == (700, 1024, 4096)
    for written, message in (
        ("0.5x", "below 1"), ("abc", "no length"), ("-3", "no length"), ("infx", "no length"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            lengths(written, 512)


def test_a_target_below_the_trained_length() -> None:
    with pytest.raises(ValueError, match="below the trained length 512"):
        Plan("demo", (256,)).check(512)
    with pytest.raises(ValueError, match="do not fill one window"):
        Plan("demo", (1024,), tokens=1000).check(512)


@pytest.mark.parametrize(
    ("device", "backend", "terms", "pieces"),
    [
        ("cpu", "auto", 1, False),
        ("cpu", "auto", 2, True),
        ("mps", "auto", 3, True),
        ("cuda:1", "auto", 3, False),
        ("cuda", "reference", 2, True),
        ("cuda", "reference", 1, False),
    ],
)
def test_several_products_are_read_in_pieces_where_they_are_dense(
    device: str, backend: str, terms: int, pieces: bool
) -> None:
    plan = Plan("tiny", (512,), device=device, backend=backend)
    assert plan.in_pieces(terms) == pieces
