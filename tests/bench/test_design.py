import torch
from torch import nn

from assay.bench import design
from assay.models.vision.simplenet import SimpleNet


def named(findings):
    return [finding.sentence.split(":")[0] for finding in findings]


def network(*layers):
    made, channels = [], 3
    for width, kernel, stride in layers:
        made.append(nn.Conv2d(channels, width, kernel, stride, kernel // 2))
        channels = width
    return nn.Sequential(*made)


def only_finding(layers):
    findings = design.lint(network(*layers), torch.zeros(1, 3, 32, 32))
    assert len(findings) == 1, named(findings)
    return findings[0]


PLAIN = [(32, 3, 1), (32, 3, 1), (32, 3, 1), (64, 3, 2), (64, 3, 1), (64, 3, 1)]


def test_a_network_by_the_principles_has_no_findings():
    assert design.lint(network(*PLAIN), torch.zeros(1, 3, 32, 32)) == []


def test_simplenet_itself_mostly_keeps_them():
    # its narrow head (512, 2048x1, 256x1, 256) is what the checks allow for: only equal widths within a group are broken
    findings = design.lint(SimpleNet(10), torch.zeros(1, 3, 32, 32))
    assert all("1×1 kernels" not in finding.sentence and "shrinks" not in finding.sentence for finding in findings)


def test_each_principle_speaks_up_alone():
    changed = {
        "jumps": [*PLAIN[:3], (160, 3, 2), (160, 3, 1), (160, 3, 1)],
        "1×1": [(32, 3, 1), (32, 1, 1), *PLAIN[2:]],
        "shrinks": [(32, 3, 1), (32, 3, 1), (32, 3, 2), *PLAIN[4:]],
        "multiples of 32": [(32, 3, 1), (33, 3, 1), *PLAIN[2:]],
        "one resolution": [*PLAIN[:3], (64, 3, 2), (64, 3, 1), (192, 3, 1)],
    }
    for word, layers in changed.items():
        assert word in only_finding(layers).sentence
    starved = design.lint(network((96, 3, 1), (32, 3, 1), (96, 3, 1), (96, 3, 1)), torch.zeros(1, 3, 16, 16))
    assert any("starves" in finding.sentence for finding in starved)


def test_findings_name_the_layers():
    table = only_finding([(32, 3, 1), (33, 3, 1), *PLAIN[2:]]).table
    assert table == [{"layer": "1", "width": 33, "kernel": 3, "side": 32}]


def test_comparisons_and_regulation():
    assert design.isolation(nn.Linear(10, 10), nn.Linear(10, 10)) is None
    assert "110 and 220" in design.isolation(nn.Linear(10, 10), nn.Linear(10, 20)).sentence
    assert design.regulation(nn.Sequential(nn.Dropout(0.0))) is None
    assert "1 dropout" in design.regulation(nn.Sequential(nn.Dropout(0.5))).sentence


def test_a_network_without_convolutions_is_told_so():
    assert "no convolution" in design.lint(nn.Linear(4, 2), torch.zeros(1, 4))[0].sentence


def test_a_plan_meets_its_budget_and_lists_what_runs():
    plan = design.simplenet_plan(16, 30_000, 10, channels=1)
    assert abs(plan.parameters - 30_000) < 600
    assert len(plan.layers) == 13
    # multiply-adds by hand: inputs · outputs · kernel² · side², and the linear map
    by_hand = sum(layer.inputs * layer.outputs * layer.kernel**2 * layer.side**2 for layer in plan.layers)
    assert plan.multiply_adds == by_hand + 10 * plan.layers[-1].outputs
    assert plan.smaller == [3750, 7500, 15000]
