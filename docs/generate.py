"""The generated half of the docs: one page a part, one a paper, the table of opening rules, the measured scaling.

Runs as a mkdocs hook before every build, or by hand:

    python docs/generate.py             write docs/parts and docs/papers
    python docs/generate.py --forms [MIXER …]   first try torch.compile and ONNX on the mixers named, or on those not tried yet, into
                                        docs/data/forms.json; what stands there of others is kept
    python docs/generate.py --predict   first let theory make ten predictions and put them to the test, into docs/data/predictions.json
    python docs/generate.py --advice STUDY …    read studies made with --advised into docs/data/advice.json
    python docs/generate.py --tracking STUDY …  read studies of the same models on several tasks into docs/data/tracking.json
    python docs/generate.py --measure   first measure parameters, operations and time of every mixer and model into docs/data/timings.json
    python docs/generate.py --add-report STUDY NAME     copy a study's report into the gallery, with a picture of its first screen
"""

from __future__ import annotations

import html
import inspect
import json
import os
import platform
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
DATA = DOCS / "data"
PART_KINDS = ("mixer", "activation", "part", "model", "estimator", "method", "compressor", "probe", "exporter", "task")
KIND_TITLES = {
    "mixer": "Mixers", "activation": "Activations", "part": "Parts", "model": "Networks", "estimator": "Classical baselines", "method": "Training methods",
    "compressor": "Compressors", "probe": "Probes", "exporter": "Exporters", "task": "Built-in tasks",
}  # fmt: skip
BATCH, LENGTH, WIDTH, PARAMETERS = 4, 256, 64, 50_000


# ------------------------------------------------------------------------------------------------ hooks of mkdocs


