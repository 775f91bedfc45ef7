"""Attention over short sequences in one tile, as Python on a CPU. Run by test_interpreter.py."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from fresh import run_forked
from kernels import interpreted_prep
from kernels import interpreted_tiled as definition
from kernels.interpreted_fused_op import of_keys
from kernels.interpreted_prep import angles, generator, poisoned
from kernels.interpreted_tiled import CALLS, LIMIT, dense, error
from torch import Tensor

from whatwhere.attention import fused, probe
from whatwhere.kernels import attention as A
from whatwhere.kernels import features, fused_op, short_sizes, tiled_sizes
from whatwhere.kernels.pairs import EVERYTHING, FAR, Pairs
from whatwhere.maps import Decay, Map, Polar, Rotate

__all__ = ["poisoned"]  # a fixture that applies here too

BATCH, HEADS, KV_HEADS, LENGTH, WIDTH, VALUES = 2, 2, 1, 21, 24, 16
SCALE = 0.2


def fewer_heads(mapping: Map) -> Map:
    """The interpreter's time goes with the number of programs."""
    if isinstance(mapping, Polar) and mapping.offset is not None:
        return replace(mapping, offset=mapping.offset[:HEADS])
    return mapping


MAPS = {name: fewer_heads(mapping) for name, mapping in interpreted_prep.MAPS.items()}


def draw(heads: int, width: int = WIDTH, n: int = LENGTH, seed: int = 0) -> Tensor:
    """(b, h, n, d) in (b, n, h, d) storage, as a projection gives it."""
    x = torch.randn(BATCH, n, heads, width, generator=generator(heads + width + seed))
    return x.transpose(1, 2)


def places(kind: str) -> Pairs:
    """Ways of saying who sees whom at LENGTH tokens."""
    index = torch.arange(LENGTH)
    documents = torch.tensor([0] * 9 + [1] * 12)
    packed = definition.place(torch.cat([torch.arange(9), torch.arange(12)]), documents)
    valid = index[None] >= torch.tensor([[0], [5]])
    padded = (valid.cumsum(1) - 1).clamp(min=0)
    slopes = 0.5 ** torch.arange(1.0, HEADS + 1)
    return {
        "causal": Pairs(),
        "everything": EVERYTHING,
        "window": Pairs(window=4),
        "alibi": Pairs(slopes=slopes),
        "packed": Pairs(True, FAR, packed, packed),
        "padded": Pairs(True, FAR, definition.place(padded, 0),
                        definition.place(padded, torch.where(valid, 0, -1))),
        "all at once": Pairs(True, 6, packed, packed, slopes),
    }[kind]  # fmt: skip


def compare(
    query: Map, key: Map, pairs: Pairs, keys_at: Tensor | None = None,
    temperature: Tensor | None = None, dtype: torch.dtype = torch.float32,
    kv_heads: int = KV_HEADS,
) -> None:  # fmt: skip
    """Output and all gradients against float64."""
    learned: list[Tensor] = []
    if isinstance(query, Polar) and query.offset is not None:
        learned = [query.offset.clone().requires_grad_()]
        query = replace(query, offset=learned[0])
    widths = ((HEADS, WIDTH), (kv_heads, WIDTH), (kv_heads, VALUES))
    leaves = [draw(*each).to(dtype).requires_grad_() for each in widths]
    at = torch.randint(0, 1_000_000, (BATCH, LENGTH), generator=generator(1))
    out = fused_op.fused(query, key, *leaves, at, keys_at, SCALE, pairs, "short", temperature)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    tau = 1.0 if temperature is None else temperature.double()[:, None, :, None]
    q, k = query(exact[0], at) * tau, key(exact[1], at if keys_at is None else keys_at)
    definition.SCALE = SCALE
    cast = pairs if pairs.slopes is None else replace(pairs, slopes=pairs.slopes.double())
    true, _ = dense(q, k, exact[2], cast)
    assert out.stride(1) < out.stride(2), "stored (b, n, h, d)"
    grad = torch.randn(out.shape, generator=generator(3)).to(dtype)
    got = torch.autograd.grad(out, [*leaves, *learned], grad)
    wanted = torch.autograd.grad(true, [*exact, *learned], grad.double())
    names = ["out", "q", "k", "v", "δ"]
    for name, mine, theirs in zip(names, (out, *got), (true, *wanted), strict=False):
        assert error(mine, theirs.detach()) < LIMIT[dtype], name
    assert all(laid_out(x) == laid_out(y) for x, y in zip(got, leaves, strict=False))


def laid_out(x: Tensor) -> list[int]:
    """Strides; an axis of one head has none to speak of."""
    return [x.stride(axis) for axis in range(4) if x.shape[axis] > 1]


def quick(all_of_them: Iterable[Any], *names: Any) -> list[Any]:
    """Parameters; all but the named ones run with -m slow: each takes a second or two."""
    marks = {name: [] if name in names else [pytest.mark.slow] for name in all_of_them}
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


