"""The way in recognises each kind of data, says it, divides it without leakage, and reads further data identically."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Pillow
from sklearn.datasets import load_digits, load_iris

from assay import tasks
from assay.contracts import Class, Image, NextTokens, Pair, Series, Table, Tokens, Values
from assay.errors import UserError
from assay.tasks.text import decode, encode

GENERATOR = np.random.default_rng(0)
WORDS = ["film", "great", "poor", "plot", "we", "saw", "it", "twice", "never", "again"]


def sentence(count=7):
    return " ".join(GENERATOR.choice(WORDS, count))


def save_digits(folder: Path, count=200) -> np.ndarray:
    pixels = (load_digits()["images"][:count] * 255 / 16).astype(np.uint8)
    for index, (image, label) in enumerate(zip(pixels, load_digits()["target"], strict=False)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(image).save(folder / str(label) / f"{index:04d}.png")
    return pixels


def again(path, task):
    """The same data, read as new data of a model trained on the task; the encoding goes through JSON as a checkpoint's does."""
    return tasks.open(path, encoding=json.loads(json.dumps(task.encoding)))


def assert_reads_identically(path, task, keys):
    """Every test example of the first reading is found again, bit for bit, in the second."""
    new = again(path, task)
    assert set(new.splits) == {"test"}
    place = {name: index for index, name in enumerate(new.source["names"])}
    rows = torch.tensor([place[name] for name in task.source["names"]])
    for key in keys:
        assert torch.equal(new.splits["test"][key][rows], task.splits["test"][key]), key
    assert new.signature.output == task.signature.output


# ------------------------------------------------------------------------------------------------ built in


def test_digits_are_opened_by_name():
    task = tasks.open("digits")
    assert task.description == "1,797 images, 8×8 grey, 10 classes"
    assert task.signature.input == Image(1, 8, 8)
    batch = next(iter(task.batches("train", 2000)))
    assert batch["image"].mean().abs() < 1e-3, "standardised by the training part"
    assert (batch["image"].std() - 1).abs() < 1e-2


def test_new_pictures_go_to_a_model_trained_on_the_built_in_digits(tmp_path):
    save_digits(tmp_path / "mine", 40)
    new = again(tmp_path / "mine", tasks.open("digits"))
    assert new.size("test") == 40
    assert "target" in new.splits["test"]


def test_a_name_is_offered_for_a_slip():
    with pytest.raises(UserError, match=r"digit does not exist.*built-in digits"):
        tasks.open("digit")


# ------------------------------------------------------------------------------------------------ pictures


def test_a_folder_of_pictures(tmp_path):
    pixels = save_digits(tmp_path / "digits")
    task = tasks.open(tmp_path / "digits")
    assert task.description == "200 images, 8×8 grey, 10 classes"
    shown = dict(zip(task.source["names"], task.splits["test"]["image"], strict=True))
    for name, image in shown.items():
        assert np.array_equal(image[0].numpy(), pixels[int(Path(name).stem)]), "the picture that the name says"
    labels = [task.encoding["labels"][target] for target in task.splits["test"]["target"]]
    assert labels == [Path(name).parts[0] for name in task.source["names"]]
    assert_reads_identically(tmp_path / "digits", task, ["image", "target"])


