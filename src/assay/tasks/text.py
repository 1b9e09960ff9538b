"""Text becomes a task: texts to a class, pairs of texts to a score, or a long text whose next byte (or token) is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from assay.contracts import NextTokens, Pair, Signature, SplitName, Tokens
from assay.errors import require
from assay.tasks.base import ArrayTask
from assay.tasks.checks import check_readable, check_text
from assay.tasks.options import Options
from assay.tasks.recognition import Plan
from assay.tasks.rules import note, refuse
from assay.tasks.splitting import contradictions, divide, divide_in_order, row_fingerprints
from assay.tasks.tables import divide_rows, encoded_output, group_codes, new_groups, read_rows, row_names
from assay.tasks.targets import Target, known_classes

BYTES = 256
WINDOW = 128  # positions of one example of next-token prediction
LEAST_WINDOWS = 10
JUDGED: dict[SplitName, int] = {"validation": 1 << 18, "test": 1 << 19}
"""Symbols that are judged at most, so that a text of 100 MB is not judged for longer than trained on."""


class Encoder:
    """Texts into symbol numbers: the bytes of UTF-8, or the tokens of a ``tokenizer.json``.

    Args:
        tokenizer: the text of a ``tokenizer.json``, or None for bytes.

    Raises:
        MissingExtra: tokens are wanted and the tokenizers library is not installed.
    """

    def __init__(self, tokenizer: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = BYTES
        self.unit = "bytes"
        self._encode: Callable[[str], list[int]] = lambda text: list(text.encode("utf-8"))
        if tokenizer is not None:
            tokenizers = require("tokenizers", extra="text", purpose="Reading tokens")
            tool = tokenizers.Tokenizer.from_str(tokenizer)
            tool.no_padding()
            tool.no_truncation()
            self.vocabulary, self.unit = tool.get_vocab_size(), "tokens"
            self._encode = lambda text: tool.encode(text).ids

    @classmethod
    def for_options(cls, options: Options, beside: Path | None = None) -> Encoder:
        """The tokenizer that was named or lies beside the data, else bytes.

        Raises:
            UserError: the file is no tokenizer.
        """
        path = Path(options.tokenizer) if options.tokenizer else None
        if path is not None and path.is_dir():
            path = path / "tokenizer.json"
        if path is None and beside is not None and (beside / "tokenizer.json").is_file():
            path = beside / "tokenizer.json"
        if path is None:
            return cls()
        if not path.is_file():
            raise refuse("missing-path", path=path, near="name a tokenizer.json with --tokenizer")
        try:
            encoder = cls(check_text(path.read_bytes(), path))
        except ImportError:
            raise
        except Exception as error:
            if type(error).__name__ in ("UserError", "MissingExtra"):
                raise
            raise refuse("bad-tokenizer", path=path, reason=str(error).splitlines()[0]) from error
        options.notes.append(f"Tokens are those of {path.name} ({encoder.vocabulary:,} kinds).")
        return encoder

    def ids(self, text: str) -> list[int]:
        """Symbol numbers of one text."""
        return self._encode(text)

    def array(self, text: str) -> np.ndarray:
        """`ids` as 64-bit integers, without a list of them: a long text has millions."""
        if self.tokenizer is None:
            return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)
        return np.array(self.ids(text), dtype=np.int64)

    def text(self, ids: Sequence[int]) -> str:
        """The text of symbol numbers; bytes that are no UTF-8 show as �."""
        if self.tokenizer is None:
            return bytes(number for number in ids if number < BYTES).decode("utf-8", errors="replace")
        tokenizers = require("tokenizers", extra="text", purpose="Reading tokens")
        return tokenizers.Tokenizer.from_str(self.tokenizer).decode(list(ids))

    def to_json(self) -> dict[str, Any]:
        """What rebuilds the encoder: ``Encoder(values["tokenizer"])``."""
        return {"tokenizer": self.tokenizer, "vocabulary": self.vocabulary}

    def padded(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """``tokens`` and ``mask``, each (texts, length); what is longer is cut."""
        tokens = np.zeros((len(texts), length), dtype=np.int64)
        mask = np.zeros((len(texts), length), dtype=bool)
        for row, text in enumerate(texts):
            ids = self.ids(text)[:length] or [0]
            tokens[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        return torch.from_numpy(tokens), torch.from_numpy(mask)

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Symbols of each text."""
        if self.tokenizer is None:
            return np.array([max(1, len(text.encode("utf-8"))) for text in texts])
        return np.array([max(1, len(self.ids(text))) for text in texts])


