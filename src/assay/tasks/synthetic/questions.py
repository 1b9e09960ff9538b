"""Questions about little stories: people walk, take and leave things; one to three sentences must be combined for the answer.

In the manner of the bAbI tasks (Weston et al., Towards AI-Complete Question Answering, 2015), with wording and worlds of its own.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from assay.contracts import Class, Pair, Signature, Tokens
from assay.tasks.base import ArrayTask

PEOPLE = ("anna", "boris", "carla", "dimitri")
PLACES = ("kitchen", "garden", "cellar", "attic", "garage", "library")
THINGS = ("lamp", "cup", "book")
WORDS = ("<pad>", *PEOPLE, *PLACES, *THINGS, "walks", "takes", "leaves", "to", "the", "where", "is", "was", "before")
SENTENCE = 6
INDEX = {word: index for index, word in enumerate(WORDS)}


def questions(facts: int = 2, count: int = 3000, sentences: int = 10, seed: int = 0) -> ArrayTask:
    """Stories with a question whose answer is a place.

    One fact: where a person is (the last walk). Two: where a thing is (who took it, and where that person went). Three: where a
    thing was before it came to where it is.

    Args:
        facts: sentences that must be combined, 1 to 3.
        count: stories in all, split 70/15/15.
        sentences: of a story.
        seed: of the generator.

    Raises:
        ValueError: facts outside 1…3, or too few sentences or stories.
    """
    if facts not in (1, 2, 3):
        raise ValueError(f"facts must be 1, 2 or 3, got {facts}")
    if sentences < 2 * facts or count < 20:
        raise ValueError(f"{facts} facts need at least {2 * facts} sentences and 20 stories, got {sentences} and {count}")
    source = random.Random(seed)
    examples = [_example(facts, sentences, source) for _ in range(count)]
    tensors = {
        "first_tokens": torch.tensor([_encode(story) for story, _, _ in examples]),
        "second_tokens": torch.tensor([_encode([question]) for _, question, _ in examples]),
        "target": torch.tensor([INDEX[answer] for _, _, answer in examples]),
    }
    tensors["first_mask"], tensors["second_mask"] = tensors["first_tokens"] != 0, tensors["second_tokens"] != 0
    bounds = [0, int(0.7 * count), int(0.85 * count), count]
    splits: dict[Any, dict[str, torch.Tensor]] = {
        name: {key: tensor[start:end] for key, tensor in tensors.items()}
        for name, start, end in zip(("train", "validation", "test"), bounds, bounds[1:], strict=False)
    }
    kind = Pair(Tokens(len(WORDS), sentences * SENTENCE), Tokens(len(WORDS), SENTENCE))
    description = f"{count:,} stories of {sentences} sentences with a question over {facts} fact{'s' if facts > 1 else ''}"
    return ArrayTask(
        f"questions-{facts}", Signature(kind, Class(len(WORDS))), splits, description=description, encoding={"labels": list(WORDS)}
    )


def _example(facts: int, sentences: int, source: random.Random) -> tuple[list[str], str, str]:
    """One story whose world answers the question; stories without such a question are drawn again."""
    while True:
        story, place, history = _story(sentences, source)
        if facts == 1 and place:
            person = source.choice(sorted(place))
            return story, f"where is {person}", place[person]
        candidates = [thing for thing, been in sorted(history.items()) if len(been) >= facts - 1]
        if facts > 1 and candidates:
            thing = source.choice(candidates)
            been = history[thing]
            if facts == 2:
                return story, f"where is the {thing}", been[-1]
            return story, f"where was the {thing} before {been[-1]}", been[-2]


def _story(sentences: int, source: random.Random) -> tuple[list[str], dict[str, str], dict[str, list[str]]]:
    """Sentences, where each person is, and the places each thing has been at."""
    place: dict[str, str] = {}
    holder: dict[str, str] = {}
    history: dict[str, list[str]] = {}
    story = []
    for _ in range(sentences):
        person = source.choice(PEOPLE)
        takes = [thing for thing in THINGS if thing not in holder and history.get(thing, [place.get(person)])[-1] == place.get(person)]
        leaves = [thing for thing in THINGS if holder.get(thing) == person]
        action = source.choice(["walks", "walks", *(["takes"] if takes and person in place else []), *(["leaves"] if leaves else [])])
        if action == "walks":
            place[person] = source.choice([spot for spot in PLACES if spot != place.get(person)])
            story.append(f"{person} walks to the {place[person]}")
            for thing in leaves:
                history[thing].append(place[person])
            continue
        thing = source.choice(takes if action == "takes" else leaves)
        story.append(f"{person} {action} the {thing}")
        if action == "takes":
            holder[thing] = person
            history.setdefault(thing, [place[person]])
        else:
            del holder[thing]
    return story, place, history


def _encode(sentences: list[str]) -> list[int]:
    rows = [[INDEX[word] for word in sentence.split()] for sentence in sentences]
    return [index for row in rows for index in row + [0] * (SENTENCE - len(row))]
