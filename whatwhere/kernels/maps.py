"""Jitted twins of `whatwhere.maps`: what one vector at one position becomes, inside a kernel.

Every map is four functions over float32 tiles. Forward: (a, b, cosine, sine) -> two features for
each frequency. Back: (grad_0, grad_1, a, cosine, sine) -> gradients of a and b. Turned: (grad_0,
grad_1, a, b, cosine, sine) -> gradient of the phase. Learned: all three gradients at once. `Rotate`
reads a pair of channels (a, b) for each frequency, `Polar` one channel a (b is a again, unused).
Cosine and sine carry everything else: amplitude, decay, temperature, δ, direction. KIND is the
dtype that results are rounded to: what it hides need not be computed. Templates take the functions
as `tl.constexpr`, so a further map is four functions more here, not a further kernel.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

from whatwhere.kernels.interpreter import interpreted

__all__ = [
    "cosine_sine",
    "decayed",
    "identity_polar",
    "identity_polar_back",
    "identity_polar_learned",
    "identity_polar_turned",
    "quick_softplus",
    "relu_polar",
    "relu_polar_back",
    "relu_polar_learned",
    "relu_polar_turned",
    "rotate",
    "rotate_back",
    "rotate_learned",
    "rotate_turned",
    "softplus",
    "softplus_polar",
    "softplus_polar_back",
    "softplus_polar_learned",
    "softplus_polar_turned",
    "widen",
    "wrapped_cosine_sine",
]

_LOG2_E = tl.constexpr(1.4426950408889634)
_TURN = tl.constexpr(6.283185307179586)
_RADIANS_PER_UNIT = tl.constexpr(6.283185307179586 / 4294967296.0)  # 2^-32 turns


# tl.cos is exact for arguments of any size, by a slow path with a table on the stack: 32 bytes of
# local memory and 60 loads in every kernel. Reduced arguments need the hardware's own only.
if interpreted():

    @triton.jit
    def _cos(x):
        return tl.cos(x)

    @triton.jit
    def _sin(x):
        return tl.sin(x)

    @triton.jit
    def _exp2(x):
        return tl.exp2(x)

    @triton.jit
    def _reciprocal(x):
        return 1.0 / x

    @triton.jit
    def widen(x):
        """Float32 from any float."""
        return x.to(tl.float32)

else:
    _cos, _sin = libdevice.fast_cosf, libdevice.fast_sinf

    # One instruction each: Triton's own forms step aside for results too small to be normal.
    @triton.jit
    def _exp2(x):
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=r,r", [x], tl.float32,
                                         is_pure=True, pack=1)  # fmt: skip

    @triton.jit
    def _reciprocal(x):
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=r,r", [x], tl.float32,
                                         is_pure=True, pack=1)  # fmt: skip

    @triton.jit
    def widen(x):
        """Float32 from any float; a pair of bfloat16 by two instructions (LLVM: three)."""
        if x.dtype == tl.bfloat16:
            return tl.inline_asm_elementwise("shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;",
                                             "=&r,=r,r", [x], tl.float32, is_pure=True,
                                             pack=2)  # fmt: skip
        else:
            return x.to(tl.float32)


@triton.jit
def cosine_sine(position, turns):
    """Cosine and sine of position · turns, both int64, turns in 2^-64 of a turn per token.

    The product's overflow is the wrap at a full turn (`whatwhere.phases`); its high half, a signed
    int32, is the phase in [-1/2, 1/2) turns to 2^-32. So the argument of cosine and sine is within
    [-π, π] at any position, where the hardware's approximations are off by 2^-21 at most; a float32
    position · θ is off by 6e-2 rad at a million tokens before any cosine is taken.
    """
    phase = ((position * turns) >> 32).to(tl.int32).to(tl.float32) * _RADIANS_PER_UNIT
    return _cos(phase), _sin(phase)


@triton.jit
def decayed(position, column, F: tl.constexpr, decay, centre, side):
    """xPos's factor ζ_c^((p - centre) side rate), ζ_c = (c / F + gamma) / (1 + gamma), of pairs c.

    decay is (gamma, rate) of queries (`whatwhere.maps.Decay`); side is 1 for queries, -1 for keys,
    which grow as queries shrink. Positions (n, 1) and columns (1, w) or (n, w) -> float32 (n, w).
    """
    gamma, rate = decay
    power = (position - centre).to(tl.float32) * (rate * side)
    return tl.exp2(power * tl.log2((column.to(tl.float32) / F + gamma) / (1.0 + gamma)))


@triton.jit
def wrapped_cosine_sine(radians):
    """Cosine and sine of any float32 angle (a learned δ may leave [-2π, 0]), reduced first."""
    turns = radians * (1.0 / _TURN)
    turns -= tl.floor(turns + 0.5)
    return _cos(turns * _TURN), _sin(turns * _TURN)


@triton.jit
def rotate(a, b, cosine, sine, KIND: tl.constexpr):
    """(a + I b) · e^(I φ)."""
    return a * cosine - b * sine, b * cosine + a * sine


@triton.jit
def rotate_back(grad_0, grad_1, a, cosine, sine, KIND: tl.constexpr):
    """The rotation's transpose: turn back."""
    return grad_0 * cosine + grad_1 * sine, grad_1 * cosine - grad_0 * sine


