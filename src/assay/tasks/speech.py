"""Spoken prompts of a telephone exchange as raw samples: which of the recorded languages is spoken, or which digit."""

from __future__ import annotations

import os
import wave
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from assay.contracts import Batch, Class, Series, Signature, SplitName
from assay.errors import UserError
from assay.tasks.base import ArrayTask
from assay.tasks.splitting import divide

VARIABLE = "ASSAY_PROMPTS"
INSTALLED = Path("/usr/share/asterisk/sounds")
PACKAGES = tuple(f"asterisk-core-sounds-{language}-wav" for language in ("en", "es", "fr", "it"))
FETCH = f"apt-get download {' '.join(PACKAGES)} && for package in asterisk-core-sounds-*.deb; do dpkg -x $package prompts; done"
RATE = 8_000
"""Samples a second of all these recordings."""
SILENT = ("silence", "beep", "tone")
"""Parts of the names of prompts in which nobody speaks."""
Wanted = Literal["language", "digit"]


def spoken_prompts(
    path: str | Path | None = None,
    wanted: Wanted = "language",
    languages: tuple[str, ...] = ("en", "es", "fr", "it"),
    seconds: float = 2.0,
    keep_every: int = 1,
    seed: int = 0,
) -> ArrayTask:
    """Prompts of Asterisk's core sounds cut into pieces of ``seconds`` at 8,000 samples a second, 16,000 steps; shorter ones are padded.

    One voice speaks each language, and one of them speaks both English and Spanish: between these two only the language differs, between
    the others the voice does, too. The same prompt is on one side of the split in all languages, and so are all pieces of it. Digits are
    forty recordings only, ten a language, divided by language: the last two are validation and test.

    Args:
        path: a folder with the voices (``en_US_f_Allison`` …), or one into which the packages were unpacked; by default what the
            environment variable ``ASSAY_PROMPTS`` names, else where Debian installs them.
        wanted: ``language``, or ``digit`` (0 to 9).
        languages: which are read, at least two (three for digits).
        seconds: length of a piece.
        keep_every: take one sample in so many, without a filter: the same recordings at a lower sampling rate.
        seed: of the division by prompt.

    Raises:
        UserError: the recordings are not there or not as expected; the message has the command that fetches them.
        ValueError: another argument out of its range.

    Source: the Debian packages ``asterisk-core-sounds-*-wav`` 1.6.1 (CC-BY-SA-3.0).
    """
    if wanted not in ("language", "digit"):
        raise ValueError(f"wanted must be language or digit, got {wanted!r}")
    if len(set(languages)) < (2 if wanted == "language" else 3):
        raise ValueError(f"languages must be at least {'two' if wanted == 'language' else 'three'} different ones, got {languages}")
    if not seconds * RATE >= 1 or keep_every < 1:
        raise ValueError(f"seconds must hold a sample and keep_every be at least 1, got {seconds} and {keep_every}")
    folder, names, label, waves = _voices(path), [], [], []
    for code, language in enumerate(languages):
        for name, samples in _prompts(folder, language, wanted):
            for piece in _pieces(samples, round(seconds * RATE)):
                names.append((language, name))
                label.append(code if wanted == "language" else int(name.split("/")[1]))
                waves.append(piece[::keep_every])
    rows, notes = _divided(names, np.array(label), languages, wanted, folder, seed)
    labels = list(languages) if wanted == "language" else [str(digit) for digit in range(10)]
    length = -(-round(seconds * RATE) // keep_every)
    tensors = _tensors(waves, label, length)
    deviation = float(np.concatenate([waves[row] for row in rows["train"]]).astype(np.float64).std()) or 1.0
    return ArrayTask(
        "spoken-prompts",
        Signature(Series(1, length), Class(len(labels))),
        {split: {key: tensor[torch.from_numpy(index)] for key, tensor in tensors.items()} for split, index in rows.items()},
        description=f"{len(waves):,} pieces of speech, {length:,} samples at {RATE / keep_every:,.0f} Hz, {len(labels)} {wanted}s",
        notes=notes,
        encoding={"opener": "spoken-prompts", "labels": labels, "deviation": deviation},
        prepare=lambda batch: _prepared(batch, deviation),
        source={"kind": "series", "names": ["/".join(names[row]) for row in rows["test"]]},
    )


def _prepared(batch: Batch, deviation: float) -> Batch:
    """16-bit samples as numbers of unit deviation, and the mask from the lengths: a fifth of the memory until they are wanted."""
    samples = batch["samples"]
    mask = torch.arange(samples.shape[1]) < batch["lengths"][:, None]
    return {"series": samples[..., None].float() / deviation, "mask": mask, "target": batch["target"]}


def _tensors(waves: list[np.ndarray], label: list[int], length: int) -> dict[str, Tensor]:
    samples = np.zeros((len(waves), length), dtype=np.int16)
    for row, one in enumerate(waves):
        samples[row, : len(one)] = one
    lengths = torch.tensor([len(one) for one in waves])
    return {"samples": torch.from_numpy(samples), "lengths": lengths, "target": torch.tensor(label)}


def _pieces(samples: np.ndarray, length: int) -> list[np.ndarray]:
    """Consecutive pieces; what is left at the end counts if it is half as long, or all there is."""
    whole = [samples[start : start + length] for start in range(0, len(samples), length)]
    return [piece for index, piece in enumerate(whole) if index == 0 or 2 * len(piece) >= length]


def _divided(
    names: list[tuple[str, str]], label: np.ndarray, languages: tuple[str, ...], wanted: str, folder: Path, seed: int
) -> tuple[dict[SplitName, np.ndarray], list[str]]:
    if wanted == "digit":
        given = np.array([max(0, languages.index(language) - len(languages) + 3) for language, _ in names])
        return divide(len(names), path=folder, labels=label, given=given)
    prompts = {name: number for number, name in enumerate(sorted({name for _, name in names}))}
    groups = np.array([prompts[name] for _, name in names])
    return divide(len(names), path=folder, seed=seed, groups=groups)


# ------------------------------------------------------------------------------------------------ reading


def _voices(path: str | Path | None) -> Path:
    """The folder that holds one folder a voice."""
    named = path or os.environ.get(VARIABLE)
    folder = Path(named) if named else INSTALLED
    for candidate in (folder, folder / INSTALLED.relative_to("/")):
        if any(candidate.glob("[a-z][a-z]_*/digits/0.wav")):
            return candidate
    said = f"{folder} holds no spoken prompts" if named else "Spoken prompts are not installed"
    raise UserError(f"{said}: run `{FETCH}` and set {VARIABLE} to the folder prompts.")


def _prompts(folder: Path, language: str, wanted: str) -> list[tuple[str, np.ndarray]]:
    """Name and samples of every prompt of a language that is wanted."""
    voices = sorted(folder.glob(f"{language}_*"))
    if not voices:
        raise UserError(f"{folder} has no voice that speaks {language!r}: run `apt-get download asterisk-core-sounds-{language}-wav`.")
    voice = voices[0]
    if wanted == "digit":
        files = [voice / "digits" / f"{digit}.wav" for digit in range(10)]
    else:
        files = [file for file in sorted(voice.rglob("*.wav")) if not any(word in file.relative_to(voice).as_posix() for word in SILENT)]
    return [(file.relative_to(voice).with_suffix("").as_posix(), _samples(file)) for file in files]


def _samples(file: Path) -> np.ndarray:
    try:
        with wave.open(str(file), "rb") as recording:
            form = (recording.getframerate(), recording.getsampwidth(), recording.getnchannels())
            samples = np.frombuffer(recording.readframes(recording.getnframes()), dtype="<i2")
    except (wave.Error, OSError, EOFError, ValueError) as error:
        raise UserError(f"{file} does not read as a recording ({error}): unpack its package again.") from error
    if form != (RATE, 2, 1) or len(samples) == 0:
        raise UserError(f"{file} must be one channel of 16-bit samples at {RATE:,} Hz and not empty: unpack its package again.")
    return samples
