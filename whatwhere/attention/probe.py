"""Which attention kernel takes these widths here: tried once, remembered.

No document says it: cuDNN 9.19 under torch 2.11 trains at widths 256/128 although its own message
denies 128/64, a check in newer torch refuses 256/128, and FlashAttention-2 wants equal widths
(kernels.md §3). So each kernel runs forward and backward on a few tokens and is compared with
float64; the first that agrees is taken. Our own stand among them (`own`, set by the fused backend)
where they were measured to be faster, and alone where torch's would want a dense mask.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from whatwhere.attention.backend import Call, repeat_heads
from whatwhere.tracing import constant

__all__ = ["KERNELS", "OWN", "Widths", "chosen", "order", "own", "reasons", "run"]

#: torch's, in order of preference; measured on Hopper in kernels.md §1.
KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
_ENABLED: dict[str, Callable[[], bool]] = {
    "cudnn": torch.backends.cuda.cudnn_sdp_enabled,
    "flash": torch.backends.cuda.flash_sdp_enabled,
    "efficient": torch.backends.cuda.mem_efficient_sdp_enabled,
}
Own = Callable[[str, Tensor, Tensor, Tensor, float, bool, bool], Tensor]
#: The library's own, in order of preference: for short sequences, for Hopper, and for any GPU.
OWN = ("short", "hopper", "tiled")
#: Tokens up to which the first of them is asked: a whole sequence is one tile of its. It has tiles
#: of 128 too; from there on the others' are full.
SHORT = 64
_own: list[tuple[Own, Callable[[str, "Widths"], str | None]]] = []


def own(run: Own, why_not: Callable[[str, "Widths"], str | None]) -> None:
    """Make the library's own attention known: run(name, q, k, v, scale, causal, placed), where
    placed asks for the path that reads positions from memory, and why_not(name, widths)."""
    _own[:] = [(run, why_not)]


def order(widths: "Widths") -> list[str]:
    """Kernels in order of preference at these widths, as measured on one H200.

    Whole sequences: where there are more features than values (PoPE) cuDNN's backward is weak and
    keeps the features: there our own comes first. Elsewhere it follows cuDNN, which refuses
    deterministic mode; ours is deterministic. Calls that are not plain (positions, windows,
    documents, padding, biases) are our own kernels' alone: torch's would want a dense mask.
    Short sequences of 16-bit numbers: one kernel makes features and attends over them where others
    write features first and fill half a tile of 128 rows: at 48 tokens, 2,048 heads of 64, forward
    and backward take 0.42 of the next best's time with PoPE and 0.53 with RoPE.
    """
    names = [name for name in OWN if name != "short" or widths.short] if _own else []
    if not widths.plain:
        return names
    torchs = list(KERNELS)
    if _own:
        torchs.insert(0 if widths.features > widths.values else 1, "hopper")
        torchs.insert(torchs.index("efficient"), "tiled")
    return [*(name for name in names if name == "short"), *torchs]


# Errors of a sound kernel are at most a third of these (relative, Frobenius norm).
_TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 4e-3}


@dataclass(frozen=True)
class Widths:
    """What a kernel may refuse by: everything but batch, number of heads and exact length."""

    device: int
    dtype: torch.dtype
    features: int
    values: int
    groups: int
    causal: bool
    square: bool
    round: bool
    single: bool
    gradient: bool
    plain: bool = True
    short: bool = False

    @classmethod
    def of(
        cls, call: Call, features: int, dtype: torch.dtype, gradient: bool, plain: bool = True
    ) -> Widths:
        """The widths of a call whose maps give `features` features."""
        queries, keys = call.where.queries, call.where.keys
        return cls(
            device=call.device.index or 0,
            dtype=dtype,
            features=features,
            values=call.v.shape[-1],
            groups=call.q.shape[1] // call.k.shape[1],
            causal=call.where.causal,
            # Our own kernels take any lengths: under torch.compile no guard on them is wanted.
            square=not plain or _decided(queries == keys),
            round=plain and _decided(queries % 64 == 0 and keys % 64 == 0),
            single=plain and _decided(queries == 1 or keys == 1),
            gradient=gradient,
            plain=plain,
            short=dtype != torch.float32 and _decided(queries <= SHORT and keys <= SHORT),
        )


def _decided(condition: bool) -> bool:
    # With symbolic sizes (torch.compile) a comparison is a symbol: a branch makes it a guard.
    if condition:  # noqa: SIM103
        return True
    return False


def run(
    kernel: str | None,
    q: Float[Tensor, "b h nq f"],
    k: Float[Tensor, "b g nk f"],
    v: Float[Tensor, "b g nk dv"],
    causal: bool,
    scale: float,
    placed: bool = False,
) -> Float[Tensor, "b h nq dv"]:
    """softmax(q k^T · scale) v by the named kernel; None lets torch choose (on a CPU)."""
    if kernel in OWN:
        return _own[0][0](kernel, q, k, v, scale, causal, placed)
    width, gap = v.shape[-1], q.shape[-1] - v.shape[-1]
    if kernel == "flash" and gap > 0:
        v = F.pad(v, (0, gap))
    if kernel in (None, "efficient"):
        k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
    grouped = q.shape[1] != k.shape[1]
    if kernel is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    with sdpa_kernel(KERNELS[kernel]):
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=causal, scale=scale, enable_gqa=grouped
        )
    return out if out.shape[-1] == width else out[..., :width]


_TRIED: dict[tuple[Widths, str, bool], str | None] = {}


def reasons(widths: Widths) -> dict[str, str | None]:
    """For each kernel up to the first that works, None or its reason not to."""
    found: dict[str, str | None] = {}
    strict = torch.are_deterministic_algorithms_enabled()
    for kernel in order(widths):
        reason = _why_not(kernel, widths)
        if reason is not None:
            found[kernel] = reason
            continue
        key = (widths, kernel, strict)
        if key not in _TRIED:
            if torch.cuda.is_current_stream_capturing():
                found[kernel] = "not tried before the CUDA graph capture: call once outside it"
                continue
            _TRIED[key] = _try(kernel, widths)
        found[kernel] = _TRIED[key]
        if found[kernel] is None:
            break
    return found


def _why_not(kernel: str, widths: Widths) -> str | None:
    if kernel in OWN:
        return _own[0][1](kernel, widths)
    return None if _ENABLED[kernel]() else "switched off (torch.backends.cuda)"


# A compiled graph holds the answer: the trial itself is not part of it.
@constant
def _first(*fields: object) -> str:
    found = reasons(Widths(*fields))  # type: ignore[arg-type]
    return next((kernel for kernel, reason in found.items() if reason is None), "")


def chosen(widths: Widths) -> str | None:
    """The first kernel that works at these widths, or None."""
    fields = (getattr(widths, name) for name in Widths.__dataclass_fields__)
    return _first(*fields) or None


def _try(kernel: str, widths: Widths) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch lists every kernel's complaint as a warning
        try:
            ours = _trial(widths, _runner(kernel, widths), False)
        except Exception as error:  # noqa: BLE001 - a Triton that is newer may raise anything
            return f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
    truth = _trial(widths, _definition, True)
    for name, got, wanted in zip(("output", "dq", "dk", "dv"), ours, truth, strict=False):
        error = float((got.double() - wanted).norm() / wanted.norm())
        if not error <= _TOLERANCE[widths.dtype]:
            return f"its {name} is off by {error:.1e} from float64 at these widths"
    return None


def _runner(kernel: str, widths: Widths) -> Callable[[Tensor, Tensor, Tensor, bool], Tensor]:
    return lambda q, k, v, causal: run(kernel, q, k, v, causal, 0.1, placed=not widths.plain)


def _trial(
    widths: Widths, attention: Callable[[Tensor, Tensor, Tensor, bool], Tensor], exact: bool
) -> list[Tensor]:
    """Output, and gradients if wanted, for the same few random tokens at every call."""
    device = torch.device("cuda", widths.device)
    generator = torch.Generator(device).manual_seed(0)
    keys = SHORT if widths.short else 128
    keys = 1 if widths.single else keys if widths.round else 37 if widths.short else 67
    queries = keys if widths.square else keys + (64 if widths.round else 7)
    with torch.enable_grad():
        tensors = [
            torch.randn(2, heads, tokens, width, device=device, generator=generator)
            .to(widths.dtype)
            .to(torch.float64 if exact else widths.dtype)
            .requires_grad_(widths.gradient)
            for heads, tokens, width in (
                (2 * widths.groups, queries, widths.features),
                (2, keys, widths.features),
                (2, keys, widths.values),
            )
        ]
        out = attention(*tensors, widths.causal)  # type: ignore[arg-type]
        grads = torch.autograd.grad(out.sin().sum(), tensors) if widths.gradient else ()
    return [out.detach(), *grads]


def _definition(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
    scores = (q @ k.mT) * 0.1
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    return scores.softmax(dim=-1) @ v
