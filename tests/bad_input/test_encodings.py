"""What `make`, `parse` and the encodings refuse: names, options, shapes, horizons, positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bad_input.refusal import refuses

import whatwhere as ww

#: Expression: words of the refusal. All are built for 6 heads of 4 channels, train_length 16.
EXPRESSIONS: dict[str, tuple[str, ...]] = {
    "": ("an encoding is a text",),
    "roep": ("unknown encoding 'roep'", "did you mean 'rope'"),
    "yarn": ("'yarn' modifies another", "rope+yarn"),
    "rope+rope": ("unknown modifier 'rope'", "Known"),
    "rope+yarm": ("unknown modifier 'yarm'", "did you mean 'yarn'"),
    "rope++yarn": ("rope",),
    "rope(": ("can not read", "name(option=value"),
    "rope(half)": ("go by name", "option=value"),
    "rope(**x)": ("'**'", "option=value"),
    "rope(partial={[]:1})": ("can not read the value",),
    "rope - yarn": ("is no encoding",),
    "rope(layuot=half)": ("unknown option of rope 'layuot'", "did you mean 'layout'"),
    "alibi(slope=2)": ("unknown option of alibi 'slope'", "Known: heads"),
    "nope(slope=2)": ("unknown option of nope 'slope'", "there are none"),
    "rope(layout=halves)": ("unknown layout of rope 'halves'", "did you mean 'half'"),
    "rope(layout=5)": ("unknown layout of rope 5", "interleaved"),
    "rope(values=relativ)": ("values of rope 'relativ'", "did you mean 'relative'"),
    "rope(partial=0)": ("partial is 0", "above 0"),
    "rope(partial=1.5)": ("partial is 1.5", "at most 1"),
    "rope(partial=abc)": ("partial is 'abc'", "number"),
    "rope(partial=0.25)": ("partial 0.25", "leaves 1 channels", "even"),
    "rope(spectrum=yarm(factor=2))": ("unknown spectrum 'yarm'", "did you mean 'yarn'"),
    "rope(spectrum=fast)": ("unknown spectrum 'fast'", "Known"),
    "rope(spectrum=5)": ("spectrum is 5", "spectra.yarn"),
    "rope(spectrum=yarn(factr=2))": ("unknown option of yarn 'factr'", "'factor'"),
    "rope+yarn(factor=0.5)": ("yarn", "factor", "at least 1", "0.5"),
    "rope+linear(factor=-2)": ("linear", "factor", "at least 1", "-2"),
    "rope+yarn+ntk": ("yarn and ntk", "choose one"),
    "nope+yarn(factor=2)": ("yarn rescales frequencies", "'nope' has none"),
    "alibi+rerope(window=2)": ("'alibi' does not rotate", "rope"),
    "rope+rerope(window=2)+dual_chunk": ("2 terms", "one term"),
    "rope+rerope(window=0)": ("window is 0", "at least 1"),
    "rope+rerope(window=2.0)": ("window is 2.0", "whole number"),
    "rope+rerope(window=true)": ("window is True", "whole number"),
    "rope+leaky_rerope(window=3,factor=0.5)": ("factor is 0.5", "at least 1", "inverse_leaky"),
    "rope+leaky_rerope(window=3,factor=1.5)": ("window is 3", "factor 1.5", "whole"),
    "rope+leaky_rerope(window=3,factor=1e999)": ("factor is inf", "finite"),
    "rope+inverse_leaky_rerope(window=3,stride=0)": ("stride is 0", "at least 1"),
    "rope+inverse_leaky_rerope(window=3,stride=2)": ("window is 3", "multiple of 2"),
    "rope+self_extend(group=0)": ("group is 0", "at least 1"),
    "rope+dual_chunk(chunk=16)": ("chunk is 16", "at most 15"),
    "rope+dual_chunk(chunk=0)": ("chunk is 0", "at least 1"),
    "rope+dual_chunk(constants=papr)": ("'papr'", "did you mean 'paper'"),
    "rope+logn(form=clip)": ("form of logn 'clip'", "did you mean 'clipped'"),
    "rope+logn(train_length=1)": ("train_length is 1", "at least 2"),
    "rope+yarn_temperature(factor=0.9)": ("factor is 0.9", "at least 1"),
    "rope+yarn_temperature(factor=true)": ("factor is True", "number"),
    "rope+llama4_temperature(floor_scale=0)": ("floor_scale is 0", "at least 1"),
    "rope+llama4_temperature(scale=-1)": ("scale is -1", "at least 0"),
    "pope(delta_init=unifrom)": ("delta_init of pope 'unifrom'", "did you mean 'uniform'"),
    "pope(delta_bound=clip)": ("delta_bound of pope 'clip'", "clamp"),
    "pope(magnitude=gelu)": ("magnitude of pope 'gelu'", "relu"),
    "pope(partial=0.1)": ("partial is 0.1", "at least one of 4"),
    "pope(partial=abc)": ("partial is 'abc'", "number"),
    "xpos(gamma=0)": ("gamma is 0", "above 0"),
    "xpos(span=none)": ("span is None", "above 0"),
    "sinusoidal(base=1)": ("base is 1", "above 1"),
    "sinusoidal(scale=abc)": ("scale is 'abc'", "number"),
    "sinusoidal(exponent=t2t)": ("exponent of sinusoidal 't2t'", "tensor2tensor"),
    "sandwich(dim=7)": ("dim is 7", "even"),
    "sandwich(base=0.5)": ("base", "above 1", "0.5"),
    "shaw(clip=0)": ("clip is 0", "at least 1"),
    "shaw(clip=abc)": ("clip is 'abc'", "whole number"),
    "shaw(sides=key)": ("sides of shaw 'key'", "did you mean 'keys'"),
    "shaw(tables=own)": ("tables of shaw 'own'", "per_head"),
    "t5(buckets=7)": ("buckets is 7", "multiple of 2"),
    "t5(buckets=6,bidirectional=true)": ("buckets is 6", "multiple of 4"),
    "t5(buckets=8.0)": ("buckets is 8.0", "whole number"),
    "t5(bidirectional=5)": ("bidirectional is 5", "True or False"),
    "t5(max_distance=16)": ("max_distance is 16", "larger"),
    "kerple(kernel=exp)": ("kernel of kerple 'exp'", "power"),
    "fire(width=0)": ("width is 0", "at least 1"),
    "fire(init_slope=-1)": ("init_slope is -1", "above 0"),
    "cope(max_positions=1)": ("max_positions is 1", "at least 2"),
    "learned(max_length=0)": ("max_length is 0", "at least 1"),
}


def made(text: Any, **changes: Any) -> ww.Encoding:
    sizes: dict[str, Any] = {"heads": 6, "head_dim": 4, "kv_heads": 3, "train_length": 16}
    return ww.make(text, **(sizes | changes))


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expressions(text: str) -> None:
    refuses(lambda: made(text), *EXPRESSIONS[text])


@pytest.mark.parametrize("text", [None, 5, ["rope"], b"rope", "\0", "(" * 300 + "rope" + ")" * 300])
def test_what_is_no_expression(text: Any) -> None:
    refuses(lambda: made(text), "encoding")


SIZES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "odd head": ({"head_dim": 5}, ("head_dim 5", "even")),
    "no heads": ({"heads": 0}, ("heads is 0", "at least 1")),
    "None heads": ({"heads": None}, ("heads is None", "whole number")),
    "float heads": ({"heads": 6.0}, ("heads is 6.0", "whole number")),
    "bool head_dim": ({"head_dim": True}, ("head_dim is True", "whole number")),
    "text head_dim": ({"head_dim": "4"}, ("head_dim is '4'", "whole number")),
    "kv_heads": ({"kv_heads": 4}, ("heads is 6", "kv_heads 4", "multiple")),
    "negative width": ({"width": -2}, ("width is -2", "at least 1")),
    "train_length": ({"train_length": 2.5}, ("train_length is 2.5", "whole number")),
    "factor": ({"factor": "8"}, ("factor is '8'", "number")),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes(case: str) -> None:
    sizes, words = SIZES[case]
    refuses(lambda: made("rope", **sizes), *words)


def test_sizes_that_one_encoding_refuses() -> None:
    refuses(lambda: made("xpos", head_dim=5), "head_dim is 5", "even")
    refuses(lambda: made("sinusoidal", width=7), "width is 7", "even")


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("learned", "max_length"),
        ("rope+rerope", "window"),
        ("rope+self_extend", "window"),
        ("rope+dual_chunk", "train_length"),
        ("rope+logn", "train_length"),
        ("rope+yarn(factor=2)", "train_length"),
        ("rope(spectrum=llama3(factor=2))", "train_length"),
    ],
)
def test_options_without_a_default(text: str, option: str) -> None:
    refuses(lambda: made(text, train_length=None), option)


@pytest.mark.parametrize("text", ["rope+dynamic_ntk(factor=2)", "rope+logn(form=length)"])
@pytest.mark.parametrize("horizon", [None, 0, -1, 2.5, True, "16"])
def test_horizons(text: str, horizon: Any) -> None:
    shown = () if horizon is None else (repr(horizon).strip("'"),)
    refuses(lambda: made(text).rule(horizon), "horizon", *shown)


def test_horizons_out_of_reach() -> None:
    refuses(lambda: made("xpos").rule(10**6), "horizon is 1000000", "raise gamma or span")
    refuses(lambda: made("rope+yarn(factor=none)").rule(7), "horizon=7", "train_length=16")


X = torch.zeros(2, 3, 24)


@pytest.mark.parametrize("text", ["learned", "sinusoidal"])
def test_embeddings(text: str) -> None:
    def embed(x: torch.Tensor, positions: torch.Tensor) -> Any:
        return lambda: made(text).embed(x, positions)

    at = torch.arange(3)[None]
    assert embed(X, at)().shape == X.shape
    refuses(embed(X[..., :23], at), "x has shape (2, 3, 23)", "24")
    refuses(embed(X, at.float()), "positions has dtype torch.float32", "int64")
    refuses(embed(X, at[:, :2]), "positions has shape (1, 2)", "(1 or batch, 3)")


@pytest.mark.parametrize("position", [16, 10**9, -1])
def test_past_a_learned_table(position: int) -> None:
    at = torch.tensor([[0, position, 1]])
    refuses(lambda: made("learned").embed(X, at), f"position {position}", "16 positions", "larger")


def test_wrappers_take_encodings() -> None:
    from whatwhere.encodings import LogN, ReRoPE, Rescaled

    refuses(lambda: LogN("rope", train_length=16), "inner is str", "encoding")
    refuses(lambda: ReRoPE(made("t5"), window=3), "'t5' does not rotate")
    refuses(lambda: Rescaled(made("rope"), "yarn"), "unknown spectrum 'yarn'")


def test_from_dict() -> None:
    good = made("rope").to_dict()
    assert ww.from_dict(good).to_dict() == good
    refuses(lambda: ww.from_dict({}), "'name'")
    refuses(lambda: ww.from_dict("rope"), "dict", "'rope'")
    refuses(lambda: ww.from_dict(good | {"name": "roep"}), "'roep'", "did you mean 'rope'")
    refuses(lambda: ww.from_dict(good | {"options": {"layuot": "half"}}), "did you mean 'layout'")
