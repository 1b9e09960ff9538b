"""Spoken prompts read from small recordings made here: pieces, languages, digits, division by prompt, sampling rates, refusals."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from assay.errors import UserError
from assay.tasks import speech
from assay.tasks.speech import spoken_prompts

VOICES = {"en": "en_US_f_Allison", "es": "es_MX_f_Allison", "it": "it_IT_m_Carlo"}


def record(file: Path, samples: np.ndarray, rate: int = 8_000, channels: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(file), "wb") as recording:
        recording.setnchannels(channels)
        recording.setsampwidth(2)
        recording.setframerate(rate)
        recording.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Ten digits of 800 samples, eight prompts of 1,000, one of 4,500; and two in which nobody speaks."""
    root, generator = tmp_path / "usr/share/asterisk/sounds", np.random.default_rng(0)
    for voice in VOICES.values():
        for digit in range(10):
            record(root / voice / f"digits/{digit}.wav", generator.integers(-999, 999, 800))
        for number in range(8):
            record(root / voice / f"vm-{number}.wav", generator.integers(-999, 999, 1_000))
        record(root / voice / "long.wav", np.arange(4_500))
        record(root / voice / "silence/1.wav", np.zeros(8_000))
        record(root / voice / "ascending-2tone.wav", np.ones(500))
    return tmp_path


def test_languages_by_pieces(prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_PROMPTS", str(prompts))
    task = spoken_prompts(languages=("en", "es", "it"), seconds=0.25)
    # 18 prompts of one piece, and of the long one two of 2,000 and none of the 500 that are left
    assert sum(task.size(split) for split in task.splits) == 3 * (18 + 2)
    assert task.signature.input.length == 2_000
    batch = task.batch_of("train", slice(None))
    assert set(batch["mask"].sum(1).tolist()) <= {800, 1_000, 2_000}
    assert batch["series"][~batch["mask"]].abs().max() == 0
    assert batch["series"][batch["mask"]].std() == pytest.approx(1, abs=0.1)
    assert batch["target"].unique().tolist() == [0, 1, 2]


def test_a_prompt_is_on_one_side_in_all_languages(prompts: Path) -> None:
    task = spoken_prompts(prompts, languages=("en", "es", "it"), seconds=0.25)
    names = task.source["names"]
    tested = {name.split("/", 1)[1] for name in names}
    assert len(names) >= 3 * len(tested)
    assert all(sum(name.split("/", 1)[1] == prompt for name in names) % 3 == 0 for prompt in tested)


def test_digits_are_divided_by_language(prompts: Path) -> None:
    task = spoken_prompts(prompts / "usr/share/asterisk/sounds", "digit", ("en", "es", "it"), seconds=0.1)
    for split, language in (("train", "en"), ("validation", "es"), ("test", "it")):
        assert task.splits[split]["target"].tolist() == list(range(10)), language
    assert task.source["names"][3] == "it/digits/3"


def test_fewer_samples_are_the_same_recordings(prompts: Path) -> None:
    whole, half = (spoken_prompts(prompts, languages=("en", "es"), seconds=0.25, keep_every=every) for every in (1, 2))
    assert torch.equal(whole.splits["test"]["samples"][:, ::2], half.splits["test"]["samples"])
    assert torch.equal((whole.splits["test"]["lengths"] + 1) // 2, half.splits["test"]["lengths"])
    assert half.signature.input.length == 1_000


def test_what_is_missing_names_the_command(prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASSAY_PROMPTS", raising=False)
    monkeypatch.setattr(speech, "INSTALLED", tmp_path / "nowhere/usr/share/asterisk/sounds")
    with pytest.raises(UserError, match=r"not installed: run `apt-get download asterisk-core-sounds-en-wav .* set ASSAY_PROMPTS"):
        spoken_prompts()
    with pytest.raises(UserError, match=r"gone holds no spoken prompts: run `apt-get download"):
        spoken_prompts(tmp_path / "gone")
    with pytest.raises(UserError, match=r"no voice that speaks 'fr': run `apt-get download asterisk-core-sounds-fr-wav`"):
        spoken_prompts(prompts / "usr/share/asterisk/sounds")


@pytest.mark.parametrize("broken", ["rate", "stereo", "noise", "empty"])
def test_other_recordings_are_refused(prompts: Path, broken: str) -> None:
    file = prompts / "usr/share/asterisk/sounds" / VOICES["en"] / "vm-0.wav"
    if broken == "noise":
        file.write_bytes(b"not a recording")
    else:
        options = {"rate": {"rate": 16_000}, "stereo": {"channels": 2}, "empty": {}}[broken]
        record(file, np.zeros(0 if broken == "empty" else 100), **options)
    with pytest.raises(UserError, match=r"vm-0\.wav (does not read as a recording|must be one channel of 16-bit samples at 8,000 Hz)"):
        spoken_prompts(prompts, languages=("en", "es"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wanted": "speaker"}, "wanted must be language or digit, got 'speaker'"),
        ({"languages": ("en",)}, "at least two different ones"),
        ({"wanted": "digit", "languages": ("en", "es")}, "at least three different ones"),
        ({"seconds": 0.0}, "got 0.0 and 1"),
        ({"keep_every": 0}, "got 2.0 and 0"),
    ],
)
def test_bad_arguments_are_refused(prompts: Path, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        spoken_prompts(prompts, **options)
