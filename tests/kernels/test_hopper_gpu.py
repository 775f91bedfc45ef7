"""Our Hopper attention on a GPU: output and all gradients against float64, bit for bit again."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton.experimental.gluon", reason="no Triton with Gluon is installed")

from whatwhere.kernels import hopper, hopper_keys, hopper_launch, hopper_queries
from whatwhere.kernels.pairs import EVERYTHING, FAR, Pairs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9,
        reason="needs a Hopper GPU",
    ),
]
WIDTHS = [(64, 64), (128, 64), (128, 128), (256, 128), (192, 96), (96, 96), (40, 24)]
#: One of every kind of sizes: each further case compiles three kernels.
SOME = [(128, 64), (256, 128), (96, 96)]
#: (queries, keys, query heads, KV heads): one token, odd, several tiles of every size, many keys.
SHAPES = [(1, 1, 2, 2), (333, 333, 6, 3), (1024, 1024, 4, 1)]
# torch's own kernels stay below 3.1e-3 (bf16) and 4e-4 (fp16) on such data; one unit more.
LIMIT = {torch.bfloat16: 5e-3, torch.float16: 8e-4}
BATCH = 2


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """What a kernel allocates and forgets to write is NaN: torch's own deterministic fill."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(7, device="cuda").isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def place(positions: Tensor, documents: Tensor) -> Tensor:
    """(b, 2, n) or (1, 2, n) int32."""
    return torch.stack([positions, documents], dim=-2).int().cuda().contiguous()


