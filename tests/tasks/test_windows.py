"""Laws of the windows: every token a target once, the same targets at every length."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from whatwhere.tasks import common_span, windows


def test_windows_of_a_drawn_example():
    inputs, targets = windows(torch.arange(10, 19), 4)  # the drawing in the module's docstring
    assert inputs.tolist() == [[10, 11, 12, 13], [14, 15, 16, 17]]
    assert targets.tolist() == [[11, 12, 13, 14], [15, 16, 17, 18]]


@settings(deadline=None)  # a busy machine is no fault
@given(tokens=st.integers(2, 300), length=st.integers(1, 60), limit=st.integers(1, 400))
def test_targets_are_a_prefix_and_follow_their_inputs(tokens, length, limit):
    bound = min(tokens - 1, limit)
    assume(bound >= length)
    inputs, targets = windows(torch.arange(tokens), length, limit)
    scored = bound // length * length
    assert inputs.shape == targets.shape == (bound // length, length)
    assert inputs.flatten().tolist() == list(range(scored))
    assert targets.flatten().tolist() == list(range(1, scored + 1))


@settings(deadline=None)  # a busy machine is no fault
@given(tokens=st.integers(2, 500), lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_a_common_span_scores_the_same_targets_at_every_length(tokens, lengths):
    stream = torch.arange(tokens)
    try:
        span = common_span(tokens, lengths)
    except ValueError:
        fits = [n for n in range(1, tokens) if all(n % length == 0 for length in lengths)]
        assert not fits
        return
    scored = {tuple(windows(stream, length, span)[1].flatten().tolist()) for length in lengths}
    assert scored == {tuple(range(1, span + 1))}
    longer = range(span + 1, tokens)
    assert not [n for n in longer if all(n % length == 0 for length in lengths)]


def test_a_limit_bounds_the_common_span():
    assert common_span(1000, [16, 64]) == 960
    assert common_span(1000, [16, 64], limit=200) == 192
    assert common_span(961, [16, 64]) == 960  # 961 tokens have 960 targets
    assert common_span(960, [16, 64]) == 896


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: windows(s, 0), "length=0 must be at least 1"),
        (lambda s: windows(s, 10), "length=10 does not fit: a stream of 10 tokens has at most 9"),
        (lambda s: windows(s, 5, limit=4), "limit=4 has at most 4 targets"),
        (lambda s: windows(s, 5, limit=0), "limit=0 must be at least 1"),
        (lambda s: windows(s[:0], 1), "0 tokens has at most 0"),
        (lambda s: common_span(10, [4, 6]), "a multiple of 12"),
        (lambda s: common_span(10, []), "lengths is empty"),
        (lambda s: common_span(10, [4, 0]), "lengths=0 must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.arange(10))
