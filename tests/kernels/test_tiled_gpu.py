"""The plain Triton attention kernels on a GPU at full size, and the fused backend around them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fresh import run_python
from torch import Tensor

import whatwhere as ww
from whatwhere.attention import Where, attend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE, SCALE = "cuda", 0.12
WIDTHS = [(64, 64), (128, 64), (128, 128), (256, 128), (192, 96), (96, 96), (80, 40), (512, 256)]


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """(b, h, n, f) in (b, n, h, f) storage."""
    b, h, n, f = shape
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return torch.randn(b, n, h, f, device=DEVICE, generator=generator).to(dtype).transpose(1, 2)


def error(got: Tensor, wanted: Tensor) -> float:
    assert got.isfinite().all()
    return float((got.double() - wanted).norm() / wanted.norm())


def poison() -> None:
    torch.cuda.empty_cache()
    for mib in (1, 16, 64, 256):
        torch.full((mib << 18,), float("nan"), device=DEVICE)


def looks(kind: str, n: int, heads: int) -> Any:
    from whatwhere.kernels.pairs import FAR, Pairs

    index = torch.arange(n, device=DEVICE)
    documents = (index * 7 // n).int()
    starts = torch.stack([(documents == d).int().argmax() for d in range(7)])
    packed = torch.stack([(index - starts[documents.long()]).int(), documents])[None]
    slopes = torch.logspace(-1, -8, heads, base=2.0, device=DEVICE)
    valid = torch.where(index < n // 3, -1, 0).int()
    padded = torch.stack([(index - n // 3).clamp(min=0).int(), valid])[None]
    return {
        "causal": Pairs(),
        "everything": Pairs(causal=False),
        "window": Pairs(window=200),
        "alibi": Pairs(slopes=slopes),
        "packed": Pairs(True, FAR, packed, packed),
        "packed, window, alibi": Pairs(True, 100, packed, packed, slopes),
        "left-padded": Pairs(True, FAR, torch.stack([padded[:, 0], padded[:, 0] * 0], 1), padded),
    }[kind]


KINDS = ["causal", "everything", "window", "alibi", "packed", "packed, window, alibi",
         "left-padded"]  # fmt: skip


def compare(pairs: Any, f: int, dv: int, n: int, dtype: torch.dtype) -> None:
    """At most twice the error of the dense formula in the same precision, all against float64."""
    import kernels.interpreted_tiled as definition
    from kernels.interpreted_tiled import dense

    from whatwhere.kernels import attention as A

    definition.SCALE = SCALE
    leaves = [draw(2, h, n, w, seed=h + w, dtype=dtype) for h, w in ((4, f), (2, f), (2, dv))]
    grad = draw(2, 4, n, dv, seed=9, dtype=dtype)
    found: list[list[Tensor]] = []
    for kind in (torch.float64, dtype):
        inputs = [x.detach().to(kind).requires_grad_() for x in leaves]
        cast = pairs if pairs.slopes is None else replace(pairs, slopes=pairs.slopes.to(kind))
        out, _ = dense(*inputs, cast)
        grads = torch.autograd.grad(out.to(kind), inputs, grad.to(kind))
        found.append([out.detach(), *grads])
    poison()
    out, lse = A.forward(*leaves, SCALE, pairs, "tiled")
    for deterministic in (True, False):
        poison()
        grads = A.backward(grad, *leaves, out, lse, SCALE, pairs, "tiled", deterministic)
        for name, ours, true, torchs in zip(
            ("out", "dq", "dk", "dv"), (out, *grads), *found, strict=True
        ):
            limit = 2 * error(torchs, true) + 1e-6
            assert error(ours, true) <= limit, (name, deterministic, limit)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pairs(kind: str) -> None:
    compare(looks(kind, 1000, 4), 128, 64, 1000, torch.bfloat16)


@pytest.mark.parametrize(("f", "dv"), WIDTHS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_widths_and_dtypes(f: int, dv: int, dtype: torch.dtype) -> None:
    compare(looks("packed, window, alibi", 333, 4), f, dv, 333, dtype)
    compare(looks("causal", 512, 4), f, dv, 512, dtype)


def test_lengths_share_one_compiled_kernel() -> None:
    from whatwhere.kernels import attention as A
    from whatwhere.kernels import tiled, tiled_backward
    from whatwhere.kernels.pairs import Pairs

    counts = []
    for n in (64, 1, 63, 1000, 4096):
        q, k, v = (draw(2, h, n, 64, seed=h) for h in (4, 2, 2))
        out, lse = A.forward(q, k, v, SCALE, Pairs(), "tiled")
        A.backward(out, q, k, v, out, lse, SCALE, Pairs(), "tiled")
        kernels = (tiled.forward, tiled_backward.queries, tiled_backward.keys, tiled_backward.delta)
        counts.append(tuple(len(kernel.device_caches[0][0]) for kernel in kernels))
    assert len(set(counts)) == 1, counts


def test_the_same_bits_every_time() -> None:
    from whatwhere.kernels import attention as A

    pairs = looks("packed, window, alibi", 2048, 4)
    q, k, v = (draw(2, h, 2048, 128, seed=h) for h in (4, 2, 2))
    out, lse = A.forward(q, k, v, SCALE, pairs, "tiled")
    first, *others = [A.backward(out, q, k, v, out, lse, SCALE, pairs, "tiled") for _ in range(4)]
    assert all(torch.equal(a, b) for each in others for a, b in zip(first, each, strict=True))


@pytest.mark.parametrize("text", ["rope", "pope(delta_init=uniform)", "alibi", "nope"])
@pytest.mark.parametrize("kind", ["window", "packed", "padded", "prefill"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attend_takes_fused_and_is_as_exact_as_torch(
    text: str, kind: str, dtype: torch.dtype
) -> None:
    n, m = (200 if kind == "prefill" else 1000), 1000
    encoding = ww.make(text, heads=4, kv_heads=2, head_dim=64, width=256, train_length=512)
    encoding = encoding.to(DEVICE)
    index = torch.arange(m, device=DEVICE)
    sums = torch.tensor([0, 300, 301, m], device=DEVICE)
    positions, documents = ww.positions.from_cu_seqlens(sums, m)
    valid = index[None] >= torch.tensor([[0], [400]], device=DEVICE)
    where = {
        "window": lambda: Where(m, m, window=100, device=DEVICE),
        "packed": lambda: Where(m, m, positions, positions, q_documents=documents,
                                k_documents=documents),
        "padded": lambda: Where(m, m, *(ww.positions.left_padded(valid),) * 2, k_valid=valid),
        "prefill": lambda: Where(n, m, index[-n:], index),
    }[kind]()  # fmt: skip
    leaves = [draw(2, h, t, 64, seed=h, dtype=dtype) for h, t in ((4, n), (2, m), (2, m))]
    grad = draw(2, 4, n, 64, seed=5, dtype=dtype)
    found = []
    for backend, kind_of_number in (
        ("auto", dtype),
        ("sdpa", dtype),  # features and weights are rounded there as they are here
        ("reference", torch.float64),
    ):
        q, k, v = (x.detach().to(kind_of_number).requires_grad_() for x in leaves)
        poison()
        out = attend(q, k, v, encoding.rule(m), where=where, backend=backend)
        learned = [p for p in encoding.parameters() if p.requires_grad]
        found.append([out, *torch.autograd.grad(out, [q, k, v, *learned], grad.to(out.dtype))])
    assert (
        ww.attention.BACKENDS[0].why_not(encoding.rule(m), ww.attention.Call(*leaves, where, 0.1))
        is None
    )
    for ours, torchs, true in zip(*found, strict=True):
        assert error(ours, true) <= 2 * error(torchs, true) + 1e-4


COMPILED = """
import torch, whatwhere as ww
from whatwhere.attention import attend
from torch._dynamo.testing import CompileCounterWithBackend
encoding = ww.make("pope", heads=4, head_dim=64, width=256, train_length=512).to("cuda")
counter = CompileCounterWithBackend("inductor")
def layer(q, k, v, p):
    return attend(q, k, v, encoding.rule(512), q_pos=p, k_pos=p, backend="fused")
compiled = torch.compile(layer, backend=counter, fullgraph=True)
with torch.autocast("cuda", torch.bfloat16):
    for n in (300, 301, 512, 1024):
        q, k, v = (torch.randn(2, 4, n, 64, device="cuda", requires_grad=True) for _ in range(3))
        p = torch.arange(n, device="cuda")
        out = compiled(q, k, v, p)
        out.float().sum().backward()
        true = layer(q, k, v, p)
        assert out.dtype == torch.bfloat16 and torch.equal(out, true), n
print(counter.frame_count)
"""


def test_compiled_under_autocast_for_every_length() -> None:
    assert run_python(COMPILED).split() == ["2"]
