import subprocess
import sys

import pytest


def assay(*arguments, cwd=None):
    return subprocess.run([sys.executable, "-m", "assay.cli", *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "two.csv"
    rows = [f"{i % 7},{(i * 5) % 11},{'yes' if (i % 7) + (i * 5) % 11 > 8 else 'no'}" for i in range(200)]
    path.write_text("a,b,answer\n" + "\n".join(rows) + "\n")
    return path


def test_train_evaluate_predict_export_from_the_command_line(csv, tmp_path):
    run = tmp_path / "run"
    done = assay("train", csv, "--model", "mlp", "--parameters", "1k", "--steps", "100", "--output", run)
    assert done.returncode == 0, done.stderr
    assert f"run: {run}" in done.stdout
    assert "accuracy: " in assay("evaluate", run).stdout
    lines = assay("predict", run, csv).stdout.splitlines()
    assert lines[0] == "name,prediction,probability"
    assert len(lines) == 201
    assert {line.split(",")[1] for line in lines[1:]} <= {"yes", "no"}
    exported = assay("export", run, "--to", "safetensors", "--output", tmp_path / "out")
    assert exported.returncode == 0
    assert (tmp_path / "out" / "model.safetensors").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "no-such-file.csv"], "no-such-file.csv"),
        (["train", "digits", "--model", "lsmt"], "did you mean lstm"),
        (["train", "digits", "--model", "mlp", "--batch-size", "0"], "batch_size must be at least 1"),
        (["train", "digits", "--model", "mlp", "--time", "soon"], "--time"),
        (["train", "digits", "--model", "mlp", "--strategy", "magic"], "--strategy"),
        (["compare", "digits", "--axis", "depth"], "--axis"),
        (["reproduce", "no-such"], "no-such"),
        (["catalog", "--kind", "thing"], "--kind"),
        (["check", "nothing.py:Mine"], "nothing.py"),
        (["evaluate", "nowhere"], "nowhere"),
    ],
)
def test_a_user_s_error_is_one_sentence_and_exit_code_two(arguments, words, tmp_path):
    done = assay(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("assay: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr
    assert not any(path.suffix != ".lock" for path in tmp_path.iterdir())  # nothing half-written


def test_catalog_finds_by_words_and_fits_data(csv):
    assert "aaren" in assay("catalog", "attention", "--kind", "mixer").stdout
    fitting = assay("catalog", "--kind", "model", "--for", csv).stdout
    assert "mlp" in fitting
    assert "simplenet" not in fitting


def test_check_says_which_rule_a_part_breaks(tmp_path):
    (tmp_path / "peeking.py").write_text(
        "import torch\nfrom assay.nn import StreamingMixer\n\n\n"
        "class Peeking(StreamingMixer):\n"
        "    def __init__(self, width):\n        super().__init__()\n        self.map = torch.nn.Linear(width, width)\n\n"
        "    def initial_state(self, batch_size):\n        return torch.zeros(batch_size, 1)\n\n"
        "    def scan(self, x, state, mask=None):\n        return self.map(x) + x.mean(1, keepdim=True), state\n"
    )
    done = assay("check", f"{tmp_path / 'peeking.py'}:Peeking")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL" in done.stdout


def test_every_verb_is_a_function_whatever_is_imported():
    import importlib
    import pkgutil

    import assay as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"assay.{module.name}")
    assert all(callable(getattr(package, name)) for name in package.__all__)
