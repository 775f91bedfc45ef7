"""PoPE, tables 1 and 9: indirect indexing. See README.md.

python studies/pope_table_1/study.py --dry-run
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whatwhere.cli.reproduce import main
from whatwhere.study.cells import Cell, Evaluation, Study
from whatwhere.study.recipes import recipe
from whatwhere.tasks.indirect import shifts

HERE = Path(__file__).parent

ANSWER: dict[str, Any] = {"score": "answer"}  # whatever the training's loss was
TEST = Evaluation(metrics=("accuracy", "nll"), drawn=ANSWER)


def beyond(probe: str, **drawn: Any) -> Evaluation:
    """Accuracy on examples of another kind than any that was trained on."""
    return Evaluation(metrics=("accuracy",), drawn={**ANSWER, **drawn}, probe=probe)


EVALUATIONS = (
    TEST,
    beyond("shifts 16-30", shifts=shifts(16, 30)),
    beyond("strings 41-52", lengths=(41, 52)),
    beyond("padded to 68", width=68),
)


# Are shifts learned one by one? The paper's cells have no such rows: five seeds of two of them were
# trained before the question.
BY_SHIFT = tuple(beyond(f"shift {s:+d}", shifts=(s,), test=1000) for s in shifts(0, 15))


def cell(name: str, encoding: str, about: str = "", **more: Any) -> Cell:
    """Ten seeds, five at a time. `more`: fields of a Cell, and changes of the configuration."""
    own = {key: more.pop(key) for key in ("shown", "columns", "drawn") if key in more}
    config = recipe("indirect", seeds=tuple(range(10)), **more)
    asked = EVALUATIONS + BY_SHIFT * bool(about)  # what the paper has needs no word
    return Cell(name, encoding, config, "indirect", asked, stacked=5, about=about, **own)


PAPER = (
    cell("pope", "pope(delta_init=uniform)"),
    cell("rope", "rope"),
    cell("rope_half", "rope(partial=0.5)"),
    cell("alibi_half", "alibi(heads=0.5)", shown="alibi", columns={"alibi_heads": 0.5}),
    cell("learned", "learned"),
    cell("sinusoidal", "sinusoidal"),
)

UNIFORM, FREE = "pope(delta_init=uniform)", "pope(delta_init=uniform,delta_bound=free)"
STRAIGHT = "pope(delta_init=uniform,delta_bound=straight_through)"

BEYOND = (
    cell("pope_free", FREE, "δ without a clamp: no dead zone, the same family of functions"),
    cell("pope_straight", STRAIGHT, "the clamp's values with a gradient everywhere"),
    cell("pope_zero", "pope", "δ starts at 0, where the clamp's gradient ends"),
    cell("pope_zero_free", "pope(delta_bound=free)", "δ starts at 0, without a clamp"),
    cell("pope_none", "pope(delta_init=none)", "no δ"),
    cell("nope", "nope", "the floor: the causal mask alone tells order"),
    cell("pope_qk", UNIFORM, "queries and keys normalized", qk_norm=True),
    cell("rope_qk", "rope", "is it QK-norm, or PoPE with it?", qk_norm=True),
    cell("pope_fresh", UNIFORM, "new examples for ever: nothing to memorize",
         drawn={"train": None}),
    cell("rope_fresh", "rope", "new examples for ever", drawn={"train": None}),
    cell("pope_fast", UNIFORM, "three times the rate", lr=6e-4),
    cell("pope_slow", UNIFORM, "half the rate: three times it kept all seeds waiting", lr=1e-4),
    cell("pope_decay", UNIFORM, "ten times the weight decay", weight_decay=0.1),
    cell("pope_warm", UNIFORM, "a warm-up of 20,000 steps", warmup=20_000),
    cell("pope_all", UNIFORM, "the loss of every token, not of the answer alone",
         drawn={"score": "all"}),
    cell("pope_right", UNIFORM, "padding on the right: the paper names no side",
         drawn={"pad": "right"}),
    cell("pope_33", UNIFORM, "strings of 20 to 33 letters: what the paper's 40 tokens hold",
         drawn={"lengths": (20, 33)}, train_length=40, valid_tokens=40 * 2048),
    cell("pope_200k", UNIFORM, "twice the steps: 7 of 8 seeds in a replication", steps=200_000),
)  # fmt: skip

STUDY = Study(HERE.name, HERE, PAPER + BEYOND)

if __name__ == "__main__":
    main(HERE)