def on_pre_build(config: Any) -> None:
    """Write the generated pages before mkdocs collects its files."""
    write_pages()


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill the places that other pages leave for generated tables."""
    places = {
        "<!-- table of rules -->": rules_table,
        "<!-- measured scaling -->": scaling_table,
        "<!-- reports -->": reports,
        "<!-- ideas -->": ideas_table,
        "<!-- predictions -->": predictions_table,
        "<!-- advice -->": advice_table,
        "<!-- tracking -->": tracking_table,
    }
    for place, content in places.items():
        if place in markdown:
            markdown = markdown.replace(place, content())
    return markdown


# ------------------------------------------------------------------------------------------------ parts


def write_pages() -> None:
    """Write every generated page anew; an unchanged page is not touched, so that `mkdocs serve` does not run in circles."""
    pages = {**part_pages(), **paper_pages()}
    for folder in ("parts", "papers"):
        known = {path for path in pages if path.startswith(folder)}
        for old in (DOCS / folder).glob("**/*.md"):
            if str(old.relative_to(DOCS)) not in known:
                old.unlink()
    for name, text in pages.items():
        path = DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def part_pages() -> dict[str, str]:
    """The pages of all registered things, and their index."""
    from assay import registry

    timings = _json(DATA / "timings.json") or {}
    pages, index = {}, ["# Parts", "", "Everything that is registered; `assay catalog` searches the same list.", ""]
    for kind in PART_KINDS:
        index += [f"## {KIND_TITLES[kind]}", "", "| name | what it is |", "|---|---|"]
        for name in registry.TABLE[kind]:
            found = registry.resolve(kind, name)
            document = inspect.getdoc(found) or ""
            index.append(f"| [`{name}`]({kind}/{name}.md) | {_cell(_first_sentence(document))} |")
            pages[f"parts/{kind}/{name}.md"] = _part_page(
                kind, name, found, document, timings.get(f"{kind}/{name}"), timings.get("machine", "")
            )
        index.append("")
    return pages | {"parts/index.md": "\n".join(index)}


def _part_page(kind: str, name: str, found: Any, document: str, timing: dict[str, Any] | None, machine: str) -> str:
    from assay import registry

    module, attribute = registry.TABLE[kind][name].split(":")
    lines = [f"# {name}", "", f"*{KIND_TITLES[kind]}* · `from {module} import {attribute}`", "", _markdown(document), ""]
    module_document = inspect.getdoc(sys.modules.get(module)) or ""
    if module_document and _first_sentence(module_document) != _first_sentence(document):
        lines += ["## The file it is in", "", _markdown(module_document), ""]
    signature = _signature(found, attribute)
    if signature:
        lines += ["## Constructor" if inspect.isclass(found) else "## Call", "", "```python", signature, "```", ""]
    constructor = inspect.getdoc(found.__init__) if inspect.isclass(found) and found.__init__.__doc__ and "__init__" in vars(found) else ""
    if constructor:
        lines += [_markdown(constructor), ""]
    if kind in ("mixer", "model"):
        lines += ["## Cost", "", *_cost(kind, timing, machine), ""]
    forms = (_json(DATA / "forms.json") or {}).get(name, {}) if kind == "mixer" else {}
    if forms:
        lines += [
            "## Other forms",
            "",
            "Against PyTorch run as it is, a small model with this mixer; steps over 1,000 positions, compiled graphs as",
        ]
        lines += ["traced, without generated code:", ""]
        lines += ["| form | result |", "|---|---|", *(f"| {form} | {_cell(answer)} |" for form, answer in forms.items()), ""]
    return "\n".join(lines)


def _signature(found: Any, attribute: str) -> str:
    try:
        text = str(inspect.signature(found))
    except (TypeError, ValueError):
        return ""
    text = re.sub(r"(assay|torch|typing|numpy|collections\.abc)\.(\w+\.)*", "", text).replace("'", "")
    arguments = f"{attribute}{text}"
    return arguments if len(arguments) < 100 else arguments.replace("(", "(\n    ", 1).replace(", ", ",\n    ")


def _cost(kind: str, timing: dict[str, Any] | None, machine: str) -> list[str]:
    if timing is None:
        return ["Not measured yet: `python docs/generate.py --measure`."]
    if "refused" in timing:
        return [timing["refused"]]
    rows = [("measured on", timing["size"]), ("parameters", f"{timing['parameters']:,}"), ("operations, forward", f"{timing['flops']:,}")]
    rows.append(("forward, median", f"{timing['forward_ms']:.3g} ms (95th percentile {timing['forward_p95_ms']:.3g} ms)"))
    rows.append(("forward and backward, median", f"{timing['training_ms']:.3g} ms"))
    if timing.get("state_bytes"):
        rows.append(
            ("streaming state", ", ".join(f"{size:,} bytes after {position} positions" for position, size in timing["state_bytes"].items()))
        )
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), "", f"Measured with one thread: {machine}."]


# ------------------------------------------------------------------------------------------------ papers


def paper_pages() -> dict[str, str]:
    """One page a paper: every claim beside what was measured last; and their index."""
    from assay import registry

    pages = {}
    index = ["# Papers", "", "Every headline claim is a program: `assay reproduce SLUG` measures it. The tables show the last run at the"]
    index += ["scale named; a claim that fails is shown as failing.", ""]
    index += ["| paper | claims | hold | fail | undecided | not run |", "|---|---:|---:|---:|---:|---:|"]
    for slug in registry.TABLE["paper"]:
        paper = registry.resolve("paper", slug)
        results = {row["claim"]: row for row in _json(DATA / "claims" / f"{slug}.json") or []}
        verdicts = [results.get(claim.name, {}).get("verdict", "not-run") for claim in paper.claims]
        counts = " | ".join(str(verdicts.count(verdict)) for verdict in ("holds", "fails", "undecided", "not-run"))
        index.append(f"| [{_cell(paper.title)}]({slug}.md) | {len(paper.claims)} | {counts} |")
        pages[f"papers/{slug}.md"] = _paper_page(paper, results)
    return pages | {"papers/index.md": "\n".join([*index, ""])}


def _paper_page(paper: Any, results: dict[str, Any]) -> str:
    lines = [f"# {paper.title}", "", f"{paper.authors}, {paper.year}."]
    if paper.official:
        lines += ["", f"Official code: <{paper.official}>." if paper.official.startswith("http") else f"Official code: {paper.official}."]
    lines += ["", "```sh", f"assay reproduce {paper.slug}", "```", ""]
    lines += ["| claim | the paper | measured here | verdict |", "|---|---|---|---|"]
    for claim in paper.claims:
        row = results.get(claim.name)
        published = f"{_cell(claim.paper)}<br>*{_cell(claim.source)}*"
        text = f"**{_cell(claim.name)}**<br>{_cell(claim.text)}"
        if row is None:
            lines.append(f'| {text} | {published} | not run yet | <span class="verdict not-run">not run yet</span> |')
            continue
        measured = "<br>".join(
            f"{_cell(key)} {value:.4g}{_spread(row, key)}" for key, value in row["measured"].items() if value is not None
        )
        how = f"*{row['scale']}, {row['seeds']} seed{'' if row['seeds'] == 1 else 's'}, {row['seconds']:.0f} s{_machine(row)}*"
        verdict = f'<span class="verdict {row["verdict"]}">{row["verdict"].replace("-", " ")}</span><br>{_cell(row["reason"])}'
        lines.append(f"| {text} | {published} | {measured or '–'}<br>{how} | {verdict} |")
    return "\n".join([*lines, ""])


def _machine(row: dict[str, Any]) -> str:
    return f", {_cell(row['machine'])}" if row.get("machine") else ""


def _spread(row: dict[str, Any], key: str) -> str:
    value = row.get("spread", {}).get(key)
    return f" ± {value:.2g}" if value is not None else ""


# ------------------------------------------------------------------------------------------------ tables in other pages


def rules_table() -> str:
    """What is refused, imputed and warned of, from the code that does it."""
    from assay.tasks.rules import as_markdown

    return as_markdown()


def scaling_table() -> str:
    """What `benchmarks/scaling.py` measured last."""
    measured = _json(DATA / "scaling.json")
    if measured is None:
        return "Not measured yet: `python benchmarks/scaling.py --write`."
    return "\n\n".join(f"**{part['title']}** ({part['basis']})\n\n" + _table(part["rows"]) for part in measured["parts"])


def predictions_table() -> str:
    """What `--predict` found last."""
    found = _json(DATA / "predictions.json")
    if found is None:
        return "Not measured yet: `python docs/generate.py --predict`."
    shown = []
    for prediction in found:
        error = "" if prediction["error"] is None else f" ± {prediction['error']:.2g}"
        shown.append(
            {
                "question": prediction["question"],
                "formula": prediction["formula"],
                "predicted": f"{prediction['predicted']:.4g} ({prediction['low']:.4g} to {prediction['high']:.4g})",
                "measured": f"{prediction['measured']:.4g}{error}",
                "came true": "yes" if prediction["came_true"] else "**no**",
                "experiment": prediction["experiment"],
            }
        )
    return _table(shown)


def advice_table() -> str:
    """What `--advice` read last: advised networks beside the default ones."""
    found = _json(DATA / "advice.json")
    if found is None:
        return "Not measured yet: `assay compare DATA --models mlp --advised`, then `python docs/generate.py --advice STUDY …`."
    shown = []
    for row in found:
        advised = ", ".join(f"{name} {value}" for name, value in row["settings"].items())
        numbers = {name: f"{row[name]:.3g}" for name in ("default", "advised")}
        interval = f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        shown.append({"data": row["data"], "measure": row["metric"], **numbers, "advised − default": interval, "the advice": advised})
    return _table(shown)


def record_advice(studies: list[Path]) -> None:
    """Read studies made with ``--advised`` into docs/data/advice.json."""
    from assay import Study

    found = []
    for folder in studies:
        study = Study(folder)
        networks = [row for row in study.rows if not row["baseline"] and row["status"] == "done"]
        keys = [_configuration(networks, advised) for advised in (False, True)]
        interval = study.comparison.paired(keys[1], keys[0])
        values = {"default": study.comparison.mean(keys[0]), "advised": study.comparison.mean(keys[1])}
        found.append(
            {
                "data": networks[0]["task"],
                "metric": networks[0]["metric"],
                **values,
                "difference": interval.difference,
                "low": interval.low,
                "high": interval.high,
                "settings": _settings(folder),
            }
        )
    (DATA / "advice.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _configuration(rows: list[dict[str, Any]], advised: bool) -> str:
    from assay.bench.results import configuration_key

    return next(configuration_key(row) for row in rows if bool(row["axis"].get("advised")) == advised)


def _settings(folder: Path) -> dict[str, Any]:
    from assay.bench.plan import Plan

    return Plan.from_toml((folder / "study.toml").read_text(), folder / "study.toml").advice["mlp"]


def tracking_table() -> str:
    """What `--tracking` read last: models by tasks, the best on average first."""
    found = _json(DATA / "tracking.json")
    if found is None:
        return "Not measured yet: `python docs/generate.py --tracking STUDY …`."
    names = [name for name in found[0]["values"] if all(name in row["values"] for row in found)]
    names.sort(key=lambda name: -sum(row["values"][name][0] for row in found))
    shown = [
        {"model": name, **{row["data"]: "{:.3f} ({:.3f} to {:.3f})".format(*row["values"][name]) for row in found}} for name in names
    ]
    return "\n".join([_table(shown), "", *(f"- {row['data']}: {row['description']} {row['budget']}" for row in found)])


def record_tracking(studies: list[Path]) -> None:
    """Read studies of the same models on several tasks into docs/data/tracking.json."""
    import pandas as pd

    found = []
    for folder in studies:
        board = pd.read_csv(folder / "leaderboard.csv")
        task = json.loads((folder / "samples.json").read_text(encoding="utf-8"))["task"]
        values = {str(row.model): [float(row.value), float(row.low), float(row.high)] for row in board.itertuples()}
        runs = f"{int(board['runs'].max())} runs a model; {board['metric'][0]} on the test split with its 95 % interval."
        found.append({"data": task["name"], "description": task["description"] + ".", "budget": runs, "values": values})
    (DATA / "tracking.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def ideas_table() -> str:
    """The catalogue of ideas, family by family."""
    from assay.catalogue.ideas import ideas
    from assay.catalogue.printing import markdown

    return markdown(ideas())


def reports() -> str:
    """The gallery: each report's picture and first sentence."""
    cards = []
    for page in sorted((DOCS / "gallery").glob("*.html")):
        found = re.search(r"<h1>(.*?)</h1>", page.read_text(encoding="utf-8"), re.DOTALL)
        sentence = " ".join(re.sub(r"<[^>]+>", "", found[1] if found else "").split())  # escaped already, by the report
        picture = f"![First screen of the report {page.stem}](gallery/{page.stem}.png)"
        cards.append(f"- [{picture}](gallery/{page.name})\n\n    **{page.stem}**: {sentence}\n")
    return "\n".join(cards) or "No report is here yet."


