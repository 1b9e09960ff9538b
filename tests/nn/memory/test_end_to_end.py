import pytest
import torch

from assay.models import build, parameter_count
from assay.nn.memory.end_to_end import EndToEndMemory, position_code
from assay.tasks.synthetic.questions import questions


def reference(memory, story, question):
    """The equations, written with loops over one example."""
    embed = [table.weight for table in memory.embeddings]
    time = [table.weight for table in memory.times]
    words, width = story.shape[-1], embed[0].shape[1]
    code = torch.empty(words, width)
    for j in range(1, words + 1):
        for k in range(1, width + 1):
            code[j - 1, k - 1] = (1 - j / words) - (k / width) * (1 - 2 * j / words)

    def sentence(table, row):
        return sum(code[j] * table[row[j]] for j in range(words))

    u = sentence(embed[0], question)
    real = [i for i in range(len(story)) if story[i].any()]
    for hop in range(len(embed) - 1):
        age = {i: len(real) - 1 - real.index(i) for i in real}
        m = torch.stack([sentence(embed[hop], story[i]) + time[hop][age[i]] for i in real])
        c = torch.stack([sentence(embed[hop + 1], story[i]) + time[hop + 1][age[i]] for i in real])
        p = m @ u if memory.linear else torch.softmax(m @ u, 0)
        u = u + p @ c
    return embed[-1] @ u


@pytest.mark.parametrize("linear", [False, True])
def test_equals_the_equations_with_padding(linear):
    torch.manual_seed(0)
    memory = EndToEndMemory(9, 5, sentences=4, words=3, hops=2, linear=linear).eval()
    story = torch.randint(1, 9, (2, 4, 3))
    story[1, :2] = 0  # padding before the story starts
    question = torch.randint(1, 9, (2, 3))
    expected = torch.stack([reference(memory, story[i], question[i]) for i in range(2)])
    torch.testing.assert_close(memory(story, question), expected, atol=1e-5, rtol=1e-5)


def test_weights_are_tied_adjacently():
    memory = EndToEndMemory(10, 4, sentences=5, words=3, hops=3, empty_memories=0.0)
    assert parameter_count(memory) == (3 + 1) * (10 + 5) * 4


def test_empty_story_answers_from_the_question_alone():
    memory = EndToEndMemory(9, 5, sentences=4, words=3).eval()
    question = torch.tensor([[1, 2, 3]])
    out = memory(torch.zeros(1, 4, 3, dtype=torch.long), question)
    u = (memory.embeddings[0](question) * position_code(3, 5)).sum(1)
    torch.testing.assert_close(out, u @ memory.embeddings[-1].weight.T)


def test_bad_sizes_raise():
    with pytest.raises(ValueError, match="hops=0"):
        EndToEndMemory(9, 5, 4, 3, hops=0)
    with pytest.raises(ValueError, match="empty_memories"):
        EndToEndMemory(9, 5, 4, 3, empty_memories=1.0)


def test_family_builds_for_the_questions():
    task = questions(facts=1, count=40)
    model = build("memory-network", task.signature, 10_000)
    batch = next(task.batches("test", 4))
    assert model(batch).prediction.shape == (4, task.signature.output.classes)
