"""The decode kernels as Python on a CPU, against the definition in float64. Run by
test_interpreter.py, in a process of its own."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import whatwhere as ww
from whatwhere.attention import Call, Where, fused_decode
from whatwhere.attention.reference import Reference
from whatwhere.kernels import decode_launch
from whatwhere.kernels.decode_launch import Keys
from whatwhere.maps import PLAIN, Map, Polar, Reindex, Rotate
from whatwhere.phases import Angles, to_turns
from whatwhere.regions import EVERYWHERE
from whatwhere.rule import ScoreRule, Term

BATCH = 2
# Float16 features round to 2^-11; the interpreter truncates weights to bfloat16, up to 2^-8 each.
LIMITS = {torch.float32: 2e-6, torch.float16: 2.0**-9, torch.bfloat16: 2.0**-7}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def angles(count: int, amplitude: float = 1.0) -> Angles:
    turns = torch.tensor(to_turns([10000.0 ** (-c / count) for c in range(count)]))
    return Angles(turns, amplitude)


def polar(count: int, heads: int, magnitude: str = "softplus") -> Polar:
    offset = -2 * math.pi * torch.rand(heads, count, generator=generator(9))
    return Polar(angles(count, 1.25), magnitude, offset)  # type: ignore[arg-type]


def ruled(query: Map) -> ScoreRule:
    key = replace(query, offset=None) if isinstance(query, Polar) else query
    return ScoreRule((Term(query, key, EVERYWHERE),))


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (1.5 * torch.randn(*shape, generator=generator(seed + sum(shape)))).to(dtype)


def call(
    heads: int, groups: int, n: int, d: int, dv: int, queries: int = 1, dtype: Any = torch.float32,
    **where: Any,
) -> Call:  # fmt: skip
    where = {"q_pos": torch.arange(n - queries, n), "k_pos": torch.arange(n)} | where
    return Call(
        draw(BATCH, heads, queries, d, dtype=dtype),
        draw(BATCH, groups, n, d, seed=1, dtype=dtype),
        draw(BATCH, groups, n, dv, seed=2, dtype=dtype),
        Where(queries, n, **where),
        1 / math.sqrt(d),
    )


def truth(rule: ScoreRule, given: Call) -> Tensor:
    exact = replace(given, q=given.q.double(), k=given.k.double(), v=given.v.double())
    return Reference()(rule, exact)


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


def contiguous(query: Map, given: Call, keys: Keys | None = None, **options: Any) -> Tensor:
    """The kernels told nothing of positions: an index is a position."""
    where = given.where
    return decode_launch.attend(
        given.q, given.k, given.v, where.q_pos, query, keys or Keys(valid=where.k_valid),
        scale=given.scale, causal=where.causal, window=where.window, **options,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Every torch.empty is full of NaN: what a kernel forgets to write can not pass for a zero."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


MAPS: dict[str, Map] = {
    "plain": PLAIN,
    "half": Rotate(angles(8)),
    "half, partial": Rotate(angles(5, 1.1)),
    "half, backwards": Rotate(angles(8), direction=-1),
    "interleaved": Rotate(angles(8, 1.1), "interleaved"),
    "interleaved, partial": Rotate(angles(3), "interleaved"),
    "polar": polar(16, 4),
    "polar, partial": polar(10, 4),
    "polar, no offset": Polar(angles(16)),
    "polar, relu": polar(16, 4, "relu"),
    "polar, identity": polar(16, 4, "identity"),
}


@pytest.mark.parametrize("name", MAPS)
def test_every_map_of_the_rule(name: str) -> None:
    given = call(heads=4, groups=2, n=37, d=16, dv=24)
    rule = ruled(MAPS[name])
    assert fused_decode.why_not(rule, given) is None
    expected = truth(rule, given)
    assert error(fused_decode.decode(rule, given), expected) < LIMITS[torch.float32]
    assert error(contiguous(MAPS[name], given), expected) < LIMITS[torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["half", "polar", "polar, partial"])
def test_sixteen_bits(name: str, dtype: torch.dtype) -> None:
    given = call(4, 2, 150, 16, 16, dtype=dtype)
    got = fused_decode.decode(ruled(MAPS[name]), given)
    assert got.dtype == dtype
    assert error(got, truth(ruled(MAPS[name]), given)) < LIMITS[dtype]


@pytest.mark.parametrize(("n", "split"), [(1, 1), (1, 3), (200, 1), (200, 3), (300, 7)])
def test_lengths_and_splits(n: int, split: int) -> None:
    given = call(4, 2, n, 16, 16)
    expected = truth(ruled(MAPS["polar"]), given)
    assert error(contiguous(MAPS["polar"], given, split=split), expected) < 2e-6


@pytest.mark.parametrize(
    ("heads", "groups", "d", "dv"), [(3, 3, 64, 64), (4, 1, 128, 64), (6, 3, 24, 40)]
)
def test_groups_and_widths(heads: int, groups: int, d: int, dv: int) -> None:
    given = call(heads, groups, 70, d, dv)
    query = polar(d, heads)
    assert error(fused_decode.decode(ruled(query), given), truth(ruled(query), given)) < 3e-6


def test_content_is_read_as_raw_keys_are() -> None:
    """Magnitudes made once, when a key was stored: every kind, and partial ones."""
    for name in ("polar", "polar, partial", "polar, relu", "polar, identity"):
        given, rule = call(heads=4, groups=2, n=37, d=16, dv=24), ruled(MAPS[name])
        stored = replace(given, k=rule.content(given.k))
        assert fused_decode.why_not(rule.of_content(), stored) is None
        got = fused_decode.decode(rule.of_content(), stored)
        assert error(got, truth(rule, given)) < LIMITS[torch.float32], name


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("first", [0, 7, -3, "rows"])
def test_keys_that_follow_one_another(first: Any, window: int | None) -> None:
    """Told where they begin; left padding, here NaN's neighbour, is neither seen nor counted."""
    begin = torch.tensor([-70, 0]) if first == "rows" else first
    at = 149 + (begin[:, None] if isinstance(begin, Tensor) else torch.tensor([[begin]]))
    draws = call(4, 2, 150, 16, 16)
    given = replace(draws, where=Where(1, 150, at, k_first=begin, window=window))
    rule = ruled(MAPS["polar"])
    got = fused_decode.decode(rule, given)
    assert error(got, truth(rule, given)) < LIMITS[torch.float32]
    if first == "rows":
        hidden = given.k.clone()
        hidden[0, :, :64] = float("nan")  # whole blocks of padding are not read at all
        assert torch.equal(got, fused_decode.decode(rule, replace(given, k=hidden)))
        masked = torch.ones(BATCH, 150, dtype=torch.bool)
        masked[:, 140] = False
        both = replace(given, where=Where(1, 150, at, k_first=begin, k_valid=masked))
        assert error(fused_decode.decode(rule, both), truth(rule, both)) < 2e-6