def encode(text: str, encoding: Mapping[str, Any]) -> list[int]:
    """A text as the symbols of a task's encoding."""
    return Encoder(encoding.get("encoder", {}).get("tokenizer")).ids(text)


def decode(ids: Sequence[int], encoding: Mapping[str, Any]) -> str:
    """Symbols of a task's encoding as text."""
    return Encoder(encoding.get("encoder", {}).get("tokenizer")).text(ids)


# ------------------------------------------------------------------------------------------------ columns of text


def text_table_task(frame: pd.DataFrame, plan: Plan, options: Options) -> ArrayTask:
    """One column of text to a class (or values), or two columns to a score (or class).

    Raises:
        UserError: a rule refuses the target or the division.
    """
    rows, target, splits, notes = divide_rows(frame, plan, options, plan.features)
    encoder = Encoder.for_options(options, Path(options.path).parent if Path(options.path).is_file() else Path(options.path))
    prefixes = ("first_", "second_") if len(plan.features) == 2 else ("",)
    tensors: dict[str, Tensor] = {"target": target.tensor()}
    inputs, lengths = [], []
    for prefix, name in zip(prefixes, plan.features, strict=True):
        texts = [str(text) for text in frame[name].iloc[rows].fillna("")]
        length = _choose_length(encoder, texts, splits["train"], options, notes, "row")
        tensors[prefix + "tokens"], tensors[prefix + "mask"] = encoder.padded(texts, length)
        inputs.append(Tokens(encoder.vocabulary, length))
        lengths.append(length)
    if plan.dropped:
        notes.append(note("dropped-columns", columns=", ".join(f"{name!r} ({why})" for name, why in plan.dropped.items())))
    encoding = {
        "opener": "pair" if len(inputs) == 2 else "text",
        "columns": plan.features,
        "lengths": lengths,
        "encoder": encoder.to_json(),
        "labels": target.labels,
        "target": target.to_json(),
        "group": plan.group,
    }
    what = "pairs of texts" if len(inputs) == 2 else "texts"
    return ArrayTask(
        options.name,
        Signature(Pair(*inputs) if len(inputs) == 2 else inputs[0], target.output),
        {name: {key: tensor[torch.from_numpy(index)] for key, tensor in tensors.items()} for name, index in splits.items()},
        description=f"{len(rows):,} {what} of up to {max(lengths):,} {encoder.unit}, {target.words()}",
        notes=[*options.notes, *plan.notes, *notes, *target.notes(splits)],
        encoding=encoding,
        groups=group_codes(frame, plan.group, rows, splits),
        source={"kind": "text", "names": row_names(rows, splits["test"])},
    )


def read_text_table_task(frame: pd.DataFrame, options: Options, encoding: dict[str, Any]) -> ArrayTask:
    """New rows of text, read as the encoding says; all are test examples.

    Raises:
        UserError: a column is missing, or a label is unknown.
    """
    rows, target, notes = read_rows(frame, encoding, options, encoding["columns"])
    frame = frame.iloc[rows].reset_index(drop=True)
    encoder = Encoder(encoding["encoder"]["tokenizer"])
    prefixes = ("first_", "second_") if len(encoding["columns"]) == 2 else ("",)
    tensors: dict[str, Tensor] = {} if target is None else {"target": target.tensor()}
    inputs = []
    for prefix, name, length in zip(prefixes, encoding["columns"], encoding["lengths"], strict=True):
        tensors[prefix + "tokens"], tensors[prefix + "mask"] = encoder.padded([str(text) for text in frame[name].fillna("")], length)
        inputs.append(Tokens(encoder.vocabulary, length))
    return ArrayTask(
        options.name,
        Signature(Pair(*inputs) if len(inputs) == 2 else inputs[0], encoded_output(encoding)),
        {"test": tensors},
        description=f"{len(rows):,} new texts{'' if target is not None else ' without target'}",
        notes=[*options.notes, *notes],
        encoding=encoding,
        groups=new_groups(frame, encoding),
        source={"kind": "text", "names": row_names(rows, np.arange(len(rows)))},
    )


