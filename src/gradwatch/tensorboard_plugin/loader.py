"""What TensorBoard imports at its start: this and nothing heavier. Whatever fails here must not end TensorBoard."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from tensorboard.plugins import base_plugin

if TYPE_CHECKING:
    from gradwatch.tensorboard_plugin.plugin import NumericalHealthPlugin

log = logging.getLogger("gradwatch")

# As in serialization.tensorboard_rows, whose package takes thirty times as long to import as all that stands here.
PLUGIN_NAME = "numerical_health"
# TensorBoard keeps a random choice of the steps of a tag, by default 10 or 100: a million-step run has 2,600 rows.
KEPT_ROWS = 5000


class NumericalHealthLoader(base_plugin.TBLoader):  # type: ignore[misc]  # TensorBoard has no annotations
    """Makes the plugin, and has TensorBoard keep all of its rows."""

    def fix_flags(self, flags: Any) -> None:
        """Ask for all rows, unless the user's ``--samples_per_plugin`` names the plugin; an exception is fatal here."""
        try:
            flags.samples_per_plugin.setdefault(PLUGIN_NAME, KEPT_ROWS)
        except Exception as error:  # noqa: BLE001 - another TensorBoard than any of today
            log.warning("gradwatch: the Numerical Health tab may miss steps: %s: %s", type(error).__name__, error)

    def load(self, context: Any) -> NumericalHealthPlugin:
        """Return the plugin. TensorBoard logs what is raised here, and does without."""
        from gradwatch.tensorboard_plugin.plugin import NumericalHealthPlugin  # noqa: PLC0415 - as the docstring says

        return NumericalHealthPlugin(context)
