"""The report's page, opened in a real Chromium: correct, quiet, safe, narrow enough, readable in both schemes."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from assay.bench.report import collect, write_report
from assay.bench.report.charts import Mark, front_chart, pareto_front, quality_scale
from assay.bench.report.drawing import Box, Scale, fitted, placed_labels
from assay.bench.report.errors_shown import confusion, example_groups
from assay.bench.report.facts import facts
from assay.bench.report.pictures import png_data_uri
from assay.bench.report.record import read_record
from assay.bench.report.words import count, milliseconds, seconds, shortened, size
from assay.contracts import Evaluation
from assay.errors import UserError
from assay.tasks.synthetic.in_context_languages import in_context_languages
from assay.tasks.synthetic.recall import multi_query_recall

from . import made_study


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("studies")
    hostile = made_study.HOSTILE
    return {
        "digits": made_study.make_study(folder / "digits", made_study.digits_task()),
        "hostile": made_study.make_study(
            folder / "hostile", made_study.digits_task([hostile, *"123456789"], [hostile] * 360), {hostile: 0.97, "svm": 0.9}
        ),
        "series": made_study.make_study(folder / "series", made_study.series_task(), {"lstm": 0.95, "svm": 0.93}, failing=False),
        "forecast": made_study.make_study(folder / "forecast", made_study.forecast_task(), {"lstm": 0.9, "svm": 0.7}, failing=False),
        "text": made_study.make_study(folder / "text", made_study.text_task(), {"lstm": 0.95, "svm": 0.8}, failing=False),
        "values": made_study.make_study(folder / "values", made_study.values_task(), {"mlp": 0.9, "svm": 0.8}, failing=False),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.fail("The report's test needs Chromium: install it, for example with `apt-get install chromium`.", pytrace=False)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


class Opened:
    """A page in the browser, with everything that it said and asked for."""

    def __init__(self, browser, page_file: Path, width: int = 1280, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(page_file.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_error: object) -> None:
        self.context.close()


KINDS = ["digits", "hostile", "series", "forecast", "text", "values"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_page_is_quiet_loads_nothing_and_fits(browser, studies, kind, width, scheme):
    with Opened(browser, studies[kind] / "report.html", width, scheme) as opened:
        assert opened.said == []
        assert [url for url in opened.asked if not url.startswith(("file:", "data:"))] == []
        assert len([url for url in opened.asked if url.startswith("file:")]) == 1
        assert opened.page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("kind", KINDS)
def test_page_is_small_enough_to_send(studies, kind):
    assert (studies[kind] / "report.html").stat().st_size < 250_000


def test_first_sentence_is_the_studys_verdict(browser, studies):
    record = read_record(studies["digits"])
    with Opened(browser, studies["digits"] / "report.html") as opened:
        heading = opened.page.locator("h1").inner_text()
        assert " ".join(heading.split()) == record.verdict.sentence


def test_leaderboard_shows_every_configuration_with_rank_and_value(browser, studies):
    record = read_record(studies["digits"])
    with Opened(browser, studies["digits"] / "report.html") as opened:
        rows = opened.page.locator(".board tbody tr")
        assert rows.count() == len(record.entries) == 8
        for index, entry in enumerate(record.entries):
            text = rows.nth(index).inner_text()
            assert entry.name in text
            assert f"{entry.value:.3f}" in text or not entry.done
        assert "off budget" in opened.page.locator(".board").inner_text()
        assert "2 of 2 runs unfinished" in opened.page.locator(".board").inner_text()


def test_hostile_text_is_shown_and_never_run(browser, studies):
    with Opened(browser, studies["hostile"] / "report.html") as opened:
        opened.page.wait_for_load_state("networkidle")
        assert opened.page.title() == "digits – Assay"
        assert made_study.HOSTILE in opened.page.locator("h1").inner_text()
        assert opened.page.locator("script").count() == 1
        assert opened.page.locator("img[src='x']").count() == 0
        assert made_study.HOSTILE in opened.page.locator(".error").last.inner_text()


def test_an_injected_script_would_be_refused_by_the_pages_policy(browser, studies, tmp_path):
    # a second line of defence: were escaping ever forgotten, the policy lets no script but the page's own run
    page = (studies["digits"] / "report.html").read_text()
    (tmp_path / "report.html").write_text(page.replace("<main>", "<main><script>document.title='owned'</script>"))
    with Opened(browser, tmp_path / "report.html") as opened:
        assert opened.page.title() == "digits – Assay"
        assert any("Content Security Policy" in message for message in opened.said)


_READ = [
    "body",
    ".lede",
    ".small",
    ".note",
    ".board .cost",
    ".mark",
    "h1 .quiet",
    ".guess.wrong i",
    ".guess.right i",
    "svg .tick",
    "svg .label",
]
_CONTRAST = """
(selectors) => {
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map((v) => linear(Number(v) / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  return selectors.map((selector) => {
    const element = document.querySelector(selector);
    const style = getComputedStyle(element);
    const ink = light(element.closest("svg") ? style.fill : style.color);
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  });
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_wcag_asks_for(browser, studies, scheme):
    with Opened(browser, studies["digits"] / "report.html", scheme=scheme) as opened:
        contrasts = dict(zip(_READ, opened.page.evaluate(_CONTRAST, _READ), strict=True))
        assert {name: value for name, value in contrasts.items() if value < 4.5} == {}


def test_the_two_schemes_differ(browser, studies):
    colours = set()
    for scheme in ("light", "dark"):
        with Opened(browser, studies["digits"] / "report.html", scheme=scheme) as opened:
            colours.add(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_pictures_and_charts_have_words_and_tables_have_headers(browser, studies):
    with Opened(browser, studies["digits"] / "report.html") as opened:
        page = opened.page
        assert page.locator("img").count() >= 12
        assert page.locator("img:not([alt])").count() == 0
        assert page.locator("svg:not([role=img][aria-label])").count() == 0
        assert page.locator("table").count() == page.locator("table:has(th[scope=col])").count()
        natural = page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
        assert natural


def test_labels_of_a_front_do_not_leave_the_chart_and_a_pointer_is_answered(browser, studies):
    with Opened(browser, studies["digits"] / "report.html") as opened:
        inside = opened.page.evaluate(
            "[...document.querySelectorAll('svg.chart .label')].every((label) => { const a = label.getBoundingClientRect(), "
            "b = label.closest('svg').getBoundingClientRect(); return a.left >= b.left - 1 && a.right <= b.right + 1; })"
        )
        assert inside
        opened.page.locator("svg.chart [data-tip]").first.hover()
        assert opened.page.locator("#tip").is_visible()


def test_the_kinds_have_their_own_pictures(studies):
    pages = {kind: (folder / "report.html").read_text() for kind, folder in studies.items()}
    assert 'id="forecasts"' in pages["forecast"]
    assert 'id="scatters"' in pages["values"]
    assert 'id="confusions"' in pages["series"]
    assert 'class="spark"' in pages["series"]
    assert "the cat number" in pages["text"]
    assert "data:image/png;base64," in pages["digits"]


def test_a_study_without_a_finished_run_has_a_report_too(tmp_path):
    row = {
        "run": "a", "task": "digits", "model": "lstm", "methods": [], "axis": {}, "baseline": False, "seed": 0, "status": "out-of-memory",
        "metric": "accuracy", "direction": "max", "value": None, "error": "needs 8 GB",
    }  # fmt: skip
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    page = write_report(tmp_path).read_text()
    assert "needs 8 GB" in page
    assert "No run finished" in page


def test_every_machine_of_a_study_is_named_once(studies):
    """A time means nothing without its processor, and a cluster has several."""
    record = read_record(studies["digits"])
    assert dict(facts(record))["Machine"] == "Two-Core 3000, 2 processors; cpu; 1 thread a run"
    record.rows[-1]["machine"] = "Old One, 1 processor"
    assert dict(facts(record))["Machine"].startswith("Two-Core 3000, 2 processors; Old One, 1 processor; ")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no finished run"):
        write_report(tmp_path)


# ------------------------------------------------------------------------------------------------ samples


def test_examples_are_grouped_by_who_is_right():
    task = made_study.digits_task()
    target = next(iter(task.batches("test", 1000)))["target"].numpy()
    first, second = target.copy(), target.copy()
    first[:10] = (first[:10] + 1) % 10
    second[5:15] = (second[5:15] + 1) % 10
    record = collect(task, {name: Evaluation({}, (p == target).astype(float), p) for name, p in (("a", first), ("b", second))})
    indices = {group: {e["index"] for e in record["examples"] if e["group"] == group} for group in ("none", "first", "second", "both")}
    assert indices["none"] <= set(range(5, 10))
    assert indices["first"] <= set(range(10, 15))
    assert indices["second"] <= set(range(5))
    assert all(indices.values())
    assert record["examples"][0]["picture"].startswith("data:image/png;base64,")
    assert json.loads(json.dumps(record)) == record


def test_next_tokens_are_told_by_their_share_and_decoded():
    import torch

    from assay.contracts import NextTokens, Signature, Tokens
    from assay.tasks.base import ArrayTask

    tokens = torch.tensor([list(b"abcdefgh")] * 4)
    splits = {name: {"tokens": tokens, "target": tokens + 1} for name in ("train", "validation", "test")}
    task = ArrayTask("text", Signature(Tokens(256, 8), NextTokens(256), per_position=True), splits, encoding={"encoder": {}})
    predictions = (tokens + 1).numpy()
    predictions[:, :4] = 0
    record = collect(task, {"lstm": Evaluation({}, np.arange(4.0), predictions)})
    assert record["output"] == "tokens"
    assert [example["text"] for example in record["examples"]] == ["abcdefgh"] * 4
    assert record["examples"][0]["predictions"] == {"lstm": "50\u202f% of its positions right"}
    assert len(example_groups(record)[0][1]) == 4


def test_written_sequences_are_shown_as_texts():
    from assay.tasks.synthetic.transduction import transduction

    task = transduction((1, 2), train=8, test=4)
    target = task.splits["test"]["target"]
    predictions = target.numpy().copy()
    predictions[0] = 0
    record = collect(task, {"ctc": Evaluation({}, np.array([0.0, 1.0, 1.0, 1.0]), predictions)})
    shown = {example["group"]: example for example in record["examples"]}
    assert shown["best"]["truth"] == shown["best"]["predictions"]["ctc"] == task.texts(target)[shown["best"]["index"]]
    assert shown["worst"]["truth"] == task.texts(target)[0]
    assert shown["worst"]["predictions"] == {"ctc": "nothing"}
    assert len(example_groups(record)[0][1]) == 4


def test_picture_survives_the_round_trip():
    import base64
    import io

    import torch
    from PIL import Image

    image = torch.arange(48.0).reshape(3, 4, 4)
    data = base64.b64decode(png_data_uri(image).partition(",")[2])
    back = np.asarray(Image.open(io.BytesIO(data))).astype(float) / 255 * 47
    assert np.abs(back - np.moveaxis(image.numpy(), 0, -1)).max() < 0.1
    with pytest.raises(ValueError, match="channels, height, width"):
        png_data_uri(torch.zeros(4, 4))


# ------------------------------------------------------------------------------------------------ charts


def test_front_agrees_with_the_definition():
    generator = np.random.default_rng(0)
    points = [(float(x), float(y)) for x, y in generator.integers(0, 12, (60, 2))]
    for direction, sign in (("max", 1), ("min", -1)):
        front = pareto_front(points, direction)
        beaten = [any(qx <= x and sign * qy >= sign * y and (qx < x or sign * qy > sign * y) for qx, qy in points) for x, y in points]
        assert {points[i] for i in front} == {p for p, lost in zip(points, beaten, strict=True) if not lost}


def test_a_scale_of_ties_at_the_top_shows_what_lies_below():
    """Five models that are all right leave nothing to magnify: the others are on the scale, not arrows at its end."""
    marks = [Mark(str(place), 1, value, value, value) for place, value in enumerate((1, 1, 1, 1, 1, 0.938, 0.917))]
    scale = quality_scale(marks, "max", 0, 100)
    assert [scale.side(mark.value) for mark in marks] == [0] * 7
    assert scale.low < 0.917


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (0.93, 0.99), (-3, 12), (1e-6, 2e-6)):
        ticks = Scale(low, high, 0, 100).ticks(5)
        assert 2 <= len(ticks) <= 7
        assert all(low <= tick <= high for tick in ticks)
    assert Scale(1, 1000, 0, 3, logarithmic=True)(100) == pytest.approx(2)
    assert fitted([5.0, 5.0], 0, 1).high > fitted([5.0, 5.0], 0, 1).low


def test_a_far_worse_model_does_not_squash_the_others():
    marks = [Mark(name, 1.0, value) for name, value in (("a", 0.99), ("b", 0.985), ("c", 0.97), ("majority", 0.1))]
    scale = quality_scale(marks, "max", 0, 100)
    assert scale.side(0.1) == -1
    assert abs(scale(0.99) - scale(0.97)) > 40
    assert "majority (0.100)" in front_chart(marks, "max", "accuracy", str, "cost")


def test_labels_of_crowded_points_do_not_cover_one_another():
    points = [(200.0 + 3 * i, 100.0 + 2 * i) for i in range(6)]
    placed = [label for label in placed_labels(points, ["model"] * 6, Box(40, 10, 400, 250), keep=6) if label]
    assert len({(label.x, label.y) for label in placed}) == 6
    boxes = []
    for label in placed:
        width = 33.0
        left = label.x - {"start": 0, "end": width, "middle": width / 2}[label.anchor]
        boxes.append(Box(left, label.y - 10, left + width, label.y))
    overlaps = [a.overlap(b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert max(overlaps) < 60


def test_of_points_on_one_line_only_those_are_named_that_have_room():
    """Equal parameters: the chart of their number is a column of dots; a pile of names says nothing."""
    points = [(120.0, 60.0 + 5 * i) for i in range(13)]
    placed = placed_labels(points, ["gated-linear-attention"] * 13, Box(40, 10, 400, 250), keep=2)
    assert all(placed[:2])
    assert 3 < sum(label is not None for label in placed) < 13
    for index, label in enumerate(placed[2:], 2):
        if label:
            nearest = min(abs(y - label.y + 4) for _, y in points)
            assert abs(points[index][1] - label.y + 4) <= nearest + 8, "a name beside another's dot misleads"
    for side in ("start", "middle", "end"):
        rows = sorted(label.y for label in placed if label and label.anchor == side)
        assert all(below - above > 12 for above, below in itertools.pairwise(rows))


def test_confusion_counts():
    table = confusion("m", [0, 0, 1, 2], [0, 1, 1, 1], ["a", "b", "c"])
    assert [[cell.count for cell in row] for row in table.cells] == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert table.recalls == [0.5, 1.0, 0.0]
    assert table.pairs == [("a", "b", 1), ("c", "b", 1)]
    assert not confusion("m", list(range(40)), list(range(40)), []).as_table


def test_numbers_read_well():
    assert [count(v) for v in (999, 1000, 200_000, 1_234_567)] == ["999", "1\u202fk", "200\u202fk", "1.23\u202fM"]
    assert [milliseconds(v) for v in (0.02, 1.234, 2500)] == ["20\u202fµs", "1.23\u202fms", "2.5\u202fs"]
    assert [seconds(v) for v in (0.05, 12.34, 200, 7500)] == ["50\u202fms", "12.3\u202fs", "3\u202fmin 20\u202fs", "2\u202fh 5\u202fmin"]
    assert size(1_250_000) == "1.25\u202fMB"
    assert shortened("a-very-long-file-name.png", 12) == "a-very-l…png"
    assert shortened("two\n lines", 20) == "two lines"
    assert count(None) == "–"


def test_batches_that_end_with_their_longest_example_are_shown_too():
    """Predictions are as long as the longest example of all, targets as long as that of their batch."""
    task = in_context_languages(train=4, validation=4, test=300, strings=(1, 2), string_length=(1, 6))
    longest = max(batch["target"].shape[1] for batch in task.batches("test", 256))
    found = collect(task, {"m": Evaluation({}, np.linspace(0, 1, 300), np.zeros((300, longest + 5), dtype=int))})
    assert len(found["examples"]) == 4
    asked = [row for batch in task.batches("test", 256) for row in batch["target_mask"].any(1).tolist()]
    assert all(("positions right" in example["predictions"]["m"]) == asked[example["index"]] for example in found["examples"])


def test_only_positions_that_are_asked_for_count_as_right():
    """A model that answers every query of a recall task is told as right, whatever it says where nothing is asked."""
    task = multi_query_recall(((16, 2),), 32, train=8, test=8)
    split = task.splits["test"]
    answers = torch.where(split["target_mask"], split["target"], split["target"] + 1).numpy()
    found = collect(task, {"m": Evaluation({}, np.linspace(0, 1, 8), answers)})
    assert {example["predictions"]["m"] for example in found["examples"]} == {"100\u202f% of its positions right"}
