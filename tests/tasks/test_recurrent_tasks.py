"""The tasks that recurrent networks are measured on: what is asked is in the input, where it should be, and nowhere else."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from assay.contracts import END, Output
from assay.errors import UserError
from assay.tasks.python_tags import TAGS, python_tags
from assay.tasks.sequences import corpus_bleu, ended_targets, until_end
from assay.tasks.synthetic.adding import adding
from assay.tasks.synthetic.captions import captions
from assay.tasks.synthetic.continual_reber import SYMBOLS, continual_reber
from assay.tasks.synthetic.copying import FIRST, GO, copying
from assay.tasks.synthetic.delayed_bit import ASK, delayed_bit
from assay.tasks.synthetic.reber import is_embedded_reber
from assay.tasks.synthetic.timed_spikes import timed_spikes
from assay.tasks.synthetic.transduction import spoken, transduction
from assay.tasks.synthetic.window_sign import window_sign
from assay.tasks.translation import read_mo, translation


def test_adding_asks_for_the_sum_of_the_marked_at_the_end() -> None:
    task = adding(20, train=2000, test=50)
    rows = task.splits["train"]
    numbers, marks = rows["series"].unbind(-1)
    assert torch.equal(marks.sum(1), torch.full((2000,), 2.0))
    assert torch.equal(marks[:, :10].sum(1), torch.ones(2000))
    torch.testing.assert_close((numbers * marks).sum(1), rows["target"][:, -1, 0])
    assert torch.equal(rows["target_mask"].nonzero()[:, 1], torch.full((2000,), 19))
    constant = task.evaluate(lambda batch: Output(torch.ones_like(batch["target"])), "train").metrics["mse"]
    assert constant == pytest.approx(1 / 6, abs=0.02)


def test_a_delayed_bit_is_asked_for_once_after_its_delay() -> None:
    task = delayed_bit((3, 9), test_delays=(20, 30), train=200, test=50)
    for split, (least, greatest) in (("train", (3, 9)), ("test", (20, 30))):
        rows = task.splits[split]  # pyright: ignore
        places = rows["target_mask"].nonzero()[:, 1]
        assert torch.equal((rows["tokens"] == ASK).nonzero()[:, 1], places)
        assert (int(places.min()), int(places.max())) == (least + 1, greatest + 1)
        assert torch.equal(rows["target"][rows["target_mask"]], rows["tokens"][:, 0])
        assert torch.equal(rows["mask"].sum(1), places + 1)


def test_continual_reber_is_made_of_embedded_strings_and_tests_memory_alone() -> None:
    task = continual_reber(120, train=4, test=6, seed=3)
    rows = task.splits["test"]
    for tokens, target, asked in zip(rows["tokens"], rows["target"], rows["target_mask"], strict=True):
        stream = "".join(SYMBOLS[symbol] for symbol in (*tokens.tolist(), int(target[-1])))
        whole = [string + "E" for string in stream.replace("EB", "E|B").split("|")]
        strings, joined = [], ""
        for part in whole[:-1]:  # the grammar's inner strings end with E too: join until it is one
            joined += part.removesuffix("E") if part.endswith("EE") else part
            if is_embedded_reber(joined):
                strings.append(joined)
                joined = ""
        assert strings
        first_end = len(strings[0]) - 2
        assert bool(asked[first_end - 1])
        assert SYMBOLS[int(target[first_end - 1])] == strings[0][1]
        assert int(asked[: len(strings[0]) - 1].sum()) == 1
    assert "target_mask" not in task.splits["train"]


def test_copying_asks_for_what_was_shown_in_order() -> None:
    task = copying((1, 4), test_lengths=(7, 7), train=100, test=20)
    for split in ("train", "test"):
        rows = task.splits[split]  # pyright: ignore
        for tokens, target, asked, mask in zip(rows["tokens"], rows["target"], rows["target_mask"], rows["mask"], strict=True):
            go = int((tokens == GO).nonzero())
            assert torch.equal(target[asked] + FIRST, tokens[:go])
            assert torch.equal(asked.nonzero()[:, 0], torch.arange(go + 1, 2 * go + 1))
            assert int(mask.sum()) == 2 * go + 1
    assert int(task.splits["test"]["target_mask"].sum()) == 7 * 20


def test_spikes_come_at_multiples_of_the_period() -> None:
    rows = timed_spikes((4, 8), 40, train=50, test=5).splits["train"]
    for series, target in zip(rows["series"], rows["target"], strict=True):
        period = round(float(series[0, 0]) * 8)
        assert (target.nonzero()[:, 0] + 1).tolist() == list(range(period, 41, period))


def test_window_signs_look_both_ways() -> None:
    rows = window_sign(2, 20, train=30, test=5).splits["train"]
    series = rows["series"][..., 0]
    for place in (0, 1, 10, 19):
        total = series[:, max(0, place - 2) : place + 3].sum(1)
        assert torch.equal(rows["target"][:, place], (total > 0).long())


def test_transduction_exchanges_pairs_and_doubles_equal_ones() -> None:
    assert spoken((3, 8, 5, 5, 0)) == [9, 4, 11, 6, 1]
    task = transduction((3, 6), train=300, test=40)
    strings = {split: {tuple(row) for row in rows["tokens"].tolist()} for split, rows in task.splits.items()}
    assert not strings["train"] & (strings["test"] | strings["validation"])
    assert task.texts(torch.tensor([[9, 4, 11, 6, END, 3]])) == ["eight three double five"]


def test_captions_say_what_is_there() -> None:
    """Ink of a picture without noise: a large square has 49 points, a small one 25; a caption's relation is where the ink is."""
    task = captions(train=400, test=5, noise=0.0)
    rows = task.splits["train"]
    texts = task.texts(rows["target"])
    seen = set()
    for image, text in zip(rows["image"][:, 0], texts, strict=True):
        if text in ("a large square", "a small square"):
            assert int(image.sum()) == {"large": 49, "small": 25}[text.split()[1]]
        if text.startswith("a large square") and text.endswith("a small cross"):
            relation = text.removeprefix("a large square ").removesuffix(" a small cross")
            half = {"left of": image[:, :8], "above": image[:8]}[relation]
            assert int(half.sum()) == 49
        seen.add(len(text.split()))
    assert seen == {3, 7, 8}


