"""The command line: one short function a verb, no logic. Heavy imports happen inside the verbs, so that ``assay --help`` is quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Tells you which neural network to use on your data, and hands you that network: trained, shrunk, explained, exported.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Data = Annotated[str, typer.Argument(help="A file, a folder, or the name of built-in data.")]
Run = Annotated[Path, typer.Argument(help="The folder of a trained run.")]
Target = Annotated[str | None, typer.Option(help="The column (or node attribute) to predict.")]
Kind = Annotated[str | None, typer.Option("--task", help="Take the data for: classes, values, forecast, next-token, pair, events …")]
Group = Annotated[str | None, typer.Option(help="A column whose equal values must stay in one split.")]
Time = Annotated[str | None, typer.Option("--time-column", help="The column of time stamps.")]
Horizon = Annotated[int | None, typer.Option(help="Steps ahead to forecast.")]
Tokenizer = Annotated[str | None, typer.Option(help="A tokenizer.json for text.")]
Methods = Annotated[str, typer.Option(help="Training methods, as in gradient-noise:eta=0.05; several separated by a space.")]
Parameters = Annotated[str, typer.Option(help="Parameter budget of a network, as in 200k or 1.5M.")]
Steps = Annotated[int | None, typer.Option(help="Budget: optimiser steps a run.")]
Seconds = Annotated[str | None, typer.Option("--time", help="Budget: training time a run, as in 60s or 5m.")]
Flops = Annotated[str | None, typer.Option(help="Budget: floating-point operations a run, as in 1e12.")]
Output = Annotated[Path | None, typer.Option(help="Folder to write to.")]


def _opening(
    task: str | None, target: str | None, group: str | None, time: str | None, horizon: int | None, tokenizer: str | None
) -> dict[str, Any]:
    given = {"task": task, "target": target, "group": group, "time": time, "horizon": horizon, "tokenizer": tokenizer}
    return {name: value for name, value in given.items() if value is not None}


@app.command()
def compare(
    data: Annotated[str | None, typer.Argument(help="A file, a folder, or built-in data; nothing: the digits.")] = None,
    task: Kind = None, target: Target = None, group: Group = None, time_column: Time = None, horizon: Horizon = None,
    tokenizer: Tokenizer = None,
    models: Annotated[str, typer.Option(help="Models separated by commas (names or file.py:Class), or auto.")] = "auto",
    methods: Methods = "",
    axis: Annotated[list[str] | None, typer.Option(help="An option to vary, as in depth=1,2,4; may be given several times.")] = None,
    advised: Annotated[bool, typer.Option("--advised", help="Run every network a second time as `assay advise` says.")] = False,
    parameters: Parameters = "200k", steps: Steps = None, time: Seconds = None, flops: Flops = None,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = 32,
    seeds: Annotated[int, typer.Option(help="Runs a model.")] = 3,
    workers: Annotated[int, typer.Option(help="Processes on this machine.")] = 1,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster.")] = None,
    rates: Annotated[str, typer.Option(help="Learning rates to try; one alone is used without a search.")] = "1e-3,3e-3,1e-2",
    threads: Annotated[int | None, typer.Option(help="Of every run; by default processors / workers, one on a cluster.")] = None,
    output: Output = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted study in --output.")] = False,
) -> None:  # fmt: skip
    """Compare models on your data under one equal budget: leaderboard, checkpoints, report."""
    from assay.bench.study import compare as run
    from assay.bench.words import parse_axis, parse_count, parse_seconds

    study = run(
        data, **_opening(task=task, target=target, group=group, time=time_column, horizon=horizon, tokenizer=tokenizer),
        models="auto" if models == "auto" else _listed(models), methods=methods.split(), axis=parse_axis(axis or []), advised=advised,
        parameters=int(parse_count(parameters, "--parameters")), steps=steps, seconds=parse_seconds(time),
        flops=parse_count(flops, "--flops"), batch_size=batch_size, seeds=seeds, workers=workers, ray=ray, output=output,
        resume=resume, live=True, rates=[parse_count(rate, "--rates") for rate in _listed(rates)], threads=threads,
    )  # fmt: skip
    raise typer.Exit(1 if any(row["status"] != "done" for row in study.rows) else 0)


@app.command()
def advise(
    data: Data,
    task: Kind = None, target: Target = None, group: Group = None, time_column: Time = None, horizon: Horizon = None,
    tokenizer: Tokenizer = None, parameters: Parameters = "200k",
    batch_size: Annotated[int, typer.Option(help="Examples a step, for the learning rate.")] = 32,
    output: Output = None,
) -> None:  # fmt: skip
    """Say before any training what network to take on your data, and why; written as a page with pictures."""
    from assay.bench.advising import advise as plan
    from assay.bench.live import recognised
    from assay.bench.report.advice import write_advice
    from assay.bench.words import parse_count

    advice = plan(
        data, parameters=int(parse_count(parameters, "--parameters")), batch_size=batch_size,
        **_opening(task=task, target=target, group=group, time=time_column, horizon=horizon, tokenizer=tokenizer),
    )  # fmt: skip
    typer.echo(recognised(advice.task, advice.description, advice.notes))
    typer.echo(f"{advice.sentence}\n")
    for line in advice.lines:
        typer.echo(f"{line.quantity:>17}  {line.value}")
        typer.echo(f"{'':>17}  {'; '.join(part for part in (line.formula, line.reason) if part)}")
    typer.echo(f"\nPage: {write_advice(advice, output or Path('assay-results') / f'advice-{advice.task}')}")


@app.command()
def train(
    data: Data,
    model: Annotated[str | None, typer.Option(help="A model or mixer, or file.py:Class.")] = None,
    from_run: Annotated[Path | None, typer.Option("--from", help="Go on from this run's weights.")] = None,
    task: Kind = None, target: Target = None, group: Group = None, time_column: Time = None, horizon: Horizon = None,
    tokenizer: Tokenizer = None, methods: Methods = "", parameters: Parameters = "200k", steps: Steps = None, time: Seconds = None,
    flops: Flops = None,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    batch_size: Annotated[int, typer.Option(help="Examples a step, over all processes.")] = 32,
    seed: Annotated[int, typer.Option(help="Of initialisation, batches and dropout.")] = 0,
    devices: Annotated[int, typer.Option(help="Devices (or CPU processes) a node.")] = 1,
    strategy: Annotated[str, typer.Option(help="auto, ddp or fully-shard.")] = "auto",
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    precision: Annotated[str, typer.Option(help="32-true, bf16-mixed, bf16-true, 16-mixed or 64-true.")] = "32-true",
    init: Annotated[str, typer.Option(help="Of a fresh network: default, or critical where the theory knows it.")] = "default",
    output: Output = None,
) -> None:  # fmt: skip
    """Train one network and write its run."""
    from assay.bench import verbs
    from assay.bench.live import recognised
    from assay.bench.words import parse_count, parse_seconds
    from assay.measure import parameter_count
    from assay.models import off_budget

    wanted = int(parse_count(parameters, "--parameters"))

    def progress(history: Any) -> None:
        typer.echo("  ".join(f"{name} {value:.5g}" for name, value in history.curve[-1].items()))

    run = verbs.train(
        data, model, from_run=from_run,
        **_opening(task=task, target=target, group=group, time=time_column, horizon=horizon, tokenizer=tokenizer),
        methods=methods.split(), parameters=wanted, steps=steps, seconds=parse_seconds(time), flops=parse_count(flops, "--flops"),
        learning_rate=learning_rate, batch_size=batch_size, seed=seed, devices=devices, strategy=strategy, nodes=nodes,
        precision=precision, init=init, output=output, on_progress=progress,
        on_open=lambda opened: typer.echo(recognised(opened.name, opened.description, opened.notes)),
    )  # fmt: skip
    if from_run is None and off_budget(run.network, wanted):
        typer.echo(f"The network has {parameter_count(run.network):,} parameters, not {wanted:,}: it comes no nearer.")
    typer.echo(f"run: {run.folder}")


@app.command()
def evaluate(run: Run, data: Annotated[str | None, typer.Argument(help="Further data; nothing: the run's own test split.")] = None) -> None:
    """All measures of a run on its test split, or on further data."""
    from assay.bench.verbs import evaluate as measure

    for name, value in measure(run, data).items():
        typer.echo(f"{name}: {value:.6g}")


@app.command()
def predict(run: Run, data: Data, output: Output = None) -> None:
    """The prediction for every example of further data, as CSV."""
    from assay.bench.verbs import predict as apply

    table = apply(run, data)
    if output is None:
        typer.echo(table.to_csv(index=False), nl=False)
    else:
        table.to_csv(output, index=False)
        typer.echo(f"{len(table)} predictions: {output}")


@app.command()
def generate(
    run: Run,
    prompt: Annotated[str, typer.Option(help="The text to go on from.")],
    count: Annotated[int, typer.Option(help="Tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.8,
    top: Annotated[int | None, typer.Option(help="Draw among this many likeliest tokens.")] = None,
    beams: Annotated[int, typer.Option(help="More than 1: beam search.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
) -> None:
    """Text that goes on from a prompt, by a run trained on text."""
    from assay.bench.verbs import generate as write

    typer.echo(prompt + write(run, prompt, count=count, temperature=temperature, top=top, beams=beams, seed=seed))


@app.command()
def shrink(
    run: Run,
    method: Annotated[str, typer.Option("--with", help="A compressor: magnitude, fold.")],
    to: Annotated[str, typer.Option(help="What may remain, as in parameters=0.5 or parameters=0.5,bytes=0.3.")],
    output: Output = None,
) -> None:
    """Make a run's network smaller; prints what every point on the way measured."""
    from assay.bench.verbs import shrink as compress
    from assay.bench.words import parse_shares

    smaller, trail = compress(run, method, parse_shares(to), output=output)
    for point in trail:
        typer.echo("  ".join(f"{name} {value:.5g}" for name, value in point.measures.items()))
    typer.echo(f"run: {smaller.folder}")


