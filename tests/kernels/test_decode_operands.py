"""The decode kernel of tensor-core operands: compiled offline as its launcher launches it, and on a
GPU against float64 and against the other decode kernel."""

import math
import re
from typing import Any

import pytest
import torch
from fresh import run_python
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

from kernels.offline import length, spilled
from kernels.offline_gluon import hashes, launches
from kernels.test_decode import draw, error, exact, key_loop, on_gpu, poison, rule

from whatwhere.attention import Call, Where, fused_decode
from whatwhere.attention.reference import Reference
from whatwhere.kernels import decode_launch
from whatwhere.kernels.decode_launch import Keys
from whatwhere.kernels.decode_sizes import VARIANTS
from whatwhere.kernels.interpreter import interpreted
from whatwhere.maps import PLAIN, Polar, Rotate
from whatwhere.phases import Angles
from whatwhere.rule import ScoreRule

pytestmark = pytest.mark.skipif(interpreted(), reason="Gluon has no interpreter")
OPERANDS = [name for name, size in VARIANTS.items() if size and size.kernel == "operands"]


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("recipe", "d", "dv", "group", "options", "limit"),
    [
        ("polar", 128, 128, 4, {"content": True}, 5.7),
        ("polar", 128, 128, 8, {"content": True, "lengths": True, "first": True}, None),
        ("polar", 64, 64, 1, {"content": True}, 7.5),
        ("polar", 64, 64, 4, {"content": False, "lengths": True}, None),
        ("polar", 128, 128, 4, {"content": False}, 13.5),
        ("half", 128, 64, 4, {"content": True, "valid": True}, None),
        ("interleaved", 64, 128, 8, {"content": True, "table": True}, None),
        ("plain", 128, 128, 4, {"content": True, "slopes": True}, None),
    ],
)
def test_nothing_spills_and_operands_stay_in_registers(
    recipe: str, d: int, dv: int, group: int, options: dict[str, Any], limit: float | None
) -> None:
    count = d if recipe == "polar" else d // 2
    angles = Angles(meta(count, dtype=torch.int64))
    query: Any = PLAIN
    if recipe == "polar":
        query = Polar(angles, "softplus", meta(4 * group, d, dtype=torch.float32))
    elif recipe != "plain":
        query = Rotate(angles, recipe)  # type: ignore[arg-type]
    k, v = meta(2, 4, 1024, d), meta(2, 4, 1024, dv)
    keys = Keys(
        content=options["content"],
        valid=meta(2, 1024, dtype=torch.bool) if "valid" in options else None,
        lengths=meta(2, dtype=torch.int32) if "lengths" in options else None,
        first=meta(2, dtype=torch.int64) if "first" in options else None,
        table=meta(2, 8, dtype=torch.int32) if "table" in options else None,
    )
    slopes = meta(4 * group, dtype=torch.float32) if "slopes" in options else None

    def launch() -> None:
        decode_launch.attend(
            meta(2, 4 * group, 1, d), k, v, meta(1, 1, dtype=torch.int64), query, keys,
            scale=0.1, slopes=slopes,
        )  # fmt: skip

    built = launches(launch)[0]
    print(built)  # noqa: T201
    assert built.constants["WARPS"] == 4, "this is not the kernel of operands"
    assert built.spills <= spilled()
    # Four at 64 channels: then one turn does the heads that three need a second one for.
    assert built.programs >= (4 if d == dv == 64 else 2)
    loop = key_loop(built.sass)
    # 16 keys a warp: cosines and sines over d channels, then weights over dv.
    assert (
        sum("HMMA" in line for line in loop) == (1 if recipe == "plain" else 2) * d // 16 + dv // 16
    )
    # One before reading and one before writing; the second may stand in both ways of copying.
    assert sum("BAR.SYNC" in line for line in loop) in (2, 3)
    # Keys, values and the turned query come as operands; nothing else is read back.
    wanted = d // 16 + dv // 16 + (1 if recipe == "plain" else 2) * d // 32
    assert sum("LDSM" in line for line in loop) == wanted
    assert not any(re.match(r"(@!?P\d+ )?LDS\b", line) and "RZ" not in line for line in loop)
    assert sum("STS" in line and "LDGSTS" not in line for line in loop) <= 4
    assert sum("MOVM" in line for line in loop) == 2
    if limit is not None:
        # Both ways of copying a block are counted, with and without a mask; one of them runs.
        assert len(loop) / (16 * d / 32) < length(limit)


