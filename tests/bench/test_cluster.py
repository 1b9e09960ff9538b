"""A study on a real Ray cluster of two nodes (two raylets on this machine): same quality as in one process."""

import pytest
from small import QUICK, table_task

import assay

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
