"""What the assembler says of the Gluon kernels for sm_90a, as their launcher starts them."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton.experimental.gluon", reason="no Triton with Gluon is installed")

from kernels.offline import spilled
from kernels.offline_gluon import MOST_SHARED, Launched, launches

from whatwhere.kernels import hopper_launch
from whatwhere.kernels.interpreter import interpreted
from whatwhere.kernels.pairs import FAR, Pairs

pytestmark = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET=1: nothing is compiled")

BATCH, HEADS, GROUPS = 2, 6, 3
#: Kernels without a matrix product: row sums, bounds of blocks.
PLAIN = {"delta", "_bounds", "_extents"}


def vectors(features: int, values: int, dtype: torch.dtype, tokens: int) -> list[torch.Tensor]:
    """q, k, v, a gradient of the output, and the output: laid out as the library lays them out."""
    shapes = (
        (HEADS, features), (GROUPS, features), (GROUPS, values), (HEADS, values), (HEADS, values),
    )  # fmt: skip
    return [
        torch.empty(BATCH, heads, tokens, width, dtype=dtype, device="meta")
        for heads, width in shapes
    ]


def started(
    features: int, values: int, dtype: torch.dtype, pairs: Pairs, tokens: int
) -> list[Launched]:
    """Every kernel of a forward and a backward pass."""
    q, k, v, grad, out = vectors(features, values, dtype, tokens)
    lse = torch.empty(BATCH, HEADS, tokens, dtype=torch.float32, device="meta")

    def both() -> None:
        hopper_launch.forward(q, k, v, 0.125, pairs)
        hopper_launch.backward(grad, q, k, v, out, lse, 0.125, pairs)

    return launches(both)


#: Every size in the table, and the persistent forms of short rows. A few at every run, ten seconds
#: each; the others with -m slow.
ALWAYS = {(64, 64, 1024), (128, 64, 8192), (256, 128, 8192)}
TABLE = [(f, dv, 8192) for f, dv in hopper_launch.SIZES]
TABLE += [(f, dv, 1024) for f, dv in hopper_launch._PERSISTENT]
CASES = [
    pytest.param(
        f, dv, torch.bfloat16, True, tokens,
        marks=[] if (f, dv, tokens) in ALWAYS else [pytest.mark.slow],
    )
    for f, dv, tokens in TABLE
]  # fmt: skip
# The tightest once more, the other way.
CASES += [pytest.param(256, 128, torch.float16, False, 8192, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("features", "values", "dtype", "causal", "tokens"), CASES)
def test_no_spills_no_waiting_and_tensor_cores(
    features: int,
    values: int,
    dtype: torch.dtype,
    causal: bool,
    tokens: int,
    record_property: Any,
) -> None:
    examine(started(features, values, dtype, Pairs(causal), tokens), record_property)


def looked_at(kind: str, tokens: int) -> Pairs:
    """Pairs of a kind, without values: a window, documents and padding (places), slopes."""
    place = torch.empty(BATCH, 2, tokens, dtype=torch.int32, device="meta")
    places = (place, place) if "places" in kind else (None, None)
    slopes = torch.empty(HEADS, dtype=torch.float32, device="meta") if "alibi" in kind else None
    return Pairs(True, 1000 if "window" in kind else FAR, *places, slopes)


KINDS = ("window", "alibi", "places", "places, window", "places, alibi", "places, window, alibi")


@pytest.mark.parametrize(
    ("features", "values", "kind"),
    [
        pytest.param(
            f, dv, kind, marks=() if (f, kind) == (256, "places, window") else pytest.mark.slow
        )
        for f, dv in hopper_launch.SIZES for kind in KINDS
    ],
)  # fmt: skip
def test_whatever_pairs_are_looked_at(
    features: int, values: int, kind: str, record_property: Any
) -> None:
    kernels = started(features, values, torch.bfloat16, looked_at(kind, 8192), 8192)
    # Known, in bytes: dQ at 256/128 under a window by index; dK and dV at 128/128, whose registers
    # places and slopes of a block of queries do not fit beside.
    known = {
        (256, 128, "window"): 8,
        (128, 128, "places, alibi"): 176,
        (128, 128, "places, window, alibi"): 176,
    }
    most = known.get((features, values, kind), 0)
    examine(kernels, record_property, spilled(most))


@pytest.mark.parametrize("begin", [0, 5])
def test_the_copy_engine_begins_at_16_bytes(begin: int) -> None:
    """A contiguous tensor that begins elsewhere was handed over as it is."""
    x = torch.arange(begin + 2 * 3 * 8 * 16.0).to(torch.bfloat16)[begin:].view(2, 3, 8, 16)
    assert x.is_contiguous()
    operand = hopper_launch._Operand(x, 64)
    assert operand.tensor.data_ptr() % 16 == 0
    assert torch.equal(operand.tensor, x)
    assert operand.strides == [384, 128, 16, 1]
    assert (operand.tensor is x) == (begin == 0), "nothing is copied that need not be"


def examine(kernels: list[Launched], record_property: Any, most: int | None = None) -> None:
    """No spills (at most so many bytes), no waiting for products, tensor cores, room."""
    assert len([each for each in kernels if each.name not in PLAIN]) >= 2, "forward and backward"
    most = spilled() if most is None else most
    for kernel in kernels:
        print(kernel)  # noqa: T201
        record_property(kernel.name, str(kernel))
        assert kernel.spills <= most, kernel
        assert kernel.count("LDL") + kernel.count("STL") <= most // 4, kernel
        assert kernel.warnings == (), kernel
        assert kernel.shared <= MOST_SHARED, kernel
        assert (kernel.count("HGMMA") > 0) == (kernel.name not in PLAIN), kernel