def test_tags_follow_python_s_own_tokens() -> None:
    task = python_tags(64, windows=200)
    rows = task.splits["train"]
    text = ["".join(map(chr, row)) for row in rows["tokens"].tolist()]
    for line, tags in zip(text, rows["target"].tolist(), strict=True):
        for place, tag in enumerate(tags):
            if TAGS[tag] == "number":
                assert line[place].isalnum() or line[place] in "._+-"
            if TAGS[tag] == "space":
                assert line[place].isspace() or line[place] == "\\"
    assert set(rows["target"].unique().tolist()) >= {0, 1, 2, 4, 6}


# ------------------------------------------------------------------------------------------------ translation


def catalogue(file: Path, messages: dict[str, str], order: str = "<") -> None:
    """Write a .mo file as GNU gettext lays it out."""
    sources = [source.encode() for source in messages]
    targets = [target.encode() for target in messages.values()]
    at = 28 + 16 * len(messages)
    tables, strings = [], b""
    for texts in (sources, targets):
        for text in texts:
            tables += [len(text), at + len(strings)]
            strings += text + b"\0"
    magic = {"<": b"\xde\x12\x04\x95", ">": b"\x95\x04\x12\xde"}[order]
    head = struct.pack(order + "6I", 0, len(messages), 28, 28 + 8 * len(messages), 0, 0)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(magic + head + struct.pack(f"{order}{len(tables)}I", *tables) + strings)


@pytest.mark.parametrize("order", ["<", ">"])
def test_catalogues_of_either_byte_order_are_read(tmp_path: Path, order: str) -> None:
    messages = {"": "Content-Type: text/plain; charset=UTF-8\n", "one file\0many files": "eine Datei\0viele Dateien", "Open": "Öffnen"}
    catalogue(tmp_path / "a.mo", messages, order)
    assert read_mo(tmp_path / "a.mo") == {"one file": "eine Datei", "Open": "Öffnen"}