def add_report(study: Path, name: str) -> None:
    """Copy a study's report into the gallery and take a picture of its first screen."""
    target = DOCS / "gallery" / f"{name}.html"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(study / "report.html", target)
    executable = shutil.which("chromium")
    if executable is None:
        raise SystemExit("A picture of the report needs Chromium: install it, for example with `apt-get install chromium`.")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1160, "height": 980}, color_scheme="light")
        page.goto(target.as_uri())
        page.screenshot(path=target.with_suffix(".png"))
        browser.close()


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join([*lines, *(f"| {' | '.join(_cell(str(row[name])) for name in names)} |" for row in rows)])


# ------------------------------------------------------------------------------------------------ measuring


def measure() -> None:
    """Measure every mixer and model with one thread and keep the figures."""
    import torch

    from assay import registry

    torch.set_num_threads(1)
    machine = f"{platform.machine()}, {os.cpu_count()} processors (load {os.getloadavg()[0]:.1f} when it began)"
    found: dict[str, Any] = {"machine": f"{machine}, PyTorch {torch.__version__}, {time.strftime('%Y-%m-%d')}"}
    for kind, measured in (("mixer", _measured_mixer), ("model", _measured_model)):
        for name in registry.TABLE[kind]:
            found[f"{kind}/{name}"] = measured(name)
            print(f"{kind}/{name}", found[f"{kind}/{name}"])
    DATA.mkdir(exist_ok=True)
    (DATA / "timings.json").write_text(json.dumps(found, indent=1) + "\n")


