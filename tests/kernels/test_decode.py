"""The decode kernels: what the assembler says (no GPU needed), and on a GPU against float64."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

from kernels.offline import SIZED, Compiled, compile_for_hopper, length, spilled

from whatwhere.attention import Call, Where, fused_decode
from whatwhere.attention.reference import Reference
from whatwhere.cache import KVCache
from whatwhere.kernels import decode as kernels
from whatwhere.kernels import decode_content, decode_launch, decode_sizes
from whatwhere.kernels.decode_launch import Keys
from whatwhere.kernels.interpreter import interpreted
from whatwhere.maps import Polar, Rotate
from whatwhere.phases import Angles, to_turns
from whatwhere.regions import EVERYWHERE
from whatwhere.rule import ScoreRule, Term

pytestmark = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET=1: nothing is compiled")
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NUMBERS = (
    "n", "group", "queries", "kv_heads", "splits", "query_step", "position_step", "valid_step",
    "table_step", "temperature_step", "page", "window", "ahead", "direction",
)  # fmt: skip


def compiled(
    recipe: str, d: int, positions: bool = False, rows: int = 16, dtype: str = "bf16"
) -> Compiled:
    """The kernel as a layer calls it, δ on the query for PoPE."""
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    size = decode_sizes.sizes(d, d, rows, kind)
    tensor, polar = (f"*{dtype}", "i64", "i64", "i64"), recipe == "softplus"
    arguments: dict[str, Any] = dict.fromkeys(NUMBERS, "i32") | {
        "q": tensor, "k": tensor, "v": tensor, "out": "*fp32", "lse": "*fp32",
        "query_positions": "*i64", "positions": "*i64" if positions else None, "firsts": None,
        "valid": None,
        "lengths": None, "table": None, "turns": "*i64", "offset": "*fp32" if polar else None,
        "temperature": None, "slopes": None, "scale": "fp32", "amplitude": "fp32",
    }  # fmt: skip
    constants = {
        "QUERY_SIZE": decode_content.softplus if polar else decode_content.identity,
        "SIZE": decode_content.softplus if polar else decode_content.identity, "PAIRED": not polar,
        "INTERLEAVED": recipe == "interleaved", "F": d if polar else d // 2, "D": d, "DV": d,
        "ROWS": rows, "BLOCK_N": size.block, "BLOCK_D": d, "BLOCK_V": d, "STAGES": size.stages,
        "PRECISION": "ieee" if dtype == "fp32" else "tf32",
        "KIND": kernels.tl.float32 if dtype == "fp32" else kernels.tl.float16,
    }  # fmt: skip
    return compile_for_hopper(kernels.partial, arguments, constants, size.warps, size.stages)


def key_loop(sass: str) -> list[str]:
    """Instructions of the longest loop: the one over blocks of keys."""
    lines: list[str] = []
    labels: dict[str, int] = {}
    longest: list[str] = []
    for line in sass.split("\n"):
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label.group(1)] = len(lines)
        if code := re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*)", line):
            lines.append(code.group(1))
            back = re.search(r"BRA.*`\((\.L_x_\d+)\)", lines[-1])
            if back and back.group(1) in labels:
                longest = max(longest, lines[labels[back.group(1)] :], key=len)
    return longest


@pytest.mark.parametrize(
    ("recipe", "d", "options", "limit"),
    [
        ("softplus", 128, {}, 18.5),
        ("softplus", 64, {}, 19.0),
        ("half", 128, {}, 13.5),
        ("interleaved", 64, {}, 14.0),
        ("softplus", 128, {"positions": True}, None),
        # Widths and positions meet in the two above: together with -m slow.
        pytest.param("softplus", 64, {"positions": True}, None, marks=pytest.mark.slow),
        ("softplus", 128, {"rows": 32}, None),
        ("softplus", 256, {}, None),
        ("softplus", 128, {"dtype": "fp32"}, None),
    ],
)
def test_nothing_spills_among_the_keys(
    recipe: str, d: int, options: dict[str, Any], limit: float | None, record_property: Any
) -> None:
    built = compiled(recipe, d, **options)
    loop = key_loop(built.sass)
    record_property("registers", built.registers)
    print(f"{recipe} {d} {options}: {built.registers} registers")  # noqa: T201
    put_aside = any(name in line for line in loop for name in ("LDL", "STL"))
    assert not (SIZED and put_aside)
    # Values that only the end of a program needs may wait in local memory.
    assert built.spill_bytes <= spilled(32 if options.get("positions") else 0)
    assert built.shared_bytes <= 227 * 1024 // 2, "two programs on a multiprocessor"
    assert "atom" not in built.ptx, "sums have a fixed order"
    if limit is not None:
        rows = decode_sizes.sizes(d, d, 16, torch.bfloat16).block
        # An H200 reads 4.3 TB/s: 30 instructions an element of K are all it has time for.
        assert len(loop) / (rows * d / 128) < length(limit)
        # Cosines of a block's origin only; those of its keys are made before the loop.
        assert 0 < sum("MUFU.COS" in line for line in loop) <= 16
        assert sum("LDGSTS" in line and "128" in line for line in loop) == 2 * rows * d // 1024
    else:
        assert any("LDGSTS" in line for line in loop)


def test_splits_fill_the_chip_once() -> None:
    assert decode_sizes.splits(programs=32, blocks=512, slots=264) == 8
    assert decode_sizes.splits(programs=8, blocks=2048, slots=264) == 33
    assert decode_sizes.splits(programs=8, blocks=3, slots=264) == 3
    assert decode_sizes.splits(programs=1000, blocks=64, slots=264) == 1


def rule(recipe: str, d: int, heads: int, device: str = "cuda") -> ScoreRule:
    count = d if recipe == "polar" else d // 2
    turns = torch.tensor(to_turns([10000.0 ** (-c / count) for c in range(count)]), device=device)
    angles = Angles(turns, 1.1)
    if recipe != "polar":
        turned = Rotate(angles, recipe)  # type: ignore[arg-type]
        return ScoreRule((Term(turned, turned, EVERYWHERE),))
    offset = -2 * math.pi * torch.rand(heads, d, device=device)
    polar = Polar(angles, "softplus", offset)
    return ScoreRule((Term(polar, Polar(angles, "softplus"), EVERYWHERE),))


def draw(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype)


def poison() -> None:
    """Free memory full of NaN: what is not written can not pass for a number."""
    torch.cuda.empty_cache()
    for mib in (1, 16, 64, 256):
        torch.full((mib << 18,), float("nan"), device="cuda")


def error(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


def exact(call: Call) -> Call:
    return Call(call.q.double(), call.k.double(), call.v.double(), call.where, call.scale)


class TestOnGpu:
    pytestmark = on_gpu

    @pytest.mark.parametrize(
        ("recipe", "b", "h", "g", "n", "d", "dv", "dtype"),
        [
            ("polar", 2, 8, 2, 1, 128, 128, torch.bfloat16),
            ("polar", 3, 6, 3, 3001, 64, 128, torch.bfloat16),
            ("polar", 2, 32, 1, 777, 128, 64, torch.bfloat16),
            ("polar", 1, 4, 4, 20011, 96, 80, torch.bfloat16),
            ("polar", 2, 2, 2, 500, 256, 256, torch.float16),
            ("half", 2, 8, 2, 3001, 128, 128, torch.bfloat16),
            ("half", 2, 6, 3, 20011, 64, 64, torch.float16),
            ("interleaved", 3, 6, 3, 777, 80, 128, torch.bfloat16),
        ],
    )
    def test_at_most_twice_the_error_of_torch(
        self, recipe: str, b: int, h: int, g: int, n: int, d: int, dv: int, dtype: torch.dtype
    ) -> None:
        torch.manual_seed(n)
        q, k = draw(b, h, 1, d, dtype=dtype), draw(b, g, n, d, dtype=dtype)
        v = draw(b, g, n, dv, dtype=dtype)
        for first in (0, 10**6):
            at = first + torch.arange(n, device="cuda")
            call = Call(q, k, v, Where(1, n, at[-1:], at), 1 / math.sqrt(d))
            ours = rule(recipe, d, h)
            truth = Reference()(ours, exact(call))
            k_features = ours.only.key(k, at[None]).repeat_interleave(h // g, 1)
            scores = ours.only.query(q, at[None, -1:]).float() @ k_features.float().mT
            weights = (scores * call.scale).softmax(-1).to(dtype)
            torchs = (weights.float() @ v.float().repeat_interleave(h // g, 1)).to(dtype)
            limit = 2 * error(torchs, truth) + 1e-7
            poison()
            assert error(fused_decode.decode(ours, call), truth) < limit
            if first == 0:
                got = decode_launch.attend(
                    q, k, v, at[None, -1:], ours.only.query, Keys(), scale=call.scale
                )
                assert error(got, truth) < limit

    def test_float32_and_the_same_bits_twice(self) -> None:
        torch.manual_seed(0)
        q, k, v = (draw(2, x, n, 64, dtype=torch.float32) for x, n in ((8, 1), (4, 999), (4, 999)))
        at = torch.arange(999, device="cuda")
        call = Call(q, k, v, Where(1, 999, at[-1:], at), 0.125)
        ours = rule("polar", 64, 8)
        got = fused_decode.decode(ours, call)
        assert error(got, Reference()(ours, exact(call))) < 5e-6  # cosines are good to 2^-21
        assert torch.equal(got, fused_decode.decode(ours, call))

    @torch.no_grad()
    def test_a_captured_graph_decodes_as_the_cache_grows(self) -> None:
        torch.manual_seed(1)
        ours, capacity = rule("polar", 128, 8), 700
        k, v, q = draw(2, 2, capacity, 128), draw(2, 2, capacity, 128), draw(2, 8, 1, 128)
        lengths = torch.tensor([5, 600], dtype=torch.int32, device="cuda")
        at = (lengths - 1).long()[:, None]

        def step() -> Tensor:
            return decode_launch.attend(
                q, k, v, at, ours.only.query, Keys(lengths=lengths), scale=0.088
            )

        step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step()
        for _ in range(3):
            lengths += 31
            at += 31
            graph.replay()
            assert torch.equal(out, step())
            valid = torch.arange(capacity, device="cuda") < lengths[:, None]
            where = Where(1, capacity, at, torch.arange(capacity, device="cuda"), k_valid=valid)
            assert error(out, Reference()(ours, exact(Call(q, k, v, where, 0.088)))) < 1e-2

    @torch.no_grad()
    def test_no_length_is_compiled_again(self) -> None:
        ours, cache = rule("polar", 64, 8), KVCache(1, 600)
        kernel = kernels.partial.device_caches
        counts = []
        for n, start in ((17, 0), (1, 17), (1, 18), (200, 19), (1, 219), (300, 220), (1, 520)):
            at = torch.arange(start, start + n, device="cuda").expand(2, -1)
            cache.advance(at)
            k, v = cache.update(0, draw(2, 4, n, 64), draw(2, 4, n, 64))
            call = Call(draw(2, 8, 1, 64), k, v, Where(1, len(cache), at[:, -1:], cache.positions),
                        0.125)  # fmt: skip
            fused_decode.decode(ours, call)
            counts.append(len(next(iter(kernel.values()))[0]))
        # A cache that one program reads is written out by it, several are joined: two kernels.
        assert counts[-1] <= counts[0] + 1
