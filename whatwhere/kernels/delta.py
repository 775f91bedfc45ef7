"""Row sums of out · grad, which the softmax's gradient subtracts: plain Triton, for every path."""

import triton
import triton.language as tl

__all__ = ["delta"]


@triton.jit(do_not_specialize=["queries", "heads"])
def delta(out, grad, out_strides, grad_strides, result, queries, heads, width,
          WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Row sums of out · grad, float32 (b, h, n), over width <= WIDTH channels of stride 1."""
    index = tl.program_id(1)
    batch = (index // heads).to(tl.int64)
    head = (index % heads).to(tl.int64)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, WIDTH)[None, :]
    inside = (row < queries)[:, None] & (channel < width)
    # Half a million tokens of 4,096 channels are more than 32 bits count.
    far = row.to(tl.int64)[:, None]
    a = out + batch * out_strides[0] + head * out_strides[1] + far * out_strides[2]
    b = grad + batch * grad_strides[0] + head * grad_strides[1] + far * grad_strides[2]
    a = tl.load(a + channel, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(b + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(result + index.to(tl.int64) * queries + row, tl.sum(a * b, 1), mask=row < queries)