def _measured_mixer(name: str) -> dict[str, Any]:
    import torch

    from assay import registry
    from assay.measure import count_flops, parameter_count, state_bytes

    torch.manual_seed(0)
    mixer = registry.resolve("mixer", name)(WIDTH)
    x = torch.randn(BATCH, LENGTH, WIDTH)
    read = {"tokens": torch.randint(0, 100, (BATCH, LENGTH))} if "tokens" in getattr(mixer, "inputs", ()) else {}
    states = {}
    if getattr(mixer, "causal", False):
        with torch.no_grad():
            for position in (1, 16, LENGTH):
                chunk = {key: value[:1, :position] for key, value in read.items()}
                states[position] = state_bytes(mixer.scan(x[:1, :position], mixer.initial_state(1), **chunk)[1])
    times = _times(lambda: mixer(x, **read), mixer)
    size = f"{BATCH} sequences of {LENGTH} positions, width {WIDTH}"
    return {
        "size": size,
        "parameters": parameter_count(mixer),
        "flops": count_flops(lambda: mixer(x, **read)),
        **times,
        "state_bytes": states,
    }


def try_forms(names: list[str]) -> None:
    """Compile and export a small model of each mixer named, or of those not tried yet, and keep what came of it after every one."""
    import torch

    from assay import registry

    torch.set_num_threads(1)
    found: dict[str, Any] = _json(DATA / "forms.json") or {}
    for name in names or [name for name in registry.TABLE["mixer"] if name not in found]:
        found[name] = {"torch.compile": _compiled(name), **_exported(name)}
        ordered = {mixer: found[mixer] for mixer in registry.TABLE["mixer"] if mixer in found}
        (DATA / "forms.json").write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(name, found[name], flush=True)