def drawn(kind: str, n: int, m: int, heads: int) -> Pairs:
    """Pairs of a kind for BATCH rows of n queries and m keys."""
    slopes = torch.exp2(-torch.arange(1, heads + 1, device="cuda") / 2).float()
    i, j = torch.arange(n).expand(BATCH, n), torch.arange(m).expand(BATCH, m)
    here = j * 0
    if kind == "everything":
        return EVERYTHING
    if kind == "packed":  # two documents, not cut at the same place in both rows
        cut = torch.tensor([[n // 3], [n // 2]])
        i = torch.where(j < cut, j, j - cut)
        p = place(i, (j >= cut).int())
        return Pairs(True, FAR, p, p)
    if kind == "padded":  # on the left, and one row is almost empty
        pad = torch.tensor([[n // 4], [n - 1]])
        at = (j - pad).clamp(min=0)
        return Pairs(True, FAR, place(at, here), place(at, torch.where(j < pad, -1, 0)))
    if kind == "prefill":  # n new tokens after m - n cached ones
        return Pairs(True, FAR, place(i[:1] + m - n, i[:1] * 0), place(j[:1], here[:1]), slopes)
    if kind == "nothing":  # the second document's queries find no keys
        return Pairs(False, FAR, place(i, (i >= n // 2).int()), place(j, here))
    return {
        "causal": Pairs(),
        "window": Pairs(True, 100),
        "band": Pairs(False, 70),
        "alibi": Pairs(True, FAR, None, None, slopes),
        "placed window": Pairs(True, 130, place(i, i * 0), place(j, here)),
        "shuffled": Pairs(True, 200, *[place(x[:, torch.randperm(n)], here) for x in (i, j)]),
    }[kind]


PLACED = ["packed", "padded", "nothing", "placed window", "shuffled"]


def definition(q: Tensor, k: Tensor, v: Tensor, scale: float, pairs: Pairs) -> Tensor:
    """float64; a row that sees nothing gives 0."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    n, m = q.shape[2], k.shape[2]
    index = [torch.arange(x, device=q.device) for x in (n, m)]
    if pairs.q_place is None or pairs.k_place is None:
        (i, j), (of_i, of_j) = index, (x * 0 for x in index)
        i, j, of_i, of_j = i[None], j[None], of_i[None], of_j[None]
    else:
        i, of_i = pairs.q_place.unbind(1)
        j, of_j = pairs.k_place.unbind(1)
    gap = (i[:, :, None] - j[:, None, :])[:, None]
    seen = (of_i[:, :, None] == of_j[:, None, :])[:, None] & (gap.abs() < pairs.window)
    seen = seen & (gap >= 0) if pairs.causal else seen
    scores = q @ k.mT * scale
    if pairs.slopes is not None:
        scores = scores - pairs.slopes.double()[:, None, None] * gap.abs()
    scores = scores.masked_fill(~seen, -1e300)
    weights = (scores - scores.amax(-1, keepdim=True)).exp() * seen
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300) @ v


def draw(heads: int, tokens: int, width: int, stored: str, dtype: torch.dtype) -> Tensor:
    """(b, h, n, width): head after head, token after token, or the front of a cache of NaN."""
    if stored == "cache":
        whole = torch.full((BATCH, heads, tokens + 70, width + 8), math.nan, device="cuda")
        x = whole.to(dtype)[:, :, :tokens, :width]
        return x.copy_(torch.randn(x.shape, device="cuda"))
    x = torch.randn(BATCH, tokens, heads, width, device="cuda").to(dtype).transpose(1, 2)
    return x.contiguous() if stored == "heads" else x


def compare(
    features: int, values: int, shape: tuple[int, int, int, int], pairs: Pairs, stored: str,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    n, m, heads, groups = shape
    sizes = ((heads, n, features), (groups, m, features), (groups, m, values))
    q, k, v = leaves = [draw(h, t, w, stored, dtype) for h, t, w in sizes]
    grad = draw(heads, n, values, stored, dtype)
    scale = 1.0 / math.sqrt(features / 2)

    def ours() -> tuple[Tensor, ...]:
        out, lse = hopper_launch.forward(q, k, v, scale, pairs)
        return out, *hopper_launch.backward(grad, q, k, v, out, lse, scale, pairs)

    got, again = ours(), ours()
    exact = [x.double().requires_grad_() for x in leaves]
    truth = definition(*exact, scale, pairs)
    wanted = (truth.detach(), *torch.autograd.grad(truth, exact, grad.double()))
    for name, a, b in zip(("out", "dq", "dk", "dv"), got, wanted, strict=True):
        size = max(float(b.norm()), 1e-2 * float(b.numel()) ** 0.5)
        error = float((a.double() - b).norm()) / size
        assert error <= LIMIT[dtype], f"{name}: {error:.2e}"
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True)), "not the same bits"


CASES = [(*widths, kind) for widths in WIDTHS for kind in ("causal", "everything")]
CASES += [(*widths, kind) for widths in SOME for kind in ("window", "band", "alibi")]


@pytest.mark.parametrize(("features", "values", "kind"), CASES)
@pytest.mark.parametrize("shape", SHAPES)
def test_by_index(features: int, values: int, shape: tuple[int, int, int, int], kind: str) -> None:
    torch.manual_seed(shape[0])
    stored = ["heads", "tokens", "cache"][(features // 8 + shape[0] + len(kind)) % 3]
    dtype = torch.float16 if kind == "everything" else torch.bfloat16
    compare(features, values, shape, drawn(kind, *shape[:3]), stored, dtype)


@pytest.mark.parametrize(("features", "values"), [(64, 64), *SOME])
@pytest.mark.parametrize("kind", PLACED)
@pytest.mark.parametrize("stored", ["heads", "cache"])
def test_by_place(features: int, values: int, kind: str, stored: str) -> None:
    torch.manual_seed(features)
    shape = (515, 515, 6, 3)
    dtype = torch.float16 if kind == "nothing" else torch.bfloat16
    compare(features, values, shape, drawn(kind, *shape[:3]), stored, dtype)


@pytest.mark.parametrize(("features", "values"), SOME)
@pytest.mark.parametrize(("n", "m"), [(1, 300), (130, 700), (700, 130)])
def test_unequally_many(features: int, values: int, n: int, m: int) -> None:
    torch.manual_seed(n)
    kind = "everything" if n > m else "prefill"
    compare(features, values, (n, m, 4, 2), drawn(kind, n, m, 4), "tokens", torch.bfloat16)


def test_causal_by_index_needs_as_many_keys() -> None:
    q, k = (draw(2, n, 64, "heads", torch.bfloat16) for n in (5, 7))
    with pytest.raises(ValueError, match="5 and 7: give the places"):
        hopper_launch.forward(q, k, k, 0.1, Pairs())


def test_a_row_that_sees_nothing_is_zero_and_its_normaliser_infinite() -> None:
    q, k, v = (draw(2, 200, 64, "heads", torch.bfloat16) for _ in range(3))
    out, lse = hopper_launch.forward(q, k, v, 0.1, drawn("nothing", 200, 200, 2))
    assert (out[:, :, 100:] == 0).all()
    assert (lse[:, :, 100:] == math.inf).all()
    assert lse[:, :, :100].isfinite().all()


def variants() -> int:
    device = torch.cuda.current_device()
    functions = (hopper.forward, hopper_queries.queries, hopper_keys.keys)
    return sum(len(function.device_caches[device][0]) for function in functions)


@pytest.mark.parametrize("kind", ["causal", "padded"])
def test_nothing_is_compiled_again_for_another_length(kind: str) -> None:
    counts = []
    for n in (300, 1, 256, 1023, 16, 77):
        q, k, v = (draw(2, n, 64, "tokens", torch.bfloat16) for _ in range(3))
        pairs = drawn(kind, n, n, 2)
        out, lse = hopper_launch.forward(q, k, v, 0.1, pairs)
        hopper_launch.backward(out, q, k, v, out, lse, 0.1, pairs)
        counts.append(variants())
    assert len(set(counts)) == 1, counts


@pytest.mark.parametrize("kind", ["causal", "packed"])
def test_a_graph_can_be_captured_and_replayed(kind: str) -> None:
    pairs = drawn(kind, 300, 300, 4)
    q, k, v, grad = (draw(4, 300, 128, "heads", torch.bfloat16) for _ in range(4))

    def both() -> tuple[Tensor, ...]:
        out, lse = hopper_launch.forward(q, k, v, 0.1, pairs)
        return out, *hopper_launch.backward(grad, q, k, v, out, lse, 0.1, pairs)

    both()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    for x in (q, k, v, grad):
        x.copy_(torch.randn_like(x))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, both(), strict=True))
