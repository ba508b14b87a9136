"""The runs of ``test_verdicts.py`` that are chosen by hand."""

from __future__ import annotations

from tests.distributed.faulty_runs import KINDS, Fault, Run


def one(kind: str, batch: int = 1) -> dict[int, Fault]:
    """A fault on rank 1 only."""
    return {1: Fault(batch, kind)}


def both(kind: str, *batches: int) -> dict[int, Fault]:
    return {rank: Fault(batch, kind) for rank, batch in enumerate(batches)}


RUNS = [
    *(Run(f"rank-1-{kind}", one(kind)) for kind in KINDS),
    *(Run(f"both-{kind}", both(kind, 1, 1)) for kind in ("input", "derivative")),
    *(Run(f"sync-norm-{kind}", one(kind), sync_norm=True) for kind in KINDS),
    Run("sync-norm-both", both("forward", 2, 2), sync_norm=True),
    Run("sync-norm-accumulated", one("forward", 2), sync_norm=True, accumulate=4),
    Run("sync-norm-accumulated-input", one("input", 1), sync_norm=True, accumulate=4),
    Run("sync-norm-accumulated-both", both("forward", 2, 0), sync_norm=True, accumulate=4),
    Run("gathered", one("derivative"), gather="only", sync_log=True),
    Run("gathered-into-the-loss", one("forward"), gather="value", sync_log=True, unused=True),
    Run("accumulated-2", both("forward", 1, 2), accumulate=2),
    Run("accumulated-4", {0: Fault(3, "derivative"), 1: Fault(1, "input")}, accumulate=4),
    Run("accumulated-4-gathered", {0: Fault(3, "derivative"), 1: Fault(1, "forward")}, accumulate=4, gather="only"),
    *(Run(f"mode-{mode}", one("derivative"), mode=mode, sync_norm=True) for mode in ("raise", "stop", "warn")),
    Run("scaler", one("derivative"), scaler=True),
    Run("scaler-sync-norm", one("derivative"), scaler=True, sync_norm=True),
    Run("manual", one("derivative"), manual=True, accumulate=2, sync_norm=True),
    Run("overflow", one("overflow"), scaler=True),
    Run("overflow-sync-norm", one("overflow"), scaler=True, sync_norm=True),
    Run("functional", one("forward"), twist="functional"),
    Run("caught", one("forward"), twist="caught"),
    Run("point-to-point", one("forward"), twist="point-to-point", hindrance="send and receive"),
    Run("transient", one("transient"), twist="transient", hindrance="a value that comes once"),
    Run("no-copy", one("forward"), hindrance="copy"),
    Run("no-copy-sync-norm", one("forward"), hindrance="copy", sync_norm=True),
    Run("no-second-copy", one("forward"), hindrance="second copy", sync_norm=True),
    Run("failing-step", one("input"), hindrance="step", sync_norm=True),
    Run("failing-derivative", one("derivative"), hindrance="copy"),
]
SCENARIOS = {run.name: run for run in RUNS}
