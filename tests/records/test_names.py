"""The package offers what its files hold: there the codec looks for the events, and every importer for names."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import pytest

from gradwatch import records

FILES = [module.name for module in iter_modules(records.__path__)]


@pytest.mark.parametrize("file", FILES)
def test_every_class_of_a_file_is_offered_by_the_package(file: str) -> None:
    module = import_module(f"gradwatch.records.{file}")
    classes = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    assert classes
    assert classes <= set(records.__all__)