def _compiled(name: str) -> str:
    """What `torch.compile` makes of a mixer, with and without padding: traced into graphs and run; code generation is PyTorch's own affair."""
    import torch

    from assay import registry

    torch._dynamo.reset()
    torch.manual_seed(0)
    mixer, x = registry.resolve("mixer", name)(16).eval(), torch.randn(2, 65, 16)
    read = {"tokens": torch.randint(0, 7, (2, 65))} if "tokens" in getattr(mixer, "inputs", ()) else {}
    masks = (None, torch.arange(65)[None] < torch.tensor([[65], [30]]))
    try:
        with torch.no_grad():
            compiled = torch.compile(mixer, backend="aot_eager")
            errors = [(compiled(x, mask, **read) - mixer(x, mask, **read))[slice(None) if mask is None else mask] for mask in masks]
    except Exception as error:  # whatever a compiler raises is what there is to say
        return f"no: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}"
    worst = max(float(error.abs().max()) for error in errors)
    return "the same" if worst <= 1e-4 else f"no: differs by {worst:.0e}"


def _exported(name: str) -> dict[str, str]:
    """What ONNX Runtime makes of a small model of a mixer: the whole sequence, and a position at a time."""
    import tempfile

    from assay.contracts import Class, NextTokens, Signature, Tokens
    from assay.errors import UserError
    from assay.exporters.onnx import to_onnx
    from assay.models import build

    try:
        model: Any = build(name, Signature(Tokens(11, 24), NextTokens(11)), 20_000).eval()
    except UserError:  # not causal
        model = build(name, Signature(Tokens(11, 24), Class(3)), 20_000).eval()
    forms = {"ONNX": False} | ({"ONNX, a step at a time": True} if model.causal else {})
    answers = {}
    for form, step in forms.items():
        try:
            with tempfile.TemporaryDirectory() as folder:
                to_onnx(model, Path(folder), step=step)
            answers[form] = "the same"
        except UserError as error:
            answers[form] = f"no: {error}"
    return answers


def _measured_model(name: str) -> dict[str, Any]:
    import torch

    from assay.measure import count_flops, parameter_count
    from assay.models import build, family

    for signature, batch, size in _standard_inputs():
        if family(name).accepts(signature) is None:
            torch.manual_seed(0)
            model = build(name, signature, parameters=PARAMETERS).eval()
            times = _times(lambda model=model, batch=batch: model(batch).prediction, model)
            return {"size": size, "parameters": parameter_count(model), "flops": count_flops(model, batch), **times}
    return {"refused": "Takes none of the standard inputs that the others are measured with."}