@pytest.mark.parametrize("queries", [1, 3])
def test_alibi(queries: int) -> None:
    given = call(4, 2, 150, 16, 16, queries)
    for text in ("alibi", "alibi(heads=0.5)", "alibi+logn(train_length=20)"):
        rule = ww.make(text, heads=4, head_dim=16).rule(150)
        assert fused_decode.why_not(rule, given) is None
        assert error(fused_decode.decode(rule, given), truth(rule, given)) < 2e-6
        explicit = replace(given, where=Where(queries, 150, given.where.q_pos, k_first=0))
        assert error(fused_decode.decode(rule, explicit), truth(rule, given)) < 2e-6


@pytest.mark.parametrize("name", ["polar", "interleaved"])
def test_a_few_query_positions(name: str) -> None:
    given = call(4, 2, 140, 16, 16, queries=3)
    expected = truth(ruled(MAPS[name]), given)
    assert error(contiguous(MAPS[name], given, split=2), expected) < 2e-6
    assert error(fused_decode.decode(ruled(MAPS[name]), given), expected) < 2e-6


def test_positions_far_apart_shuffled_and_late() -> None:
    """Phases are exact where float32 positions · θ would be off by whole turns."""
    for first, spread in ((0, 1), (2**40, 1), (0, 9973), (2**40, 9973)):
        k_pos = first + spread * torch.arange(300).expand(BATCH, -1).clone()
        k_pos[1] = k_pos[1, torch.randperm(300, generator=generator(4))]
        k_pos[0, 150:] += 5  # a gap within a block of keys
        q_pos = k_pos.amax(dim=1, keepdim=True) + 1
        given = call(4, 2, 300, 16, 16, q_pos=q_pos, k_pos=k_pos)
        rule = ruled(MAPS["polar"])
        assert error(fused_decode.decode(rule, given), truth(rule, given)) < 4e-6, (first, spread)


