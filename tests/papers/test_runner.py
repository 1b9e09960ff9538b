import json

import pytest

from assay import measure, registry
from assay.contracts import Claim, Measured, Paper
from assay.errors import MissingExtra, UserError
from assay.papers.runner import reproduce, write_json

RUNS = []


def good(scale):
    RUNS.append(scale)
    return Measured({"accuracy": 0.5}, "holds", "0.5 is at least 0.4", {"accuracy": 0.01}, seeds=3)


def broken(scale):
    raise ZeroDivisionError("nothing to divide")


def lacking(scale):
    raise MissingExtra("kornia", "vision", "Augmenting pictures")


@pytest.fixture
def paper(monkeypatch, tmp_path):
    claims = [Claim(f.__name__, f"claim {f.__name__}", "1.0", "abstract", f) for f in (good, broken, lacking)]
    monkeypatch.setattr(registry, "resolve", lambda kind, name: Paper("fake", "Title", "Author", 2000, claims))
    RUNS.clear()
    return tmp_path


def test_a_raising_experiment_is_a_row_and_the_others_go_on(paper):
    rows = reproduce("fake", scale="smoke", output=paper)
    assert list(rows["verdict"]) == ["holds", "undecided", "not-run"]
    assert "ZeroDivisionError: nothing to divide (test_runner.py, line " in rows["reason"][1]
    assert "assay[vision]" in rows["reason"][2]


def test_finished_claims_are_not_run_twice_unless_asked(paper):
    for again, runs in ((False, 1), (False, 1), (True, 2)):
        reproduce("fake", scale="smoke", claims=["good"], output=paper, again=again)
        assert len(RUNS) == runs
    reproduce("fake", scale="laptop", claims=["good"], output=paper)
    assert RUNS[-1] == "laptop"  # another scale is another result


def test_a_result_of_other_code_is_made_anew(paper):
    (row,) = reproduce("fake", scale="smoke", claims=["good"], output=paper).to_dict("records")
    (file,) = paper.rglob("good.json")
    for other in ({**row, "code": "0.0.1+0"}, {key: value for key, value in row.items() if key != "code"}):
        file.write_text(json.dumps(other))
        assert list(reproduce("fake", scale="smoke", claims=["good"], output=paper)["code"]) == [row["code"]]
    assert len(RUNS) == 3


def test_json_has_the_documented_fields(paper):
    write_json(reproduce("fake", scale="smoke", output=paper), paper / "claims.json")
    rows = json.loads((paper / "claims.json").read_text())
    fields = {"slug", "claim", "source", "paper", "measured", "spread", "verdict", "reason", "scale", "seeds", "seconds", "code", "machine"}
    assert fields <= set(rows[0])
    assert rows[0]["measured"] == {"accuracy": 0.5}
    assert rows[0]["machine"] == measure.machine()


def test_unknown_claim_and_scale(paper):
    with pytest.raises(UserError, match="good, broken"):
        reproduce("fake", claims=["nope"], output=paper)
    with pytest.raises(UserError, match="--scale"):
        reproduce("fake", scale="huge", output=paper)
