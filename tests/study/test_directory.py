"""One directory, one configuration, one writer."""

import pytest
import torch
from study.toy import toy_config, toy_task

from whatwhere.study import open_directory
from whatwhere.tasks import Task

TASK = toy_task()


def test_another_configuration_is_refused_by_field(tmp_path):
    open_directory(tmp_path / "o", toy_config(), TASK).close()
    with pytest.raises(ValueError, match="steps was 6 and is now 7; lr was") as error:
        open_directory(tmp_path / "o", toy_config(steps=7, lr=0.1), TASK)
    assert "width" not in str(error.value)
    assert "--out" in str(error.value)
    open_directory(tmp_path / "o", toy_config(), TASK).close()


def test_the_selection_may_change(tmp_path):
    open_directory(tmp_path, toy_config(), TASK).close()
    open_directory(tmp_path, toy_config(encodings=("pope",), seeds=(4, 5)), TASK).close()


def test_other_data_is_another_configuration(tmp_path):
    open_directory(tmp_path, toy_config(), TASK).close()
    stream = TASK.train.clone()
    stream[17] = (stream[17] + 1) % 11
    other = Task("toy", 11, stream, TASK.valid, TASK.test, "token", "a toy")
    with pytest.raises(ValueError, match="data was 'toy "):
        open_directory(tmp_path, toy_config(), other)


def test_one_writer_at_a_time(tmp_path):
    pytest.importorskip("fcntl")
    with (
        open_directory(tmp_path, toy_config(), TASK),
        pytest.raises(ValueError, match="in use by another run"),
    ):
        open_directory(tmp_path, toy_config(), TASK)
    open_directory(tmp_path, toy_config(), TASK).close()


def test_foreign_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"holds thesis\.tex"):
            open_directory(tmp_path, toy_config(), TASK, resume)
    with pytest.raises(FileExistsError, match="is a file"):
        open_directory(tmp_path / "thesis.tex", toy_config(), TASK)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_starting_again_sets_the_rows_aside(tmp_path):
    with open_directory(tmp_path, toy_config(), TASK) as directory:
        row = {"encoding": "rope", "seed": 0, "eval_length": 8, "mode": "m", "metric": "nll"}
        directory.add(row)
        directory.add_curve("rope", 0, [[1, 0.5, 0.25]])
        path = directory.checkpoint("rope", 0)
        path.parent.mkdir()
        torch.save({}, path)
    with open_directory(tmp_path, toy_config(steps=9), TASK, resume=False) as directory:
        assert directory.done == {}
        assert not path.exists()
        assert (tmp_path / "rows.previous").read_text().count("\n") == 1
    with pytest.raises(ValueError, match="steps was 9 and is now 6"):
        open_directory(tmp_path, toy_config(), TASK)


def test_curves_are_kept_beside_one_another(tmp_path):
    with open_directory(tmp_path, toy_config(), TASK) as directory:
        directory.add_curve("rope", 0, [[1, 2.5, 2.0]])
        directory.add_curve("pope(magnitude=relu,partial=0.5)", 0, [[1, 2.25, 1.5]])
    with open_directory(tmp_path, toy_config(), TASK) as directory:
        directory.add_curve("rope", 0, [[1, 2.5, 2.0], [2, 1.5, 1.0]])
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert lines == [
        "encoding,seed,step,train_nll,valid_nll",
        '"pope(magnitude=relu,partial=0.5)",0,1,2.25,1.5',
        "rope,0,1,2.5,2.0",
        "rope,0,2,1.5,1.0",
    ]


def test_checkpoints_of_different_encodings_have_different_names(tmp_path):
    with open_directory(tmp_path, toy_config(), TASK) as directory:
        texts = ["rope", "rope(layout=half)", "rope(layout='half')", "rope-layout-half"]
        names = {directory.checkpoint(text, seed).name for text in texts for seed in (0, 1)}
    assert len(names) == 8
    assert "rope.seed0.pt" in names
