"""The callback for ``pytorch_lightning``, whose ``Callback`` is another class than that of ``lightning.pytorch``."""

from __future__ import annotations

from pytorch_lightning.callbacks import Callback

from gradwatch.integrations.callback_hooks import MonitorHooks


class NumericalHealthMonitor(MonitorHooks, Callback):  # noqa: D101 - the hooks' own docstring
    __doc__ = MonitorHooks.__doc__
