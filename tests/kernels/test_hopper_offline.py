"""What the assembler says of the Gluon kernels for sm_90a, as their launcher starts them."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton.experimental.gluon", reason="no Triton with Gluon is installed")

from kernels.offline_gluon import MOST_SHARED, Launched, launches

from whatwhere.kernels import hopper_launch
from whatwhere.kernels.interpreter import interpreted
from whatwhere.kernels.pairs import Pairs

pytestmark = pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET=1: nothing is compiled")

BATCH, HEADS, GROUPS = 2, 6, 3
#: Kernels without a matrix product: row sums, sums of partial results.
PLAIN = {"delta"}


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
    features: int, values: int, dtype: torch.dtype, causal: bool, tokens: int
) -> list[Launched]:
    """Every kernel of a forward and a backward pass."""
    q, k, v, grad, out = vectors(features, values, dtype, tokens)
    lse = torch.empty(BATCH, HEADS, tokens, dtype=torch.float32, device="meta")

    def both() -> None:
        hopper_launch.forward(q, k, v, 0.125, Pairs(causal))
        hopper_launch.backward(grad, q, k, v, out, lse, 0.125, Pairs(causal))

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
    kernels = started(features, values, dtype, causal, tokens)
    assert len([each for each in kernels if each.name not in PLAIN]) >= 2, "forward and backward"
    for kernel in kernels:
        print(f"{features}/{values} {kernel}")  # noqa: T201
        record_property(kernel.name, str(kernel))
        assert kernel.spills == 0, kernel
        assert kernel.count("LDL") == kernel.count("STL") == 0, kernel
        assert kernel.warnings == (), kernel
        assert kernel.shared <= MOST_SHARED, kernel
        assert (kernel.count("HGMMA") > 0) == (kernel.name not in PLAIN), kernel