@pytest.mark.parametrize("at", [199, 120])
@pytest.mark.parametrize("case", ["window", "both ways", "padding", "future"])
def test_causality_window_and_padding(case: str, at: int) -> None:
    valid = torch.rand(BATCH, 200, generator=generator(5)) < 0.7
    valid[:, 100] = True
    options: Any = {
        "window": {"window": 50},
        "both ways": {"window": 30, "causal": False},
        "padding": {"k_valid": valid},
        "future": {},
    }[case]
    given = call(4, 2, 200, 16, 16, q_pos=torch.tensor([at]), **options)
    expected = truth(ruled(MAPS["half"]), given)
    assert error(contiguous(MAPS["half"], given, split=2), expected) < 2e-6
    if at < 199:
        assert error(fused_decode.decode(ruled(MAPS["half"]), given), expected) < 2e-6


def test_documents_are_kept_apart() -> None:
    documents = {"q_documents": torch.tensor([1]), "k_documents": torch.arange(90) // 40}
    given = call(4, 2, 90, 16, 16, **documents)
    rule = ruled(MAPS["polar"])
    assert error(fused_decode.decode(rule, given), truth(rule, given)) < 2e-6


def test_rows_of_different_lengths_read_nothing_behind_them() -> None:
    lengths = torch.tensor([63, 200], dtype=torch.int32)
    given = call(4, 2, 200, 16, 16)
    positions = (lengths[:, None] - 1).long()
    query = MAPS["polar"]
    k, v = given.k.clone(), given.v.clone()
    for row, length in enumerate(lengths.tolist()):
        k[row, :, length:] = v[row, :, length:] = float("nan")
    got = decode_launch.attend(
        given.q, k, v, positions, query, Keys(lengths=lengths), scale=given.scale, split=3
    )
    valid = torch.arange(200) < lengths[:, None]
    exact = replace(given, where=Where(1, 200, positions, torch.arange(200), k_valid=valid))
    assert error(got, truth(ruled(query), exact)) < 2e-6


def test_a_paged_cache_is_the_same_cache() -> None:
    given, page = call(4, 2, 384, 16, 16), 128
    pages = BATCH * 384 // page
    order = torch.randperm(pages, generator=generator(6))
    stores = []
    for x in (given.k, given.v):
        cut = x.reshape(BATCH, 2, 384 // page, page, 16).transpose(1, 2).reshape(pages, 2, page, 16)
        stores.append(torch.empty_like(cut))
        stores[-1][order] = cut
    table = order.reshape(BATCH, -1).to(torch.int32)
    query = MAPS["polar"]
    expected = contiguous(query, given, split=2)
    got = decode_launch.attend(
        given.q, *stores, given.where.q_pos, query, Keys(table=table), scale=given.scale, split=2
    )
    assert torch.equal(got, expected)
    with pytest.raises(ValueError, match="multiple of 128"):
        decode_launch.attend(
            given.q, stores[0][:, :, :96], stores[1][:, :, :96], given.where.q_pos, query,
            Keys(table=table), scale=1.0,
        )  # fmt: skip


def test_a_row_that_sees_nothing_is_zero() -> None:
    given = call(4, 2, 40, 16, 16, k_valid=torch.zeros(BATCH, 40, dtype=torch.bool))
    for split in (1, 2):
        assert contiguous(MAPS["polar"], given, split=split).eq(0).all()
    before = call(4, 2, 40, 16, 16, q_pos=torch.tensor([-3]))
    assert contiguous(MAPS["half"], before).eq(0).all()


def test_temperature_and_slopes() -> None:
    given = call(8, 4, 100, 16, 16)
    rule = ww.make("alibi+logn(train_length=20)", heads=8, head_dim=16).rule(100)
    slopes = rule.biases[0].slopes  # type: ignore[attr-defined]
    got = contiguous(
        PLAIN, given, slopes=slopes, temperature=rule.temperature(given.where.q_pos), split=2
    )
    assert error(got, truth(rule, given)) < 2e-6
    turned = ww.make("pope+logn(train_length=20)", heads=8, head_dim=16).rule(100)
    with torch.no_grad():
        assert error(fused_decode.decode(turned, given), truth(turned, given)) < 2e-6


def test_views_of_a_cache_are_read_in_place() -> None:
    given = call(4, 2, 40, 16, 16)
    capacity = torch.full((BATCH, 64, 2, 16), float("nan"))
    k, v = capacity.clone().transpose(1, 2), capacity.clone().transpose(1, 2)
    k[:, :, :40], v[:, :, :40] = given.k, given.v
    viewed = replace(given, k=k[:, :, :40], v=v[:, :, :40])
    rule = ruled(MAPS["half"])
    assert torch.equal(fused_decode.decode(rule, viewed), fused_decode.decode(rule, given))


@pytest.mark.parametrize("mark", [-1, -(2**40), -(2**63), 2**63 - 1])
@pytest.mark.parametrize("name", ["half", "polar"])
def test_padding_may_stand_anywhere(name: str, mark: int) -> None:
    """Its position was the origin of its block, from which int32 did not reach the other keys."""
    valid = torch.arange(40) % 5 != 3
    at = torch.where(valid, torch.arange(40), mark)
    given, rule = call(4, 2, 40, 16, 16, queries=2, k_pos=at, k_valid=valid), ruled(MAPS[name])
    assert error(fused_decode.decode(rule, given), truth(rule, given)) < 2e-6
    far = call(4, 2, 40, 16, 16, q_pos=torch.tensor([2**39]), k_pos=torch.arange(40) * 2**33)
    assert error(fused_decode.decode(rule, far), truth(rule, far)) < 2e-6


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_vectors_whose_channels_are_apart_are_computed(which: str) -> None:
    """The cache's own never are; others were an error of a launch that nothing had refused."""
    given, rule = call(4, 2, 40, 16, 16, queries=3), ruled(MAPS["polar"])
    apart = {name: getattr(given, name) for name in ("q", "k", "v")}
    apart[which] = apart[which].mT.contiguous().mT
    assert apart[which].stride(3) != 1
    refused = fused_decode.why_not(rule, replace(given, **apart))
    assert refused is None if which == "q" else f"channels of {which}" in str(refused)
    found = ww.attend(**apart, rule=rule, where=given.where, backend="fused")
    assert error(found, truth(rule, given)) < 2e-6


def test_the_operator_is_one_to_torch_compile() -> None:
    given, query = call(4, 2, 40, 16, 24), MAPS["polar, no offset"]
    absent, turns = (None,) * 5, query.angles.turns  # type: ignore[attr-defined]
    arguments = (
        *(given.q, given.k, given.v, given.where.q_pos, *absent, turns, None, None, None),
        *("softplus", False, 1.0, 1, 0.25, True, None, None, None),
    )
    torch.use_deterministic_algorithms(False)  # its poison is not equal to itself
    torch.library.opcheck(
        decode_launch._decode, arguments,
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )  # fmt: skip


class Learned(torch.nn.Module):
    """τ(i) = 1 + w i."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self, i: Tensor) -> Tensor:
        return 1.0 + self.w * i.float()


def test_a_learned_temperature_keeps_its_gradient() -> None:
    """It was cut off: queries, keys and values of a frozen model want none."""
    given, found = call(4, 2, 40, 16, 16), {}
    vectors = {"q": given.q, "k": given.k, "v": given.v}
    for backend in ("reference", "fused"):
        temperature = Learned()
        rule = ruled(MAPS["half"]).with_temperature(temperature)
        out = ww.attend(**vectors, rule=rule, where=given.where, backend=backend)
        found[backend] = torch.autograd.grad(out.sin().sum(), temperature.w)[0]
        with torch.no_grad():
            assert fused_decode.why_not(rule, given) is None
    torch.testing.assert_close(found["fused"], found["reference"], rtol=1e-4, atol=0)


def test_reasons() -> None:
    given = call(4, 2, 8, 16, 16)
    rule = ruled(MAPS["half"])
    moved = ruled(MAPS["half"].moved(Reindex(group=2)))
    for refused, asked, reason in (
        (moved, given, "re-indexes"),
        (rule, call(4, 2, 8, 16, 16, queries=5), "at most 4"),
        (rule, replace(given, q=given.q.clone().requires_grad_()), "no gradient"),
        (rule, replace(given, q=given.q.double()), "float64"),
        (replace(rule, value=MAPS["half"]), given, "values"),
        (ww.make("t5", heads=4, head_dim=16).rule(8), given, "bias"),
        (ww.make("rope+rerope(window=4)", heads=4, head_dim=16).rule(8), given, "terms"),
        (ww.make("shaw", heads=4, head_dim=16).rule(8), given, ""),
    ):
        assert reason in (fused_decode.why_not(refused, asked) or "nothing: it would compute")
