"""Series files and tables become tensors: division, padding, filling, standardising, refusing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from assay.contracts import Class, Series, Signature
from assay.errors import UserError
from assay.tasks.options import Options
from assay.tasks.series import aeon_series, open_long, open_ts, open_wide


def wide(rows=60, steps=12, seed=0):
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(generator.normal(3, 2, (rows, steps)), columns=[f"t{index}" for index in range(steps)])
    frame["label"] = generator.choice(["up", "down"], rows)
    return frame


def long(cases=40, seed=0):
    generator = np.random.default_rng(seed)
    rows = [
        {"id": case, "time": step, "x": generator.normal(), "y": case + step / 100, "label": "ab"[case % 2]}
        for case in range(cases)
        for step in range(6 + case % 3)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0).reset_index(drop=True)


def test_wide_rows_are_standardised_by_training_alone():
    task = open_wide(wide(), Options(Path("wide.csv"), target="label"))
    assert task.signature == Signature(Series(1, 12), Class(2))
    assert task.description == "60 series, 1 channel × 12 steps, 2 classes"
    train = task.splits["train"]["series"]
    assert float(train.mean()) == pytest.approx(0, abs=1e-5)
    assert float(train.std(correction=0)) == pytest.approx(1, abs=1e-4)
    assert task.encoding["labels"] == ["down", "up"]
    assert "mask" not in task.splits["train"]
    assert sum(task.size(name) for name in task.splits) == 60


def test_wide_rows_keep_their_numbers_and_labels():
    frame = wide()
    task = open_wide(frame, Options(Path("wide.csv"), target="label"))
    rows = [int(name.split()[1]) - 1 for name in task.source["names"]]
    values = task.splits["test"]["series"][..., 0].numpy() * task.encoding["deviation"][0] + task.encoding["mean"][0]
    np.testing.assert_allclose(values, frame.iloc[rows, :12].to_numpy(), rtol=1e-4, atol=1e-4)
    assert [task.encoding["labels"][code] for code in task.splits["test"]["target"]] == frame["label"].iloc[rows].tolist()


def test_missing_steps_lie_on_a_straight_line():
    frame = wide()
    frame.loc[:, "t4"], frame.loc[:, "t6"] = 1.0, 5.0
    frame.loc[7, "t5"] = np.nan
    task = open_wide(frame, Options(Path("wide.csv"), target="label"))
    assert any("1 missing values in 1 series" in sentence for sentence in task.notes)
    again = open_wide(frame.iloc[7:8], Options(Path("wide.csv"), encoding=task.encoding)).splits["test"]["series"]
    assert float(again[0, 5, 0]) * task.encoding["deviation"][0] + task.encoding["mean"][0] == pytest.approx(3.0, rel=1e-4)


def test_empty_cells_at_the_end_are_a_shorter_series():
    frame = wide()
    frame.loc[10, ["t9", "t10", "t11"]] = np.nan
    task = open_wide(frame, Options(Path("wide.csv"), target="label"))
    assert any("9 to 12 steps" in sentence for sentence in task.notes)
    assert sum(int((~part["mask"]).sum()) for part in task.splits.values()) == 3


def test_long_rows_become_series_in_order_of_time():
    frame = long()
    task = open_long(frame, Options(Path("long.csv"), group="id", time="time", target="label"))
    assert task.signature.input == Series(2, 8)
    series, mask = task.splits["test"]["series"], task.splits["test"]["mask"]
    assert set(mask.sum(1).tolist()) <= {6, 7, 8}
    assert (series[~mask] == 0).all()
    cases = [int(name.split()[1]) for name in task.source["names"]]
    y = series[..., 1].numpy() * task.encoding["deviation"][1] + task.encoding["mean"][1]
    for row, case in enumerate(cases):
        np.testing.assert_allclose(y[row][mask[row]], case + np.arange(6 + case % 3) / 100, atol=1e-3)
    assert task.splits["test"]["target"].tolist() == [case % 2 for case in cases]


def test_new_long_rows_are_read_with_the_old_statistics():
    task = open_long(long(), Options(Path("long.csv"), group="id", time="time", target="label"))
    unlabelled = open_long(long().drop(columns="label"), Options(Path("new.csv"), encoding=task.encoding))
    assert "target" not in unlabelled.splits["test"]
    assert unlabelled.size("test") == 40
    with pytest.raises(UserError, match="label 'z'"):
        open_long(long().replace("b", "z"), Options(Path("new.csv"), encoding=task.encoding))


def test_a_constant_channel_is_warned_of_and_harmless():
    task = open_long(long().assign(x=4.0), Options(Path("long.csv"), group="id", time="time", target="label"))
    assert any("'x' never changes" in sentence for sentence in task.notes)
    assert torch.isfinite(task.splits["train"]["series"]).all()


def opened_long(frame):
    return open_long(frame, Options(Path("l.csv"), group="id", time="time", target="label"))


def opened_wide(frame):
    return open_wide(frame, Options(Path("w.csv"), target="label"))


REFUSED = [
    (opened_wide, wide().assign(t3=np.where(np.arange(60) == 4, np.inf, 0.0)), "row 5.*infinite at step 4"),
    (opened_wide, wide().assign(label="up"), "one class only"),
    (opened_wide, wide()[["label"]], "no column of numbers"),
    (opened_long, pd.concat([long(), long().iloc[:1]]), "occurs twice"),
    (opened_long, long().assign(label=lambda frame: frame["label"].where(frame.index != 5, "q")), "series '.*' has label"),
]


@pytest.mark.parametrize(("opening", "frame", "sentence"), REFUSED)
def test_unusable_tables_are_refused_in_one_sentence(opening, frame, sentence):
    with pytest.raises(UserError, match=sentence):
        opening(frame)


# ------------------------------------------------------------------------------------------------ archives


@pytest.fixture(scope="module")
def archive():
    """The folder of the sets that aeon ships."""
    aeon = pytest.importorskip("aeon")
    return Path(aeon.__file__).parent / "datasets" / "data"


def opened_ts(path, **options):
    return open_ts(path, Options(path, **options))


def test_an_archives_halves_are_kept(archive):
    """The test part is the TEST file, series for series; validation is a fifth of the TRAIN file, by class."""
    from aeon.datasets import load_from_ts_file

    task = opened_ts(archive / "ItalyPowerDemand" / "ItalyPowerDemand_TRAIN.ts")
    theirs, labels = load_from_ts_file(str(archive / "ItalyPowerDemand" / "ItalyPowerDemand_TEST.ts"))
    ours = task.splits["test"]["series"][..., 0].numpy() * task.encoding["deviation"][0] + task.encoding["mean"][0]
    np.testing.assert_allclose(ours, theirs[:, 0], atol=1e-4)
    assert [task.encoding["labels"][code] for code in task.splits["test"]["target"]] == labels.tolist()
    assert task.size("train") + task.size("validation") == 67
    assert task.size("validation") >= 0.2 * 67
    assert task.splits["validation"]["target"].unique().tolist() == [0, 1]
    folder = opened_ts(archive / "ItalyPowerDemand")
    assert torch.equal(folder.splits["train"]["series"], task.splits["train"]["series"])


def test_unequal_lengths_are_padded_and_masked(archive):
    task = aeon_series("JapaneseVowels")
    assert task.signature.input == Series(12, 29)
    lengths = torch.cat([part["mask"].sum(1) for part in task.splits.values()])
    assert (int(lengths.min()), int(lengths.max())) == (7, 29)
    for part in task.splits.values():
        assert (part["series"][~part["mask"]] == 0).all()


def test_a_trained_encoding_reads_an_archives_file(archive):
    task = opened_ts(archive / "GunPoint")
    again = opened_ts(archive / "GunPoint" / "GunPoint_TEST.ts", encoding=task.encoding)
    assert torch.equal(again.splits["test"]["series"], task.splits["test"]["series"])


@pytest.mark.parametrize("text", ["", "@problemName x\n@data\n1,2,3:a\n1,2", "not a series at all\n"])
def test_broken_files_are_refused(archive, tmp_path, text):
    path = tmp_path / "broken.ts"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.ts"):
        opened_ts(path)
