"""Jitted twins of `whatwhere.maps`: what one vector at one position becomes, inside a kernel.

Every map is a pair of functions over float32 tiles. Forward: (a, b, cosine, sine) -> two features
for each frequency. Back: (grad_0, grad_1, a, cosine, sine) -> gradients of a and b. `Rotate` reads
a pair of channels (a, b) for each frequency, `Polar` one channel a (b is a again, unused). Cosine
and sine carry everything else: amplitude, temperature, δ, direction. Templates take the functions
as `tl.constexpr`, so a further map is a further pair here, not a further kernel.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

from whatwhere.kernels.interpreter import interpreted

__all__ = [
    "cosine_sine",
    "identity_polar",
    "identity_polar_back",
    "relu_polar",
    "relu_polar_back",
    "rotate",
    "rotate_back",
    "softplus",
    "softplus_polar",
    "softplus_polar_back",
    "wrapped_cosine_sine",
]

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

else:
    _cos, _sin = libdevice.fast_cosf, libdevice.fast_sinf


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
def wrapped_cosine_sine(radians):
    """Cosine and sine of any float32 angle (a learned δ may leave [-2π, 0]), reduced first."""
    turns = radians * (1.0 / _TURN)
    turns -= tl.floor(turns + 0.5)
    return _cos(turns * _TURN), _sin(turns * _TURN)


@triton.jit
def rotate(a, b, cosine, sine):
    """(a + I b) · e^(I φ)."""
    return a * cosine - b * sine, b * cosine + a * sine


@triton.jit
def rotate_back(grad_0, grad_1, a, cosine, sine):
    """The rotation's transpose: turn back."""
    return grad_0 * cosine + grad_1 * sine, grad_1 * cosine - grad_0 * sine


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
def softplus_polar(a, b, cosine, sine):
    """softplus(a) · e^(I φ), PoPE's magnitude."""
    size = softplus(a)
    return size * cosine, size * sine


@triton.jit
def softplus_polar_back(grad_0, grad_1, a, cosine, sine):
    """Its gradient: sigmoid(a) · Re[grad · e^(-I φ)]."""
    grad = (grad_0 * cosine + grad_1 * sine) * _softplus_slope(a)
    return grad, grad


@triton.jit
def relu_polar(a, b, cosine, sine):
    """max(a, 0) · e^(I φ); NaN stays NaN."""
    size = tl.where(a < 0.0, 0.0, a)
    return size * cosine, size * sine


@triton.jit
def relu_polar_back(grad_0, grad_1, a, cosine, sine):
    """Its gradient, 0 at a = 0 as torch has it."""
    grad = tl.where(a > 0.0, grad_0 * cosine + grad_1 * sine, 0.0)
    return grad, grad


@triton.jit
def identity_polar(a, b, cosine, sine):
    """a · e^(I φ)."""
    return a * cosine, a * sine


@triton.jit
def identity_polar_back(grad_0, grad_1, a, cosine, sine):
    """Its gradient."""
    grad = grad_0 * cosine + grad_1 * sine
    return grad, grad