@pytest.mark.parametrize(
    "name", quick(MAPS, "half, backwards", "half, start rule", "half, decay", "interleaved")
)
def test_every_map_and_its_gradients(name: str) -> None:
    compare(MAPS[name], of_keys(MAPS[name]), places("causal"))


@pytest.mark.parametrize(
    "kind",
    quick(
        ["causal", "everything", "window", "alibi", "packed", "padded", "all at once"],
        "everything",
        "padded",
        "all at once",
    ),
)
def test_every_kind_of_pairs(kind: str) -> None:
    compare(MAPS["polar"], of_keys(MAPS["polar"]), places(kind))


@pytest.mark.parametrize("dtype", quick([torch.bfloat16, torch.float16], torch.bfloat16))
@pytest.mark.parametrize("name", quick(["polar", "half"], "polar"))
def test_sixteen_bits(name: str, dtype: torch.dtype) -> None:
    compare(MAPS[name], of_keys(MAPS[name]), places("padded"), dtype=dtype)


@pytest.mark.parametrize(
    ("name", "kv_heads"), [("polar, partial", HEADS), ("interleaved, partial", 1)]
)
def test_temperature_and_channels_that_do_not_turn(name: str, kv_heads: int) -> None:
    temperature = 0.5 + torch.rand(BATCH, LENGTH, generator=generator(4))
    compare(MAPS[name], of_keys(MAPS[name]), places("causal"), None, temperature,
            kv_heads=kv_heads)  # fmt: skip


def test_channels_that_only_fill_the_tile_add_nothing() -> None:
    """24 frequencies in a tile of 32: the others' softplus(0) would move every log-sum-exp."""
    query, at, leaves = MAPS["polar"], torch.arange(LENGTH)[None], [draw(h) for h in (2, 1, 1)]
    position, *angling = features.described(query, at, None)
    _, lse = fused_op._fused(*leaves, position, None, *angling, SCALE, True, FAR, None, None, None,
                             "short")  # fmt: skip
    definition.SCALE = SCALE
    q, k, v = (x.double() for x in leaves)
    _, true = dense(query(q, at), of_keys(query)(k, at), v, Pairs())
    assert (lse - true).abs().max() < 1e-5


def test_keys_at_positions_of_their_own() -> None:
    at = torch.randint(0, 1_000_000, (1, LENGTH), generator=generator(2))
    compare(MAPS["polar, partial"], of_keys(MAPS["polar, partial"]), places("causal"), at)
    rotation = Rotate(angles(12), decay=Decay(0.4, 1, 500_000, 400_000.0))
    compare(rotation, of_keys(rotation), places("causal"), at)


@pytest.mark.parametrize(
    "name", quick(CALLS, "everything", "prefill, alibi", "rows that see nothing")
)
def test_features_that_are_made_already(name: str) -> None:
    """The calls of the other kernels: unequal lengths, rows that see nothing, odd widths."""
    n, m, pairs = CALLS[name]
    leaves = [draw(h, w, t, h) for h, w, t in ((2, 25, n), (1, 25, m), (1, 10, m))]
    exact = [x.double().requires_grad_() for x in leaves]
    definition.SCALE = SCALE
    true, true_lse = dense(*exact, pairs)
    grad = torch.randn(true.shape, generator=generator(5))
    wanted = torch.autograd.grad(true, exact, grad.double())
    out, lse = A.forward(*leaves, SCALE, pairs, "short")
    blind = true_lse == math.inf
    assert torch.equal(lse == math.inf, blind)
    assert (lse - true_lse).masked_fill(blind, 0.0).abs().max() < 1e-5
    got = A.backward(grad, *leaves, out, lse, SCALE, pairs, "short")
    for which, mine, theirs in zip(["o", "q", "k", "v"], (out, *got), (true, *wanted), strict=True):
        assert error(mine, theirs) < LIMIT[torch.float32], which


@pytest.mark.parametrize("n", quick([1, 16, 17, 64, 128], 1, 128))
def test_every_length_of_tile(n: int) -> None:
    query = Polar(angles(8), offset=torch.ones(1, 8))
    leaves = [draw(1, 8, n, seed).requires_grad_() for seed in range(3)]
    at = torch.arange(n)[None]
    out = fused_op.fused(query, replace(query, offset=None), *leaves, at, None, SCALE, Pairs(),
                         "short")  # fmt: skip
    exact = [x.detach().double().requires_grad_() for x in leaves]
    definition.SCALE = SCALE
    key = replace(query, offset=None)
    true, _ = dense(query(exact[0], at), key(exact[1], at), exact[2], Pairs())
    got = torch.autograd.grad(out.sin().sum(), leaves)
    wanted = torch.autograd.grad(true.sin().sum(), exact)
    for mine, theirs in zip((out, *got), (true, *wanted), strict=True):
        assert error(mine, theirs) < LIMIT[torch.float32]


