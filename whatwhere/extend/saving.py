"""A model with its method, written so that others can run it."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from whatwhere import hf
from whatwhere.extend.models import Source

__all__ = ["save"]


def save(model: Any, source: Source, expression: str, folder: Path, in_force: bool = False) -> str:
    """Write model and tokenizer to `folder`; a sentence that says who can read it.

    Where the method has a form in `rope_parameters`, plain transformers reads it; else the config
    names the expression, and `hf.use(model)` applies it again. in_force: the model runs with it
    already. Raises FileExistsError for a folder
    that holds files.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"--save {folder} exists and is not empty; give a new folder")
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
        model.save_pretrained(folder)
    source.tokenizer.save_pretrained(folder)
    if form is not None:
        return f"saved   {folder}: plain transformers runs it as {expression}"
    return (
        f"saved   {folder}: {reason}. Load it with transformers, then whatwhere.hf.use(model) "
        f"applies {expression}"
    )
