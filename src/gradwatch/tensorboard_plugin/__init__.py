"""The Numerical Health tab of TensorBoard: serves what ``gradwatch.sinks.tensorboard`` has written. No torch.

Routes, below ``/data/plugin/numerical_health/`` (all GET; ``run`` is a run's name as ``runs`` lists it):

``index.js``, ``page.css``, ...
    The files in ``static``.

``runs``
    JSON ``{"runs": [run, ...]}`` sorted by name, runs without data of ours left out. A run::

        {"name", "version",            # of the rows; null where none could be read
         "note": null | "why this run cannot be shown, or only in part",
         "optimizers": [{"optimizer": 0, "layers": [names in model order], "metrics": ["grad_norm", ...]}, ...],
         "rows",                       # of optimizer 0, since the run's last start; about, and for display only
         "first", "last",              # log steps, null without rows
         "findings": {"info": n, "warning": n, "error": n},  # episodes, by the worst severity they had
         "incidents": n, "checks": n,
         "key": "changes whenever the run has new data"}

``matrix?run=&metric=&optimizer=0&from=&to=&columns=800``
    Binary: the layers' values as columns over steps. ``from`` and ``to`` are log steps, both included and optional.
    Neighbouring rows are put together, by the largest value, until at most ``columns`` are left: those whose last
    step falls into the same of ``columns`` equal parts of the range. Header ``{"layers": [...], "first": [...],
    "last": [...], "rows": n, "note": null | text, "dtype": "float32", "shape": [columns, layers]}``: column ``i``
    stands for log steps ``first[i]`` to ``last[i]``, ``rows`` rows lie in the range, and the note says if some were
    damaged. The values follow, float32, column by column.

``layer?run=&optimizer=0&layer=<index into "layers">``
    Binary: one layer at full row resolution. Header ``{"layer": name, "metrics": [...], "first": [...], "last":
    [...], "dtype": "float32", "shape": [metrics, rows]}``, then the values, metric by metric.

``curves?run=&optimizer=0``
    Binary: header ``{"columns": [names as in CURVES], "first": [...], "last": [...], "dtype": "float64", "shape":
    [columns, rows]}``, then the values, curve by curve.

``events?run=``
    JSON::

        {"findings": [episode, ...],   # in the order in which they opened
         "incidents": [object as in incident.json, with "log_step" and "folder": path | null, ...],
         "checks": [gradient_check object with "log_step", ...],
         "starts": [run_start object with "log_step", ...],
         "ends": [run_end object with "log_step", ...]}  # none of a run that was killed, or is still running

    An episode is one finding from its opening to its end::

        {"code", "layer", "severity",  # the worst it had
         "opened", "last", "closed",   # log steps: first and latest news of it, and its end (null while it lasts)
         "since_step",                 # the Trainer's global_step from which on it holds
         "updates": n, "message", "evidence", "advice",   # of the latest news before its end
         "closing": null | "the message with which it ended"}

Binary answers are ``uint32`` (little-endian): length of the header in bytes; the header, JSON padded with spaces so
that the values begin at a multiple of 8; the values, little-endian. In values ``UNKNOWN`` (-3.4028234663852886e38, in
float32 as in float64) is "not known"; NaN and infinities are what was measured. Floats in JSON that JSON cannot
express are the strings "NaN", "Infinity", "-Infinity", as in ``events.jsonl``.

Every data answer has an ``ETag`` that changes with the run's last row, and answers ``If-None-Match`` with 304.
Errors are JSON ``{"error": message}`` with status 400 (the request is wrong) or 404 (no such run, metric, layer).
"""