@pytest.mark.parametrize(("split", "kernels"), [(1, 1), (3, 2)])
def test_no_length_is_compiled_again(split: int, kernels: int) -> None:
    """One kernel for caches of any length, and one that joins several ranges of keys."""
    query = Polar(Angles(meta(64, dtype=torch.int64)), "softplus", meta(4, 64, dtype=torch.float32))
    keys = Keys(lengths=meta(2, dtype=torch.int32), content=True)

    def launch() -> None:
        for n in (1, 16, 77, 1024, 100_001):
            k, v, at = meta(2, 4, n, 64), meta(2, 4, n, 64), meta(2, 1, dtype=torch.int64)
            decode_launch.attend(meta(2, 4, 1, 64), k, v, at, query, keys, scale=0.1, split=split)

    assert len(hashes(launch)) == kernels


class TestOnGpu:
    pytestmark = on_gpu

    @pytest.mark.parametrize("variant", OPERANDS)
    @pytest.mark.parametrize(
        ("recipe", "b", "h", "g", "n", "d", "dv", "dtype"),
        [
            ("polar", 2, 8, 2, 1, 128, 128, torch.bfloat16),
            ("polar", 3, 6, 3, 3001, 64, 128, torch.bfloat16),
            ("polar", 2, 8, 1, 777, 128, 64, torch.bfloat16),
            ("polar", 1, 4, 4, 20011, 64, 64, torch.float16),
            ("half", 2, 8, 2, 3001, 128, 128, torch.bfloat16),
            ("interleaved", 3, 6, 3, 777, 64, 128, torch.float16),
        ],
    )
    def test_at_most_twice_the_error_of_torch(
        self, variant: str, recipe: str, b: int, h: int, g: int, n: int, d: int, dv: int,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        torch.manual_seed(n)
        ours, scale = rule(recipe, d, h), 1 / math.sqrt(d)
        q, raw = draw(b, h, 1, d, dtype=dtype), draw(b, g, n, d, dtype=dtype)
        v = draw(b, g, n, dv, dtype=dtype)
        at = torch.arange(n, device="cuda")
        where = Where(1, n, at[-1:], k_first=0)
        for content in (True, False):
            k, read = (ours.content(raw), ours.of_content()) if content else (raw, ours)
            truth = Reference()(read, exact(Call(q, k, v, where, scale)))
            features = read.only.key(k, at[None]).repeat_interleave(h // g, 1)
            scores = read.only.query(q, at[None, -1:]).float() @ features.float().mT
            weights = (scores * scale).softmax(-1).to(dtype)
            torchs = (weights.float() @ v.float().repeat_interleave(h // g, 1)).to(dtype)
            poison()
            got = decode_launch.attend(
                q, k, v, where.q_pos, ours.only.query, Keys(content=content), scale=scale,
                variant=variant,
            )  # fmt: skip
            assert error(got, truth) < 2 * error(torchs, truth) + 1e-7, (content, variant)

    @pytest.mark.parametrize("group", [1, 2, 4, 8])
    @pytest.mark.parametrize("case", ["plain", "window", "left padding", "lengths", "paged",
                                      "hidden", "alibi", "late", "both ways"])  # fmt: skip
    def test_against_the_definition(self, case: str, group: int) -> None:
        torch.manual_seed(len(case))
        b, g, n, d = 2, 2, 896, 128
        given = rule("half" if case == "both ways" else "polar", d, g * group)
        if case == "alibi":
            slopes = torch.rand(g * group, device="cuda")
            given = ScoreRule(biases=(Sloped(slopes),))
        q, k, v = draw(b, g * group, 1, d), given.content(draw(b, g, n, d)), draw(b, g, n, d)
        at = torch.tensor([[n - 1]], device="cuda")
        options: dict[str, Any] = {}
        first: Any = 0
        if case in ("window", "both ways"):
            options = {"window": 300, "causal": case == "window"}
            at = at - 200
        elif case == "left padding":
            first = torch.tensor([-300, 0], device="cuda")
            at = at + first[:, None]
        elif case == "late":
            first, at = 2**40, at + 2**40
        elif case == "hidden":
            options = {"k_valid": torch.rand(b, n, device="cuda") < 0.5}
        elif case in ("lengths", "paged"):
            at = torch.tensor([[129], [700]], device="cuda")
        where = Where(1, n, at, k_first=first, **options)
        truth = Reference()(given.of_content(), exact(Call(q, k, v, where, 0.088)))
        poison()
        if case in ("lengths", "paged"):
            keys = Keys(lengths=(at[:, 0] + 1).int(), content=True)
            if case == "paged":
                order = torch.randperm(b * 7, device="cuda")
                k, v = (paged(x, order) for x in (k, v))
                keys = Keys(keys.positions, None, keys.lengths, order.view(b, 7).int(), None, True)
            got = decode_launch.attend(q, k, v, at, given.only.query, keys, scale=0.088,
                                       variant="operands")  # fmt: skip
        else:
            call = Call(q, k, v, where, 0.088)
            assert fused_decode.why_not(given.of_content(), call) is None
            got = fused_decode.decode(given.of_content(), call)
        assert error(got, truth) < 8e-3

    def test_several_queries_and_the_same_bits_twice(self) -> None:
        torch.manual_seed(2)
        ours, n = rule("polar", 64, 4), 1000
        q, k, v = draw(2, 4, 3, 64), draw(2, 2, n, 64), draw(2, 2, n, 64)
        where = Where(3, n, torch.tensor([[996, 998, 999]], device="cuda"), k_first=0)
        call = Call(q, ours.content(k), v, where, 0.125)
        got = fused_decode.decode(ours.of_content(), call)
        assert error(got, Reference()(ours.of_content(), exact(call))) < 8e-3
        assert torch.equal(got, fused_decode.decode(ours.of_content(), call))

    def test_a_compiled_step_keeps_it_whole(self) -> None:
        # In a process of its own: the checks that tests add to every signature are no graph.
        assert float(run_python(COMPILED)) < 1e-3


COMPILED = """
import torch
import whatwhere as ww
from whatwhere.attention import Call, Where, fused_decode

encoding = ww.make("pope", heads=4, kv_heads=2, head_dim=64, width=256, train_length=512).to("cuda")
rule = encoding.rule(500)
at = torch.tensor([[499]], device="cuda")
q, k, v = (
    torch.randn(2, h, n, 64, device="cuda", dtype=torch.bfloat16)
    for h, n in ((4, 1), (2, 500), (2, 500))
)

def step(q, k, v, at):
    where = Where(1, k.shape[2], at, k_first=0)
    return fused_decode.decode(rule.of_content(), Call(q, k, v, where, 0.125))

with torch.no_grad():
    k = rule.content(k)
    got, wanted = torch.compile(step, fullgraph=True)(q, k, v, at), step(q, k, v, at)
print(float((got.double() - wanted.double()).norm() / wanted.double().norm()))
"""


class Sloped:
    """ALiBi's bias with slopes of the test's own."""

    pointwise = True

    def __init__(self, slopes: Tensor) -> None:
        self.slopes = slopes

    def __call__(self, heads: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return -self.slopes[heads] * (i - j).abs()


def paged(x: Tensor, order: Tensor) -> Tensor:
    """The cache cut into pages of 128 keys, page p of row r at place order[7 r + p]."""
    b, g, n, d = x.shape
    cut = x.reshape(b, g, n // 128, 128, d).transpose(1, 2).reshape(-1, g, 128, d)
    store = torch.empty_like(cut)
    store[order] = cut
    return store
