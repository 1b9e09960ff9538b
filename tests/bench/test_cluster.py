"""A study on a real Ray cluster of two nodes (two raylets on this machine): same quality as in one process."""

import pytest
from small import QUICK, table_task

import assay
from assay.errors import UserError

pytest.importorskip("ray")


@pytest.mark.slow
def test_a_two_node_cluster_gives_the_quality_of_one_process(tmp_path, monkeypatch):
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setattr("assay.bench.study.measured", lambda *_args: {})
    options = QUICK | {"models": ["mlp", "majority"], "rates": (1e-3, 1e-2)}
    alone = assay.compare(table_task(), output=tmp_path / "alone", **options)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        spread = assay.compare(table_task(), output=tmp_path / "spread", ray=cluster.address, **options)
        with pytest.raises(UserError, match="asks for 2 processors and the cluster's largest node has 1"):
            assay.compare(table_task(), output=tmp_path / "wide", ray=cluster.address, **options | {"threads": 2})
        assert not (tmp_path / "wide").exists()
        ray.init(address=cluster.address, log_to_driver=False)
        assert len({node["NodeID"] for node in ray.nodes() if node["Alive"]}) == 2
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert [(row["run"], row["value"], row["status"]) for row in alone.rows] == [
        (row["run"], row["value"], row["status"]) for row in spread.rows
    ]
    for row in spread.rows:
        assert (spread.folder / "runs" / row["run"] / "scores.npz").is_file()
    assert (spread.folder / "leaderboard.csv").read_text().count("\n") == 3


def test_a_cluster_that_does_not_answer_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"No Ray cluster answers at 127\.0\.0\.1:1 "):
        assay.compare(table_task(), models=["majority"], output=tmp_path / "study", ray="127.0.0.1:1")
    assert not (tmp_path / "study").exists()
