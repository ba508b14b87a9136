"""What has to stand before any test runs."""

from __future__ import annotations

import torch.jit

# TorchScript knows its builtins by their ids, in a table that is made when it is first asked for. In a test that has
# replaced one of them the table would take in an object that is soon gone, and whose id another one is given.
torch.jit._builtins._get_builtin_table()  # type: ignore[no-untyped-call]
