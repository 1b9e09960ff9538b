"""What is refused, imputed or warned of when data are opened: one table, from which checks and docs take their sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from assay.errors import UserError

Outcome = Literal["refused", "imputed", "warned"]


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Args:
        name: unique; the checks name it.
        kind: the kind of data that it concerns.
        condition: when it applies, as a clause.
        outcome: refused (nothing is opened), imputed (mended, and said) or warned (said only).
        sentence: the message, with ``{named}`` places for file, row, column and counts.
    """

    name: str
    kind: str
    condition: str
    outcome: Outcome
    sentence: str


RULES: tuple[Rule, ...] = (
    # ---------------------------------------------------------------------------------------- any path
    Rule("missing-path", "any", "the path does not exist", "refused", "{path} does not exist: {near}."),
    Rule(
        "unreadable",
        "any",
        "a file or folder gives nobody, or not you, the right to read it",
        "refused",
        "{path} may not be read (its permissions are {mode}): give yourself the right, for example `chmod u+rX {path}`, and try again.",
    ),
    Rule(
        "symlink-loop",
        "any",
        "a symbolic link leads back to itself or to a folder around it",
        "refused",
        "{path} is a symbolic link that leads back to itself or to a folder around it: remove the link and try again.",
    ),
    Rule("empty-file", "any", "a file has 0 bytes", "refused", "{path} is empty (0 bytes): write the data into it, or name another file."),
    Rule(
        "empty-folder",
        "any",
        "a folder holds no data file",
        "refused",
        "{path} is a folder without any data file: put pictures, text files or a table into it, or name another folder.",
    ),
    Rule("unknown-kind", "any", "the file is of no kind that is known", "refused", "{path} is of no kind that can be opened: {reason}."),
    Rule(
        "unknown-task",
        "any",
        "--task names something that the data cannot be",
        "refused",
        "{path} cannot be opened as task {task!r}: {reason}.",
    ),
    Rule(
        "unused-option",
        "built-in task",
        "a built-in task is asked for with options that it does not take",
        "refused",
        "{built_in} is a built-in task and takes no --{option}: leave it out, or write ./{built_in} if you mean a folder.",
    ),
    Rule(
        "wrong-kind",
        "any",
        "a trained model is given data of another kind",
        "refused",
        "{path} holds {found}, but the model was trained on {wanted}: name data of the same kind.",
    ),
    Rule(
        "non-utf-8",
        "any text",
        "bytes are not UTF-8",
        "refused",
        "{path} is not UTF-8: byte {byte} at offset {offset:,} ({place}) does not decode; save the file as UTF-8 and try again.",
    ),
    Rule(
        "one-class",
        "any classes",
        "all examples have one label",
        "refused",
        "{path} has one class only ({label!r} in {place}): there is nothing to tell apart; add examples of a second class.",
    ),
    Rule(
        "fewer-rows-than-classes",
        "any classes",
        "there are fewer than two examples a class",
        "refused",
        "{path} has {rows:,} examples for {classes:,} classes in {place}, fewer than two a class: add examples, "
        "or choose another target (for numbers: --task values).",
    ),
    Rule(
        "too-few-examples",
        "any",
        "there are too few examples (or groups) to train, select and test",
        "refused",
        "{path} has {count:,} {what}, and {needed} are needed to train, select and test: add more.",
    ),
    Rule(
        "unknown-label",
        "any classes",
        "new data hold a label that the model was not trained on",
        "refused",
        "{path}, {place}: label {label!r} was not there when the model was trained; it knows {known}: correct or remove that example.",
    ),
    Rule(
        "bad-split",
        "any with splits",
        "given splits lack a training part",
        "refused",
        "{path} is divided into {found} but has no training part: name one part 'train'.",
    ),
    Rule(
        "duplicates",
        "any",
        "examples are exact copies of others",
        "warned",
        "{count:,} of {total:,} examples are exact copies of another one: copies are kept on the same side as their original, "
        "so none is both trained on and tested.",
    ),
    Rule(
        "duplicates-across-splits",
        "any with splits or groups",
        "training holds exact copies of test examples",
        "warned",
        "{count:,} examples are exact copies of validation or test examples: they are left out, so none is both trained on and tested.",
    ),
    Rule(
        "repeating-rows",
        "table",
        "most rows repeat, because few distinct values are possible",
        "warned",
        "{count:,} of {total:,} rows repeat another row: columns with few distinct values do so by nature, so they stay where they fell, "
        "but a test row may equal a training row.",
    ),
    Rule(
        "contradicting-copies",
        "any classes",
        "exact copies carry different labels",
        "warned",
        "{count:,} examples are exact copies of one with a different label (first: {place}): no model can get all of them right.",
    ),
    Rule(
        "labels-only-in-test",
        "any classes with splits",
        "a label has no training example",
        "warned",
        "{labels} {verb} in validation or test but never in training: no model can learn what it has not seen.",
    ),
    Rule(
        "rare-classes",
        "any classes",
        "a class has fewer than three examples",
        "warned",
        "{labels} {verb} fewer than three examples: such a class cannot be in all of training, validation and test.",
    ),
    Rule(
        "no-target",
        "any",
        "examples have no label",
        "imputed",
        "{count:,} of {total:,} rows have no {column!r} and are left out (first: row {row:,}).",
    ),
    # ---------------------------------------------------------------------------------------- pictures
    Rule(
        "broken-picture",
        "images",
        "a file is truncated or not a picture",
        "refused",
        "{count:,} of {total:,} files in {path} cannot be read as pictures; first {file} ({reason}): replace or remove them.",
    ),
    Rule(
        "no-classes",
        "images, text files",
        "files lie in one folder without labels",
        "refused",
        "{path} holds {count:,} {what} but no labels: put them into one sub-folder a class{also}.",
    ),
    Rule(
        "picture-not-found",
        "images + CSV",
        "the CSV names a picture that is not there",
        "refused",
        "{path}, row {row:,}: the picture {file!r} is not in {folder} ({count:,} such rows): correct the name or remove the row.",
    ),
    Rule(
        "empty-class",
        "images, text files",
        "a class folder has no file",
        "warned",
        "{folders} {verb} no file and {verb2} no class.",
    ),
    Rule(
        "unlisted-pictures",
        "images + CSV",
        "pictures are not in the CSV",
        "warned",
        "{count:,} pictures are not named in {table} and are left out (first: {file}).",
    ),
    Rule(
        "large-pictures",
        "images",
        "pictures are larger than the budget can read",
        "imputed",
        "{count:,} of {total:,} pictures are larger than {height}×{width} (the largest {largest}) and were made smaller.",
    ),
    Rule(
        "unequal-pictures",
        "images",
        "pictures differ in size",
        "imputed",
        "Pictures differ in size ({smallest} to {largest}): all were resized to {height}×{width}, the median.",
    ),
    Rule(
        "transparent-pictures",
        "images",
        "pictures have transparent parts",
        "imputed",
        "{count:,} pictures have transparent parts, which were filled with white.",
    ),
    # ---------------------------------------------------------------------------------------- tables
    Rule(
        "ragged-row",
        "table",
        "a row has more or fewer cells than the header",
        "refused",
        "{path}, row {row:,} (line {line:,}) has {found} cells where the header has {wanted}: correct that row{more}.",
    ),
    Rule("no-rows", "table", "there is a header but no row", "refused", "{path} has a header but no rows: add data."),
    Rule(
        "bad-line",
        "table (JSON Lines)",
        "a line is no JSON object",
        "refused",
        "{path}, line {line:,} is not a JSON object ({reason}): correct that line.",
    ),
    Rule(
        "broken-table",
        "table",
        "the file cannot be read as its ending says",
        "refused",
        "{path} cannot be read as {what} ({reason}): check that the file is whole.",
    ),
    Rule(
        "infinite-value",
        "table",
        "a number is infinite",
        "refused",
        "{path}, row {row:,}, column {column!r} is infinite ({count:,} such cells): replace it by a number, or leave it empty.",
    ),
    Rule(
        "unknown-column",
        "table",
        "an option names a column that is not there",
        "refused",
        "{path} has no column {column!r} for --{option}: {near}.",
    ),
    Rule(
        "no-target-column",
        "table",
        "no column could be the target, and none was named",
        "refused",
        "{path} has no column that could be the target (numbers, categories or yes/no): name one of {names} with --target.",
    ),
    Rule(
        "unusable-target",
        "table",
        "the target cannot be predicted",
        "refused",
        "{path}, column {column!r} cannot be the target: {reason}; name another with --target.",
    ),
    Rule(
        "no-features",
        "table",
        "no column is left to predict from",
        "refused",
        "{path} has no column left to predict {column!r} from (left out: {dropped}): add a column that says something about it.",
    ),
    Rule(
        "nested-column",
        "table (JSON Lines, Parquet)",
        "a column holds lists or objects",
        "refused",
        "{path}, row {row:,}, column {column!r} holds a {what}: only numbers, words and dates can be read; flatten or remove that column.",
    ),
    Rule(
        "lost-column",
        "table",
        "new data lack a column that the model was trained on",
        "refused",
        "{path} has no column {column!r}, which the model was trained on: add it (it has {names}).",
    ),
    Rule(
        "missing-numbers",
        "table",
        "numbers, truth values or dates are missing",
        "imputed",
        "Column {column!r}: missing cells ({count:,}) were filled with the training part's median ({value}).",
    ),
    Rule(
        "missing-categories",
        "table",
        "categories are missing",
        "imputed",
        "Column {column!r}: missing cells ({count:,}) were filled with the training part's most frequent value ({value!r}).",
    ),
    Rule(
        "not-numbers",
        "table",
        "a few cells of a column of numbers are something else",
        "imputed",
        "Column {column!r}: {count:,} cells are not numbers (first: row {row:,}, {value!r}) and count as missing.",
    ),
    Rule(
        "many-categories",
        "table",
        "a column has more categories than are kept apart",
        "imputed",
        "Column {column!r} has {count:,} categories: the {kept} most frequent are kept apart, the others are one category.",
    ),
    Rule(
        "no-header",
        "table",
        "the first row holds data instead of names",
        "imputed",
        "The first row holds data, not names: the columns are called column1 … column{count}.",
    ),
    Rule(
        "double-header",
        "table",
        "two columns have one name",
        "imputed",
        "Column name {column!r} appears more than once: the later ones are called {names}.",
    ),
    Rule(
        "dropped-columns",
        "table",
        "columns cannot help (ids, constants, empty ones)",
        "warned",
        "Left out: {columns}.",
    ),
    Rule(
        "ambiguous-dates",
        "table",
        "day and month cannot be told apart",
        "warned",
        "Column {column!r}: dates such as {value!r} were read as {how}; write dates as 2024-01-31 to be sure.",
    ),
    Rule(
        "feature-equals-target",
        "table",
        "a column equals the target",
        "warned",
        "Column {column!r} determines the target {target!r} alone: if it is a copy, or known only afterwards, take it out of the file.",
    ),
    # ---------------------------------------------------------------------------------------- text
    Rule(
        "short-text",
        "text",
        "the text is too short to learn from",
        "refused",
        "{path} has {count:,} {what}, and at least {needed:,} are needed to learn what follows what: name a longer text.",
    ),
    Rule(
        "bad-tokenizer",
        "text",
        "the tokenizer's file cannot be read",
        "refused",
        "{path} is not a tokenizer file ({reason}): name a tokenizer.json of the tokenizers library, or remove it to read bytes.",
    ),
    Rule("empty-texts", "text", "a text is empty", "imputed", "{count:,} texts are empty (first: {place}) and were read as one blank."),
    Rule(
        "long-texts",
        "text",
        "texts are longer than the model will read",
        "imputed",
        "{count:,} of {total:,} texts are longer than {length:,} {what} and were cut there (the longest has {longest:,}).",
    ),
    Rule(
        "unequal-texts",
        "text",
        "texts differ in length",
        "imputed",
        "Texts differ in length ({shortest:,} to {longest:,} {what}): shorter ones are padded, and the padding is masked.",
    ),
    # ---------------------------------------------------------------------------------------- Hugging Face
    Rule(
        "broken-dataset",
        "Hugging Face data set",
        "the folder or the name cannot be loaded",
        "refused",
        "{path} cannot be loaded as a Hugging Face data set ({reason}): check {what}.",
    ),
)
_BY_NAME = {rule.name: rule for rule in RULES}


