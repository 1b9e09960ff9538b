"""Every row of the table of rules is proven with a real file: it refuses, mends or warns, and says what, where and what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
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


def graph(folder: Path, edges: pd.DataFrame | None = None, nodes: pd.DataFrame | None = None) -> Path:
    """Two rings of 15 nodes with chords, one community each, joined by one edge."""
    write(folder / "edges.csv", (ring_edges() if edges is None else edges).to_csv(index=False))
    write(folder / "nodes.csv", (ring_nodes() if nodes is None else nodes).to_csv(index=False))
    return folder


def ring_edges() -> pd.DataFrame:
    links = [(start + i, start + (i + step) % 15) for start in (0, 15) for i in range(15) for step in (1, 3)]
    return pd.DataFrame([*links, (0, 15)], columns=["source", "target"])


def ring_nodes() -> pd.DataFrame:
    return pd.DataFrame({"id": range(30), "age": np.arange(30) * 0.37 % 5, "label": ["left"] * 15 + ["right"] * 15})


def moments(path: Path, rows: int, channels: int = 1) -> Path:
    values = {f"load{index}": GENERATOR.normal(size=rows).round(3) for index in range(channels)}
    pd.DataFrame({"when": pd.date_range("2000-01-01", periods=rows, freq="h"), **values}).to_csv(path, index=False)
    return path


def steps(path: Path, length: int) -> Path:
    rows = [{"id": case, "time": step, "x": GENERATOR.normal(), "label": "ab"[case % 2]} for case in range(40) for step in range(length)]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


LONG = {"task": "series", "group": "id", "time": "time", "target": "label"}


def _unlabelled_series(t: Path):
    pytest.importorskip("aeon")
    header = "@problemName x\n@timeStamps false\n@univariate true\n@equalLength true\n@seriesLength 3\n@classLabel false\n@data\n"
    return write(t / "s.ts", header + "1,2,3\n2,3,4\n"), {}, ["s.ts has series without labels", "@classLabel true"]


def _other_channels(t: Path):
    for width in (2, 3):
        arrays = {"actions": np.arange(20) % 2, "rewards": np.ones(20), "dones": np.arange(20) % 5 == 4}
        np.savez(t / f"log{width}.npz", observations=GENERATOR.normal(size=(20, width)), **arrays)
    return t, {}, ["3 channels, 2 are wanted"]


def _short_history(t: Path):
    task = tasks.open(moments(t / "old.csv", 400), task="forecast", time="when", horizon=6)
    return moments(t / "new.csv", 10), {"encoding": task.encoding}, ["new.csv has 10 steps", "reads 24 to forecast 6"]


def _no_id_column(t: Path):
    nodes = ring_nodes().rename(columns={"id": "who"})
    nodes["who"] = [f"node {index}" for index in range(30)]
    return graph(t / "g", nodes=nodes.drop(columns="age")), {}, ["no column of node ids", "add a column 'id'"]


def _no_edges(t: Path):
    return graph(t / "g", ring_edges().assign(weight=0)), {}, ["has no edge"]


def _lost_features(t: Path):
    y = torch.tensor([0, 1] * 15)
    links = torch.from_numpy(ring_edges().to_numpy().T.copy())
    for name, width in (("old", 4), ("new", 5)):
        torch.save({"x": torch.randn(30, width, generator=torch.Generator().manual_seed(0)), "edge_index": links, "y": y}, t / f"{name}.pt")
    return t / "new.pt", {"encoding": tasks.open(t / "old.pt").encoding}, ["5 features a node", "trained on 4"]


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
    "unlabelled-series": _unlabelled_series,
    "other-channels": _other_channels,
    "short-history": _short_history,
    "no-id-column": _no_id_column,
    "no-edges": _no_edges,
    "lost-features": _lost_features,
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


def _many_windows(t: Path):
    return write(t / "s.txt", "0123456789abcdef" * 200_000), {}, ["2,048 of the validation part's 2,499 windows"]


def _unequal_texts(t: Path):
    return texts(t / "m"), {}, ["Texts differ in length (6 to 7 bytes)"]


def _cut_series(t: Path):
    encoding = tasks.open(steps(t / "old.csv", 6), **LONG).encoding
    return steps(t / "new.csv", 9), {"encoding": encoding}, ["40 series are longer than the 6 steps"]


def _thinned(t: Path):
    path = moments(t / "t.csv", 20_000, channels=2)
    return path, {"task": "forecast", "time": "when", "horizon": 1000}, ["Training uses every 2", "windows"]


def _missing_in_time(t: Path):
    path = moments(t / "t.csv", 400)
    pd.read_csv(path).assign(load0=lambda frame: frame["load0"].where(frame.index % 50 != 7)).to_csv(path, index=False)
    return path, {"task": "forecast", "time": "when", "horizon": 6}, ["8 missing values were filled", "never counted"]


def _duplicate_edges(t: Path):
    return graph(t / "g", pd.concat([ring_edges(), ring_edges().iloc[:3]])), {}, ["3 edges are listed again", "count once"]


def _zero_weights(t: Path):
    return graph(t / "g", ring_edges().assign(weight=[0.0] * 2 + [1.0] * 59)), {}, ["2 edges have weight 0"]


def _isolated(t: Path):
    alone = pd.DataFrame({"id": [98, 99], "age": [1.0, 2.0], "label": ["left", "right"]})
    return graph(t / "g", nodes=pd.concat([ring_nodes(), alone])), {}, ["2 nodes have no edge"]


def _low_homophily(t: Path):
    return graph(t / "g", nodes=ring_nodes().assign(label=["a", "b"] * 15)), {}, ["of edges join nodes of one class", "by chance"]


def _unread_columns(t: Path):
    return graph(t / "g", nodes=ring_nodes().assign(land="DE")), {}, ["Left out", "land"]


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
    "many-windows": _many_windows,
    "unequal-texts": _unequal_texts,
    "cut-series": _cut_series,
    "thinned-windows": _thinned,
    "missing-values-in-time": _missing_in_time,
    "duplicate-edges": _duplicate_edges,
    "zero-weights": _zero_weights,
    "isolated-nodes": _isolated,
    "low-homophily": _low_homophily,
    "unread-columns": _unread_columns,
}

ELSEWHERE = {
    "recordings": "test_recordings.test_tables_in_class_folders_are_series",
    "infinite-step": "test_series.test_unusable_tables_are_refused_in_one_sentence",
    "no-value-column": "test_series.test_unusable_tables_are_refused_in_one_sentence",
    "varying-label": "test_series.test_unusable_tables_are_refused_in_one_sentence",
    "double-moment": "test_series.test_unusable_tables_are_refused_in_one_sentence",
    "broken-series-file": "test_series.test_broken_files_are_refused",
    "missing-moment": "test_events.test_rows_without_time_and_short_logs_are_refused",
    "too-few-events": "test_events.test_rows_without_time_and_short_logs_are_refused",
    "short-forecast": "test_forecasts.test_unusable_tables_are_refused_in_one_sentence",
    "broken-log": "test_decisions.test_broken_logs_are_refused",
    "missing-steps": "test_series.test_missing_steps_lie_on_a_straight_line",
    "unequal-lengths": "test_series.test_empty_cells_at_the_end_are_a_shorter_series",
    "gaps-in-time": "test_forecasts.test_gaps_are_put_in_and_never_scored",
    "constant-channel": "test_series.test_a_constant_channel_is_warned_of_and_harmless",
    "simultaneous-events": "test_events.test_simultaneous_events_get_half_the_smallest_gap",
    "no-edge-list": "test_graphs.test_missing_tables_are_refused",
    "no-node-table": "test_graphs.test_missing_tables_are_refused",
    "duplicate-node": "test_graphs.test_wrong_tables_are_refused_with_the_place",
    "missing-end": "test_graphs.test_wrong_tables_are_refused_with_the_place",
    "dangling-edge": "test_graphs.test_wrong_tables_are_refused_with_the_place",
    "bad-weight": "test_graphs.test_wrong_tables_are_refused_with_the_place",
    "no-node-target": "test_graphs.test_wrong_tables_are_refused_with_the_place",
    "contradicting-split": "test_graphs.test_wrong_tables_are_refused_with_the_place",
    "broken-graph": "test_graphs.test_foreign_files_are_refused_and_nothing_in_them_runs",
    "symmetrised": "test_graphs.test_folder_becomes_a_task",
    "unequal-directions": "test_graphs.test_weights_and_directions",
    "unlabelled-nodes": "test_graphs.test_unlabelled_nodes_carry_messages_only",
    "left-out-of-split": "test_graphs.test_given_split_is_kept",
    "no-node-features": "test_graphs.test_no_features_means_structure",
}
"""Rows that the tests of their room prove: the module beside this one, and its test."""


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
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert sorted(names) == sorted([*REFUSED, *SAID, *ELSEWHERE])
    outcome = {rule.name: rule.outcome for rule in RULES}
    assert all(outcome[name] == "refused" for name in REFUSED)
    assert all(outcome[name] != "refused" for name in SAID)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_another_room_proves_is_there(name):
    module, test = ELSEWHERE[name].split(".")
    assert f"\ndef {test}(" in (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")


def test_the_docs_table_has_a_line_for_every_rule():
    lines = as_markdown().splitlines()
    assert len(lines) == len(RULES) + 2
    assert all(line.count("|") - line.count("\\|") == 5 for line in lines)


def test_a_warning_cannot_refuse_and_a_refusal_cannot_be_a_note():
    with pytest.raises(ValueError, match="warned"):
        refuse("duplicates", count=1, total=2)
    with pytest.raises(ValueError, match="refuses"):
        note("empty-file", path="x")