def _standard_inputs() -> list[tuple[Any, dict[str, Any], str]]:
    import torch

    from assay.contracts import Class, Graph, Image, Pair, Series, Signature, Table, Tokens

    generator = torch.Generator().manual_seed(0)
    image = {"image": torch.randn(BATCH, 3, 32, 32, generator=generator)}
    edges = torch.randint(0, 1000, (2, 5000), generator=generator)
    graph = {
        "nodes": torch.randn(1000, 64, generator=generator),
        "edges": torch.cat([edges, edges.flip(0)], 1),
        "selected": torch.arange(100),
    }
    tokens = torch.randint(0, 100, (BATCH, 64), generator=generator)
    real = torch.ones(BATCH, 64, dtype=torch.bool)
    pair = {"first_tokens": tokens, "first_mask": real, "second_tokens": tokens, "second_mask": real}
    return [
        (Signature(Image(3, 32, 32), Class(10)), image, f"{BATCH} pictures of 32×32, colour, 10 classes"),
        (Signature(Graph(64, 1000, 10_000), Class(7)), graph, "a graph of 1,000 nodes, 10,000 directed edges, 64 features, 7 classes"),
        (
            Signature(Table(32), Class(10)),
            {"table": torch.randn(BATCH, 32, generator=generator)},
            f"{BATCH} rows of 32 numbers, 10 classes",
        ),
        (
            Signature(Series(3, LENGTH), Class(10)),
            {"series": torch.randn(BATCH, LENGTH, 3, generator=generator), "mask": torch.ones(BATCH, LENGTH, dtype=torch.bool)},
            f"{BATCH} series of {LENGTH} steps, 3 channels, 10 classes",
        ),
        (Signature(Tokens(100, 64), Class(10)), {"tokens": tokens, "mask": real}, f"{BATCH} texts of 64 tokens, 10 classes"),
        (Signature(Pair(Tokens(100, 64), Tokens(100, 64)), Class(100)), pair, f"{BATCH} pairs of 64 tokens, 100 classes"),
    ]


def _times(forward: Any, module: Any) -> dict[str, float]:
    import torch

    from assay.measure import latency

    def train() -> None:
        module.zero_grad()
        forward().square().mean().backward()

    with torch.no_grad():
        median, late = latency(forward, repeats=20, warmup=3)
    return {"forward_ms": median, "forward_p95_ms": late, "training_ms": latency(train, repeats=10, warmup=2)[0]}


# ------------------------------------------------------------------------------------------------ text


def _markdown(document: str) -> str:
    """A docstring in Markdown: sections become headed lists, double backticks single ones, indented blocks stay code."""
    lines, section = [], False
    for line in document.splitlines():
        heading = re.fullmatch(r"(Args|Returns|Raises|Yields|Shapes|Example|Examples|Source|Sources|Note):", line.strip())
        if heading and not line.startswith(" "):
            lines += ["", f"**{heading[1].replace('Args', 'Arguments')}**", ""]
            section = True
        elif section and re.match(r" {4}\S", line):
            name, colon, rest = line.strip().partition(": ")
            lines.append(f"- `{name}`: {_inline(rest)}" if colon and " " not in name.replace(", ", "") else f"- {_inline(line.strip())}")
        elif section and re.match(r" {5,}\S", line):
            lines.append(f"  {_inline(line.strip())}")
        else:
            section = section and not line.strip()
            lines.append(line if line.startswith("    ") else _inline(line))
    return "\n".join(lines).strip()


def _inline(text: str) -> str:
    pieces = re.split(r"(``.+?``|`[^`]+`)", text)
    return "".join(
        f"`{piece.strip('`')}`" if index % 2 else html.escape(piece, quote=False).replace("*", "\\*").replace("_", "\\_")
        for index, piece in enumerate(pieces)
    )


def _first_sentence(document: str) -> str:
    from assay.catalogue.search import first_sentence

    return first_sentence(document)


def _cell(text: str) -> str:
    return (
        html.escape(" ".join(str(text).split()), quote=False)
        .replace("|", "\\|")
        .replace("*", "\\*")
        .replace("_", "\\_")
        .replace("`", "\\`")
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


if __name__ == "__main__":
    if "--measure" in sys.argv[1:]:
        measure()
    if sys.argv[1:2] == ["--forms"]:
        try_forms(sys.argv[2:])
    if "--predict" in sys.argv[1:]:
        import predictions

        (DATA / "predictions.json").write_text(json.dumps(predictions.measure(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if sys.argv[1:2] == ["--advice"]:
        record_advice([Path(folder) for folder in sys.argv[2:]])
    if sys.argv[1:2] == ["--tracking"]:
        record_tracking([Path(folder) for folder in sys.argv[2:]])
    if sys.argv[1:2] == ["--add-report"]:
        add_report(Path(sys.argv[2]), sys.argv[3])
    write_pages()
