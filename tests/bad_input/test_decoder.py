"""What the decoder, its configuration and generation refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from bad_input.refusal import refuses

import whatwhere as ww
from whatwhere.nn import Decoder, DecoderConfig

SMALL: dict[str, Any] = {"vocab_size": 10, "width": 8, "layers": 1, "heads": 2, "train_length": 4}
T = torch.tensor([[1, 2, 3], [4, 5, 6]])
ROW = torch.arange(3)
VALID = torch.ones(2, 3, dtype=torch.bool)

CONFIGS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no vocabulary": ({"vocab_size": 0}, ("vocab_size is 0", "at least 1")),
    "text": ({"layers": "4"}, ("layers is '4'", "whole number")),
    "float": ({"width": 8.0}, ("width is 8.0", "whole number")),
    "bool": ({"heads": True}, ("heads is True", "whole number")),
    "None": ({"train_length": None}, ("train_length is None", "whole number")),
    "negative": ({"hidden": -8}, ("hidden is -8", "at least 1")),
    "width": ({"heads": 3}, ("width is 8", "heads 3", "head_dim")),
    "kv_heads": ({"heads": 4, "kv_heads": 3}, ("heads is 4", "kv_heads 3", "multiple")),
    "activation": ({"activation": "swigl"}, ("'swigl'", "did you mean 'swiglu'")),
    "dropout": ({"dropout": 1.0}, ("dropout is 1.0", "[0, 1)")),
    "dropout NaN": ({"dropout": math.nan}, ("dropout is nan",)),
    "qk_norm": ({"qk_norm": "no"}, ("qk_norm is 'no'", "True or False")),
    "tie": ({"tie_embeddings": 1}, ("tie_embeddings is 1", "True or False")),
    "encoding": ({"encoding": "roep"}, ("'roep'", "did you mean 'rope'")),
    "no text": ({"encoding": None}, ("an encoding is a text",)),
    "odd heads": ({"head_dim": 5}, ("head_dim 5", "even")),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations(case: str) -> None:
    changes, words = CONFIGS[case]
    refuses(lambda: Decoder(DecoderConfig(**(SMALL | changes))), *words)


def test_configurations_from_files() -> None:
    refuses(lambda: DecoderConfig.from_dict({"layer": 3}), "'layer'", "did you mean 'layers'")
    refuses(lambda: DecoderConfig.from_dict({}), "vocab_size is missing")


def model(**changes: Any) -> Decoder:
    return Decoder(DecoderConfig(**(SMALL | changes)))


def forward(*args: Any, encoding: str = "rope", **options: Any) -> Any:
    return lambda: model(encoding=encoding)(*args, **options)


def continued(*args: Any, **options: Any) -> Any:
    """A second step with a cache of two rows and three tokens."""

    def run() -> Any:
        decoder, cache = model(), ww.KVCache(1, 9)
        decoder(T, cache=cache)
        return decoder(*args, cache=cache, **options)

    return run


DYNAMIC = "rope(spectrum=dynamic_ntk(factor=2))"
CALLS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "list": (forward([[1]]), ("tokens is list", "int64")),
    "floats": (forward(T.float()), ("tokens", "torch.float32", "int64")),
    "one axis": (forward(T[0]), ("tokens has shape (3,)", "(batch, n)")),
    "empty": (forward(T[:, :0]), ("tokens has shape (2, 0)", "at least one")),
    "unknown token": (forward(T + 4), ("tokens holds 10", "0 to 9")),
    "negative token": (forward(-T), ("tokens holds -6", "0 to 9")),
    "positions list": (forward(T, positions=[0, 1, 2]), ("positions is list", "int64")),
    "positions float": (forward(T, positions=ROW.float()), ("positions", "float32", "int64")),
    "positions short": (forward(T, positions=ROW[:2]), ("positions has shape (2,)", "(3,)")),
    "positions rows": (forward(T, positions=ROW.expand(3, 3)), ("positions has shape (3, 3)",)),
    "documents": (forward(T, documents=T[:, :2]), ("documents has shape (2, 2)", "(2, 3)")),
    "documents float": (forward(T, documents=T.float()), ("documents", "float32", "int64")),
    "valid ints": (forward(T, valid=T), ("valid", "torch.int64", "bool")),
    "valid row": (forward(T, valid=VALID[0]), ("valid has shape (3,)", "(2, 3)")),
    "horizon 0": (forward(T, horizon=0, encoding=DYNAMIC), ("horizon is 0", "at least 1")),
    "horizon 2.5": (forward(T, horizon=2.5), ("horizon is 2.5", "whole")),
    "cache text": (forward(T, cache="yes"), ("cache is str", "new_cache")),
    "cache layers": (forward(T, cache=ww.KVCache(3, 9)), ("cache has 3 layers", "the model 1")),
    "cache small": (forward(T, cache=ww.KVCache(1, 2)), ("3 tokens", "cache of 2", "larger")),
    "documents, cache": (forward(T, documents=T, cache=ww.KVCache(1, 9)), ("documents", "cache")),
    "batch": (continued(T[:1]), ("tokens has 1 rows", "holds 2")),
    "overflow": (continued(T.repeat(1, 3)), ("12 tokens", "cache of 9")),
    "next positions": (continued(T, positions=ROW[:2]), ("positions has shape (2,)",)),
    "learned table": (
        forward(T.repeat(1, 2), encoding="learned"),
        ("position 5", "4 positions", "larger max_length"),
    ),
    "capacity": (lambda: model().new_cache(0), ("capacity is 0", "at least 1")),
    "use another": (lambda: model().use("pope"), ("'rope'", "'pope'")),
    "use typo": (lambda: model().use("rope+yarm"), ("'yarm'", "did you mean 'yarn'")),
    "use 5": (lambda: model().use(5), ("an encoding is a text", "5")),
    "use factor": (lambda: model().use("rope+yarn", factor="8"), ("factor is '8'", "number")),
}


@pytest.mark.parametrize("case", CALLS)
def test_calls(case: str) -> None:
    call, words = CALLS[case]
    refuses(call, *words)


SAMPLING: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no tokens": ({"max_new_tokens": 0}, ("max_new_tokens is 0", "at least 1")),
    "half a token": ({"max_new_tokens": 2.5}, ("max_new_tokens is 2.5", "whole")),
    "True tokens": ({"max_new_tokens": True}, ("max_new_tokens is True", "whole")),
    "cold": ({"temperature": -0.1}, ("temperature is -0.1", "at least 0", "greedy")),
    "NaN": ({"temperature": math.nan}, ("temperature is nan", "finite")),
    "top_k 0": ({"top_k": 0}, ("top_k is 0", "at least 1")),
    "top_k 11": ({"top_k": 11}, ("top_k is 11", "1 to 10")),
    "top_k 2.5": ({"top_k": 2.5}, ("top_k is 2.5", "whole")),
    "stop": ({"stop": 10}, ("stop is 10", "0 to 9")),
    "stop text": ({"stop": "."}, ("stop is '.'", "whole")),
    "generator": ({"generator": 5}, ("generator is int", "torch.Generator")),
    "valid ints": ({"valid": T}, ("valid", "torch.int64", "bool")),
    "padding right": ({"valid": VALID & (ROW < 2)}, ("valid is False at the end", "left")),
}


@pytest.mark.parametrize("case", SAMPLING)
def test_sampling(case: str) -> None:
    options, words = SAMPLING[case]
    refuses(lambda: model().generate(T, **({"max_new_tokens": 2} | options)), *words)


def test_prompts() -> None:
    refuses(lambda: model().generate([[1]], max_new_tokens=1), "prompt is list", "int64")
    refuses(lambda: model().generate(T[0], max_new_tokens=1), "prompt has shape (3,)")
    refuses(lambda: model().generate(T + 9, max_new_tokens=1), "prompt holds 15", "0 to 9")


def test_generation_past_a_learned_table() -> None:
    decoder = model(encoding="learned")
    assert decoder.generate(T, max_new_tokens=1).shape == (2, 4)
    refuses(lambda: decoder.generate(T, max_new_tokens=3), "3 prompt tokens", "5", "has 4")


def test_a_refused_prompt_leaves_the_mode() -> None:
    decoder = model().train()
    refuses(lambda: decoder.generate(T, max_new_tokens=0), "max_new_tokens")
    assert decoder.training
