"""PoPE: arXiv 2509.10534 v3, Eqs. 3-10 by loops, and numbers of the package PoPE-pytorch.

score_ij = Σ_c softplus(q_c) softplus(k_c) cos((j - i) θ_c + δ_c) / √d over all d channels,
θ_c = base^(-c/d): the printed exponent has the wrong sign, the scale is not printed (pope.md §1).
"""

from __future__ import annotations

import math

import pytest
import torch
from golden.naive import EXACT, attention, close, scores, table, wave

import whatwhere as ww

H, N, D = 3, 4, 6
Q, K, V = wave(H, N, D, 0.1), wave(H, N, D, 1.1), wave(H, N, D, 2.1)
AT = [0, 1, 5, 1000]
TAU = 2 * math.pi


def delta(h: int, c: int) -> float:
    """Mostly inside [-2π, 0]; (0, 0) is +0.5, which the paper's clamp turns into 0."""
    return -0.4 * h - 0.3 * c + (0.5 if (h + c) % 3 == 0 else 0.0)


def pope(options: str = "", given: bool = True, kv_heads: int | None = None) -> ww.Encoding:
    enc = ww.make(f"pope({options})", heads=H, head_dim=D, kv_heads=kv_heads).double()
    if given:
        with torch.no_grad():
            enc.delta.copy_(table(lambda h, c, _: delta(h, c), H, D, 1)[..., 0])
    return enc


def theta(c: int, d: int = D) -> float:
    return 10000.0 ** (-c / d)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def turn(h: int, c: int) -> float:
    return min(0.0, max(-TAU, delta(h, c)))


