"""Hugging Face data sets, saved to a folder or named ``hub:NAME``, read by the ``datasets`` library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assay.errors import require
from assay.tasks import images
from assay.tasks.base import ArrayTask
from assay.tasks.checks import SPLIT_NAMES
from assay.tasks.options import Options
from assay.tasks.reading import refuse_nested
from assay.tasks.recognition import TARGET_NAMES, find_column
from assay.tasks.roles import as_strings
from assay.tasks.rules import refuse, some
from assay.tasks.splitting import PARTS
from assay.tasks.targets import learn_target, without_missing

PREFIX = "hub:"


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return (folder / "dataset_dict.json").is_file() or ((folder / "dataset_info.json").is_file() and (folder / "state.json").is_file())


def read_hub(options: Options) -> pd.DataFrame | ArrayTask:
    """A frame of all rows (``options.given`` tells the parts), or a task at once where the data are pictures.

    Raises:
        UserError: ``broken-dataset`` applies, or a rule refuses what is inside.
    """
    parts = _parts(_load(options), options)
    features = next(iter(parts.values())).features
    pictures = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    frame = pd.concat([_frame(part, pictures) for part in parts.values()], ignore_index=True)
    if not pictures:
        refuse_nested(frame, options.path)
        return frame
    return _picture_task(parts, pictures[0], frame, options)


def _load(options: Options) -> Any:
    datasets = require("datasets", extra="hub", purpose="Opening a Hugging Face data set")
    name = str(options.path)
    by_name = name.startswith(PREFIX)
    try:
        if by_name:
            return datasets.load_dataset(*name.removeprefix(PREFIX).split(":", 1))
        return datasets.load_from_disk(name)
    except Exception as error:  # whatever the library, the network or a damaged file brings
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0].rstrip('.')}"
        what = "the name and the network" if by_name else "that the folder is whole"
        raise refuse("broken-dataset", path=name, reason=reason, what=what) from error


def _parts(loaded: Any, options: Options) -> dict[str, Any]:
    """The parts by name; sets ``options.given`` where there are several."""
    if not hasattr(loaded, "keys"):
        return {"": loaded}
    known = {name: part for name, part in loaded.items() if name.lower() in SPLIT_NAMES and len(part)}
    ignored = [name for name in loaded if name not in known]
    if not known:
        if len(ignored) == 1:
            return {"": loaded[ignored[0]]}
        raise refuse("bad-split", path=options.path, found=some(ignored))
    if ignored:
        options.notes.append(f"Parts that are not named train, validation or test are left out: {some(ignored)}.")
    if len(known) > 1:
        codes = [PARTS.index(SPLIT_NAMES[name.lower()]) for name in known]
        options.given = np.repeat(codes, [len(part) for part in known.values()])
        options.notes.append(f"The data set is divided into {', '.join(known)}, and stays so.")
    return known


def _frame(part: Any, pictures: list[str]) -> pd.DataFrame:
    frame = part.remove_columns(pictures).to_pandas() if pictures else part.to_pandas()
    for name, feature in part.features.items():
        if type(feature).__name__ == "ClassLabel":
            words = [feature.int2str(int(code)) if code >= 0 else None for code in frame[name].fillna(-1)]  # −1: label withheld
            frame[name] = pd.Series(words, index=frame.index, dtype=object)
    return frame


def _picture_task(parts: dict[str, Any], column: str, frame: pd.DataFrame, options: Options) -> ArrayTask:
    datasets = require("datasets", extra="hub", purpose="Opening a Hugging Face data set")
    contents, names = [], []
    for part in parts.values():
        for row in part.cast_column(column, datasets.Image(decode=False))[column]:
            contents.append(row["bytes"] if row["bytes"] is not None else Path(row["path"]).read_bytes())
            names.append(row["path"] or f"row {len(names) + 1}")
    if options.encoding is not None:
        return _new_pictures(contents, names, frame, options, options.encoding)
    target_name = _target_name(frame, parts, options)
    rows, notes = without_missing(frame, [target_name])
    options.notes.extend(notes)
    options.given = None if options.given is None else options.given[rows]
    target = learn_target(frame.iloc[rows].reset_index(drop=True), [target_name], options.task, options.path)
    kept, kept_names = [contents[row] for row in rows], [names[row] for row in rows]
    pictures = images.decode(options.path, kept_names, options.maximum_size, contents=kept)
    return images.finish_task(pictures, kept_names, target, options)


def _new_pictures(contents: list[bytes], names: list[str], frame: pd.DataFrame, options: Options, encoding: dict[str, Any]) -> ArrayTask:
    size = (encoding["image"]["height"], encoding["image"]["width"])
    grey = encoding["image"]["channels"] == 1
    pictures = images.decode(options.path, names, max(size), size=size, grey=grey, contents=contents)
    name = encoding["target"]["names"][0]
    labels = values = None
    if name in frame.columns and frame[name].notna().all():
        if encoding["target"]["kind"] == "class":
            labels = list(as_strings(frame[name]))
        else:
            values = frame[[name]].to_numpy(dtype="float64")
    return images.finish_new(pictures, names, labels, options, encoding, values)


def _target_name(frame: pd.DataFrame, parts: dict[str, Any], options: Options) -> str:
    names = list(frame.columns)
    if options.target:
        return find_column(options.target, names, "target", options.path)
    features = next(iter(parts.values())).features
    classes = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    candidates = [*classes, *[name for wanted in TARGET_NAMES for name in names if name.lower() == wanted], *names[-1:]]
    if not candidates:
        raise refuse("no-classes", path=options.path, count=len(frame), what="pictures", also=", or add a label column")
    return candidates[0]
