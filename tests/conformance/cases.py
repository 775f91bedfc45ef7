"""What the laws are tried on: every line of the tables, alone, wrapped and combined.

Sizes are awkward and pairwise different, so that no axis can stand in for another.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from whatwhere import spectra
from whatwhere.attention import attend
from whatwhere.encodings import Context, Encoding, Shape, build, encodings, modifiers
from whatwhere.rule import ScoreRule

BATCH, HEADS, GROUPS, D, DV, WIDTH = 2, 6, 3, 16, 10, 40
TRAINED, TABLE_ROWS = 12, 128
SHAPE = Shape(HEADS, D, GROUPS, WIDTH)
CONTEXT = Context(train_length=TRAINED, max_length=TABLE_ROWS)

# Float64 rounding of a softmax over some 60 keys and 32 features is below 1e-13; position code at
# a few thousand tokens adds 1e-12. A real difference is above 1e-4 in what these tests compare.
EXACT = {"rtol": 1e-9, "atol": 1e-11}

STANDALONE = tuple(encodings())
VARIANTS = (
    "sinusoidal(layout=halves,exponent=tensor2tensor)",
    "shaw(clip=4,tables=shared)",
    "shaw(sides=keys)",
    "shaw(sides=values)",
    "t5(bidirectional=true)",
    "alibi(heads=0.5)",
    "kerple(kernel=power)",
    "fire(init_threshold=8.0)",
    "cope(max_positions=4)",
    "rope(layout=interleaved)",
    "rope(partial=0.5)",
    "rope(layout=interleaved,values=relative)",
    "rope(spectrum=yarn(factor=4))",
    "xpos(layout=interleaved,span=16.0)",
    "pope(delta_init=uniform)",
    "pope(delta_init=uniform,delta_bound=straight_through)",
    "pope(delta_bound=free)",
    "pope(delta_init=none)",
    "pope(magnitude=relu)",
    "pope(magnitude=identity)",
    "pope(partial=0.5)",
    "pope(spectrum=yarn(factor=4))",
)
TURNING = {"rope": D // 2, "pope": D}  # and how many frequencies they ask for
# Window 3 (a quarter of TRAINED) is no multiple of inverse Leaky's stride of 16.
OPTIONS = {"inverse_leaky_rerope": "(stride=3)"}
MODIFIED = tuple(
    f"{base}+{modifier}{OPTIONS.get(modifier, '')}" for base in TURNING for modifier in modifiers()
)
WRAPPED = (
    "pope+dual_chunk(constants=chunkllama)",
    "rope+inverse_leaky_rerope(window=8,stride=4)",
    "rope+llama4_temperature(floor_scale=8)",
    "rope+leaky_rerope(factor=2)",
    "rope+logn(form=length)",
    "rope+logn(form=unclipped)",
    "rope+self_extend(group=2,window=5)",
    "rope+yarn_temperature(factor=4)",
)
DEEP = (
    "pope+yarn(factor=4)+dual_chunk+logn",
    "pope(delta_init=uniform)+ntk(factor=4)+self_extend+llama4_temperature(floor_scale=8)",
    "pope+length_scaled+rerope+logn(form=length)",
    "rope(layout=interleaved,partial=0.5)+leaky_rerope+logn(form=length)",
    "rope(values=relative)+dual_chunk+logn",
    "rope(values=absolute)+linear(factor=4)+rerope",
    "rope+dynamic_ntk+inverse_leaky_rerope(stride=3)",
    "xpos+yarn(factor=4)+leaky_rerope(factor=2)",
    "alibi+logn+yarn_temperature(factor=4)",
    "shaw+logn",
    "cope+logn(form=unclipped)",
    "sinusoidal+logn",
    "t5+llama4_temperature(floor_scale=8)",
)


def spectrum_text(name: str, pairs: int, factor: float | str) -> str:
    """A line of `spectra.TABLE` written as a modifier, stretching by `factor`."""
    known = spectra.TABLE[name].parameters
    number = 4.0 if factor == "dynamic" else float(factor)
    rising = [round(1.0 + (number - 1.0) * c / (pairs - 1), 4) for c in range(pairs)]
    options = {
        "factor": number if name == "dynamic_ntk" else factor,
        "alpha": number if name == "ntk_alpha" else None,
        "multiplier": 1.0 if factor == 1 else None,
        "share": 1.0 if factor == 1 else None,
        "long_factor": rising,
    }
    shown = [f"{k}={v}" for k, v in options.items() if k in known and v is not None]
    return f"{name}({','.join(shown)})".replace(" ", "")


def _spectra() -> tuple[str, ...]:
    found = [
        f"{base}+{spectrum_text(name, pairs, factor)}"
        for base, pairs in TURNING.items()
        for name, family in spectra.TABLE.items()
        for factor in ((4.0, "dynamic") if family.parameters.get("factor", 0) is None else (4.0,))
    ]
    short = ",".join(["1"] * 8)
    long = ",".join(["4"] * 8)
    switching = f"rope+longrope(long_factor=[{long}],short_factor=[{short}],factor=4)"
    return (*found, switching, f"rope+longrope(long_factor=[{long}],factor=4,n_hat=5)")


SPECTRA = _spectra()
ALL = tuple(dict.fromkeys((*STANDALONE, *VARIANTS, *MODIFIED, *WRAPPED, *SPECTRA, *DEEP)))
#: Spectra differ in numbers alone: most laws need only one that depends on the length, and n-hat.
KINDS = tuple(
    text
    for text in ALL
    if text not in SPECTRA or text in ("rope+yarn(factor=dynamic)", SPECTRA[-1])
)
#: One per line of the table, alone and around RoPE and PoPE, and what is deep: for slow laws.
FEW = tuple(dict.fromkeys((*STANDALONE, *MODIFIED, *DEEP)))


def make(text: str, device: torch.device, dtype: torch.dtype = torch.float64) -> Encoding:
    """The encoding of an expression, its parameters at values where each of them matters."""
    torch.manual_seed(11)
    encoding = build(text, SHAPE, CONTEXT)
    stir(encoding)
    return encoding.to(device=device, dtype=dtype)


def stir(encoding: torch.nn.Module) -> None:
    """Give tables that begin at (almost) zero values of ordinary size.

    Negative ones: PoPE's δ lives in [-2π, 0], and its clamp has no slope at 0 on one side.
    """
    with torch.no_grad():
        for parameter in encoding.parameters():
            if parameter.numel() > 1 and parameter.abs().max() < 0.1:
                parameter.uniform_(-1.0, -0.1)


def value_width(rule: ScoreRule) -> int:
    """DV, which is not D, wherever the rule lets values have a width of their own."""
    if getattr(rule.pairwise, "values", None) is not None:
        return D  # Shaw adds vectors of the head's width to the values
    return DV if rule.value is None else D + 4  # turned values need at least D channels


def draw(
    shape: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    grad: bool = False,
) -> Tensor:
    """Normal numbers, the same ones on every device."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    return drawn.to(device=device, dtype=dtype).requires_grad_(grad)


