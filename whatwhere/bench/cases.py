"""What is measured, as data: shapes, and which implementation runs at which of them, in order.

Constant work: 32,768 tokens a call (one sequence where it is longer), hidden size 2,048, bfloat16,
causal. The order of `PLAN` is the order of importance: a budget cuts the end off. What compiles
for long stands at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from whatwhere.errors import UnknownName, did_you_mean

__all__ = ["HEAD_DIMS", "LENGTHS", "PLAN", "TOKENS", "Case", "Job", "Line", "jobs"]

HIDDEN = 2048
TOKENS = 32768
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
HEAD_DIMS = (64, 96, 128)
WINDOW = 1024


@dataclass(frozen=True)
class Case:
    """One shape of attention.

    head_dim is the width of values and, with `features` 0, of raw queries and keys. Otherwise
    attention alone is measured, over queries and keys of `features` channels.
    mask: "causal"; "window" (causal, the last 1,024 positions); "documents" (causal, eight packed
    documents of unequal lengths).
    """

    head_dim: int
    length: int
    grouped: int = 1
    mask: str = "causal"
    features: int = 0
    tokens: int = TOKENS

    @property
    def heads(self) -> int:
        """As many as make the hidden size; at head dim 96 the nearest multiple of four."""
        return HIDDEN // self.head_dim // 4 * 4

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads // self.grouped

    @property
    def batch(self) -> int:
        """Sequences of a call."""
        return max(1, self.tokens // self.length)

    @property
    def width(self) -> int:
        """Channels of the queries and keys that the implementation is given."""
        return self.features or self.head_dim

    def flops(self, backward: bool) -> float:
        """Multiplications and additions of a causal call: 2 b h n² (f + v), or (3 f + 2 v), / 2."""
        f, v = self.width, self.head_dim
        each = 3 * f + 2 * v if backward else f + v
        return self.batch * self.heads * self.length**2 * each

    def key(self) -> dict[str, int | str]:
        """The columns of a row that name this case."""
        return {
            "head_dim": self.head_dim,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "length": self.length,
            "tokens": self.batch * self.length,
            "mask": self.mask,
            "features": self.features,
        }

    def __str__(self) -> str:
        text = f"{self.features}/{self.head_dim}" if self.features else f"d {self.head_dim}"
        text += f", {self.length // 1024}k" if self.length >= 1024 else f", {self.length}"
        text += f", GQA {self.grouped}:1" if self.grouped > 1 else ""
        return text + (f", {self.mask}" if self.mask != "causal" else "")


@dataclass(frozen=True)
class Line:
    """Implementations at cases. Seconds are estimates on an H200, for `--dry-run`: what one row
    takes, and what compiling adds at the first row of each implementation and head dim."""

    names: tuple[str, ...]
    cases: tuple[Case, ...]
    each: float = 0.7
    first: float = 0.0


@dataclass(frozen=True)
class Job:
    """One row to be: an implementation at a case, with its estimated seconds."""

    name: str
    case: Case
    seconds: float


def over(
    lengths: tuple[int, ...], head_dims: tuple[int, ...] = (64, 128), **more: int | str
) -> tuple[Case, ...]:
    """All head sizes at every length."""
    return tuple(Case(d, n, **more) for n in lengths for d in head_dims)  # type: ignore[arg-type]


MAIN = over((4096, 16384, 1024))
GROUPED = over((4096, 16384, 1024), grouped=4)
FURTHER = over((2048, 8192, 32768, 65536))
BARE = tuple(
    Case(dv, n, features=f)
    for n in (4096, 16384)
    for f, dv in ((128, 64), (256, 128), (64, 64), (128, 128))
)
GROUPED_FURTHER = over((2048, 8192, 32768, 65536), grouped=4)
MASKED = (*over((16384,), mask="documents"), *over((16384,), mask="window"))

PLAN: tuple[Line, ...] = (
    Line(("rope_cudnn", "pope_fused"), MAIN, first=5),
    Line(("pope_own", "rope_own"), MAIN, first=6),
    Line(("rope_cudnn", "pope_fused"), FURTHER, each=1.2),
    Line(("rope_cudnn", "pope_fused"), GROUPED, first=3),
    Line(("bare_cudnn", "bare_own"), BARE, each=0.5, first=4),
    Line(("rope_fused",), MAIN, first=1),
    Line(("rope_fa2",), MAIN),
    Line(("rope_cudnn", "rope_fused", "pope_fused"), over((4096, 16384), (96,)), first=6),
    Line(("pope_fused", "rope_fused", "alibi_fused"), MASKED, first=4),
    Line(("alibi_fused",), over((16384,)), first=4),
    Line(("pope_own",), MASKED, first=4),
    Line(("pope_tiled", "pope_tiled_fast", "rope_tiled"), over((4096, 16384)), each=1, first=5),
    Line(("rope_compiled_cudnn",), MAIN, each=1.9, first=2),
    Line(("pope_expand_cudnn",), (*MAIN, *over((4096,), grouped=4)), each=5.5, first=2),
    Line(("pope_own",), (*FURTHER, *GROUPED), each=0.9),
    Line(("rope_fa2",), FURTHER, each=1.2),
    Line(("rope_flex", "pope_flex"), over((4096, 16384)), each=6, first=6),
    Line(("pope_flex",), MASKED, each=6),
    Line(("alibi_flex",), over((16384,)), each=6),
    Line(("pope_package",), over((4096,), (64,)), each=37),
    Line(("pope_package",), over((4096,), (128,)), each=85),
    Line(("rope_compiled_cudnn",), (*FURTHER, *GROUPED), each=2.4),
    Line(("rope_flex", "pope_flex"), over((1024, 32768)), each=6),
    # What is left of every implementation at every length, with heads of their own and grouped.
    Line(("rope_cudnn", "pope_fused"), GROUPED_FURTHER, each=1.2),
    Line(("rope_fused",), (*FURTHER, *GROUPED, *GROUPED_FURTHER), each=1.2),
    Line(("rope_fa2",), (*GROUPED, *GROUPED_FURTHER), each=1.2),
    Line(("pope_expand_cudnn",), FURTHER, each=6),
    Line(("rope_flex", "pope_flex"), over((2048, 8192, 65536)), each=6),
    Line(("rope_flex", "pope_flex"), (*GROUPED, *GROUPED_FURTHER), each=6),
    Line(("pope_expand_cudnn",), over((16384, 1024), grouped=4), each=6),
    Line(("pope_expand_cudnn", "rope_compiled_cudnn"), GROUPED_FURTHER, each=6),
    Line(("pope_own",), GROUPED_FURTHER),
    # Without grouped heads: its own are in another order.
    Line(("pope_package",), over((1024, 2048, 8192, 16384, 32768, 65536), (64,)), each=50),
    Line(("pope_package",), over((1024, 2048, 8192, 16384, 32768, 65536), (128,)), each=110),
)


def jobs(
    names: tuple[str, ...] = (),
    lengths: tuple[int, ...] = (),
    head_dims: tuple[int, ...] = (),
    plan: tuple[Line, ...] = PLAN,
) -> list[Job]:
    """The plan as a list, narrowed to what is named (nothing named: all), most important first.

    Raises UnknownName for a name, a length or a head dim that no line has.
    """
    known = [each for line in plan for each in line.names]
    sizes = {case.length for line in plan for case in line.cases}
    dims = {case.head_dim for line in plan for case in line.cases}
    for wanted, there, kind in (
        (names, known, "implementation"),
        (tuple(map(str, lengths)), [str(n) for n in sorted(sizes)], "length"),
        (tuple(map(str, head_dims)), [str(d) for d in sorted(dims)], "head dim"),
    ):
        for each in wanted:
            if each not in there:
                raise UnknownName(did_you_mean(kind, each, list(dict.fromkeys(there))))
    return list(_jobs(set(names or known), set(lengths or sizes), set(head_dims or dims), plan))


def _jobs(
    names: set[str], lengths: set[int], head_dims: set[int], plan: tuple[Line, ...]
) -> Iterator[Job]:
    compiled: set[tuple[str, int, int, str]] = set()
    for line in plan:
        for case in line.cases:
            if case.length not in lengths or case.head_dim not in head_dims:
                continue
            for name in line.names:
                if name in names:
                    shape = (name, case.width, case.grouped, case.mask)
                    seconds = line.each + (0.0 if shape in compiled else line.first)
                    compiled.add(shape)
                    yield Job(name, case, seconds)
