"""What the docs say is true: code runs, commands parse, every registered thing has its page, the site builds."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from assay import registry
from assay.cli import app
from assay.models.build import pattern_elements

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/guides").glob("*.md")),
]
VERBS = vars(typer.main.get_command(app))["commands"]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def examples() -> list:
    """Pages with Python in them; one that runs a study starts processes to measure latency, and is slow for that."""
    pages = [path for path in WRITTEN if blocks(path, "python")]
    slow = [path for path in pages if any("assay.compare(" in block for block in blocks(path, "python"))]
    return [pytest.param(path, marks=[pytest.mark.slow] if path in slow else [], id=named(path)) for path in pages]


@pytest.mark.parametrize("path", examples())
def test_python_in_the_docs_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    try:
        exec(compile("\n".join(blocks(path, "python")), named(path), "exec"), {"__name__": "docs"})
    finally:
        torch.set_num_threads(threads)


def commands(path: Path) -> list[str]:
    """Command lines in blocks of shell, and in running text where they are more than a verb's name."""
    text = path.read_text(encoding="utf-8")
    inline = [code for code in re.findall(r"`(assay [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)) if len(code.split()) > 2]
    return [line for block in blocks(path, "sh") for line in block.splitlines() if line.startswith("assay ")] + inline


@pytest.mark.parametrize("path", [path for path in WRITTEN if commands(path)], ids=named)
def test_commands_in_the_docs_parse(path):
    for line in commands(path):
        _, verb, *arguments = shlex.split(line)
        assert verb in VERBS, line
        try:
            VERBS[verb].make_context(verb, list(arguments))
        except Exception as error:
            pytest.fail(f"{line}: {error}")


def test_a_wrong_command_would_be_found():
    with pytest.raises(Exception, match="no-such-option"):
        VERBS["compare"].make_context("compare", ["data", "--no-such-option"])


def test_commands_name_what_exists():
    for path in WRITTEN:
        text = "\n".join(commands(path))
        for names in re.findall(r"--models? (\S+)", text):
            for name in (element.partition("*")[0] for pattern in names.split(",") for element in pattern_elements(pattern)):
                known = any(registry.known(kind, name) for kind in ("mixer", "model", "estimator"))
                assert known or name == "auto" or registry.is_file_reference(name), f"{named(path)}: {name}"
        for slug in re.findall(r"assay reproduce ([a-z][\w-]*)", text):
            assert slug == "all" or registry.known("paper", slug), f"{named(path)}: {slug}"
        for name in re.findall(r"assay shrink \S+ --with (\S+)", text):
            assert registry.known("compressor", name)


@pytest.fixture(scope="module")
def generate():
    import importlib.util

    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_registered_part_has_a_page_with_its_sentence(generate):
    pages = generate.part_pages()
    for kind in generate.PART_KINDS:
        for name in registry.TABLE[kind]:
            page = pages[f"parts/{kind}/{name}.md"]
            assert len(page.split("\n\n")[2]) > 20, f"{kind} {name} has no docstring"
            assert f"]({kind}/{name}.md)" in pages["parts/index.md"]
    missing = set(registry.TABLE) - set(generate.PART_KINDS) - {"paper"}
    assert not missing, f"kinds without pages: {missing}"


def test_every_paper_has_a_page_with_all_its_claims(generate):
    pages = generate.paper_pages()
    for slug in registry.TABLE["paper"]:
        for claim in registry.resolve("paper", slug).claims:
            assert generate._cell(claim.text) in pages[f"papers/{slug}.md"]


def test_a_claims_table_shows_measured_figures_and_hostile_text_as_text(generate):
    from assay.contracts import Claim, Measured, Paper

    claim = Claim("faster", "It is <b>faster</b> | much", "2× (“fast”)", "abstract", lambda scale: Measured({}, "fails", ""))
    row = {"claim": "faster", "measured": {"ratio": 1.2345}, "spread": {"ratio": 0.05}, "verdict": "fails", "reason": "ratio < 2"}
    row |= {"scale": "laptop", "seeds": 3, "seconds": 12.0}
    page = generate._paper_page(Paper("p", "P", "A. Author", 2020, [claim]), {"faster": row})
    assert "ratio 1.234 ± 0.05" in page
    assert 'class="verdict fails"' in page
    assert "&lt;b&gt;faster&lt;/b&gt; \\| much" in page
    assert "not run yet" in generate._paper_page(Paper("p", "P", "A. Author", 2020, [claim]), {})


def test_the_table_of_rules_has_every_rule(generate):
    from assay.tasks.rules import RULES

    table = generate.rules_table()
    assert table.count("\n") == len(RULES) + 1
    assert "{" not in table


def test_contributing_is_short():
    sections = (ROOT / "CONTRIBUTING.md").read_text().split("\n## ")[1:]
    assert [section.split("\n")[0] for section in sections] == ["A part", "A task", "A method", "A compressor", "A claim"]
    assert all(len(section.strip().splitlines()) <= 12 for section in sections)  # a heading, a blank line, at most ten lines


def test_reports_in_the_gallery_are_small():
    for page in (ROOT / "docs/gallery").glob("*.html"):
        assert page.stat().st_size < 500_000


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "site/parts/mixer/aaren.html").is_file()
    for page in (tmp_path / "site").glob("**/*.html"):
        external = re.findall(r'<(?:link|script|img)[^>]+(?:href|src)="https?://[^"]+"[^>]*>', page.read_text(encoding="utf-8"))
        assert [tag for tag in external if "canonical" not in tag] == [], page
