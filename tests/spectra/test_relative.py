"""A new spectrum decides whether a rescaled encoding is relative; the replaced one does not."""

import whatwhere as ww


def made(text: str) -> bool:
    return ww.make(text, heads=2, head_dim=8, train_length=16).relative


def test_the_spectrum_in_use_decides() -> None:
    inner = "rope(spectrum=longrope(factor=4, n_hat=4, long_factor=[1, 2, 3, 4]))"
    assert not made(inner)
    assert made(inner + "+yarn(factor=4, base=10000)")
    assert not made("rope+longrope(factor=4, n_hat=4, long_factor=[1, 2, 3, 4])")
    assert not made("rope(values=absolute)+yarn(factor=4)")


def test_a_word_that_is_also_a_spectrum_is_read_as_the_option_wants_it() -> None:
    text = "rope(spectrum=longrope(factor=4, long_factor=[1, 2, 3, 4], attention_factor=yarn))"
    made = ww.make(text, heads=2, head_dim=8, train_length=16)
    again = ww.make(str(ww.encodings.parse(text)), heads=2, head_dim=8, train_length=16)
    assert made.spectrum == again.spectrum
    assert dict(made.spectrum.options)["attention_factor"] == "yarn"