def vectors(
    rule: ScoreRule,
    queries: int,
    keys: int,
    device: torch.device,
    dtype: torch.dtype = torch.float64,
    *,
    batch: int = BATCH,
    grad: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values for a rule."""
    q = draw((batch, HEADS, queries, D), device, dtype, 1, grad)
    k = draw((batch, GROUPS, keys, D), device, dtype, 2, grad)
    v = draw((batch, GROUPS, keys, value_width(rule)), device, dtype, 3, grad)
    return q, k, v


@dataclass(frozen=True)
class Projected:
    """Raw queries, keys and values of embedded tokens: one layer before its attention."""

    q: Tensor
    k: Tensor
    v: Tensor


@functools.cache
def _weights(dv: int) -> tuple[Tensor, Tensor, Tensor]:
    cpu, scale = torch.device("cpu"), WIDTH**-0.5
    return (
        draw((WIDTH, HEADS * D), cpu, seed=4) * scale,
        draw((WIDTH, GROUPS * D), cpu, seed=5) * scale,
        draw((WIDTH, GROUPS * dv), cpu, seed=6) * scale,
    )


def project(encoding: Encoding, rule: ScoreRule, x: Tensor, positions: Tensor) -> Projected:
    """Embedding and projections: encodings that only `embed` obey the laws of a layer too."""
    x = encoding.embed(x, positions if positions.dim() == 2 else positions[None])
    q, k, v = (x @ weight.to(x) for weight in _weights(value_width(rule)))
    q, k, v = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2)
        for part, heads in ((q, HEADS), (k, GROUPS), (v, GROUPS))
    )
    return Projected(q, k, v)


def layer(
    encoding: Encoding,
    x: Tensor,
    positions: Tensor,
    horizon: int,
    *,
    training: bool = False,
    backend: str = "reference",
    **visibility: object,
) -> Tensor:
    """Output of one attention layer on embeddings x (b, n, WIDTH) at positions (n,) or (b, n)."""
    rule = encoding.rule(horizon, training=training)
    p = project(encoding, rule, x, positions)
    return attend(
        p.q, p.k, p.v, rule, q_pos=positions, k_pos=positions, backend=backend, **visibility
    )


def tokens(n: int, device: torch.device, seed: int = 7, batch: int = BATCH) -> Tensor:
    """Token embeddings of ordinary size."""
    return draw((batch, n, WIDTH), device, seed=seed)
