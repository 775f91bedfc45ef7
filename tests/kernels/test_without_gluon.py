"""A Triton without Gluon, or with another: Hopper's kernels say so, plain Triton's are taken."""

import pytest
from fresh import run_python

pytest.importorskip("triton", reason="triton is not installed")

SCRIPT = """
import sys
import triton.experimental
for name in [each for each in sys.modules if each.startswith("triton.experimental.gluon")]:
    del sys.modules[name]
BREAK
from unittest import mock
import torch
from whatwhere.kernels import attention, decode_launch, decode_sizes

HALF, GPU = torch.bfloat16, torch.device("cuda", 0)
with mock.patch.object(torch.cuda, "get_device_capability", return_value=(9, 0)):
    print(attention.why_not("hopper", 128, 64, HALF, GPU))
    print(decode_sizes.why_not_operands(64, 64, 1, HALF, GPU))
    assert attention.why_not("tiled", 128, 64, HALF, GPU) is None
k = torch.empty(2, 4, 96, 64, dtype=HALF, device="meta")
chosen = decode_launch._chosen(k[:, :, :1], k, k, None, None, "half", True, 1, None)
print(chosen.kernel)
try:
    decode_launch._chosen(k[:, :, :1], k, k, None, None, "half", True, 1, "operands")
except ValueError as error:
    print(error)
"""
#: No module of that name, and a module without what the kernels import from it.
BREAKS = (
    'sys.modules["triton.experimental.gluon"] = None',
    """
import types
sys.modules["triton.experimental.gluon"] = types.ModuleType("triton.experimental.gluon")
""",
)


@pytest.mark.parametrize("breaking", BREAKS, ids=["absent", "another"])
def test_reasons_and_the_other_kernels(breaking: str) -> None:
    attention, decode, chosen, named = run_python(SCRIPT.replace("BREAK", breaking)).splitlines()
    assert attention.startswith("this Triton has no Gluon for Hopper as these kernels know it")
    assert decode.startswith("this Triton has no Gluon as the kernel knows it")
    assert chosen == "tiles"
    assert named == f"variant 'operands' can not compute this: {decode}"
