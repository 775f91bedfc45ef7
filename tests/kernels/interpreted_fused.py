"""The conformance laws on the fused backend, through Triton's interpreter on a CPU.

On a GPU tests/conformance runs it at full size (WHATWHERE_DEVICE=cuda).
"""

from __future__ import annotations

import pytest
import torch
from conformance.cases import D, vectors
from conformance.test_backends import make, run, single, wheres

from whatwhere.attention import Call, backend_reasons

CPU = torch.device("cpu")
CALLS = tuple(wheres(False, CPU))
TEXTS = ("alibi", "rope+logn", "pope(delta_init=uniform)")


@pytest.mark.parametrize("label", CALLS)
@pytest.mark.parametrize("text", TEXTS)
def test_fused_equals_the_reference(text: str, label: str) -> None:
    encoding = make(text, CPU)
    where = wheres(False, CPU)[label]
    rule = encoding.rule(64)
    call = Call(*vectors(rule, where.queries, where.keys, CPU, torch.float32), where, D**-0.5,
                named=True)  # fmt: skip
    assert backend_reasons(rule, call)["fused"] is None
    expected = run("reference", encoding, where, torch.float64, True, 0.3)
    found = run("fused", encoding.to(torch.float32), where, torch.float32, True, 0.3)
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        error = (tensor.double() - expected[key]).abs().max()
        assert error <= single(expected[key])["atol"], key
