import pytest

from assay.tasks.synthetic.questions import SENTENCE, WORDS, questions


def replay(tokens):
    """Read a story back with a simulator of its own: where everybody and everything is, and where things have been."""
    person_at, holder, trail = {}, {}, {}
    for start in range(0, len(tokens), SENTENCE):
        words = [WORDS[i] for i in tokens[start : start + SENTENCE] if i]
        person, action, last = words[0], words[1], words[-1]
        if action == "walks":
            person_at[person] = last
            for thing, who in holder.items():
                if who == person:
                    trail[thing].append(last)
        elif action == "takes":
            assert trail.get(last, [person_at[person]])[-1] == person_at[person]  # one cannot take what is elsewhere
            assert last not in holder
            holder[last] = person
            trail.setdefault(last, [person_at[person]])
        else:
            assert holder.pop(last) == person
    return person_at, trail


@pytest.mark.parametrize("facts", [1, 2, 3])
def test_answers_follow_from_the_story(facts):
    task = questions(facts=facts, count=200, sentences=12, seed=3)
    data = task.splits["train"]
    for story, question, answer in zip(data["first_tokens"], data["second_tokens"], data["target"], strict=True):
        person_at, trail = replay(story.tolist())
        words = [WORDS[i] for i in question.tolist() if i]
        if facts == 1:
            expected = person_at[words[-1]]
        elif facts == 2:
            expected = trail[words[-1]][-1]
        else:
            assert trail[words[3]][-1] == words[-1]
            expected = trail[words[3]][-2]
        assert WORDS[answer] == expected


def test_same_seed_same_stories_and_bad_options_raise():
    first, second = (questions(count=30, seed=5).splits["test"]["first_tokens"] for _ in range(2))
    assert first.equal(second)
    for options in ({"facts": 4}, {"sentences": 2}, {"count": 3}):
        with pytest.raises(ValueError, match=r"facts|sentences"):
            questions(**options)