def test_pairs_are_cleaned_and_divided(tmp_path: Path) -> None:
    messages = {f"_Word {chr(97 + i % 26)}{i}": f"Wort {chr(97 + i % 26)}{i}" for i in range(200)}
    odd = {"%d files": "%d Dateien", "same": "same", "x" * 50: "y"}
    catalogue(tmp_path / "de/LC_MESSAGES/a.mo", messages | odd)
    (tmp_path / "de/LC_MESSAGES/broken.mo").write_bytes(b"no catalogue")
    task = translation(tmp_path, count=150)
    assert [task.size(split) for split in ("train", "validation", "test")] == [120, 15, 15]
    texts = task.texts(task.splits["train"]["target"])
    assert set(texts) <= set(messages.values())
    rows = task.splits["train"]
    assert bool((rows["target"].gather(1, rows["target_mask"].sum(1, keepdim=True) - 1) == END).all())
    words = translation(tmp_path, unit="words")
    assert set(words.texts(words.splits["train"]["target"])) <= {*messages.values(), "y"}


def test_a_user_s_columns_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("\n".join(f"house {i}\tmaison {i}" for i in range(120)), encoding="utf-8")
    assert translation(file).size("test") == 12
    file.write_text("house maison", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: it has no tab"):
        translation(file)
    file.write_text("house\tmaison", encoding="utf-8")
    with pytest.raises(UserError, match="1 usable pairs"):
        translation(file)
    file.write_bytes(b"caf\xe9\tx")
    with pytest.raises(UserError, match="not UTF-8"):
        translation(file)
    with pytest.raises(UserError, match="holds no translations"):
        translation(tmp_path / "nothing")
    (tmp_path / "a.mo").write_bytes(b"\xde\x12\x04\x95" + b"\0" * 3)
    with pytest.raises(UserError, match="not a readable"):
        read_mo(tmp_path / "a.mo")


# ------------------------------------------------------------------------------------------------ sequences


def test_exact_match_is_of_what_is_written_freely() -> None:
    """A predictor that knows the answer only when it is told it: perfect teacher forced, and never right on its own."""
    task = transduction((3, 4), train=20, test=10)

    def cheat(batch: dict[str, torch.Tensor]) -> Output:
        if "target" in batch:
            return Output(20.0 * torch.nn.functional.one_hot(batch["target"], 12).float())
        return Output(torch.zeros(len(batch["tokens"]), 5, 12))

    metrics = task.evaluate(cheat, "test").metrics
    assert metrics["token_accuracy"] == pytest.approx(1.0)
    assert metrics["bits_per_token"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["exact_match"] == 0.0
    answers = {
        tuple(row): target for row, target in zip(task.splits["test"]["tokens"].tolist(), task.splits["test"]["target"], strict=True)
    }

    def knows(batch: dict[str, torch.Tensor]) -> Output:
        wanted = torch.stack([answers[tuple(row)] for row in batch["tokens"].tolist()])
        after_end = (wanted == END).cumsum(1) > 1
        return Output(torch.nn.functional.one_hot(torch.where(after_end, 3, wanted), 12).float())

    assert task.evaluate(knows, "test").metrics["exact_match"] == 1.0  # what follows the end does not count


def test_ends() -> None:
    assert until_end(torch.tensor([[3, 0, 2], [1, 2, 3]])).tolist() == [[3, 0, 0], [1, 2, 3]]
    assert ended_targets([[5, 6], []], 3)["target_mask"].tolist() == [[True] * 3, [True, False, False]]
    with pytest.raises(ValueError, match="3 symbols and its end"):
        ended_targets([[1, 2, 3]], 3)


def test_bleu() -> None:
    pytest.importorskip("sacrebleu")
    texts = ["the cat sat on the mat today", "a dog ran over the wide field"]
    assert corpus_bleu(texts, texts) == pytest.approx(100.0)
    with pytest.raises(ValueError, match="1 references"):
        corpus_bleu(texts, texts[:1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: adding(1), "length"),
        (lambda: delayed_bit((5, 3)), "in order"),
        (lambda: continual_reber(10), "at least 50"),
        (lambda: copying((0, 3)), "at least 1"),
        (lambda: timed_spikes((1, 5)), "periods"),
        (lambda: window_sign(0), "reach"),
        (lambda: transduction((1, 1), train=20), "too few"),
        (lambda: captions(noise=-1), "noise"),
        (lambda: python_tags(0), "length"),
        (lambda: translation(unit="bytes"), "characters or words"),  # pyright: ignore
    ],
)
def test_numbers_out_of_range_are_named(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