def test_pictures_beside_a_table_of_labels_and_groups(tmp_path):
    rows = []
    for index in range(60):
        pixels = GENERATOR.integers(0, 255, (6, 5, 3)).astype(np.uint8)
        Pillow.fromarray(pixels).save(tmp_path / f"{index:03d}.png")
        rows.append((index % 3, f"{index:03d}.png", f"p{index // 6}"))
    pd.DataFrame(rows, columns=["label", "file", "patient"]).to_csv(tmp_path / "labels.csv", index=False)
    task = tasks.open(tmp_path)
    assert task.signature.output == Class(3)
    patients = {name: {int(Path(one).stem) // 6 for one in names} for name, names in [("test", task.source["names"])]}
    assert len(patients["test"]) * 6 == task.size("test"), "whole patients only"
    values = tasks.open(tmp_path, task="values", target="label")
    assert values.signature.output == Values(1)


def test_existing_parts_of_pictures_are_honoured(tmp_path):
    for part, count in (("train", 20), ("test", 7)):
        for index in range(count):
            (tmp_path / part / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
            Pillow.fromarray(GENERATOR.integers(0, 255, (4, 4)).astype(np.uint8)).save(tmp_path / part / "ab"[index % 2] / f"{index}.png")
    task = tasks.open(tmp_path)
    assert task.size("test") == 7
    assert {name.split("/")[0] for name in task.source["names"]} == {"test"}
    assert task.size("validation") == 4


def test_pictures_without_labels_can_be_predicted(tmp_path):
    save_digits(tmp_path / "digits", 60)
    task = tasks.open(tmp_path / "digits")
    flat = tmp_path / "new"
    flat.mkdir()
    for index in range(3):
        Pillow.fromarray(np.full((20, 20, 3), 9 * index, dtype=np.uint8)).save(flat / f"{index}.jpg")
    new = again(flat, task)
    assert set(new.splits["test"]) == {"image"}
    assert new.splits["test"]["image"].shape == (3, 1, 8, 8), "resized and grey, as the model was trained"
    assert again(flat / "0.jpg", task).size("test") == 1


def test_sixteen_bit_greys_and_turned_photographs(tmp_path):
    for index in range(12):
        (tmp_path / "ab"[index % 2]).mkdir(exist_ok=True)
        deep = (np.arange(24).reshape(4, 6) * 2730 + index).astype(np.uint16)
        Pillow.fromarray(deep).save(tmp_path / "ab"[index % 2] / f"{index}.png")
    image = tasks.open(tmp_path).splits["train"]["image"][0, 0].int()
    assert (image - torch.arange(24).view(4, 6) * 2730 * 255 // 65535).abs().max() <= 1
    turned = tmp_path / "a" / "turned.jpg"
    exif = Pillow.Exif()
    exif[0x0112] = 6  # held upright, stored lying
    Pillow.fromarray(np.zeros((6, 4), dtype=np.uint8)).save(turned, exif=exif)
    assert tasks.open(tmp_path).signature.input == Image(1, 4, 6)
    assert not any("differ in size" in said for said in tasks.open(tmp_path).notes), "turned upright, it is 4×6 as the others are"


# ------------------------------------------------------------------------------------------------ tables


def iris_file(folder: Path) -> Path:
    frame = load_iris(as_frame=True)["frame"]
    frame["species"] = np.array(["setosa", "versicolor", "virginica"])[frame.pop("target")]
    frame.to_csv(folder / "iris.csv")
    return folder / "iris.csv"


def test_a_table_of_numbers_and_a_class(tmp_path):
    path = iris_file(tmp_path)
    task = tasks.open(path)
    assert task.signature.input == Table(4)
    assert task.signature.output == Class(3)
    assert task.encoding["labels"] == ["setosa", "versicolor", "virginica"]
    train = task.splits["train"]["table"]
    assert train.mean(0).abs().max() < 1e-5, "statistics come from the training part alone"
    assert (train.std(0, correction=0) - 1).abs().max() < 1e-5
    assert_reads_identically(path, task, ["table", "target"])
    unlabelled = pd.read_csv(path).drop(columns="species")
    unlabelled.to_csv(tmp_path / "new.csv")
    assert set(again(tmp_path / "new.csv", task).splits["test"]) == {"table"}


ATTRIBUTES = """% made by hand
@relation fruit
@attribute 'stem length' numeric
@ATTRIBUTE colour {red, 'light green'}
@attribute weight real
@attribute kind {apple,pear}
@data
"""


def test_attributes_with_names_of_their_own_are_a_table(tmp_path):
    """ARFF holds tables as well as series: only numbers that are counted through are steps of one series."""
    kinds = ["apple", "pear"]
    colours = ["'light green'", "red", "red"]
    rows = [f"{3 + i % 5},{colours[i % 3]},{100 + i if i != 7 else '?'},{kinds[i % 2]}" for i in range(60)]
    (tmp_path / "fruit.arff").write_text(ATTRIBUTES + "\n".join(rows))
    task = tasks.open(tmp_path / "fruit.arff")
    assert isinstance(task.signature.input, Table)
    assert task.encoding["labels"] == kinds
    assert any("'weight'" in note and "missing" in note for note in task.notes)
    assert_reads_identically(tmp_path / "fruit.arff", task, ["table", "target"])
    (tmp_path / "torn.arff").write_text(ATTRIBUTES + "3,red,apple\n")
    with pytest.raises(UserError, match="cannot be read as an ARFF table"):
        tasks.open(tmp_path / "torn.arff")


def test_a_table_of_everything(tmp_path):
    count = 300
    frame = pd.DataFrame(
        {
            "customer_id": [f"C{index:05d}" for index in range(count)],
            "age": np.where(np.arange(count) % 9 == 0, np.nan, GENERATOR.integers(18, 90, count)),
            "joined": pd.Series(pd.date_range("2019-01-01", periods=count))
            .sample(frac=1, random_state=0)
            .dt.strftime("%m/%d/%Y")
            .to_numpy(),
            "town": GENERATOR.choice([f"town {index}" for index in range(120)], count),
            "income": [f"${value:,.2f}" for value in GENERATOR.normal(50_000, 9_000, count)],
            "active": GENERATOR.choice(["yes", "no"], count),
            "note": [sentence() + f" {index}" for index in range(count)],
            "churn": GENERATOR.choice(["stays", "goes"], count),
        }
    )
    for path in (tmp_path / "c.csv", tmp_path / "c.tsv", tmp_path / "c.parquet", tmp_path / "c.jsonl", tmp_path / "semicolon.csv"):
        if path.suffix == ".parquet":
            frame.to_parquet(path)
        elif path.suffix == ".jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_csv(path, index=False, sep={"c.csv": ",", "c.tsv": "\t"}.get(path.name, ";"))
        task = tasks.open(path)
        roles = {spec["name"]: spec["role"] for spec in task.encoding["columns"]}
        wanted = {"age": "numeric", "joined": "date", "town": "categorical", "income": "numeric", "active": "boolean", "note": "text"}
        assert roles == wanted, path.name
        assert task.signature.output == Class(2)
        assert_reads_identically(path, task, ["table", "target"])


def test_an_open_quotation_mark_does_not_swallow_rows_in_silence(tmp_path):
    (tmp_path / "q.csv").write_text('a,label\n1,x\n2,y\n3,"x\n4,y\n5,x\n')
    with pytest.raises(UserError, match="row 3 is opened and never closed"):
        tasks.open(tmp_path / "q.csv")


def test_a_value_is_standardised_by_training_and_comes_back_in_its_units(tmp_path):
    from assay.tasks.targets import in_units

    frame = pd.DataFrame({"a": GENERATOR.normal(size=80), "price": GENERATOR.normal(300, 40, 80)})
    frame.to_csv(tmp_path / "p.csv", index=False)
    task = tasks.open(tmp_path / "p.csv", target="price")
    assert task.signature.output == Values(1)
    rows = [int(name.split()[1]) - 1 for name in task.source["names"]]
    back = in_units(task.splits["test"]["target"].numpy(), task.encoding)[:, 0]
    assert np.allclose(back, frame["price"].to_numpy()[rows], atol=1e-3)


def test_the_named_target_and_task_decide(tmp_path):
    frame = pd.DataFrame({"a": GENERATOR.normal(size=100), "stars": GENERATOR.integers(1, 6, 100), "b": GENERATOR.normal(size=100)})
    frame.to_csv(tmp_path / "s.csv", index=False)
    assert tasks.open(tmp_path / "s.csv", target="stars").signature.output == Class(5)
    assert tasks.open(tmp_path / "s.csv", target="stars", task="values").signature.output == Values(1)
    assert tasks.open(tmp_path / "s.csv", target="a,b").signature.output == Values(2)


def test_rows_of_one_patient_stay_together(tmp_path):
    patients = np.repeat(np.arange(30), 4)
    frame = pd.DataFrame({"patient_id": patients, "a": GENERATOR.normal(size=120), "label": GENERATOR.integers(0, 2, 120)})
    frame.to_csv(tmp_path / "g.csv", index=False)
    task = tasks.open(tmp_path / "g.csv")
    assert any("'patient_id' says which rows belong together" in said for said in task.notes)
    tested = {patients[int(name.split()[1]) - 1] for name in task.source["names"]}
    assert len(tested) * 4 == task.size("test")
    assert len(set(task.groups["test"].tolist())) == len(tested), "the bootstrap is told of the groups"


def test_a_folder_of_train_and_test_tables(tmp_path):
    frame = pd.read_csv(iris_file(tmp_path), index_col=0).sample(frac=1, random_state=0)
    folder = tmp_path / "divided"
    folder.mkdir()
    frame[:100].to_csv(folder / "train.csv", index=False)
    frame[100:].to_csv(folder / "test.csv", index=False)
    task = tasks.open(folder)
    assert task.size("test") == 50
    frame[100:].drop(columns="species").to_csv(folder / "test.csv", index=False)
    withheld = tasks.open(folder)
    assert sum(withheld.size(part) for part in ("train", "validation", "test")) == 100
    assert any("test.csv has no column 'species'" in said for said in withheld.notes)


# ------------------------------------------------------------------------------------------------ text


def test_a_column_of_text_and_a_label(tmp_path):
    frame = pd.DataFrame({"review": [sentence() + f" {index}" for index in range(80)], "sentiment": ["good", "bad"] * 40})
    frame.to_csv(tmp_path / "r.csv", index=False)
    task = tasks.open(tmp_path / "r.csv")
    assert isinstance(task.signature.input, Tokens)
    assert task.signature.input.vocabulary == 256
    row = int(task.source["names"][0].split()[1]) - 1
    example = task.splits["test"]["tokens"][0][task.splits["test"]["mask"][0]]
    assert decode(example.tolist(), task.encoding) == frame["review"][row][: len(example)]
    assert_reads_identically(tmp_path / "r.csv", task, ["tokens", "mask", "target"])


def test_two_columns_of_text_and_a_score(tmp_path):
    frame = pd.DataFrame({"one": [sentence() + f" {i}" for i in range(80)], "two": [sentence() + f" {i}" for i in range(80)]})
    frame["score"] = GENERATOR.random(80) * 5
    frame.to_csv(tmp_path / "p.tsv", index=False, sep="\t")
    task = tasks.open(tmp_path / "p.tsv")
    assert isinstance(task.signature.input, Pair)
    assert task.signature.output == Values(1)
    assert {"first_tokens", "first_mask", "second_tokens", "second_mask", "target"} == set(task.splits["train"])
    assert_reads_identically(tmp_path / "p.tsv", task, ["first_tokens", "second_tokens", "target"])


def test_words_that_seldom_repeat_are_read_beside_their_meanings(tmp_path):
    """Hundreds of words, of which a few come twice, are no categories: beside a text they are the other half of a pair."""
    words = [f"word {index}" for index in range(58)] + ["word 0", "word 1"]
    frame = pd.DataFrame({"word": words, "meaning": [sentence() + f" {index}" for index in range(60)], "fits": [0, 1] * 30})
    frame.to_csv(tmp_path / "meanings.csv", index=False)
    assert isinstance(tasks.open(tmp_path / "meanings.csv").signature.input, Pair)
    frame["word"] = [f"word {index % 25}" for index in range(60)]
    frame.to_csv(tmp_path / "repeated.csv", index=False)
    assert isinstance(tasks.open(tmp_path / "repeated.csv").signature.input, Table)


def test_text_files_in_class_folders(tmp_path):
    for index in range(40):
        (tmp_path / ("ham", "spam")[index % 2]).mkdir(exist_ok=True)
        (tmp_path / ("ham", "spam")[index % 2] / f"{index}.txt").write_text(sentence() + f" {index} äöü")
    task = tasks.open(tmp_path)
    assert task.encoding["labels"] == ["ham", "spam"]
    assert_reads_identically(tmp_path, task, ["tokens", "mask", "target"])


def test_a_text_is_divided_in_order_and_no_window_crosses_a_border(tmp_path):
    content = "".join(chr(97 + index * index % 26) for index in range(20_000))
    (tmp_path / "book.txt").write_text(content)
    task = tasks.open(tmp_path / "book.txt")
    assert task.signature.output == NextTokens(256)
    for name, start in (("train", 0), ("validation", 16_000), ("test", 18_000)):
        tokens, target = task.splits[name]["tokens"], task.splits[name]["target"]
        text = decode(tokens.flatten().tolist(), task.encoding)
        assert content[start:].startswith(text)
        assert torch.equal(tokens.flatten()[1:], target.flatten()[:-1]), "the target is the next symbol"
    assert again(tmp_path / "book.txt", task).size("test") == (len(content) - 1) // 128


def test_a_long_text_is_judged_by_evenly_spaced_windows_that_are_where_their_names_say(tmp_path):
    content = b"".join(b"%07d," % number for number in range(800_000))  # every window differs
    (tmp_path / "numbers.txt").write_bytes(content)
    task = tasks.open(tmp_path / "numbers.txt")
    windows = {split: task.size(split) * 128 for split in ("validation", "test")}
    assert windows == {"validation": 1 << 18, "test": 1 << 19}
    assert task.size("train") == (5_120_000 - 1) // 128, "training reads everything"
    starts = [int(name.split()[1].replace(",", "")) for name in task.source["names"]]
    assert starts[0] == 5_760_000
    assert starts[-1] > 6_400_000 - 4 * 128, "the end is judged too"
    for row, start in zip(task.splits["test"]["tokens"].tolist(), starts, strict=True):
        assert bytes(row) == content[start : start + 128]


def test_a_tokenizer_beside_the_text_is_used(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tool = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: index for index, word in enumerate([*WORDS, "[UNK]"])}, unk_token="[UNK]")
    )
    tool.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tool.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "book.txt").write_text(sentence(3000))
    task = tasks.open(tmp_path / "book.txt")
    assert task.signature.input == Tokens(11, 60)
    assert encode("film saw unknown", task.encoding) == [0, 5, 10]


# ------------------------------------------------------------------------------------------------ series, hub


def test_tables_of_series_and_of_time_reach_their_openers(tmp_path):
    wide = pd.DataFrame(GENERATOR.normal(size=(60, 20)), columns=[f"t{index}" for index in range(20)])
    wide.assign(label=["a", "b"] * 30).to_csv(tmp_path / "wide.csv", index=False)
    task = tasks.open(tmp_path / "wide.csv")
    assert task.signature.input == Series(1, 20)
    assert again(tmp_path / "wide.csv", task).size("test") == 60
    names, labels = np.repeat(np.arange(40), 15), np.repeat(["a", "b"] * 20, 15)
    long = pd.DataFrame({"id": names, "time": np.tile(np.arange(15), 40), "value": GENERATOR.normal(size=600), "label": labels})
    long.to_csv(tmp_path / "long.csv", index=False)
    assert tasks.open(tmp_path / "long.csv").signature.input == Series(1, 15)
    days = pd.date_range("2020-01-01", periods=400).strftime("%d.%m.%Y")
    pd.DataFrame({"day": days, "load": GENERATOR.normal(size=400)}).to_csv(tmp_path / "load.csv", index=False)
    forecast = tasks.open(tmp_path / "load.csv", horizon=5)
    assert forecast.signature.horizon == 5
    assert again(tmp_path / "load.csv", forecast).size("test") > 0


def test_a_date_among_features_is_no_forecast(tmp_path):
    frame = pd.DataFrame(
        {"day": GENERATOR.permutation(pd.date_range("2020-01-01", periods=100).astype(str)), "a": GENERATOR.normal(size=100)}
    )
    frame.assign(label=["x", "y"] * 50).to_csv(tmp_path / "t.csv", index=False)
    assert isinstance(tasks.open(tmp_path / "t.csv").signature.input, Table)


def test_a_saved_hugging_face_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = {"text": [sentence() + f" {index}" for index in range(100)], "label": [index % 2 for index in range(100)]}
    datasets.Dataset.from_dict(rows, features).train_test_split(0.2, seed=0).save_to_disk(str(tmp_path / "hf"))
    task = tasks.open(tmp_path / "hf")
    assert task.encoding["labels"] == ["neg", "pos"]
    assert (task.size("train"), task.size("test")) == (64, 20)
    assert again(tmp_path / "hf", task).size("test") == 100


def test_a_hugging_face_data_set_of_pictures(tmp_path):
    datasets = pytest.importorskip("datasets")
    save_digits(tmp_path / "digits", 60)
    files = sorted((tmp_path / "digits").glob("*/*.png"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])})
    rows = {"image": [str(file) for file in files], "label": [int(file.parent.name) for file in files]}
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(tmp_path / "hf"))
    task = tasks.open(tmp_path / "hf")
    assert task.signature.input == Image(1, 8, 8)
    assert task.size("train") + task.size("validation") + task.size("test") == 60
    assert again(tmp_path / "digits", task).size("test") == 60, "a folder serves a model trained on a data set"
