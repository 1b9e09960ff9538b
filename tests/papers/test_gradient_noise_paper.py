import pytest

from assay.papers.runner import reproduce


@pytest.mark.slow
def test_every_claim_runs_at_smoke_scale(tmp_path):
    rows = reproduce("gradient-noise", scale="smoke", output=tmp_path)
    assert len(rows) == 7
    assert not rows["reason"].str.contains("raised").any(), rows["reason"].tolist()
    run = rows[rows["verdict"] != "not-run"]
    assert all(run["measured"].map(len) > 0)
