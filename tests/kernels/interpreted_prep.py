"""The preparation kernels as Python on a CPU. Run by test_interpreter.py, in a process of its own:
Triton decides at its first import whether to compile or to interpret."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from fresh import run_forked
from torch import Tensor

import whatwhere as ww
from whatwhere.attention import Unsupported, attend
from whatwhere.kernels import features, prep_launch, twins
from whatwhere.maps import Decay, Map, Polar, Reindex, Rotate
from whatwhere.phases import Angles, to_turns

BATCH, HEADS, KV_HEADS, LENGTH, WIDTH = 2, 6, 3, 37, 24


# The interpreter truncates to bfloat16, where a GPU rounds: twice 2^-9.
LIMITS = {torch.float32: 1e-6, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def angles(count: int, amplitude: float = 1.0, start: int = 0) -> Angles:
    turns = torch.tensor(to_turns([10000.0 ** (-c / count) for c in range(count)]))
    early = torch.tensor(to_turns([5000.0 ** (-c / count) for c in range(count)]))
    return Angles(turns, amplitude, start, early if start else None)


def polar(count: int, magnitude: str = "softplus", seed: int = 0) -> Polar:
    offset = -2 * math.pi * torch.rand(HEADS, count, generator=generator(seed))
    return Polar(angles(count, 1.25), magnitude, offset)  # type: ignore[arg-type]


MAPS: dict[str, Map] = {
    "half": Rotate(angles(12)),
    "half, partial": Rotate(angles(5, 1.1)),
    "half, backwards": Rotate(angles(12), direction=-1),
    "half, start rule": Rotate(angles(12, 1.2, start=20)),
    "half, decay": Rotate(angles(12, 1.1), decay=Decay(0.4, 1, 500_000, 400_000.0)),
    "half, re-indexed": Rotate(angles(12), reindex=Reindex(modulo=16, group=3, offset=2, most=5)),
    "interleaved": Rotate(angles(12), "interleaved"),
    "interleaved, partial": Rotate(angles(5), "interleaved"),
    "polar": polar(24),
    "polar, partial": polar(10),
    "polar, no offset": Polar(angles(24)),
    "polar, relu": polar(24, "relu"),
    "polar, identity": polar(24, "identity"),
}


def draw(heads: int, dtype: torch.dtype = torch.float32, length: int = LENGTH) -> Tensor:
    """(b, h, n, d) in (b, n, h, d) storage, as a projection gives it; some values are large."""
    x = 4 * torch.randn(BATCH, length, heads, WIDTH, generator=generator(heads))
    return x.to(dtype).transpose(1, 2)


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.detach().double() - wanted.detach()).norm() / wanted.detach().norm())


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Every torch.empty is full of NaN: what a kernel forgets to write can not pass for a zero."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's time goes with the number of programs."""
    monkeypatch.setattr(prep_launch, "PROGRAMS", 1)
    few = replace(prep_launch.SIZES["sums", False], tile=1024, heads=3)
    monkeypatch.setitem(prep_launch.SIZES, ("sums", False), few)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in MAPS)]
    + [(name, dtype) for name in ("interleaved", "polar") for dtype in list(LIMITS)[1:]],
)
def test_features_and_gradients_are_those_of_the_map(name: str, dtype: torch.dtype) -> None:
    mapping = MAPS[name]
    offset = mapping.offset if isinstance(mapping, Polar) else None
    if offset is not None:
        offset = offset.clone().requires_grad_()
        mapping = replace(mapping, offset=offset)
    q, k = draw(HEADS, dtype).requires_grad_(), draw(KV_HEADS, dtype).requires_grad_()
    positions = torch.randint(0, 1_000_000, (BATCH, LENGTH), generator=generator(1))
    positions[:, :5] = torch.arange(5) + 17  # around the start rule's border
    temperature = 0.5 + torch.rand(BATCH, LENGTH, generator=generator(2))

    q_out, k_out = features.prepare(mapping, q, positions, k, temperature)
    key_map = replace(mapping, offset=None) if isinstance(mapping, Polar) else mapping
    if isinstance(mapping, Rotate) and mapping.decay is not None:
        key_map = replace(mapping, decay=replace(mapping.decay, side=-1))
        assert features.shared(mapping, key_map)
        assert not features.shared(mapping, mapping)
    q_exact, k_exact = (x.detach().double().requires_grad_() for x in (q, k))
    q_true = mapping(q_exact, positions) * temperature[:, None, :, None]
    k_true = key_map(k_exact, positions)
    limit = LIMITS[dtype]
    assert error(q_out, q_true) < limit
    assert error(k_out, k_true) < limit
    assert q_out.stride(1) < q_out.stride(2), "storage order follows the input"

    q_grad, k_grad = (torch.randn(x.shape, generator=generator(3)) for x in (q_out, k_out))
    q_grad, k_grad = q_grad.to(dtype), k_grad.to(dtype)
    learned = [] if offset is None else [offset]
    got = torch.autograd.grad([q_out, k_out], [q, k, *learned], [q_grad, k_grad])
    wanted = torch.autograd.grad(
        [q_true, k_true], [q_exact, k_exact, *learned], [q_grad.double(), k_grad.double()]
    )
    for mine, true in zip(got, wanted, strict=True):
        assert mine.shape == true.shape
        assert error(mine, true.double()) < limit