# ------------------------------------------------------------------------------------------------ files of text


def text_files_task(files: Sequence[str], target: Target, options: Options) -> ArrayTask:
    """A file a text, its folder the class.

    Raises:
        UserError: a file is not UTF-8, or the files cannot be divided.
    """
    texts = [read_text(options.path / file) for file in files]
    encoder = Encoder.for_options(options, options.path)
    fingerprints = row_fingerprints(pd.DataFrame({"text": texts}))
    splits, notes = divide(
        len(texts), path=options.path, seed=options.seed, labels=target.codes, given=options.given, fingerprints=fingerprints
    )
    if target.codes is not None:
        notes += contradictions(fingerprints, target.codes, "file")
    length = _choose_length(encoder, texts, splits["train"], options, notes, "file", files)
    tokens, mask = encoder.padded(texts, length)
    targets = target.tensor()
    encoding = {
        "opener": "text-files",
        "lengths": [length],
        "encoder": encoder.to_json(),
        "labels": target.labels,
        "target": target.to_json(),
    }
    return ArrayTask(
        options.name,
        Signature(Tokens(encoder.vocabulary, length), target.output),
        {name: {"tokens": tokens[index], "mask": mask[index], "target": targets[index]} for name, index in splits.items()},
        description=f"{len(texts):,} text files of up to {length:,} {encoder.unit}, {len(target.labels)} classes",
        notes=[*options.notes, *notes, *target.notes(splits)],
        encoding=encoding,
        source={"kind": "text", "names": [files[index] for index in splits["test"]]},
    )


def read_text_files_task(
    files: Sequence[str], labels: Sequence[str] | None, options: Options, folder: Path, encoding: dict[str, Any]
) -> ArrayTask:
    """New text files; all are test examples.

    Raises:
        UserError: a file is not UTF-8, or a label is unknown.
    """
    encoder = Encoder(encoding["encoder"]["tokenizer"])
    length = encoding["lengths"][0]
    tokens, mask = encoder.padded([read_text(folder / file) for file in files], length)
    tensors = {"tokens": tokens, "mask": mask}
    if labels is not None:
        strings = pd.Series(list(labels), dtype=object)
        tensors["target"] = known_classes(strings, encoding["labels"], encoding["target"]["names"], options.path, list(files)).tensor()
    return ArrayTask(
        options.name,
        Signature(Tokens(encoder.vocabulary, length), encoded_output(encoding)),
        {"test": tensors},
        description=f"{len(files):,} new text files{'' if labels is not None else ' without labels'}",
        notes=options.notes,
        encoding=encoding,
        source={"kind": "text", "names": list(files)},
    )


def read_text(path: Path) -> str:
    """A text file's content.

    Raises:
        UserError: it is not UTF-8.
    """
    check_readable(path)
    return check_text(path.read_bytes(), path)


def _choose_length(
    encoder: Encoder,
    texts: Sequence[str],
    training: np.ndarray,
    options: Options,
    notes: list[str],
    place: str,
    names: Sequence[str] | None = None,
) -> int:
    """The longest text of the training part, but no more than is read; says what is cut, padded or empty."""
    lengths = encoder.lengths(texts)
    length = int(min(lengths[training].max(), options.maximum_length))
    longer = int((lengths > length).sum())
    if longer:
        notes.append(note("long-texts", count=longer, total=len(texts), length=length, what=encoder.unit, longest=int(lengths.max())))
    if lengths.min() != lengths.max():
        notes.append(note("unequal-texts", shortest=int(lengths.min()), longest=int(lengths.max()), what=encoder.unit))
    empty = [index for index, text in enumerate(texts) if not text.strip()]
    if empty:
        notes.append(note("empty-texts", count=len(empty), place=names[empty[0]] if names else f"{place} {empty[0] + 1:,}"))
    return length


