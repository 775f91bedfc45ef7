"""What a cached key contributes, elementwise: its magnitude μ, its two features, values weighed.

The interpreter has neither the assembly nor the half-precision products of a GPU, so these have a
plain form for it; `decode` and `decode_turning` use them without asking which.
"""

import triton
import triton.language as tl

from whatwhere.kernels import maps
from whatwhere.kernels.interpreter import interpreted

__all__ = ["identity", "relu", "softplus", "two", "weighed"]

_LOG2_E = tl.constexpr(1.4426950408889634)

# The polynomial is ln(1 + e) = e · P(e), e in [0, 1], to 1e-4: scores feel the absolute errors of
# magnitudes. In half precision its arithmetic adds 2e-4, an eighth of bfloat16's rounding.
if interpreted():

    @triton.jit
    def weighed(weights, values, sums, PRECISION: tl.constexpr):
        """sums + weights · values."""
        # The interpreter multiplies bfloat16 matrices by their bit patterns.
        return tl.dot(weights.to(tl.float32), values.to(tl.float32), sums)

    @triton.jit
    def two(tile, cosine, sine):
        """Both features."""
        return tile * cosine, tile * sine

    @triton.jit
    def softplus(x, KIND: tl.constexpr):
        """ln(1 + e^x), by one exponential."""
        return _softplus(x, KIND)

else:

    @triton.jit
    def weighed(weights, values, sums, PRECISION: tl.constexpr):
        """sums + weights · values."""
        return tl.dot(weights, values, sums, input_precision=PRECISION)

    @triton.jit
    def two(tile, cosine, sine):
        """Both features; of two channels by one instruction where they are half precision."""
        if tile.dtype == tl.float16:
            return tl.inline_asm_elementwise(
                "mul.f16x2 $0, $2, $3; mul.f16x2 $1, $2, $4;", "=&r,=r,r,r,r",
                [tile, cosine, sine], (tl.float16, tl.float16), is_pure=True, pack=2)  # fmt: skip
        else:
            return tile * cosine, tile * sine

    @triton.jit
    def softplus(x, KIND: tl.constexpr):
        """ln(1 + e^x), by one exponential; two channels at a time from a bfloat16 cache.

        The exponential is float32, the rest half precision: 7 instructions an element.
        """
        if x.dtype == tl.bfloat16:
            return tl.inline_asm_elementwise(
                """{
                .reg .b32 t, x, e, p, c;
                .reg .f32 a, b;
                shl.b32 t, $1, 16;
                mov.b32 a, t;
                and.b32 t, $1, 0xffff0000;
                mov.b32 b, t;
                cvt.rn.f16x2.f32 x, b, a;
                abs.f32 a, a;
                abs.f32 b, b;
                mul.f32 a, a, 0fBFB8AA3B;
                mul.f32 b, b, 0fBFB8AA3B;
                ex2.approx.ftz.f32 a, a;
                ex2.approx.ftz.f32 b, b;
                cvt.rn.f16x2.f32 e, b, a;
                mov.b32 p, 0x296f296f;
                mov.b32 c, 0xb11cb11c;
                fma.rn.f16x2 p, p, e, c;
                mov.b32 c, 0x34ec34ec;
                fma.rn.f16x2 p, p, e, c;
                mov.b32 c, 0xb7f5b7f5;
                fma.rn.f16x2 p, p, e, c;
                mov.b32 c, 0x3c003c00;
                fma.rn.f16x2 p, p, e, c;
                mov.b32 c, 0;
                max.f16x2 x, x, c;
                fma.rn.f16x2 $0, p, e, x;
                }""", "=r,r", [x], tl.float16, is_pure=True, pack=2)  # fmt: skip
        else:
            return _softplus(x, KIND)


@triton.jit
def _softplus(x, KIND: tl.constexpr):
    x = x.to(tl.float32)
    if tl.float32 == KIND:
        return maps.softplus(x)
    else:
        e = tl.exp2(tl.abs(x) * -_LOG2_E)
        series = e * (0.30769738 + e * (-0.15965544 + e * 0.042459317))
        series = 0.99995211 + e * (-0.49725826 + series)
        return (tl.maximum(x, 0.0) + e * series).to(KIND)


@triton.jit
def relu(x, KIND: tl.constexpr):
    """max(x, 0); NaN stays NaN."""
    return tl.where(x < 0.0, 0.0, x.to(tl.float32)).to(KIND)


@triton.jit
def identity(x, KIND: tl.constexpr):
    """x."""
    return x.to(tl.float32).to(KIND)
