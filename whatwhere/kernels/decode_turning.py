"""How a query and its keys turn in the decode kernel of operands (`decode_mma`), in any layout.

A score is Σ_c μ(k_c) · (A_c cos φ_c + B_c sin φ_c) (`decode`): `query` makes A and B once for all,
`turned` moves them to a block's origin, `features` multiplies keys by the table of cosines and
sines. All are elementwise: the layout of what goes in is that of what comes out.
"""

import triton.experimental.gluon.language as gl
from triton.experimental import gluon

from whatwhere.kernels import decode_content

__all__ = ["cosine_sine", "features", "query", "turned"]

_RADIANS_PER_UNIT = gl.constexpr(6.283185307179586 / 4294967296.0)  # 2^-32 turns
_TURN = gl.constexpr(6.283185307179586)


@gluon.jit
def _circle(radians):
    """Cosine and sine of radians within half a turn."""
    return gl.inline_asm_elementwise(
        "cos.approx.f32 $0, $2; sin.approx.f32 $1, $2;", "=&r,=r,r",
        [radians], (gl.float32, gl.float32), is_pure=True, pack=1)  # fmt: skip


@gluon.jit
def cosine_sine(phase):
    """Of int64 phases in 2^-64 turns: their high half, 2^-32 turns, is within half a turn."""
    return _circle((phase >> 32).to(gl.int32).to(gl.float32) * _RADIANS_PER_UNIT)


@gluon.jit
def _reduced(radians):
    """Of any radians (a learned δ)."""
    turns = radians * (1.0 / _TURN)
    return _circle((turns - gl.floor(turns + 0.5)) * _TURN)


@gluon.jit
def _magnitude(x, RECIPE: gl.constexpr):
    """Magnitudes of the query, float32."""
    if RECIPE == "softplus":
        e = gl.exp(-gl.abs(x))
        series = e * (1.0 + e * (-0.5 + e * (0.33333334 + e * (-0.25 + e * 0.2))))
        x = gl.maximum(x, 0.0) + gl.where(e < 0.0625, series, gl.log(1.0 + e))
    elif RECIPE == "relu":
        x = gl.where(x < 0.0, 0.0, x)
    return x


@gluon.jit
def features(x, cosine, sine, RECIPE: gl.constexpr):
    """μ(x) cos and μ(x) sin of key channels, two at a time, rounded to the tables' dtype."""
    if RECIPE == "softplus":
        x = decode_content.softplus(x, gl.float16)
    elif RECIPE == "relu":
        x = decode_content.relu(x, x.dtype)
    if cosine.dtype == gl.bfloat16:
        return gl.inline_asm_elementwise(
            "mul.bf16x2 $0, $2, $3; mul.bf16x2 $1, $2, $4;", "=&r,=r,r,r,r",
            [x, cosine, sine], (gl.bfloat16, gl.bfloat16), is_pure=True, pack=2)  # fmt: skip
    elif x.dtype == gl.bfloat16:
        return gl.inline_asm_elementwise(
            """{
            .reg .b32 a, b;
            shl.b32 a, $2, 16;
            and.b32 b, $2, 0xffff0000;
            cvt.rn.f16x2.f32 a, b, a;
            mul.f16x2 $0, a, $3;
            mul.f16x2 $1, a, $4;
            }""", "=&r,=&r,r,r,r",
            [x, cosine, sine], (gl.float16, gl.float16), is_pure=True, pack=2)  # fmt: skip
    else:
        return gl.inline_asm_elementwise(
            "mul.f16x2 $0, $2, $3; mul.f16x2 $1, $2, $4;", "=&r,=r,r,r,r",
            [x, cosine, sine], (gl.float16, gl.float16), is_pure=True, pack=2)  # fmt: skip


@gluon.jit
def _turned_query(x, at, head, phase, offset, factor, amplitude, channel, turning,
                  RECIPE: gl.constexpr, PAIRED: gl.constexpr, INTERLEAVED: gl.constexpr,
                  F: gl.constexpr):  # fmt: skip
    cosine, sine = cosine_sine(phase)
    loud = factor * amplitude * amplitude
    if PAIRED:
        if INTERLEAVED:
            partner, even = channel ^ 1, channel % 2 == 0
        else:
            partner = gl.where(channel < F, channel + F, channel - F)
            even = channel < F
        y = gl.load(at + partner[None, :], turning[None, :], other=0.0).to(gl.float32)
        y = gl.where(even[None, :], -y, y)
        a, b = x * cosine + y * sine, x * sine - y * cosine
    else:
        if offset is not None:
            there = offset + head[:, None] * F + channel[None, :]
            co, so = _reduced(gl.load(there, turning[None, :], other=0.0))
            cosine, sine = cosine * co - sine * so, sine * co + cosine * so
        size = _magnitude(x, RECIPE)
        a, b = size * cosine, size * sine
    a = gl.where(turning[None, :], a * loud, x * factor)
    return a, gl.where(turning[None, :], b * loud, 0.0)


@gluon.jit
def query(q, head, row, batch, phase, offset, factor, amplitude, channel, turning,
           RECIPE: gl.constexpr, PAIRED: gl.constexpr, INTERLEAVED: gl.constexpr, F: gl.constexpr,
           D: gl.constexpr):  # fmt: skip
    """A and B, (rows, channels) float32, of rows that stand `phase` from the origin."""
    pointer, by_batch, by_head, by_row = q
    at = pointer + batch.to(gl.int64) * by_batch + head.to(gl.int64) * by_head + row * by_row
    at = at[:, None]
    x = gl.load(at + channel[None, :]).to(gl.float32)
    factor = factor[:, None]
    if F == 0:
        return x * factor, x
    else:
        return _turned_query(x, at, head, phase, offset, factor, amplitude, channel, turning,
                             RECIPE, PAIRED, INTERLEAVED, F)  # fmt: skip


@gluon.jit
def turned(a, b, phase, KIND: gl.constexpr):
    """The query at a block's origin: what multiplies cosines, and what multiplies sines."""
    cosine, sine = cosine_sine(phase)
    cosine, sine = cosine[None, :], sine[None, :]
    return (a * cosine - b * sine).to(KIND), (b * cosine + a * sine).to(KIND)