# ------------------------------------------------------------------------------------------------ what comes next


def next_token_task(texts: Sequence[str], options: Options, positions: int = WINDOW) -> ArrayTask:
    """Predict each next symbol of a text; validation and test are its last tenths, in order, and no window crosses a border.

    Of a tenth that has more than `JUDGED` symbols, evenly spaced windows are judged.

    Args:
        texts: one text, or several that follow one another.
        options: what was asked.
        positions: of one example, at most; a short text has shorter ones.

    Raises:
        UserError: ``short-text`` applies.
    """
    path = Path(options.path)
    encoder = Encoder.for_options(options, path if path.is_dir() else path.parent)
    ids = encoder.array("\n".join(texts))
    window = min(positions, options.maximum_length, max(8, len(ids) // 50))
    needed = (window + 1) * LEAST_WINDOWS
    if len(ids) < needed:
        raise refuse("short-text", path=options.path, count=len(ids), what=encoder.unit, needed=needed)
    splits: dict[SplitName, dict[str, Tensor]] = {}
    notes = ["The first 80 % of the text train, the next 10 % validate, the last 10 % test."]
    names: list[str] = []
    for name, part in divide_in_order(len(ids), (0.8, 0.1)).items():
        found = windows(ids[part], window)
        total = len(found["tokens"])
        kept = torch.arange(total) if name == "train" else _spaced(total, max(1, JUDGED[name] // window))
        if len(kept) < total:
            found = {key: tensor[kept] for key, tensor in found.items()}
            notes.append(note("many-windows", kept=len(kept), total=total, split=name))
        if name == "test":
            names = [f"{encoder.unit} {part.start + index * window:,} …" for index in kept.tolist()]
        splits[name] = found
    encoding = {"opener": "next-token", "lengths": [window], "encoder": encoder.to_json(), "labels": []}
    return ArrayTask(
        options.name,
        Signature(Tokens(encoder.vocabulary, window), NextTokens(encoder.vocabulary), per_position=True),
        splits,
        description=f"a text of {len(ids):,} {encoder.unit}: the next of {encoder.vocabulary:,} kinds, windows of {window}",
        notes=[*options.notes, *notes],
        encoding=encoding,
        source={"kind": "text", "names": names},
    )


def read_next_token_task(texts: Sequence[str], options: Options, encoding: dict[str, Any]) -> ArrayTask:
    """A new text, all of it test.

    Raises:
        UserError: it is shorter than one window.
    """
    encoder = Encoder(encoding["encoder"]["tokenizer"])
    window = encoding["lengths"][0]
    ids = encoder.array("\n".join(texts))
    if len(ids) < window + 1:
        raise refuse("short-text", path=options.path, count=len(ids), what=encoder.unit, needed=window + 1)
    tensors = windows(ids, window)
    return ArrayTask(
        options.name,
        Signature(Tokens(encoder.vocabulary, window), NextTokens(encoder.vocabulary), per_position=True),
        {"test": tensors},
        description=f"a text of {len(ids):,} {encoder.unit}",
        notes=options.notes,
        encoding=encoding,
        source={"kind": "text", "names": [f"{encoder.unit} {index * window:,} …" for index in range(len(tensors["tokens"]))]},
    )


def windows(ids: np.ndarray, window: int) -> dict[str, Tensor]:
    """``tokens`` and ``target`` (windows, window), the target one symbol later; an incomplete last window is left out."""
    count = (len(ids) - 1) // window
    tokens = ids[: count * window].reshape(count, window)
    target = ids[1 : count * window + 1].reshape(count, window)
    return {"tokens": torch.from_numpy(tokens), "target": torch.from_numpy(target)}


def _spaced(total: int, most: int) -> Tensor:
    """All indices below ``total``, or ``most`` of them, evenly spaced."""
    return torch.arange(total) if total <= most else torch.arange(most) * total // most