def cosine_form(h: int, i: int, j: int, groups: int = H) -> float:
    """Eq. 6, over √d."""
    q, k = Q[0, h, i].tolist(), K[0, h // (H // groups), j].tolist()
    return math.fsum(
        softplus(q[c]) * softplus(k[c]) * math.cos((AT[j] - AT[i]) * theta(c) + turn(h, c))
        for c in range(D)
    ) / math.sqrt(D)


def cartesian_form(h: int, i: int, j: int) -> float:
    """Eqs. 7-10: x = μ cos φ, y = μ sin φ, and δ on the key's phase; over √d."""
    total = 0.0
    for c in range(D):
        q, k = softplus(Q[0, h, i, c].item()), softplus(K[0, h, j, c].item())
        phi, psi = AT[i] * theta(c), AT[j] * theta(c) + turn(h, c)
        total += q * math.cos(phi) * k * math.cos(psi) + q * math.sin(phi) * k * math.sin(psi)
    return total / math.sqrt(D)


def test_equation_6_by_loops() -> None:
    close(scores(pope().rule(), Q, K, AT), table(cosine_form, H, N, N), EXACT)


def test_equations_7_to_10_by_loops() -> None:
    close(scores(pope().rule(), Q, K, AT), table(cartesian_form, H, N, N), EXACT)


def test_attention_by_loops() -> None:
    causal = scores(pope().rule(), Q, K, AT, causal=True)
    at = torch.tensor(AT)
    expected = attention(causal, lambda h, i, j: V[0, h, j].tolist())
    close(ww.attend(Q, K, V, pope().rule(), q_pos=at, k_pos=at)[0], expected, EXACT)


# apply_pope_to_qk of PoPE-pytorch 0.2.1 (MIT; einops 0.8.2, torch 2.13) in float64 on Q, K, AT and
# delta above, its inv_freqs recomputed in float64; then flash_attn_with_pope(causal=True), last
# query. No grouped heads, no chunks: there it is wrong (pope.md §6.1). Its score is unscaled.
PACKAGE_SCORES = [
    [
        [5.217504412007, 2.793085310977, 1.269701863006, 0.501640884491],
        [5.025216023815, 3.851357982401, 0.797287844912, 0.519390322649],
        [1.587375714693, 0.136506667213, 1.015225041405, 0.112029934178],
        [-1.116531419848, -0.218712870142, -0.422683253951, 0.701712780182],
    ],
    [
        [3.071853801903, 1.594240500821, 1.209636031467, 0.210649717942],
        [1.127201118619, 1.321554885179, 0.364863733244, 0.919636228353],
        [0.646566692727, 0.155849980214, 0.729798564702, 0.907656446181],
        [-0.989588330463, -0.9532772185, -1.908947279205, 1.480792174127],
    ],
    [
        [0.437321557909, 0.373799402038, 0.33134247359, 1.598608782941],
        [-1.077049969833, -0.180728796056, -0.171356630585, 0.934296353578],
        [-0.245141716746, -0.415843993412, 0.150324210945, 0.977330934825],
        [-1.191516614312, -0.626947719215, -1.01571906008, 1.138772920107],
    ],
]
PACKAGE_OUTPUT = [
    [-0.241835652344, -0.219251142122, -0.166992018367, -0.09213130832, -0.004801057901,
     0.083178993183],
    [0.015334324719, 0.186881284232, 0.260677580521, 0.198123110129, 0.031937794655,
     -0.150952995753],
    [0.088814042541, 0.24601491839, 0.129972690964, -0.130427210592, -0.245964613536,
     -0.088314785648],
]  # fmt: skip


def test_package_numbers() -> None:
    got = scores(pope().rule(), Q, K, AT, scale=1.0)
    close(got, torch.tensor(PACKAGE_SCORES, dtype=torch.float64), 2e-12)
    at = torch.tensor(AT)
    out = ww.attend(Q, K, V, pope().rule(), q_pos=at, k_pos=at)[0, :, -1]
    close(out, torch.tensor(PACKAGE_OUTPUT, dtype=torch.float64), 2e-12)


def test_without_delta_it_is_rope_over_twice_the_width() -> None:
    """Identity 3: pairs (softplus(x_c), 0), frequencies base^(-2c/2d), scale d^-0.5."""
    pairs = [
        torch.stack((torch.log1p(x.exp()), torch.zeros_like(x)), dim=-1).flatten(-2) for x in (Q, K)
    ]
    rope = ww.make("rope(layout=interleaved)", heads=H, head_dim=2 * D).rule()
    expected = scores(rope, *pairs, AT, scale=D**-0.5)
    close(scores(pope(given=False).rule(), Q, K, AT), expected, EXACT)
    close(scores(pope("delta_init=none", given=False).rule(), Q, K, AT), expected, EXACT)


def test_delta_belongs_to_query_heads_under_gqa() -> None:
    """Identity 4: δ per query head, over KV head h // 3, as if it stood on repeated keys."""
    got = scores(pope(kv_heads=1).rule(), Q, K[:, :1], AT)
    close(got, table(lambda h, i, j: cosine_form(h, i, j, groups=1), H, N, N), EXACT)


def test_bound_and_equality() -> None:
    """Identity 8: |score| <= Σ μ μ / √d, reached at equal positions with δ = 0."""
    sizes = [torch.log1p(x.exp()) for x in (Q, K)]
    bound = (sizes[0] @ sizes[1].mT)[0] / math.sqrt(D)
    assert bool((scores(pope().rule(), Q, K, AT).abs() < bound).all())
    close(scores(pope(given=False).rule(), Q, K, [7] * N), bound, EXACT)


def test_frequencies() -> None:
    """[num] d = 64, base 1e4: slowest 1.1548e-4 rad/token (54,410 tokens), fastest 1."""
    enc = ww.make("pope", heads=1, head_dim=64)
    turns = enc.phases.turns.double() / 2.0**64 * TAU
    assert len(turns) == 64
    assert math.isclose(turns[-1], 1.1548e-4, rel_tol=1e-4)
    assert math.isclose(TAU / turns[-1], 54_410, abs_tol=0.5)
    assert math.isclose(turns[0], 1.0, rel_tol=1e-15)
    rope = ww.make("rope", heads=1, head_dim=64).phases.turns.double() / 2.0**64 * TAU
    assert math.isclose(rope[-1], 1.3335e-4, rel_tol=1e-4)


@pytest.mark.parametrize(
    ("bound", "dead"), [("clamp", True), ("straight_through", False), ("free", False)]
)
def test_dead_zone_of_the_clamp(bound: str, dead: bool) -> None:
    """[num] pope.md §1.2: no gradient once δ > 0, a gradient at exactly 0 and inside."""
    enc = pope(f"delta_bound={bound}", given=False)
    with torch.no_grad():
        enc.delta.copy_(torch.tensor([0.25, 0.0, -1.0, -TAU, 1e-3, -3.0], dtype=torch.float64))
    scores(enc.rule(), Q, K, AT).square().sum().backward()
    zero = [dead, False, False, False, dead, False]
    for c, expected in enumerate(zero):
        assert bool((enc.delta.grad[:, c] == 0).all()) == expected, (bound, c)


def test_values_of_the_bounds() -> None:
    with_positive = torch.tensor([0.25, 0.0, -1.0, -7.0, 1e-3, -3.0]).expand(H, D).double()
    clamped = torch.tensor([0.0, 0.0, -1.0, -TAU, 0.0, -3.0]).expand(H, D).double()
    for bound, expected in (
        ("clamp", clamped), ("straight_through", clamped), ("free", with_positive),
    ):  # fmt: skip
        enc = pope(f"delta_bound={bound}", given=False)
        with torch.no_grad():
            enc.delta.copy_(with_positive)
        close(enc.bounded_delta().detach(), expected, 1e-6)


def test_a_full_turn_of_delta_changes_nothing() -> None:
    """Identity 9, before the clamp."""
    free = pope("delta_bound=free")
    before = scores(free.rule(), Q, K, AT)
    with torch.no_grad():
        free.delta.add_(3 * TAU)
    close(scores(free.rule(), Q, K, AT), before, 10 * EXACT)


def test_initial_delta() -> None:
    assert bool((ww.make("pope", heads=H, head_dim=D).delta == 0).all())
    uniform = ww.make("pope(delta_init=uniform)", heads=64, head_dim=64).delta
    assert -TAU <= uniform.min() < -TAU + 0.05
    assert -0.05 < uniform.max() <= 0


@pytest.mark.parametrize("magnitude", ["softplus", "relu", "identity"])
def test_magnitudes_of_the_ablations(magnitude: str) -> None:
    """Table 5: σ = softplus, ReLU, or none."""
    size = {"softplus": softplus, "relu": lambda x: max(0.0, x), "identity": lambda x: x}[magnitude]

    def number(h: int, i: int, j: int) -> float:
        q, k = Q[0, h, i].tolist(), K[0, h, j].tolist()
        return math.fsum(
            size(q[c]) * size(k[c]) * math.cos((AT[j] - AT[i]) * theta(c) + turn(h, c))
            for c in range(D)
        ) / math.sqrt(D)

    got = scores(pope(f"magnitude={magnitude}").rule(), Q, K, AT)
    close(got, table(number, H, N, N), EXACT)


def test_partial_by_loops() -> None:
    """The first floor(d/2) channels get phases (a ladder of their own), the rest match plainly."""
    enc = pope("partial=0.5,delta_init=none", given=False)

    def number(h: int, i: int, j: int) -> float:
        q, k = Q[0, h, i].tolist(), K[0, h, j].tolist()
        turned = math.fsum(
            softplus(q[c]) * softplus(k[c]) * math.cos((AT[j] - AT[i]) * theta(c, 3))
            for c in range(3)
        )
        return (turned + math.fsum(q[c] * k[c] for c in range(3, D))) / math.sqrt(D)

    close(scores(enc.rule(), Q, K, AT), table(number, H, N, N), EXACT)


def test_still_angles_leave_magnitudes() -> None:
    """All θ = 0 and δ = 0: softplus(q) · softplus(k) / √d. A factor of 1e15 stops the clock."""
    enc = ww.make("pope+linear(factor=1000000000000000)", heads=H, head_dim=D)
    sizes = [torch.log1p(x.exp()) for x in (Q, K)]
    close(scores(enc.rule(), Q, K, AT), (sizes[0] @ sizes[1].mT)[0] / math.sqrt(D), EXACT)