@triton.jit
def rotate_turned(grad_0, grad_1, a, b, cosine, sine, KIND: tl.constexpr):
    """Its gradient of the phase."""
    first, second = rotate(a, b, cosine, sine, KIND)
    return grad_1 * first - grad_0 * second


@triton.jit
def rotate_learned(grad_0, grad_1, a, b, cosine, sine, KIND: tl.constexpr):
    """All its gradients."""
    turned = rotate_turned(grad_0, grad_1, a, b, cosine, sine, KIND)
    a, b = rotate_back(grad_0, grad_1, a, cosine, sine, KIND)
    return a, b, turned


@triton.jit
def softplus(x):
    """ln(1 + e^x) to about 1e-6 of its value for every x; torch's threshold of 20 changes no bit.

    1 + e loses e's digits when e is small, which is where x is very negative and PoPE's magnitudes
    are small: there the logarithm's series is used.
    """
    e = tl.exp(-tl.abs(x))
    series = e * (1.0 + e * (-0.5 + e * (0.33333334 + e * (-0.25 + e * 0.2))))
    return tl.where(x > 0.0, x, 0.0) + tl.where(e < 0.0625, series, tl.log(1.0 + e))


@triton.jit
def _softplus_slope(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0.0, 1.0, e) / (1.0 + e)


@triton.jit
def quick_softplus(x, KIND: tl.constexpr):
    """ln(1 + e^x) for a result of dtype KIND: exact for float32, else e · P(e) + max(x, 0).

    e = e^-|x|, and P is the minimax polynomial of ln(1 + e) / e on [0, 1]: its relative error is
    below 5.7e-5 for bfloat16 (degree 4) and 8.5e-6 for float16 (degree 5), a fiftieth of the most
    that rounding to that dtype changes (2^-8, 2^-11).
    """
    if tl.float32 == KIND:
        return softplus(x)
    else:
        e = _exp2(tl.abs(x) * -_LOG2_E)
        if tl.float16 == KIND:
            p = 0.3252067 + e * (-0.2100487 + e * (0.1012223 + e * -0.02386915))
            p = 0.9999916 + e * (-0.49936137 + e * p)
        else:
            p = 0.99994326 + e * (
                -0.4969778 + e * (0.30630094 + e * (-0.15742722 + e * 0.04134731))
            )
        return e * p + tl.maximum(x, 0.0)


@triton.jit
def _quick_slope(x, KIND: tl.constexpr):
    if tl.float32 == KIND:
        return _softplus_slope(x)
    else:
        return _reciprocal(1.0 + _exp2(x * -_LOG2_E))


@triton.jit
def _softplus_and_slope(x, KIND: tl.constexpr):
    """ln(1 + e^x) and its slope by one exponential, for results of dtype KIND.

    The slope σ has e^x's digits where x is very negative. With w = min(σ, 1 - σ), the slope at
    -|x|, ln(1 + e^-|x|) is -ln(1 - w) = w · P(w): P is the minimax polynomial of -ln(1 - w) / w on
    [0, 1/2], its relative error below 4.5e-5 for bfloat16, 6.6e-6 for float16. That w has few
    digits where x is large matters not: it is added to x.
    """
    if tl.float32 == KIND:
        return softplus(x), _softplus_slope(x)
    else:
        slope = _quick_slope(x, KIND)
        w = tl.minimum(slope, 1.0 - slope)
        if tl.float16 == KIND:
            p = 0.31367111 + w * (0.40336276 + w * (-0.31109378 + w * 0.8463798))
            p = 0.99999351 + w * (0.50089545 + w * p)
        else:
            p = 1.00004437 + w * (0.49578147 + w * (0.39580258 + w * (-0.0578204 + w * 0.74519454)))
        return w * p + tl.maximum(x, 0.0), slope


