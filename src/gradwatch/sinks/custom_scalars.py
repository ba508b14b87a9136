"""Five charts for TensorBoard's Custom Scalars tab, for those who look at nothing else.

TensorBoard merges the layouts of all runs chart by chart: these are the same in every run, whatever it has of
optimizers, so that a hundred runs still make five charts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

CATEGORY = "gradwatch"
LAYOUT_TAG = b"custom_scalars__config__"
# More than this is not searched for a layout of the user's own.
MAX_SEARCHED_BYTES = 64 * 2**20

# Tags of all optimizers, behind whatever prefix the logger has.
_CHARTS = {
    "Loss and gradient norm": ("loss_max", "grad_norm", "grad_norm_max", "grad_norm_clipped"),
    "Clipping": ("clip_coefficient", "clip_rate"),
    "Loss scale": ("loss_scale",),
    "Non-finite and skipped steps": ("nonfinite", "skipped_steps"),
    "Gradient check error": ("gradient_check_error",),
}


def layout() -> dict[str, dict[str, list[Any]]]:
    """Return the charts in the form that ``add_custom_scalars`` takes: patterns for ``re.match``."""
    return {
        CATEGORY: {
            title: ["Multiline", [rf"(.*-)?health/{name}(/optimizer_\d+)?$" for name in names]]
            for title, names in _CHARTS.items()
        }
    }


def add_charts(experiment: Any) -> None:
    """Add the charts to the run of a ``SummaryWriter``, unless it has a layout: TensorBoard keeps one for each run."""
    if hasattr(experiment, "add_custom_scalars") and not _may_have_layout(experiment):
        experiment.add_custom_scalars(layout())


def _may_have_layout(experiment: Any) -> bool:
    """Whether there is a layout in the run's directory; also where it cannot be looked: the user's own goes first."""
    experiment.flush()
    directory = Path(getattr(experiment, "log_dir", None) or experiment.logdir)  # the latter in tensorboardX
    if not directory.is_dir():
        return True
    files = list(directory.glob("*tfevents*"))
    if sum(file.stat().st_size for file in files) > MAX_SEARCHED_BYTES:
        return True
    return any(LAYOUT_TAG in file.read_bytes() for file in files)
