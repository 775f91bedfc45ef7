"""The joined operator under torch.compile and autocast, in a fresh process."""

from fresh import run_python

SCRIPT = """
import torch
from whatwhere.kernels.fused_op import fused
from whatwhere.kernels.pairs import Pairs
from whatwhere.maps import Polar
from whatwhere.phases import Angles

angles = Angles((torch.arange(64) << 58).cuda())

def run(q, k, v, offset):
    at = torch.arange(q.shape[2], device=q.device)[None]
    query = Polar(angles, "softplus", offset)
    out = fused(query, Polar(angles), q, k, v, at, None, 0.125, Pairs(), {kernel!r})
    return out.float().square().sum()

compiled = torch.compile(run, fullgraph=True)
worst = 0.0
for length in {lengths}:
    leaves = [torch.randn(2, h, length, 64, device="cuda").requires_grad_() for h in (4, 2, 2)]
    leaves.append(torch.zeros(4, 64, device="cuda", requires_grad=True))
    with torch.autocast("cuda", torch.bfloat16):
        got, wanted = (torch.autograd.grad(f(*leaves), leaves) for f in (compiled, run))
    worst = max(worst, *(float((a - b).norm() / b.norm()) for a, b in zip(got, wanted)))
print(worst, torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


def compiled(kernel: str, lengths: tuple[int, ...]) -> tuple[float, int]:
    """The worst relative error against the eager operator, and how many graphs were made."""
    worst, graphs = run_python(SCRIPT.format(kernel=kernel, lengths=lengths)).split()[-2:]
    return float(worst), int(graphs)
