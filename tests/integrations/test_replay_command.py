"""``gradwatch replay`` as a user meets it: verdict, exit status, debugger, and one line for what is broken."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from gradwatch import cli, load_incident
from gradwatch.integrations import replay_command
from gradwatch.replica.bundle import load
from gradwatch.serialization import to_dict
from tests.integrations import replay_modules as modules
from tests.integrations.replay_modules import breaking
from tests.integrations.replays import edit, incident_of, incident_of_loop, refused, replay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HERE = modules.__name__
SAME = "The verdict is the one recorded."


@pytest.fixture(autouse=True)
def _process() -> Iterator[None]:
    """Undo what the command does to its own process."""
    path = list(sys.path)
    with warnings.catch_warnings():
        yield
    sys.path[:] = path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An incident that nobody changes."""
    return incident_of(tmp_path_factory.mktemp("plain"), modules.Plain())


@pytest.fixture
def own(plain: Path, tmp_path: Path) -> Path:
    """A copy of the incident, to break."""
    return shutil.copytree(plain, tmp_path / "incident")


# -- the verdict -------------------------------------------------------------------------------------------------------


def test_the_same_verdict_is_status_0(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = replay(capsys, plain)
    assert done.status == cli.DONE, done
    assert done.err == ""
    assert "log, in the module itself (Plain)" in done.out
    assert "return self.score(batch).log().mean()" in done.out
    assert SAME in done.out


def test_another_verdict_is_status_1_and_names_both(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(own, lambda incident: incident["origin"].update(op="sqrt"), "incident.json")
    done = replay(capsys, own)
    assert done.status == cli.UNHEALTHY
    assert SAME not in done.out
    assert "log, in the module itself" in done.out
    assert "Recorded was: forward sqrt in ''" in done.out


@pytest.mark.parametrize("field", ["line", "function", "code"])
def test_another_line_is_another_verdict(field: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(incident: dict[str, Any]) -> None:
        source = incident["origin"]["source"]
        source[field] = source[field] + (1 if field == "line" else "x")

    edit(own, change, "incident.json")
    assert replay(capsys, own).status == cli.UNHEALTHY


def test_another_folder_of_the_same_code_is_the_same_verdict(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(own, lambda incident: incident["origin"]["source"].update(file="/elsewhere/model.py"), "incident.json")
    assert replay(capsys, own).status == cli.DONE


def test_a_step_that_comes_out_finite_is_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules.FiniteElsewhere, "broken", True)
    folder = incident_of(tmp_path, modules.FiniteElsewhere())
    assert replay(capsys, folder).status == cli.DONE
    monkeypatch.setattr(modules.FiniteElsewhere, "broken", False)
    done = replay(capsys, folder)
    assert done.status == cli.UNHEALTHY
    assert "The step came out finite, twice" in done.out
    assert "did not in the run" not in done.out
    incident = replace(load_incident(folder), reproduced=False)
    assert incident.reproduced is False
    edit(folder, lambda data: data.update(to_dict(incident)), "incident.json")
    assert "It did not in the run either." in replay(capsys, folder).out


def test_a_step_that_cannot_be_run_again_is_status_2(
    plain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, batch: Any) -> Any:
        message = "no such table\nand more"
        raise LookupError(message)

    monkeypatch.setattr(modules.Plain, "score", fail)
    assert "the step could not be replayed: running the step again failed with LookupError" in refused(capsys, plain)


def test_a_step_that_ends_the_process_is_status_2(
    plain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(self: Any, batch: Any) -> Any:
        raise SystemExit(0)

    monkeypatch.setattr(modules.Plain, "score", leave)
    assert "SystemExit" in refused(capsys, plain)


@pytest.mark.parametrize("make", [modules.Tied, modules.HalfFrozen, modules.TwoOptimizers, modules.BackwardOnly])
def test_verdicts_of_modules_of_many_kinds(make: type[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = replay(capsys, incident_of(tmp_path, make()))
    assert (done.status, SAME in done.out) == (cli.DONE, True), done


def test_notes_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = modules.Sized(modules.WIDTH, {"heads": {"count": 1}, "bias": False}, torch.half)
    done = replay(capsys, incident_of(tmp_path, module))
    assert done.out.startswith("note: fact runner.hyperparameters.activation is a dtype, no plain value: left out\n")


# -- the phases --------------------------------------------------------------------------------------------------------


def test_a_bad_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batches = breaking(bad=None)
    batches[1][2, 0] = float("nan")
    folder = incident_of(tmp_path, modules.Plain(), batches=batches)
    assert load_incident(folder).origin.phase == "input"
    done = replay(capsys, folder, "--pdb")
    assert (done.status, SAME in done.out) == (cli.DONE, True), done
    assert "there is no operation to stop at" in done.out


@pytest.mark.parametrize("phase", ["parameter", "buffer", "optimizer"])
def test_bad_state(phase: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = incident_of(tmp_path, Spoilt(phase), batches=breaking(bad=None), log_every_n_steps=50)
    incident = load_incident(folder)
    assert incident.origin.phase == phase
    done = replay(capsys, folder, "--factory", f"{__name__}:{phase}_spoilt")
    assert (done.status, SAME in done.out) == (cli.DONE, True), done
    assert str(incident.origin.tensor) in done.out


class Spoilt(modules.Plain):
    """State that is bad before the step."""

    shift: torch.Tensor

    def __init__(self, phase: str) -> None:
        super().__init__()
        self.phase = phase
        self.idle = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("shift", torch.zeros(1))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        buffer: Any = self.shift
        spoil = {"parameter": self.layer.weight.data, "buffer": buffer}.get(self.phase)
        if batch_idx == 1 and spoil is not None:
            spoil.fill_(float("nan"))

    def score(self, batch: Any) -> Any:
        return super().score(batch) + self.shift + 0.0 * self.idle

    def configure_optimizers(self) -> Any:
        if self.phase == "optimizer":
            return torch.optim.Adam(self.parameters(), eps=0.0)  # 0 / 0 where a gradient is zero
        return super().configure_optimizers()


def parameter_spoilt() -> Spoilt:
    return Spoilt("parameter")


def buffer_spoilt() -> Spoilt:
    return Spoilt("buffer")


def optimizer_spoilt() -> Spoilt:
    return Spoilt("optimizer")


def test_a_scan_leaves_no_step_to_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Unused(modules.Plain):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("statistic", torch.zeros(1))

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            buffer: Any = self.statistic
            buffer.fill_(float("inf"))

    folder = incident_of(tmp_path, Unused(), batches=breaking(bad=None))
    assert load_incident(folder).first_seen == "buffer"
    assert "was found between two steps, and there is no step to run again" in refused(capsys, folder)


def test_a_loop_without_a_loss_function_is_told_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = incident_of_loop(tmp_path, loss=None)
    assert "start(..., loss_function=...)" in refused(capsys, folder)


def test_another_rank_is_pointed_to(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "replay.json").unlink()
    edit(own, lambda incident: incident["origin"].update(ranks=[3]), "incident.json")
    assert "was born on rank 3" in refused(capsys, own)


def test_a_loop_written_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = replay(capsys, incident_of_loop(tmp_path))
    assert (done.status, SAME in done.out) == (cli.DONE, True), done
    assert "in loss_of" in done.out


# -- scripts -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from gradwatch import NonFiniteError, NumericalHealthMonitor
from {sibling} import WIDTH

torch.manual_seed(WIDTH)
with Path("started").open("a") as file:
    file.write(__name__ + "\\n")


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(WIDTH, 1)

    def training_step(self, batch, batch_idx):
        return (self.layer(batch) * 0.0).log().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main():
    with Path("trained").open("a") as file:
        file.write("once\\n")
    monitor = NumericalHealthMonitor(dirpath="out", clip=None)
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[monitor])
    try:
        trainer.fit(Model(), DataLoader(torch.ones(4, WIDTH)))
    except NonFiniteError:
        pass


{start}
"""


def _run(folder: Path, *command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], input=stdin, capture_output=True, text=True, timeout=100, cwd=folder, check=False
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that a script has started, with a main guard, and a sibling that it imports."""
    folder = tmp_path_factory.mktemp("script")
    guarded = 'if __name__ == "__main__":\n    main()'
    (folder / "gradwatch_sibling.py").write_text("WIDTH = 3\n")
    (folder / "train.py").write_text(SCRIPT.format(sibling="gradwatch_sibling", start=guarded))
    done = _run(folder, "train.py")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_a_script_with_a_main_guard_and_a_sibling(trained: Path, tmp_path: Path) -> None:
    (incident,) = (trained / "out" / "incidents").iterdir()
    done = _run(tmp_path, "-m", "gradwatch.cli", "replay", str(incident))  # from another folder
    assert done.returncode == cli.DONE, done.stderr
    assert SAME in done.stdout
    assert "in Model.training_step" in done.stdout
    assert (trained / "trained").read_text() == "once\n"
    assert (trained / "started").read_text() == "__main__\n"  # the import above has run in another folder
    assert (tmp_path / "started").read_text() == "__gradwatch_script__\n"


@pytest.mark.parametrize(
    "start", ["main()", "result = main()", "if True:\n    main()", "for _ in range(1):\n    main()"]
)
def test_a_script_without_a_main_guard_is_not_started_again(
    start: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (incident,) = (trained / "out" / "incidents").iterdir()
    own = shutil.copytree(incident, tmp_path / "incident")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(sibling="gradwatch_sibling", start=start))
    edit(own, lambda index: index["facts"]["runner"].update(file=str(script)))
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, own)
    assert 'has no `if __name__ == "__main__":` and would start again; give the module by --factory' in line
    assert not list(tmp_path.glob("*ed"))


# -- the debugger ------------------------------------------------------------------------------------------------------


def _debug(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *lines: str) -> str:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*lines, "q", ""])))
    done = replay(capsys, folder, "--pdb")
    assert done.status == cli.DONE, done
    assert SAME in done.out
    return done.out.partition("Stopped")[2]


def test_pdb_stops_at_the_birth_with_its_tensors(
    plain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = _debug(plain, capsys, monkeypatch, "p output", "p inputs", "up", "p batch.shape")
    assert printed.startswith(" at log.")
    assert "nan" in printed
    assert "return self.score(batch).log().mean()" in printed
    assert "torch.Size([4, 3])" in printed


def test_pdb_in_the_backward_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = _debug(incident_of(tmp_path, modules.BackwardOnly()), capsys, monkeypatch, "p output", "p inputs")
    assert printed.startswith(" in the derivative of sqrt.")
    assert "its forward line is" in printed
    assert "replay_modules.py" in printed
    assert "inf" in printed


def test_pdb_without_a_terminal_ends(
    plain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert replay(capsys, plain, "--pdb").status == cli.DONE


@pytest.mark.parametrize("device", ["nonsense", "meta", "cuda:77", "xpu", "", " "])
def test_a_device_that_is_not_here(device: str, plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if device == "":
        assert replay(capsys, plain, "--device", device).status == cli.DONE
    else:
        assert f"--device {device} cannot be used here: " in refused(capsys, plain, "--device", device)


# -- the limit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 50])
def test_over_the_limit_there_is_an_incident_and_no_replay(
    limit: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = incident_of(tmp_path, modules.Plain(), monitor={"max_incident_bytes": limit})
    assert load_incident(folder).origin.op == "log"
    assert not (folder / "weights.pt").exists()
    assert "gradwatch replay" not in caplog.text
    line = refused(capsys, folder)
    assert f"over the limit of {limit}: left out" in line


def test_the_budget_is_for_all_incidents_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batches = [batch for _ in range(3) for batch in breaking()]
    monitor = {"on_nonfinite": "skip", "max_incident_bytes": 5_000}  # less than one with its random states
    incident_of(tmp_path, modules.Plain(), batches=batches, monitor=monitor, max_epochs=1)
    folders = sorted((tmp_path / "incidents").iterdir())
    kept = [(folder / "weights.pt").exists() for folder in folders]
    assert kept == [True, False, False]
    assert [replay(capsys, folder).status for folder in folders] == [cli.DONE, cli.UNUSABLE, cli.UNUSABLE]


# -- broken folders ----------------------------------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["incident.json", "replay.json", "step.pt", "weights.pt"])
@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "noise", "folder"])
def test_broken_files(name: str, how: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = own / name
    if how == "truncated":
        _truncate(file)
    else:
        file.unlink()
    if how == "folder":
        file.mkdir()
    if how in ("empty", "noise"):
        file.write_bytes(b"" if how == "empty" else bytes(range(256)) * 8)
    assert name in refused(capsys, own)


def test_folders_that_are_none(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for path in (own / "replay.json", tmp_path / "empty", tmp_path / "nowhere", tmp_path / "nul\0l"):
        assert "incident.json" in refused(capsys, path) or "null" in refused(capsys, path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema_version": 99}, "99"),
        ({"type": "step"}, "incident.json"),
        ({"origin": 7}, "incident.json"),
        ({"step": "x"}, "incident.json"),
    ],
)
def test_an_incident_of_another_shape(
    change: dict[str, Any], reason: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(own, lambda incident: incident.update(change), "incident.json")
    assert reason in refused(capsys, own)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "other"}, "not the index of a replay"),
        ({"version": 99}, "version 99 is newer"),
        ({"facts": []}, "facts is a list, expected a dict"),
        ({"facts": {}}, "does not say how the step was run"),
        ({"files": "all"}, "files is 'all', expected a list"),
    ],
)
def test_an_index_of_another_shape(
    change: dict[str, Any], reason: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(own, lambda index: index.update(change))
    assert reason in refused(capsys, own)


@pytest.mark.parametrize("name", ["optimizer", "steps_before", "with_step", "loss_scale", "born", "batch_idx"])
@pytest.mark.parametrize("value", [None, "x", {}, [[]]], ids=["nothing", "text", "dictionary", "lists"])
def test_a_fact_of_another_kind(name: str, value: Any, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(own, lambda index: index["facts"].update({name: value}))
    refused(capsys, own)


@pytest.mark.parametrize("name", ["optimizer", "steps_before", "with_step", "loss_scale", "born", "batch_idx"])
def test_a_missing_fact(name: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(own, lambda index: index["facts"].pop(name))
    assert name in refused(capsys, own)


class Runs:
    """What runs code when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["weights.pt", "step.pt"])
def test_a_pickle_that_would_run_code_does_not(
    name: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"layer.weight": Runs(str(tmp_path / "ran"))}, own / name)
    assert name in refused(capsys, own)
    assert not (tmp_path / "ran").exists()
    torch.load(own / name, weights_only=False)
    assert (tmp_path / "ran").exists()  # it is one that does


def test_a_tensor_that_claims_to_be_huge(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"layer.weight": torch.ones(1).expand(10**6, 10**7)}, own / "weights.pt")
    assert "layer.weight has shape (1, 3) here and (1000000, 10000000)" in refused(capsys, own)


def test_a_batch_that_claims_to_be_huge(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = torch.load(own / "step.pt", weights_only=True)
    step["batches"] = [torch.ones(1, 1, 1).expand(10**6, 10**6, 3)]
    torch.save(step, own / "step.pt")
    refused(capsys, own)


def test_a_compressed_file_of_tensors(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = own / "weights.pt"
    with zipfile.ZipFile(weights) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(weights, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content + bytes(10**7) * (name.endswith("data/0")))
    assert replay(capsys, own).status in (cli.DONE, cli.UNUSABLE)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", [".", "incident.json", "replay.json", "step.pt", "weights.pt"])
def test_no_permission(name: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / name).chmod(0)
    try:
        assert "ermission denied" in refused(capsys, own)
    finally:
        (own / name).chmod(0o700)


def test_a_deep_incident_is_one_line(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "incident.json").write_text("[" * 100_000)
    refused(capsys, own)


def test_weights_of_another_model(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"other": torch.ones(2)}, own / "weights.pt")
    assert "has other parameters: layer.weight, other; give the module by --factory" in refused(capsys, own)


def test_the_factory_is_found_in_the_working_directory(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"""
        from {HERE} import Plain

        def make():
            return Plain()
    """
    (tmp_path / "gradwatch_local_factory.py").write_text(textwrap.dedent(text))
    monkeypatch.chdir(tmp_path)
    assert replay(capsys, own, "--factory", "gradwatch_local_factory:make").status == cli.DONE


def test_a_failure_of_the_command_itself_is_one_line(
    plain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(replay_command, "failure_of", fail)
    assert "ZeroDivisionError" in refused(capsys, plain)


def test_replaying_leaves_the_folder_as_it_was(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file.name: file.read_bytes() for file in plain.iterdir()}
    replay(capsys, plain)
    assert {file.name: file.read_bytes() for file in plain.iterdir()} == before
    assert load(plain).notes == []