def test_phases_are_exact_at_a_million_positions() -> None:
    ones = torch.ones(1, 1, LENGTH, WIDTH)
    positions = 1_000_000 - torch.arange(LENGTH)[None]
    got, _ = features.prepare(Polar(angles(WIDTH), "identity"), ones, positions)
    phase = angles(WIDTH).phase(positions, torch.float64)[:, None]
    assert (got[..., :WIDTH] - phase.cos()).abs().max() < 1e-6
    assert (got[..., WIDTH:] - phase.sin()).abs().max() < 1e-6


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 2.0**-7)])
def test_small_magnitudes_keep_their_digits(dtype: torch.dtype, limit: float) -> None:
    """Also by the polynomial of 16-bit results; the interpreter truncates to bfloat16."""
    x = torch.linspace(-80, 80, 320).reshape(1, 1, 10, 32).to(dtype).requires_grad_()
    still = Angles(torch.zeros(32, dtype=torch.int64))
    got, _ = features.prepare(Polar(still), x, torch.arange(10)[None])
    true = torch.nn.functional.softplus(x.detach().double(), threshold=1e6)
    assert ((got[..., :32] - true).abs() / true).max() < limit
    (slope,) = torch.autograd.grad(got[..., :32].sum(), x)
    assert ((slope - x.double().sigmoid()).abs() / x.double().sigmoid()).max() < limit


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-5), (torch.float16, 2e-5), (torch.bfloat16, 6e-5)]
)
def test_the_gradient_of_delta_has_the_digits_of_small_magnitudes(
    dtype: torch.dtype, limit: float
) -> None:
    """One position, no phase, gradients (0, 1): δ's gradient is the magnitude, in float32."""
    x = torch.cat([torch.linspace(-86, 86, 316), torch.tensor([-300.0, -100.0, 100.0, 300.0])])
    x = x.reshape(1, 10, 1, 32).to(dtype).requires_grad_()
    offset = torch.zeros(10, 32, requires_grad=True)
    still = Angles(torch.zeros(32, dtype=torch.int64))
    got, _ = features.prepare(Polar(still, "softplus", offset), x, torch.zeros(1, 1).long())
    grad = torch.zeros_like(got)
    grad[..., 32:] = 1.0
    (mine,) = torch.autograd.grad(got, offset, grad)
    true = torch.nn.functional.softplus(x.detach().double(), threshold=1e6).reshape(10, 32)
    seen = true > 1e-37  # a GPU's smallest normal number
    assert ((mine - true).abs() / true)[seen].max() < limit
    assert mine[~seen].abs().max() < 1e-37


def test_how_heads_are_split_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, positions = draw(HEADS), draw(KV_HEADS), torch.arange(LENGTH)[None]
    together = features.prepare(MAPS["polar"], q, positions, k)
    for programs in (20, 10**6):
        monkeypatch.setattr(prep_launch, "PROGRAMS", programs)
        apart = features.prepare(MAPS["polar"], q, positions, k)
        assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))