@app.command()
def inspect(
    run: Run,
    probe: Annotated[str | None, typer.Option("--with", help="As in alignment:other=RUN; nothing: all that train nothing.")] = None,
) -> None:
    """What probes find in a run."""
    from assay.bench.verbs import inspect as look

    found = look(run, probe)
    for name, finding in found.items():
        typer.echo(f"{name}: {finding.sentence}")
        for row in finding.table:
            typer.echo(
                "  " + "  ".join(f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
            )
    if not found:
        typer.echo("No probe applies to this kind of model.")


@app.command()
def export(
    run: Run,
    to: Annotated[str, typer.Option(help="onnx, torch or safetensors.")],
    step: Annotated[bool, typer.Option("--step", help="The step function of a streaming model, not the whole sequence.")] = False,
    output: Output = None,
) -> None:
    """Write a run's network in another form, checked."""
    from assay.bench.verbs import export as write

    for file in write(run, to, step=step, output=output):
        typer.echo(str(file))


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="A paper's slug, or all.")],
    scale: Annotated[str, typer.Option(help="smoke (seconds), laptop (minutes) or paper (as published).")] = "laptop",
    claim: Annotated[list[str] | None, typer.Option(help="Only this claim; may be given several times.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the results as JSON.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Run claims that have a result of this very code, too.")] = False,
    output: Output = None,
) -> None:
    """Run a paper's headline claims and print what was measured beside what was published."""
    from assay.papers.runner import reproduce as run
    from assay.papers.runner import write_json

    def show(result: Any) -> None:
        spread = {name: f" ± {value:.2g}" for name, value in result.spread.items()}
        measured = ", ".join(f"{name} {value:.4g}{spread.get(name, '')}" for name, value in result.measured.items())
        typer.echo(f"{result.slug} · {result.claim} [{result.seconds:.0f} s]")
        typer.echo(f"  claim:    {result.text}\n  paper:    {result.paper} ({result.source})")
        typer.echo(f"  measured: {measured or '—'}\n  verdict:  {result.verdict.upper()} — {result.reason}\n")

    results = run(paper, scale=scale, claims=claim, output=output, again=again, on_result=show)  # pyright: ignore[reportArgumentType]
    typer.echo("  ".join(f"{verdict}: {count}" for verdict, count in results["verdict"].value_counts().items()))
    if json is not None:
        write_json(results, json)