def refuse(name: str, **facts: Any) -> UserError:
    """The error of a refusing rule, its sentence filled with the facts."""
    rule = _BY_NAME[name]
    if rule.outcome != "refused":
        raise ValueError(f"rule {name!r} says {rule.outcome}, so it cannot refuse")
    return UserError(rule.sentence.format(**facts).replace("?.", "?").replace("\n", "\\n"))


def note(name: str, **facts: Any) -> str:
    """The sentence of an imputing or warning rule, filled with the facts."""
    rule = _BY_NAME[name]
    if rule.outcome == "refused":
        raise ValueError(f"rule {name!r} refuses, so it cannot be a note")
    return rule.sentence.format(**facts)


def some(items: Sequence[object], most: int = 5) -> str:
    """The first few items in words: ``'a', 'b' and 7 more``."""
    shown = ", ".join(repr(item) if isinstance(item, str) else str(item) for item in items[:most])
    return f"{shown} and {len(items) - most:,} more" if len(items) > most else shown


def as_markdown(rules: Sequence[Rule] = RULES) -> str:
    """The table as the docs page shows it, in the order given."""
    lines = ["| data | when | what happens | what is said |", "| --- | --- | --- | --- |"]
    for rule in rules:
        said = rule.sentence.replace("|", "\\|").replace("{", "‹").replace("}", "›")
        lines.append(f"| {rule.kind} | {rule.condition} | {rule.outcome} | {said} |")
    return "\n".join(lines) + "\n"
