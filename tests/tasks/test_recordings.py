"""A folder of recordings, one table each, becomes series: what is taken for it, what is not, and further data read alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from assay import tasks
from assay.contracts import Class, Series, Signature
from assay.errors import UserError


def recording(label: str, index: int, steps: int | None = None) -> pd.DataFrame:
    generator = np.random.default_rng(1000 * ord(label) + index)
    steps = steps or 20 + index % 5
    frame = pd.DataFrame(generator.normal(ord(label) % 7, 1, (steps, 2)).round(4), columns=["pressure", "flow"])
    frame.insert(0, "time", np.arange(steps) / 10)
    return frame


def written(folder: Path, classes: str = "abc", each: int = 8) -> Path:
    for label in classes:
        (folder / label).mkdir(parents=True)
        for index in range(each):
            recording(label, index).to_csv(folder / label / f"{index}.csv", index=False)
    return folder


def test_tables_in_class_folders_are_series(tmp_path: Path) -> None:
    task = tasks.open(written(tmp_path / "pumps"))
    assert task.signature == Signature(Series(2, 24), Class(3))
    assert task.encoding["labels"] == ["a", "b", "c"]
    assert any("24 tables in sub-folders are read as one series each, in the order of 'time'" in said for said in task.notes)
    for place, example in zip(task.source["names"], task.splits["test"]["series"], strict=True):
        file = pd.read_csv(tmp_path / "pumps" / place)
        expected = (file[["pressure", "flow"]].to_numpy() - task.encoding["mean"]) / task.encoding["deviation"]
        np.testing.assert_allclose(example[: len(file)], expected, atol=1e-5)


def test_rows_are_put_in_the_order_of_their_time(tmp_path: Path) -> None:
    whole = tasks.open(written(tmp_path / "pumps"))
    for file in (tmp_path / "pumps").glob("*/*.csv"):
        pd.read_csv(file).sample(frac=1, random_state=3).to_csv(file, index=False)
    shuffled = tasks.open(tmp_path / "pumps")
    for part in whole.splits:
        assert whole.splits[part]["series"].equal(shuffled.splits[part]["series"])


def test_given_parts_stay(tmp_path: Path) -> None:
    for part, each in (("train", 8), ("validation", 3), ("test", 4)):
        written(tmp_path / "pumps" / part, "ab", each)
    task = tasks.open(tmp_path / "pumps")
    assert [task.size(part) for part in ("train", "validation", "test")] == [16, 6, 8]


def test_further_data_are_read_alike_with_labels_or_without(tmp_path: Path) -> None:
    task = tasks.open(written(tmp_path / "pumps"))
    again = tasks.open(tmp_path / "pumps", encoding=task.encoding)
    assert again.splits["test"]["target"].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    (tmp_path / "new").mkdir()
    recording("b", 2).drop(columns="time").to_csv(tmp_path / "new" / "one.csv", index=False)
    for path in (tmp_path / "new", tmp_path / "new" / "one.csv"):
        new = tasks.open(path, encoding=task.encoding)
        assert "target" not in new.splits["test"]
        assert new.splits["test"]["series"][0].equal(again.splits["test"]["series"][10])


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.assign(kind="left"),  # words: a column of one table's rows
        lambda frame: frame.head(1),  # one row is no series
    ],
)
def test_what_is_no_recording_is_read_as_pieces_of_one_table(tmp_path: Path, change) -> None:
    for file in written(tmp_path / "pumps").glob("*/*.csv"):
        change(pd.read_csv(file)).to_csv(file, index=False)
    assert not isinstance(tasks.open(tmp_path / "pumps", target="flow", task="values").signature.input, Series)
    assert any("read as one" in said for said in tasks.open(tmp_path / "pumps", target="flow", task="values").notes)


def test_folders_of_years_and_a_named_target_are_pieces_of_one_table(tmp_path: Path) -> None:
    written(tmp_path / "pumps")
    assert not isinstance(tasks.open(tmp_path / "pumps", target="flow", task="values").signature.input, Series)
    for place, label in enumerate("abc"):
        (tmp_path / "pumps" / label).rename(tmp_path / "pumps" / str(2021 + place))
    assert any("read as one" in said for said in tasks.open(tmp_path / "pumps", task="values", target="flow").notes)


def test_parts_of_one_table_are_not_its_classes(tmp_path: Path) -> None:
    """train/ and test/ with tables in each divide the rows, as they did before recordings were known."""
    for part in ("train", "validation", "test"):
        written(tmp_path / part, "a", 4)
        for file in (tmp_path / part / "a").iterdir():
            file.rename(tmp_path / part / file.name)
        (tmp_path / part / "a").rmdir()
    task = tasks.open(tmp_path, task="values", target="flow")
    assert not isinstance(tasks.open(tmp_path).signature.input, Series)
    assert [task.size(part) for part in ("train", "validation", "test")] == [86, 86, 86]


def test_a_column_called_like_a_target_keeps_the_answer_in_the_rows(tmp_path: Path) -> None:
    for file in written(tmp_path / "sites").glob("*/*.csv"):
        pd.read_csv(file).rename(columns={"flow": "outcome"}).to_csv(file, index=False)
    assert not isinstance(tasks.open(tmp_path / "sites").signature.input, Series)


def test_a_misspelt_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tme"):
        tasks.open(written(tmp_path / "pumps"), time="tme")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.drop(columns="flow"), "no column 'flow', which the model was trained on: add it"),
        (lambda frame: frame.assign(flow=[np.inf, *frame["flow"][1:]]), "'flow'"),
        (lambda frame: frame.assign(time=[np.nan, *frame["time"][1:]]), "row 1, column 'time' holds no time"),
    ],
)
def test_a_broken_recording_is_refused_with_its_file(tmp_path: Path, change, words: str) -> None:
    task = tasks.open(written(tmp_path / "pumps"))
    change(recording("b", 2)).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(UserError, match=words) as caught:
        tasks.open(tmp_path / "new.csv", encoding=task.encoding)
    assert "new.csv" in str(caught.value)


def test_missing_numbers_lie_on_a_straight_line(tmp_path: Path) -> None:
    frame = recording("b", 2)
    frame.loc[3, "flow"] = np.nan
    task = tasks.open(written(tmp_path / "pumps"))
    frame.to_csv(tmp_path / "new.csv", index=False)
    found = tasks.open(tmp_path / "new.csv", encoding=task.encoding).splits["test"]["series"][0, :, 1]
    assert float(found[3]) == pytest.approx(float(found[2] + found[4]) / 2, abs=1e-5)