def test_how_a_backward_pass_is_split_changes_sums_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one block or of many, groups with fewer heads than the others, any loads ahead."""
    q, k = (draw(heads, torch.bfloat16, 21).requires_grad_() for heads in (HEADS, KV_HEADS))
    offset = polar(24).offset.requires_grad_()  # type: ignore[union-attr]
    mapping = Polar(angles(24), "softplus", offset)
    out = features.prepare(mapping, q, torch.arange(21)[None], k)
    grads = [torch.cos(torch.arange(x.numel()).view(x.shape)).to(x) for x in out]
    found = []
    for programs, heads, depth, span in ((1, 4, 1, 16), (1, 2, 0, 72), (99, 6, 3, 72)):
        monkeypatch.setattr(prep_launch, "PROGRAMS", programs)
        sizes = prep_launch.Sizes(256, 2, heads, depth, None, span, heads == 4)
        monkeypatch.setitem(prep_launch.SIZES, ("sums", False), sizes)
        found.append(torch.autograd.grad(out, [q, k, offset], grads, retain_graph=True))
    for dq, dk, d_offset in found[1:]:
        assert torch.equal(dq, found[0][0])
        assert torch.equal(dk, found[0][1])
        assert error(d_offset, found[0][2]) < 1e-6


@pytest.mark.parametrize(("heads", "near"), [(1, True), (2, False), (4, True)])
def test_what_lies_around_vectors_reaches_no_sum(
    monkeypatch: pytest.MonkeyPatch, heads: int, near: bool
) -> None:
    """Rows before and behind, and heads beside, are NaN; groups of heads are full or not."""
    monkeypatch.setattr(prep_launch, "PROGRAMS", 2)
    sizes = prep_launch.Sizes(128, 1, heads, min(heads, 3), None, 16)
    monkeypatch.setitem(prep_launch.SIZES, ("sums", False), sizes)
    asked: list[dict[str, tuple[bool, ...]]] = []
    flags = prep_launch._flags
    monkeypatch.setattr(prep_launch, "_flags", lambda *a: asked.append(flags(*a)) or asked[-1])

    def surrounded(count: int, width: int) -> Tensor:
        x = torch.randn(1, 20, count, width, generator=generator(count)).to(torch.bfloat16)
        if near:
            around = torch.full((1, 25, count + 2, width), math.nan, dtype=x.dtype)
            around[:, 3:23, 1:-1] = x
            return around[:, 3:23, 1:-1].transpose(1, 2)
        around = torch.full((1, count + 2, 25, width), math.nan, dtype=x.dtype)
        around[:, 1:-1, 3:23] = x.transpose(1, 2)
        return around[:, 1:-1, 3:23]

    vectors = [surrounded(count, 16).requires_grad_() for count in (6, 3)]
    grads = [surrounded(count, 32) for count in (6, 3)]
    offset = -2 * math.pi * torch.rand(6, 16, generator=generator(4))
    offset.requires_grad_()
    query, at = Polar(angles(16, 1.1), "softplus", offset), torch.arange(20)[None]
    made = features.prepare(query, vectors[0], at, vectors[1])
    got = torch.autograd.grad(made, [*vectors, offset], grads)
    exact = [x.detach().double().requires_grad_() for x in vectors]
    true = query(exact[0], at), replace(query, offset=None)(exact[1], at)
    wanted = torch.autograd.grad(true, [*exact, offset], [x.double() for x in grads])
    for mine, theirs in zip(got, wanted, strict=True):
        assert error(mine, theirs.double()) < LIMITS[torch.bfloat16]
    assert asked[0]["NEAR"][:2] == (near, near)
    assert asked[0]["FULL"] == (6 % heads == 0, 3 % heads == 0)


def test_chunks_are_summed_in_one_order() -> None:
    """Float32; the interpreter adds the 512 rows of a tile one after the other."""
    for chunks in (1, 37, 700):
        partial = torch.randn(chunks, 3, 10, generator=generator(chunks))
        assert error(prep_launch.total(partial), partial.double().sum(0)) < 2e-6


@pytest.mark.parametrize("length", [1, 63, 130])
def test_any_storage_and_length(length: int) -> None:
    positions = torch.arange(length)[None]
    packed = torch.randn(BATCH, length, 3, HEADS, WIDTH, generator=generator(0))
    spread = torch.randn(BATCH, HEADS, WIDTH, length, generator=generator(1)).mT
    for q in (packed[:, :, 1].transpose(1, 2), spread, spread.contiguous()):
        got, nothing = features.prepare(MAPS["polar"], q, positions)
        assert error(got, MAPS["polar"](q.double(), positions)) < 1e-6
        assert nothing.numel() == 0


def test_a_rotation_keeps_no_vectors_for_its_gradient() -> None:
    for name, kept in (("half", 0), ("polar", 2)):
        sizes: list[int] = []
        pack = lambda x: (sizes.append(x.numel()), x)[1]  # noqa: B023, E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            features.prepare(
                MAPS[name], draw(HEADS).requires_grad_(), torch.arange(LENGTH)[None], draw(KV_HEADS)
            )
        vectors = [size for size in sizes if size >= draw(KV_HEADS).numel()]
        assert len(vectors) == kept, name


@pytest.mark.slow
def test_the_operators_keep_torch_s_contract() -> None:
    mapping = MAPS["polar"]
    assert isinstance(mapping, Polar)
    assert mapping.offset is not None
    offset = mapping.offset.clone().requires_grad_()
    turns, recipe = mapping.angles.turns, twins.recipe(mapping)
    q, k = draw(HEADS, length=5).requires_grad_(), draw(KV_HEADS, length=5).requires_grad_()
    rest = (torch.arange(5)[None], turns, None, offset, None, recipe, 1.0, 0, 1, [])
    torch.library.opcheck(features._prep, (q, k, *rest))
    q_out, k_out = (x.detach() for x in features._prep(q, k, *rest))
    raw = q.detach(), k.detach()
    fixed = tuple(x.detach() if isinstance(x, Tensor) else x for x in rest)
    torch.library.opcheck(features._prep_backward, (q_out, k_out, *raw, *fixed, True, True))


ENCODINGS = [
    "pope(delta_init=uniform)",
    "pope(partial=0.5)+yarn(factor=2)",
    "rope",
    "rope(layout=interleaved,partial=0.5)+logn",
    "rope(values=relative)",
    "xpos",
]


def make(expression: str) -> tuple[ww.encodings.Encoding, list[Tensor]]:
    encoding = ww.make(
        expression, heads=HEADS, head_dim=WIDTH, kv_heads=KV_HEADS, width=HEADS * WIDTH,
        train_length=16,
    )  # fmt: skip
    q, k, v = (draw(heads) for heads in (HEADS, KV_HEADS, KV_HEADS))
    return encoding, [x.requires_grad_() for x in (0.3 * q, 0.3 * k, v.clone())]


@pytest.mark.parametrize("expression", ENCODINGS)
@pytest.mark.parametrize("causal", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_backend_computes_the_definition(expression: str, causal: bool) -> None:
    encoding, vectors = make(expression)
    leaves = [*vectors, *encoding.parameters()]
    weights = torch.randn(BATCH, HEADS, LENGTH, WIDTH, generator=generator(5))
    found = {}
    for backend in ("fused", "reference"):
        out = attend(*vectors, encoding.rule(LENGTH), causal=causal, backend=backend)
        found[backend] = [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]
    for mine, true in zip(*found.values(), strict=True):
        assert error(mine, true.double()) < 1e-5


REFUSED = {
    "nope": "nothing to prepare",
    "rope+rerope": "2 terms",
    "shaw": "pair",
}


@pytest.mark.parametrize("expression", REFUSED)
def test_the_backend_says_why_not(expression: str) -> None:
    encoding, vectors = make(expression)
    with pytest.raises(Unsupported, match=REFUSED[expression]):
        attend(*vectors, encoding.rule(LENGTH), backend="fused")


def test_the_backend_refuses_calls_it_can_not_do() -> None:
    encoding, vectors = make("rope")
    with pytest.raises(Unsupported, match="dropout"):
        attend(*vectors, encoding.rule(LENGTH), backend="fused", dropout=0.1)


COMPILED = """
import torch
from whatwhere.kernels import features
from whatwhere.maps import Polar
from whatwhere.phases import Angles

angles = Angles(torch.arange(8) << 58)

def scored(q, k, offset):
    a, b = features.prepare(
        Polar(angles, "softplus", offset), q, torch.arange(q.shape[2])[None], k
    )
    return a.sin().sum() + b.sin().sum()

leaves = [torch.randn(1, h, 5, 8, requires_grad=True) for h in (2, 1)]
leaves.append(torch.zeros(2, 8, requires_grad=True))
compiled = torch.compile(scored, backend="aot_eager", fullgraph=True)
got, wanted = (torch.autograd.grad(f(*leaves), leaves) for f in (compiled, scored))
print(all(torch.equal(x, y) for x, y in zip(got, wanted, strict=True)))
"""


def test_a_compiled_graph_holds_the_operator_whole() -> None:
    assert run_forked(COMPILED).strip() == "True"