@pytest.mark.parametrize("kernel", ["short", "tiled"])
def test_models_side_by_side_are_each_alone(kernel: str) -> None:
    """δ (s, h, F): the batch is so many models' batches, one after the other."""
    offset = torch.randn(2, HEADS, WIDTH, generator=generator(7)).requires_grad_()
    key, leaves = Polar(angles(WIDTH)), [draw(h) for h in (HEADS, 1, 1)]
    positions = torch.randint(0, 1000, (BATCH, LENGTH), generator=generator(6))
    grad = torch.randn(BATCH, HEADS, LENGTH, WIDTH, generator=generator(8))

    def run(delta: Tensor, *parts: slice) -> list[Tensor]:
        q, k, v = (x[parts] for x in leaves)
        query, at = replace(key, offset=delta), positions[parts]
        out = fused_op.fused(query, key, q, k, v, at, None, SCALE, places("causal"), kernel)
        return [out, *torch.autograd.grad(out, offset, grad[parts])]

    out, together = run(offset)
    for each in range(2):
        alone, single = run(offset[each], slice(each, each + 1))
        assert torch.equal(alone, out[each : each + 1])
        assert torch.equal(single[each], together[each])


def test_features_of_models_side_by_side() -> None:
    offset = torch.randn(2, HEADS, WIDTH, generator=generator(7))
    query, at = Polar(angles(WIDTH), offset=offset), torch.arange(LENGTH)[None]
    q, k = draw(HEADS), draw(1)
    found = features.prepare(query, q, at, k)
    for mine, true in zip(found, (query(q, at), Polar(angles(WIDTH))(k, at)), strict=True):
        assert error(mine, true.double()) < LIMIT[torch.float32]


@pytest.mark.slow
def test_the_operators_keep_torch_s_contract() -> None:
    query = Polar(angles(8), offset=torch.zeros(2, 8).requires_grad_())
    leaves = [torch.randn(1, heads, 5, 8, requires_grad=True) for heads in (2, 1, 1)]
    at, *angling = features.described(query, torch.arange(5)[None], None)
    rest = (at, None, *angling, SCALE, True, FAR, None, None, None, "short")
    torch.library.opcheck(fused_op._fused, (*leaves, *rest))
    plain = [x.detach() if isinstance(x, Tensor) else x for x in (*leaves, *rest)]
    out, lse = fused_op._fused(*plain)
    torch.library.opcheck(fused_op._fused_backward, (torch.ones_like(out), out, lse, True, *plain))


def test_what_does_not_fit_is_refused() -> None:
    q, k, v = (torch.randn(1, 1, 129, 16) for _ in range(3))
    with pytest.raises(ValueError, match=r"at most 128 tokens.*not 129 queries and 129 keys"):
        A.forward(q, k, v, SCALE, Pairs(), "short")
    cpu = torch.device("cpu")
    assert A.why_not("short", 256, 128, torch.float32, cpu) is None
    assert "up to widths 256/128, not 512/64" in str(
        A.why_not("short", 512, 64, torch.float32, cpu)
    )
    assert short_sizes.sizes_for("hopper", 2, 129, 64) is None
    assert short_sizes.sizes_for("hopper", 2, 65, 128) is None, "no tile of 128 x 128"
    assert "no sizes for GPUs of kind 'abacus', 2 bytes, 64 channels" in str(
        short_sizes.why_not("abacus", 2, 64)
    )


def test_one_query_is_not_taken_for_a_call_of_few_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trial has one key, and up to 64 may come: at 128 channels an A100's tiles hold 32."""
    for module in (A, tiled_sizes):
        monkeypatch.setattr(module, "of_device", lambda _: "ampere")
    widths = probe.Widths(
        0, torch.bfloat16, 128, 128, 1, causal=False, square=False, round=False, single=True,
        gradient=True, short=True,
    )  # fmt: skip
    assert "64 tokens of 128 channels" in str(fused._why_not_attention("short", widths))
    assert fused._why_not_attention("short", replace(widths, features=64, values=64)) is None


COMPILED = """
import torch
from whatwhere.kernels.fused_op import fused
from whatwhere.kernels.pairs import Pairs
from whatwhere.maps import Polar
from whatwhere.phases import Angles

angles = Angles(torch.arange(16) << 58)

def run(q, k, v, offset):
    at = torch.arange(q.shape[2])[None]
    query = Polar(angles, "softplus", offset)
    return fused(query, Polar(angles), q, k, v, at, None, 0.3, Pairs(), "short").sin().sum()

compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
worst = 0.0
for n in (5, 9, 17):
    leaves = [torch.randn(1, h, n, 16).requires_grad_() for h in (2, 1, 1)]
    leaves.append(torch.zeros(2, 16, requires_grad=True))
    got, wanted = (torch.autograd.grad(f(*leaves), leaves) for f in (compiled, run))
    worst = max(worst, *(float((a - b).abs().max()) for a, b in zip(got, wanted)))
print(worst, torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
def test_one_compiled_graph_for_every_length() -> None:
    worst, graphs = run_forked(COMPILED).split()[-2:]
    assert float(worst) < 1e-6
    assert int(graphs) <= 2