@triton.jit
def _dot(grad_0, grad_1, cosine, sine):
    return grad_0 * cosine + grad_1 * sine


@triton.jit
def _cross(grad_0, grad_1, cosine, sine):
    return grad_1 * cosine - grad_0 * sine


@triton.jit
def softplus_polar(a, b, cosine, sine, KIND: tl.constexpr):
    """softplus(a) · e^(I φ), PoPE's magnitude."""
    size = quick_softplus(a, KIND)
    return size * cosine, size * sine


@triton.jit
def softplus_polar_back(grad_0, grad_1, a, cosine, sine, KIND: tl.constexpr):
    """Its gradient: sigmoid(a) · Re[grad · e^(-I φ)]."""
    grad = _dot(grad_0, grad_1, cosine, sine) * _quick_slope(a, KIND)
    return grad, grad


@triton.jit
def softplus_polar_turned(grad_0, grad_1, a, b, cosine, sine, KIND: tl.constexpr):
    """Its gradient of the phase."""
    return quick_softplus(a, KIND) * _cross(grad_0, grad_1, cosine, sine)


@triton.jit
def softplus_polar_learned(grad_0, grad_1, a, b, cosine, sine, KIND: tl.constexpr):
    """All its gradients."""
    size, slope = _softplus_and_slope(a, KIND)
    grad = _dot(grad_0, grad_1, cosine, sine) * slope
    return grad, grad, size * _cross(grad_0, grad_1, cosine, sine)


@triton.jit
def _relu(a):
    return tl.where(a < 0.0, 0.0, a)


@triton.jit
def relu_polar(a, b, cosine, sine, KIND: tl.constexpr):
    """max(a, 0) · e^(I φ); NaN stays NaN."""
    size = _relu(a)
    return size * cosine, size * sine


@triton.jit
def relu_polar_back(grad_0, grad_1, a, cosine, sine, KIND: tl.constexpr):
    """Its gradient, 0 at a = 0 as torch has it."""
    grad = tl.where(a > 0.0, _dot(grad_0, grad_1, cosine, sine), 0.0)
    return grad, grad


@triton.jit
def relu_polar_turned(grad_0, grad_1, a, b, cosine, sine, KIND: tl.constexpr):
    """Its gradient of the phase."""
    return _relu(a) * _cross(grad_0, grad_1, cosine, sine)


@triton.jit
def relu_polar_learned(grad_0, grad_1, a, b, cosine, sine, KIND: tl.constexpr):
    """All its gradients."""
    turned = relu_polar_turned(grad_0, grad_1, a, b, cosine, sine, KIND)
    a, b = relu_polar_back(grad_0, grad_1, a, cosine, sine, KIND)
    return a, b, turned


@triton.jit
def identity_polar(a, b, cosine, sine, KIND: tl.constexpr):
    """a · e^(I φ)."""
    return a * cosine, a * sine


@triton.jit
def identity_polar_back(grad_0, grad_1, a, cosine, sine, KIND: tl.constexpr):
    """Its gradient."""
    grad = _dot(grad_0, grad_1, cosine, sine)
    return grad, grad


@triton.jit
def identity_polar_turned(grad_0, grad_1, a, b, cosine, sine, KIND: tl.constexpr):
    """Its gradient of the phase."""
    return a * _cross(grad_0, grad_1, cosine, sine)


@triton.jit
def identity_polar_learned(grad_0, grad_1, a, b, cosine, sine, KIND: tl.constexpr):
    """All its gradients."""
    turned = identity_polar_turned(grad_0, grad_1, a, b, cosine, sine, KIND)
    a, b = identity_polar_back(grad_0, grad_1, a, cosine, sine, KIND)
    return a, b, turned
