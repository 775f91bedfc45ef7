"""Which of torch's two GPU kernels a call of FlexAttention asks for."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from conformance.cases import make, vectors
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import flex_attention

from whatwhere.attention import Call, Where, attend, flex, flex_blocks


def asked(
    queries: int, heads: int, groups: int, device: str = "cuda", dtype: Any = torch.bfloat16
) -> dict[str, Any] | None:
    """The options of a call, of tensors without memory."""
    with FakeTensorMode():
        q = torch.empty(2, heads, queries, 16, device=device, dtype=dtype)
        k = torch.empty(2, groups, 84, 16, device=device, dtype=dtype)
        where = Where(1, 1)
    return flex._kernel_options(Call(q, k, k, where, 0.25))


@pytest.mark.parametrize(
    ("queries", "heads", "groups", "backend"),
    [
        (84, 6, 3, "TRITON"),  # 168 rows: Inductor's decoding kernel has no valid configuration
        (63, 6, 3, "TRITON"),
        (17, 6, 6, "TRITON"),
        (9, 6, 3, "TRITON"),
        (8, 6, 3, "AUTO"),
        (1, 6, 3, "AUTO"),
        (1, 16, 1, "AUTO"),
        (1, 32, 1, "TRITON"),
        (4000, 6, 3, "TRITON"),
    ],
)
def test_decoding_is_for_few_rows(queries: int, heads: int, groups: int, backend: str) -> None:
    assert asked(queries, heads, groups) == {"BACKEND": backend}


def test_float32_decodes_in_small_tiles() -> None:
    options = asked(1, 6, 3, dtype=torch.float32)
    assert options == {"BACKEND": "AUTO", "fwd_BLOCK_N": 16, "fwd_num_warps": 4}
    assert flex_blocks.BLOCK % options["fwd_BLOCK_N"] == 0
    assert asked(84, 6, 3, dtype=torch.float32) == {"BACKEND": "TRITON"}


def test_a_cpu_has_one_way() -> None:
    assert asked(1, 6, 3, "cpu") is None


def test_torch_knows_the_names() -> None:
    assert {"AUTO", "TRITON"} <= set(get_args(flex_attention._Backend))


def test_few_rows_are_always_one_valid_tile() -> None:
    """create_flex_decoding_kernel skips every configuration unless its tile divides a block."""
    for rows in range(1, flex.DECODE_ROWS + 1):
        tile = max(16, 1 << (rows - 1).bit_length())
        assert flex_blocks.BLOCK % tile == 0


def test_every_term_gets_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    # Not torch's function: dynamo, which it calls, can not trace the checks that tests run under.
    def noted(q: Tensor, k: Tensor, v: Tensor, *, kernel_options: Any, **rest: Any) -> Any:
        found.append(kernel_options)
        return q, q[..., 0]

    monkeypatch.setattr(flex, "_kernel_options", lambda call: {"rows": call.q.shape[2]})
    monkeypatch.setattr(flex, "_flex_attention", lambda call: noted)
    device = torch.device("cpu")
    rule = make("rope+rerope", device, torch.float32).rule(64)
    q, k, v = vectors(rule, 9, 9, device, torch.float32)
    with torch.no_grad():
        attend(q, k, v, rule, backend="flex")
    assert found == [{"rows": 9}, {"rows": 9}]