@app.command()
def catalog(
    words: Annotated[list[str] | None, typer.Argument(metavar="[WORDS]", help="All must occur; an id shows its card.")] = None,
    family: Annotated[str | None, typer.Option(help="Only ideas of this family, as in attention.")] = None,
    pattern: Annotated[str | None, typer.Option(help="Only ideas with this pattern, as in weigh.")] = None,
    status: Annotated[str | None, typer.Option(help="Only proven, partial or far-out ideas.")] = None,
    streams: Annotated[bool, typer.Option("--streams", help="Only ideas whose mixers read a stream.")] = False,
    max_state: Annotated[str | None, typer.Option(help="Only ideas whose state grows no faster, as in O(1).")] = None,
    data: Annotated[str | None, typer.Option("--for", help="Only what fits this data.")] = None,
    instead_of: Annotated[
        str | None, typer.Option(help="Only what can stand in the place of this idea or part, the nearest first.")
    ] = None,
    measured: Annotated[str | None, typer.Option(help="A study's folder: only what it measured, the best first.")] = None,
    kind: Annotated[str | None, typer.Option(help="List what is registered instead: mixer, model, task … or all.")] = None,
    format: Annotated[str, typer.Option(help="text, json, markdown or graph.")] = "text",
) -> None:
    """Find the field's ideas and the parts that stand for them."""
    from assay.catalogue import printing, search
    from assay.catalogue.ideas import find
    from assay.catalogue.measured import best_first, figures
    from assay.errors import UserError

    if format not in printing.FORMATS:
        raise UserError(f"--format must be one of {', '.join(printing.FORMATS)}, not {format!r}.")
    signature = None
    if data is not None:
        from assay import tasks

        signature = tasks.open(data).signature
    wanted, filters = " ".join(words or []), {"family": family, "pattern": pattern, "status": status, "max_state": max_state}
    if kind is None:
        found, seen = find(wanted, signature=signature, streams=streams, instead_of=instead_of, **filters), None
        if measured is not None:
            seen = figures(measured, found)
            found = best_first(found, seen)
        typer.echo(printing.show(found, wanted, format, seen))
        return
    if kind not in (*search.KINDS, "all"):
        raise UserError(f"--kind must be one of {', '.join(search.KINDS)} or all, not {kind!r}.")
    if instead_of is not None or measured is not None:
        raise UserError("--instead-of and --measured speak of ideas: leave out --kind.")
    typer.echo(printing.registered(search.catalog(wanted, kind=kind, signature=signature, streams=streams, **filters), format))


@app.command()
def check(
    reference: Annotated[str, typer.Argument(metavar="FILE:CLASS", help="As in mine.py:MyMixer, or a registered name.")],
) -> None:
    """Run the public contract checks on your part and say in plain words which rule failed and by how much."""
    from assay.registry import is_file_reference, load_file_attribute
    from assay.testing import check as examine
    from assay.testing import registered

    results = examine(load_file_attribute(reference) if is_file_reference(reference) else registered(reference))
    for result in results:
        typer.echo(f"{'ok  ' if result.passed else 'FAIL'} {result.rule}{': ' + result.detail if result.detail else ''}")
    failed = sum(not result.passed for result in results)
    typer.echo(f"{len(results) - failed} rules kept, {failed} broken")
    raise typer.Exit(1 if failed else 0)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def main() -> None:
    """Run the command line; a user's error is one sentence and exit code 2, Ctrl-C is 130."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads sleep: the machine may be busy with other things too
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except ValueError as error:
        if type(error).__name__ not in ("UserError", "MissingExtra"):
            raise
        typer.echo(f"assay: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
