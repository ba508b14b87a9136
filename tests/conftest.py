"""What has to stand before any test runs."""

from __future__ import annotations

import torch.jit
from hypothesis import settings

# TorchScript knows its builtins by their ids, in a table that is made when it is first asked for. In a test that has
# replaced one of them the table would take in an object that is soon gone, and whose id another one is given.
torch.jit._builtins._get_builtin_table()  # type: ignore[no-untyped-call]

# By default an example that takes 200 ms has failed, which any does at times on a busy machine.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
