"""Rows of the table of `assay.tasks.rules`: series, forecasts, events and logged decisions."""

from __future__ import annotations

from assay.tasks.rule import Rule

SERIES_RULES: tuple[Rule, ...] = (
    Rule(
        "infinite-step",
        "series",
        "a value is infinite",
        "refused",
        "{path}, {place}, channel {channel!r} is infinite at step {step:,}: replace it by a number, or leave it empty.",
    ),
    Rule(
        "broken-series-file",
        "series (.ts, .arff, .tsv)",
        "the file does not read as its format says",
        "refused",
        "{path} does not read as a {suffix} file of series ({reason}): mend the file, or save the series as a CSV with one a row.",
    ),
    Rule(
        "unlabelled-series",
        "series (.ts, .arff, .tsv)",
        "the file has no labels",
        "refused",
        "{path} has series without labels: declare @classLabel true (or @targetlabel true) and end each line with its label.",
    ),
    Rule(
        "other-channels",
        "series",
        "a file has another number of channels than the model was trained on, or than its other half",
        "refused",
        "{path} has {found:,} channels, {wanted:,} are wanted: give every series the same channels.",
    ),
    Rule(
        "no-value-column",
        "series, forecast",
        "there is no column of numbers to learn from",
        "refused",
        "{path} has no column of numbers beside {others}: add the measured values as columns.",
    ),
    Rule(
        "varying-label",
        "long series",
        "the rows of one series carry different labels",
        "refused",
        "{path}, row {row:,}: series {series!r} has label {found!r}, but {wanted!r} before: a series has one label; correct the row.",
    ),
    Rule(
        "missing-moment",
        "long series, forecast, events",
        "a row has no time, or one that does not read",
        "refused",
        "{path}, row {row:,}, column {column!r} holds no time ({value}): fill it in or remove the row.",
    ),
    Rule(
        "double-moment",
        "long series, forecast",
        "a moment occurs twice in one series",
        "refused",
        "{path}, row {row:,}, column {column!r}: {value} occurs twice; name the column that tells the series apart with --group, "
        "or remove one of the rows.",
    ),
    Rule(
        "short-forecast",
        "forecast",
        "there are too few steps for three parts with windows in each",
        "refused",
        "{path} has {count:,} steps, and {needed:,} are needed to learn and to test forecasts of {horizon:,} steps: "
        "add data, or choose a smaller --horizon.",
    ),
    Rule(
        "short-history",
        "forecast",
        "new data are shorter than what the model reads",
        "refused",
        "{path} has {count:,} steps, and the model reads {context:,} to forecast {horizon:,}: add earlier rows.",
    ),
    Rule(
        "too-few-events",
        "events",
        "there are too few events to learn from",
        "refused",
        "{path} has {count:,} events in {cases:,} cases: at least three cases of two events, or one of thirty, are needed.",
    ),
    Rule(
        "broken-log",
        "logged decisions (.npz)",
        "arrays are missing or do not fit each other",
        "refused",
        "{path}: {reason}; a log needs observations (steps, width), actions (steps,), rewards (steps,) and dones (steps,).",
    ),
    Rule(
        "missing-steps",
        "series",
        "values are missing",
        "imputed",
        "{count:,} missing values in {series:,} series were filled by a straight line between their neighbours.",
    ),
    Rule(
        "recordings",
        "folders of tables",
        "each sub-folder holds several tables of numbers with the same columns",
        "warned",
        "{count:,} tables in sub-folders are read as one series each, {ordered}, the sub-folder its class, with {channels} as channels; "
        "--target names a column if they are pieces of one table.",
    ),
    Rule(
        "unequal-lengths",
        "series",
        "series have different lengths",
        "imputed",
        "Series have {shortest:,} to {longest:,} steps: shorter ones are padded at the end and the padding is masked.",
    ),
    Rule(
        "cut-series",
        "series",
        "new series are longer than any in training",
        "imputed",
        "{count:,} series are longer than the {length:,} steps the model reads: only their first steps are used.",
    ),
    Rule(
        "gaps-in-time",
        "forecast",
        "moments are missing",
        "imputed",
        "{count:,} moments are missing from the regular step of {step}: they were put in.",
    ),
    Rule(
        "missing-values-in-time",
        "forecast",
        "values are missing",
        "imputed",
        "{count:,} missing values were filled {how}; they are never counted in a score.",
    ),
    Rule(
        "thinned-windows",
        "forecast",
        "training windows would not fit into memory",
        "warned",
        "Training uses every {stride:,}th of {count:,} windows, so that they fit into memory.",
    ),
    Rule(
        "constant-channel",
        "series, forecast",
        "a channel never changes in training",
        "warned",
        "Channel {channel!r} never changes in training: it is kept, but tells nothing.",
    ),
    Rule(
        "simultaneous-events",
        "events",
        "events of one case share a moment",
        "imputed",
        "{count:,} events share a moment with the one before: their gap counts as {gap:g}, half the smallest seen.",
    ),
)
