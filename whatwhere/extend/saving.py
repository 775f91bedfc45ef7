"""A model with its method, written so that others can run it."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from whatwhere import hf
from whatwhere.extend.models import Source

__all__ = ["free", "save"]


def save(
    model: Any,
    source: Source,
    expression: str,
    folder: Path,
    in_force: bool = False,
    length: int | None = None,
) -> str:
    """Write model and tokenizer to `folder`; a sentence that says who can read it.

    Where the method has a form in `rope_parameters`, plain transformers reads it; else the config
    names the expression, and `hf.use(model)` applies it again. in_force: the model runs with it
    already. length: the longest text that it is meant for. Raises what `free` raises.
    """
    free(folder)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    try:
        form: Any = hf.to_rope_parameters(expression, source.config)
        reason = ""
    except ValueError as error:
        form, reason = None, str(error)
    used = (
        nullcontext() if in_force else hf.use(model, expression, train_length=source.train_length)
    )
    with used, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said below, in our own words
        with _reaching(model, length if _plain(form) else None):
            model.save_pretrained(folder)
    source.tokenizer.save_pretrained(folder)
    if form is not None:
        return f"saved   {folder}: plain transformers runs it as {expression}"
    return (
        f"saved   {folder}: {reason}. Load it with transformers, then whatwhere.hf.use(model) "
        f"applies {expression}"
    )


def free(folder: Path) -> None:
    """FileExistsError for a file, or a folder that holds files."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"--save {folder} exists and is not empty; give a new folder")


def _plain(form: Mapping[str, Any] | None) -> bool:
    """Whether the form is nothing but a base, which says nothing about a length."""
    if form is None:
        return False
    each = form.values() if "rope_type" not in form else [form]
    return all(one["rope_type"] == "default" for one in each)


@contextmanager
def _reaching(model: Any, length: int | None) -> Generator[None]:
    """Let the config name this length, if it is longer: vLLM serves no longer one."""
    config = model.config.get_text_config()
    before = config.max_position_embeddings
    config.max_position_embeddings = max(before, length or 0)
    try:
        yield
    finally:
        config.max_position_embeddings = before
