import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from assay.errors import UserError
from assay.training.distributed import make_fabric

SCRIPT = Path(__file__).with_name("distributed_run.py")


def run(devices, strategy, noise=0.0):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(port), "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(devices), strategy, str(noise)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))[7:])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fully-shard"])
def test_two_processes_give_the_loss_curve_of_one(strategy):
    one, two = run(1, "auto"), run(2, strategy)
    assert two["curve"] == pytest.approx(one["curve"], abs=1e-4)
    assert two["total"] == pytest.approx(one["total"], rel=1e-4)


@pytest.mark.slow
def test_gradient_noise_is_the_same_on_every_replica():
    assert run(2, "ddp", noise=0.01)["curve"] == pytest.approx(run(1, "auto", noise=0.01)["curve"], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "word"), [({"strategy": "magic"}, "--strategy"), ({"devices": 0}, "--devices"), ({"precision": "7"}, "together")]
)
def test_unusable_options_are_one_sentence(options, word):
    with pytest.raises(UserError, match=word):
        make_fabric(**options)
