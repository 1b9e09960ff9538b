"""Every row of the table of rules is proven with a real file: it refuses, mends or warns, and says what, where and what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from assay import tasks
from assay.errors import UserError
from assay.tasks.rules import RULES, as_markdown, note, refuse

GENERATOR = np.random.default_rng(0)


def picture(path: Path, size=(9, 8), mode="RGB", value=None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = GENERATOR.integers(0, 255, (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0]))
    pixels = pixels if value is None else np.full_like(pixels, value)
    Image.fromarray(pixels.astype(np.uint8), mode=mode).save(path)


def pictures(folder: Path, count=12, classes=("cat", "dog"), **options) -> Path:
    for index in range(count):
        picture(folder / classes[index % len(classes)] / f"{index:02d}.png", **options)
    return folder


def table(path: Path, rows=40, **columns) -> Path:
    frame = pd.DataFrame({"a": np.arange(rows) * 1.5 % 7, "b": GENERATOR.normal(size=rows), "label": ["x", "y"] * (rows // 2), **columns})
    frame.to_csv(path, index=False)
    return path


def texts(folder: Path, count=20) -> Path:
    for index in range(count):
        (folder / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "ab"[index % 2] / f"{index}.txt").write_text(f"text {index}")
    return folder


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --------------------------------------------------------------- refused: a maker, and words of the sentence


def _missing(t: Path):
    table(t / "customers.csv")
    return t / "custmers.csv", {}, ["custmers.csv does not exist", "did you mean", "customers.csv"]


def _unreadable(t: Path):
    path = table(t / "secret.csv")
    path.chmod(0o000)
    return path, {}, ["secret.csv may not be read", "chmod"]


def _loop(t: Path):
    (t / "a").symlink_to(t / "b")
    (t / "b").symlink_to(t / "a")
    return t / "a", {}, ["symbolic link"]


def _empty_file(t: Path):
    return write(t / "none.csv", ""), {}, ["none.csv is empty (0 bytes)"]


def _empty_folder(t: Path):
    (t / "nothing").mkdir()
    write(t / "nothing" / ".DS_Store", "x")
    return t / "nothing", {}, ["nothing is a folder without any data file"]


def _unknown_kind(t: Path):
    return write(t / "slides.xlsx", "x"), {}, ["slides.xlsx", "CSV or Parquet"]


def _unknown_task(t: Path):
    return table(t / "t.csv"), {"task": "forcast"}, ["'forcast'", "did you mean forecast?"]


def _unused_option(t: Path):
    return "digits", {"target": "x"}, ["digits", "takes no --target"]


def _wrong_kind(t: Path):
    encoding = tasks.open(pictures(t / "p")).encoding
    return table(t / "t.csv"), {"encoding": encoding}, ["holds a table", "trained on pictures"]


def _non_utf8(t: Path):
    rows = "\n".join(f"{index},word{index}" for index in range(30))
    return write(t / "latin.csv", b"a,b\n" + rows.encode() + b"\n7,caf\xe9\n"), {}, ["0xe9", "line 32", "save the file as UTF-8"]


def _one_class(t: Path):
    return pictures(t / "p", classes=("cat",)), {}, ["one class only", "'cat'"]


def _fewer_rows(t: Path):
    path = table(t / "t.csv", name=[f"kind {index}" for index in range(40)])
    return path, {"target": "name", "task": "classes"}, ["40 examples for 40 classes", "'name'"]


def _too_few(t: Path):
    return table(t / "t.csv", rows=4), {}, ["4 examples"]


def _unknown_label(t: Path):
    encoding = tasks.open(table(t / "old.csv")).encoding
    return table(t / "new.csv", label=["x", "z"] * 20), {"encoding": encoding}, ["row 2", "'z'", "'x', 'y'"]


def _bad_split(t: Path):
    return table(t / "t.csv", split=["validation", "test"] * 20), {}, ["no training part", "validation and test"]


def _broken_picture(t: Path):
    folder = pictures(t / "p")
    whole = (folder / "cat" / "00.png").read_bytes()
    write(folder / "cat" / "00.png", whole[: len(whole) // 2])
    write(folder / "dog" / "notes.txt", "no picture")
    return folder, {}, ["2 of 13 files", "cat/00.png", "truncated"]


def _no_classes(t: Path):
    for index in range(5):
        picture(t / "flat" / f"{index}.png")
    return t / "flat", {}, ["5 pictures but no labels", "sub-folder", "CSV"]


def _picture_not_found(t: Path):
    pictures(t / "p", classes=("all",))
    rows = "".join(f"all/{index:02d}.png,{index % 2}\n" for index in range(12))
    write(t / "p" / "labels.csv", "file,label\n" + rows + "all/99.png,1\n")
    return t / "p", {}, ["labels.csv, row 13", "all/99.png"]


def _ragged(t: Path):
    return write(t / "r.csv", "a,b,c\n1,2,3\n4,5\n6,7,8\n9\n"), {}, ["row 2 (line 3) has 2 cells where the header has 3", "and 1 more"]


def _no_rows(t: Path):
    return write(t / "r.csv", "a,b,c\n"), {}, ["header but no rows"]


def _bad_line(t: Path):
    return write(t / "r.jsonl", '{"a": 1, "b": 2}\n{"a": 1, "b"}\n'), {}, ["line 2 is not a JSON object"]


def _broken_table(t: Path):
    return write(t / "r.parquet", b"PAR1 and then rubbish"), {}, ["r.parquet cannot be read as Parquet"]


def _infinite(t: Path):
    values = GENERATOR.normal(size=40)
    values[6] = np.inf
    return table(t / "t.csv", c=values), {"target": "label"}, ["row 7, column 'c' is infinite"]


def _unknown_column(t: Path):
    return table(t / "t.csv"), {"target": "lable"}, ["no column 'lable' for --target", "did you mean 'label'?"]


def _no_target_column(t: Path):
    frame = pd.DataFrame({"id": [f"N{index:03d}" for index in range(40)], "born": pd.date_range("2000-01-01", periods=40)[::-1]})
    frame.to_csv(t / "t.csv", index=False)
    return t / "t.csv", {}, ["no column that could be the target", "'id', 'born'"]


def _unreadable_picture(t: Path):
    folder = pictures(t / "p")
    (folder / "cat" / "00.png").chmod(0o000)
    return folder, {}, ["cat/00.png may not be read", "chmod"]


def _unreadable_folder(t: Path):
    folder = pictures(t / "p")
    (folder / "cat").chmod(0o000)
    return folder, {}, ["p/cat may not be read", "chmod"]


def _loop_in_folder(t: Path):
    folder = pictures(t / "p")
    (folder / "cat" / "again").symlink_to(folder)
    return folder, {}, ["cat/again is a symbolic link"]


def _unusable_target(t: Path):
    path = table(t / "t.csv", born=pd.date_range("2000-01-01", periods=40).astype(str)[::-1])
    return path, {"target": "born", "task": "values"}, ["'born' cannot be the target", "dates"]


def _no_features(t: Path):
    pd.DataFrame({"id": range(40), "label": ["x", "y"] * 20}).to_csv(t / "t.csv", index=False)
    return t / "t.csv", {}, ["no column left to predict 'label' from", "id (an id)"]


def _nested(t: Path):
    lines = [json.dumps({"a": index, "b": [1, 2], "label": index % 2}) for index in range(20)]
    return write(t / "n.jsonl", "\n".join(lines)), {}, ["row 1, column 'b' holds a list"]


def _lost_column(t: Path):
    encoding = tasks.open(table(t / "old.csv")).encoding
    new = pd.read_csv(table(t / "new.csv")).drop(columns="b")
    new.to_csv(t / "new.csv", index=False)
    return t / "new.csv", {"encoding": encoding}, ["no column 'b'"]


def _short_text(t: Path):
    return write(t / "s.txt", "too short"), {}, ["9 bytes"]


def _bad_tokenizer(t: Path):
    write(t / "tokenizer.json", "{}")
    return write(t / "s.txt", "long enough " * 100), {}, ["tokenizer.json is not a tokenizer file"]


def _broken_dataset(t: Path):
    write(t / "hf" / "dataset_info.json", "{}")
    write(t / "hf" / "state.json", "{}")
    return t / "hf", {}, ["cannot be loaded as a Hugging Face data set"]


REFUSED: dict[str, Callable] = {
    "missing-path": _missing,
    "unreadable": _unreadable,
    "symlink-loop": _loop,
    "empty-file": _empty_file,
    "empty-folder": _empty_folder,
    "unknown-kind": _unknown_kind,
    "unknown-task": _unknown_task,
    "unused-option": _unused_option,
    "wrong-kind": _wrong_kind,
    "non-utf-8": _non_utf8,
    "one-class": _one_class,
    "fewer-rows-than-classes": _fewer_rows,
    "too-few-examples": _too_few,
    "unknown-label": _unknown_label,
    "bad-split": _bad_split,
    "broken-picture": _broken_picture,
    "no-classes": _no_classes,
    "picture-not-found": _picture_not_found,
    "ragged-row": _ragged,
    "no-rows": _no_rows,
    "bad-line": _bad_line,
    "broken-table": _broken_table,
    "infinite-value": _infinite,
    "unknown-column": _unknown_column,
    "no-target-column": _no_target_column,
    "unusable-target": _unusable_target,
    "no-features": _no_features,
    "nested-column": _nested,
    "lost-column": _lost_column,
    "short-text": _short_text,
    "bad-tokenizer": _bad_tokenizer,
    "broken-dataset": _broken_dataset,
}


# --------------------------------------------------------------- imputed or warned: a maker, and words of a note


def _duplicates(t: Path):
    folder = pictures(t / "p", count=20)
    for index in range(3):
        (folder / "cat" / f"copy{index}.png").write_bytes((folder / "cat" / "00.png").read_bytes())
    return folder, {}, ["3 of 23 examples are exact copies"]


def _across(t: Path):
    folder = t / "p"
    for part in ("train", "test"):
        pictures(folder / part, count=20)
    (folder / "train" / "cat" / "copy.png").write_bytes((folder / "test" / "cat" / "00.png").read_bytes())
    return folder, {}, ["1 examples are exact copies of validation or test examples"]


def _repeating(t: Path):
    frame = pd.DataFrame({"a": GENERATOR.integers(0, 3, 300), "b": GENERATOR.integers(0, 3, 300), "label": GENERATOR.integers(0, 2, 300)})
    frame.to_csv(t / "t.csv", index=False)
    return t / "t.csv", {}, ["291 of 300 rows repeat"]


def _contradicting(t: Path):
    folder = pictures(t / "p", count=20)
    (folder / "dog" / "copy.png").write_bytes((folder / "cat" / "00.png").read_bytes())
    return folder, {}, ["1 examples are exact copies of one with a different label"]


def _only_in_test(t: Path):
    split, label = ["train"] * 30 + ["test"] * 10, ["x", "y"] * 15 + ["x", "z"] * 5
    return table(t / "t.csv", split=split, label=label), {}, ["'z' appears in validation or test but never in training"]


def _rare(t: Path):
    return table(t / "t.csv", label=["x", "y"] * 19 + ["z", "x"]), {}, ["'z' has fewer than three examples"]


def _no_target(t: Path):
    return table(t / "t.csv", label=["x", "y", None, "x"] * 10), {"target": "label"}, ["10 of 40 rows have no 'label'", "first: row 3"]


def _empty_class(t: Path):
    folder = pictures(t / "p")
    (folder / "horse").mkdir()
    return folder, {}, ["'horse' has no file"]


def _unlisted(t: Path):
    pictures(t / "p", classes=("all",), count=13)
    write(t / "p" / "labels.csv", "file,label\n" + "".join(f"{index:02d},{index % 2}\n" for index in range(12)))
    return t / "p", {}, ["1 pictures are not named in labels.csv", "all/12.png"]


def _large(t: Path):
    return pictures(t / "p", size=(200, 100)), {}, ["12 of 12 pictures are larger than 32×64", "100×200"]


def _unequal(t: Path):
    folder = pictures(t / "p")
    picture(folder / "cat" / "big.png", size=(20, 30))
    return folder, {}, ["8×9 to 30×20", "resized to 8×9, the median"]


def _transparent(t: Path):
    return pictures(t / "p", mode="RGBA"), {}, ["12 pictures have transparent parts"]


def _missing_numbers(t: Path):
    return table(t / "t.csv", c=[1.0, np.nan, 2.0, 3.0] * 10), {"target": "label"}, ["'c': missing cells (10)", "median"]


def _missing_categories(t: Path):
    cells = ["red", "red", "?", "blue", ""] * 8
    return table(t / "t.csv", colour=cells), {"target": "label"}, ["'colour': missing cells (16)", "'red'"]


def _not_numbers(t: Path):
    cells = [str(index * 0.5) for index in range(40)]
    cells[10] = "n.d."
    return table(t / "t.csv", c=cells), {"target": "label"}, ["'c': 1 cells are not numbers (first: row 11, 'n.d.')"]


def _many(t: Path):
    cells = [f"town {index % 50}" for index in range(200)]
    return table(t / "t.csv", rows=200, town=cells), {"target": "label"}, ["'town' has 50 categories: the 32 most frequent"]


def _no_header(t: Path):
    rows = GENERATOR.normal(size=(30, 3))
    lines = [",".join(f"{value:.3f}" for value in row) + f",{index % 2}" for index, row in enumerate(rows)]
    return write(t / "t.csv", "\n".join(lines)), {}, ["column1 … column4"]


def _double_header(t: Path):
    lines = [f"{GENERATOR.normal()},{GENERATOR.normal()},{index % 2}" for index in range(30)]
    return write(t / "t.csv", "a,a,label\n" + "\n".join(lines)), {}, ["'a' appears more than once", "a.1"]


def _dropped(t: Path):
    path = table(t / "t.csv", id=[f"A{index:03d}" for index in range(40)], land="DE")
    return path, {"target": "label"}, ["'id' (an id)", "'land' (always the same)"]


def _ambiguous(t: Path):
    days = [f"0{1 + index % 9}/0{1 + index % 7}/2020" for index in range(40)]
    return table(t / "t.csv", day=days), {"target": "label"}, ["'day'", "month/day/year"]


def _equal_target(t: Path):
    path = table(t / "t.csv", price=np.arange(40) * 2.5 + GENERATOR.normal(size=40))
    frame = pd.read_csv(path)
    frame.assign(cents=frame["price"] * 100).to_csv(path, index=False)
    return path, {"target": "price"}, ["'cents' determines the target 'price' alone"]


def _empty_texts(t: Path):
    folder = texts(t / "m")
    write(folder / "a" / "0.txt", " ")
    return folder, {}, ["1 texts are empty (first: a/0.txt)"]


def _long_texts(t: Path):
    folder = texts(t / "m")
    write(folder / "a" / "0.txt", "long " * 300)
    return folder, {"maximum_length": 100}, ["1 of 20 texts are longer than", "1,500"]


def _unequal_texts(t: Path):
    return texts(t / "m"), {}, ["Texts differ in length (6 to 7 bytes)"]


SAID: dict[str, Callable] = {
    "duplicates": _duplicates,
    "duplicates-across-splits": _across,
    "repeating-rows": _repeating,
    "contradicting-copies": _contradicting,
    "labels-only-in-test": _only_in_test,
    "rare-classes": _rare,
    "no-target": _no_target,
    "empty-class": _empty_class,
    "unlisted-pictures": _unlisted,
    "large-pictures": _large,
    "unequal-pictures": _unequal,
    "transparent-pictures": _transparent,
    "missing-numbers": _missing_numbers,
    "missing-categories": _missing_categories,
    "not-numbers": _not_numbers,
    "many-categories": _many,
    "no-header": _no_header,
    "double-header": _double_header,
    "dropped-columns": _dropped,
    "ambiguous-dates": _ambiguous,
    "feature-equals-target": _equal_target,
    "empty-texts": _empty_texts,
    "long-texts": _long_texts,
    "unequal-texts": _unequal_texts,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_table_refuses_is_refused_with_the_place_and_the_remedy(name, tmp_path):
    path, options, words = REFUSED[name](tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError) as caught:
        tasks.open(path, **options)
    sentence = str(caught.value)
    assert all(word in sentence for word in words), sentence
    assert "\n" not in sentence
    fixed = next(rule.sentence for rule in RULES if rule.name == name).split("{")
    assert any(part.partition("}")[2].strip(" .,:")[:12] in sentence for part in fixed[1:]), f"not the sentence of rule {name}: {sentence}"
    assert sorted(os.listdir(tmp_path)) == before, "opening must write nothing"


@pytest.mark.parametrize("maker", [_unreadable_picture, _unreadable_folder, _loop_in_folder])
def test_paths_inside_a_folder_are_checked_too(maker, tmp_path):
    path, options, words = maker(tmp_path)
    with pytest.raises(UserError) as caught:
        tasks.open(path, **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("name", SAID)
def test_what_the_table_mends_or_warns_of_is_opened_and_said(name, tmp_path):
    path, options, words = SAID[name](tmp_path)
    task = tasks.open(path, **options)
    assert any(all(word in said for word in words) for said in task.notes), task.notes
    for split in task.splits.values():
        for key, tensor in split.items():
            assert bool(tensor.isfinite().all()), f"{key} must be finite whatever was missing"


def test_every_row_of_the_table_is_proven_here():
    """A rule without a file that proves it is a rule that nobody knows to work."""
    assert {rule.name for rule in RULES if rule.outcome == "refused"} == set(REFUSED)
    assert {rule.name for rule in RULES if rule.outcome != "refused"} == set(SAID)
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_the_docs_table_has_a_line_for_every_rule():
    lines = as_markdown().splitlines()
    assert len(lines) == len(RULES) + 2
    assert all(line.count("|") - line.count("\\|") == 5 for line in lines)


def test_a_warning_cannot_refuse_and_a_refusal_cannot_be_a_note():
    with pytest.raises(ValueError, match="warned"):
        refuse("duplicates", count=1, total=2)
    with pytest.raises(ValueError, match="refuses"):
        note("empty-file", path="x")
