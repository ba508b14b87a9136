from __future__ import annotations

import contextlib
import itertools
import json
import math
import pickle
import random
import re
import shutil
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from gradwatch.replica import randomness
from gradwatch.replica.bundle import FORMAT, INDEX, STEP, VERSION, WEIGHTS, Bundle, BundleError, load, save
from tests.replica import samples
from tests.replica.samples import RAN, Encoding, Example, Frozen, Items, Ordered, Pair, Plain, Slotted, WithNew

if TYPE_CHECKING:
    from pathlib import Path


def random_state() -> dict[str, Any]:
    return randomness.as_dict(randomness.capture())


def bundle(*batches: Any, **changes: Any) -> Bundle:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    values: dict[str, Any] = {
        "weights": dict(module.named_parameters()),
        "buffers": dict(module.named_buffers()),
        "batches": list(batches) or [[torch.ones(2, 3), torch.zeros(2)]],
        "random_states": [random_state() for _ in batches or [0]],
        "optimizer_state": None,
        "facts": {"class": "tests:Module", "batch_idx": [0, 1]},
    }
    return Bundle(**{**values, **changes})


def through(folder: Path, batch: Any) -> Any:
    """Return ``batch`` as it is read back; nothing may have been left out."""
    assert save(folder, bundle(batch)) == []
    back = load(folder)
    assert back.notes == []
    return back.batches[0]


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.layout == b.layout
        return same and a.requires_grad == b.requires_grad and torch.equal(a.to_dense(), b.to_dense())
    return type(a) is type(b) and a == b


# -- there and back ----------------------------------------------------------------------------------------------------


def test_all_parts_come_back(tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(nn.Linear(2, 2).parameters())
    sent = bundle([torch.ones(1)], [torch.zeros(1)], optimizer_state=[optimizer.state_dict()])
    assert save(tmp_path, sent) == []
    back = load(tmp_path)
    assert sent.weights is not None
    assert back.weights is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == [INDEX, STEP, WEIGHTS]
    for ours, theirs in ((sent.weights, back.weights), (sent.buffers, back.buffers)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [batch[0].item() for batch in back.batches] == [1.0, 0.0]
    assert back.optimizer_state == sent.optimizer_state
    assert back.facts == sent.facts


def test_the_files_open_with_weights_only_and_the_index_is_legal_json(tmp_path: Path) -> None:
    save(tmp_path, bundle(Example(Plain(torch.ones(2))), facts={"scale": math.inf}))
    weights = torch.load(tmp_path / WEIGHTS, weights_only=True)
    nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).load_state_dict(weights, strict=False)
    torch.load(tmp_path / STEP, weights_only=True)
    json.loads((tmp_path / INDEX).read_text(), parse_constant=pytest.fail)


def test_random_states_are_the_same_after_the_journey(tmp_path: Path) -> None:
    state = random_state()
    expected = (torch.rand(2).tolist(), random.random(), np.random.rand())  # noqa: NPY002 - the global generator
    save(tmp_path, bundle(1, random_states=[state]))
    torch.rand(5)
    randomness.restore(randomness.from_dict(load(tmp_path).random_states[0]))
    assert (torch.rand(2).tolist(), random.random(), np.random.rand()) == expected  # noqa: NPY002 - as above


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        2**70,
        math.inf,
        1 + 2j,
        [1, [2.5, (3, "x")]],
        {"a": {1: None, None: True, 2.5: "b"}},
        {"class": 1, "kind": {"class": 1, "kind": 2, "fields": 3}, "fields": 4},
        b"bytes",
        {1, "a"},
        frozenset({2}),
        torch.float16,
        torch.device("cuda:3"),
    ],
    ids=lambda value: f"{type(value).__name__}-{len(repr(value))}",  # a set is written in any order
)
def test_plain_values_stay_what_they_are(tmp_path: Path, value: Any) -> None:
    assert equal(through(tmp_path, value), value)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).T,
        torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.tensor(3),
        torch.empty(0, 3),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3).to(torch.float8_e4m3fn),
        torch.ones(3).to(torch.uint16),
        torch.ones(3, dtype=torch.bool),
        torch.tensor([1 + 2j]).conj(),
        torch.ones(3, requires_grad=True),
        torch.eye(3).to_sparse(),
        nn.Parameter(torch.ones(2)),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tensor.layout}-{tuple(tensor.shape)}",
)
def test_tensors_of_every_kind(tmp_path: Path, tensor: Tensor) -> None:
    back = through(tmp_path, {"x": tensor})["x"]
    assert equal(tensor.detach().requires_grad_(tensor.requires_grad).resolve_conj(), back)
    assert tensor.is_sparse or back.stride() == tensor.stride()


def test_nested_tensors(tmp_path: Path) -> None:
    back = through(tmp_path, torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged))
    assert [part.tolist() for part in back.unbind()] == [[1.0] * 2, [1.0] * 3]


def test_tensors_that_share_memory_still_do_and_a_small_view_is_saved_alone(tmp_path: Path) -> None:
    data = torch.zeros(1_000_000)
    back = through(tmp_path, [data[:10], data[:10]])
    assert back[0].shape == (10,)
    assert (tmp_path / STEP).stat().st_size < 100_000
    x = torch.zeros(10)
    back = through(tmp_path, [x[:6], x, x])
    back[1].fill_(1)
    assert back[0].tolist() == [1.0] * 6
    assert back[2] is back[1]


def test_computed_tensors_and_tensors_with_attributes_are_constants(tmp_path: Path) -> None:
    x: Any = torch.ones(2, requires_grad=True) * 2
    x.owner = Plain
    back = through(tmp_path, x)
    assert (back.tolist(), back.requires_grad, back.is_leaf) == ([2.0, 2.0], True, True)


@pytest.mark.parametrize("dtype", ["<f4", ">i2", "bool", "complex64"])
def test_arrays(tmp_path: Path, dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    back = through(tmp_path, array)
    assert back.dtype == array.dtype
    assert (back == array).all()
    assert through(tmp_path, np.float32(0.5)) == 0.5


@pytest.mark.parametrize(
    "value",
    [
        Pair(1, Pair("x", None)),
        Example([1], {"a": 2}),
        Frozen((1, 2), 3),
    ],
)
def test_objects_with_an_equality(tmp_path: Path, value: Any) -> None:
    assert equal(through(tmp_path, [value]), [value])


def test_other_objects_come_back_without_running_their_code(tmp_path: Path) -> None:
    plain, slotted = Plain([1]), Slotted(2)
    slotted.more = 3  # type: ignore[attr-defined]
    ordered, items = Ordered(a=1, b=2), Items([1, 2])
    ordered.note = items.note = "n"  # type: ignore[attr-defined]
    vars(plain)["trap"] = 4
    sent = [plain, Encoding(ids=[1]), ordered, items, slotted]
    RAN.clear()
    save(tmp_path, bundle(sent))
    got = load(tmp_path).batches[0]
    assert RAN == []
    assert [type(item) for item in got] == [type(item) for item in sent]
    assert (got[0].x, vars(got[0])["trap"], got[1]["ids"]) == ([1], 4, [1])
    assert (list(got[2].items()), got[2].note) == ([("a", 1), ("b", 2)], "n")
    assert (list(got[3]), got[3].note, got[4].x) == ([1, 2], "n", 2)


def test_packed_sequences(tmp_path: Path) -> None:
    back = through(tmp_path, pack_sequence([torch.ones(3), torch.ones(2)]))
    assert type(back).__name__ == "PackedSequence"
    assert back.batch_sizes.tolist() == [2, 2, 1]


# -- what is left out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (lambda: 1, r"batches\[0\]\['x'\] is a builtins.function, which cannot be saved: left out"),
        (WithNew(1), r"batches\[0\]\['x'\] is a tests.replica.samples.WithNew, which cannot be saved: left out"),
        (np.array(["a"]), r"batches\[0\]\['x'\] is an array of <U1, which cannot be saved: left out"),
        ({(1, 2): 3}, r"batches\[0\]\['x'\]\[\(1, 2\)\] has a tuple for a key: left out"),
    ],
)
def test_what_cannot_be_expressed_is_named(tmp_path: Path, value: Any, note: str) -> None:
    notes = save(tmp_path, bundle({"x": value, "y": 1}))
    back = load(tmp_path)
    assert len(notes) == 1
    assert re.fullmatch(note, notes[0])
    assert back.notes == notes
    assert back.batches[0] == {"x": {} if isinstance(value, dict) else None, "y": 1}


def test_a_batch_that_holds_itself_ends(tmp_path: Path) -> None:
    batch: list[Any] = [torch.ones(1)]
    batch.append(batch)
    notes = save(tmp_path, bundle(batch))
    assert len(notes) == 1
    assert "holds itself" in notes[0]
    assert load(tmp_path).batches[0][0].item() == 1.0


def test_facts_that_are_no_plain_values_are_named_and_left_out(tmp_path: Path) -> None:
    facts = {
        "hyperparameters": {"lr": np.float64(0.1), "betas": (0.9, 0.99), "act": nn.ReLU(), "layers": [1, len]},
        "scales": [math.nan, math.inf, -math.inf],
        3: 4,
        "huge": 10**5000,
    }
    notes = save(tmp_path, bundle(facts=facts))
    back = load(tmp_path).facts
    assert back["hyperparameters"] == {"lr": 0.1, "betas": [0.9, 0.99], "layers": [1, None]}
    assert math.isnan(back["scales"][0])
    assert back["scales"][1:] == [math.inf, -math.inf]
    assert [note.split(" ")[1] for note in notes] == ["[3]", "hyperparameters.act", "hyperparameters.layers[1]", "huge"]


def test_over_the_limit_weights_go_first_and_buffers_stay(tmp_path: Path) -> None:
    large = {"w": torch.ones(10_000)}
    assert save(tmp_path, bundle(weights=large), max_bytes=100_000) == []
    notes = save(tmp_path, bundle(weights=large), max_bytes=30_000)
    assert notes == ["weights take 40,000 bytes, over the limit of 30,000: left out"]
    assert not (tmp_path / WEIGHTS).exists()
    back = load(tmp_path)
    assert back.weights is None
    assert set(back.buffers) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert back.notes == notes


def test_a_batch_over_the_limit_is_left_out(tmp_path: Path) -> None:
    notes = save(tmp_path, bundle(torch.ones(1000)), max_bytes=1000)
    assert notes == ["batches take 4,000 bytes, over the limit of 1,000: left out"]
    assert load(tmp_path).batches == []


def test_weights_are_saved_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    real = torch.save

    def spy(value: Any, path: Path) -> None:
        saved.extend(tensor.data_ptr() for tensor in value.values() if isinstance(tensor, Tensor))
        real(value, path)

    monkeypatch.setattr(torch, "save", spy)
    sent = bundle()
    save(tmp_path, sent)
    assert sent.weights is not None
    assert saved == [tensor.data_ptr() for tensor in sent.weights.values()]


# -- folders that are something else -----------------------------------------------------------------------------------


def error_of(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_an_interrupted_save_is_no_bundle(tmp_path: Path) -> None:
    save(tmp_path, bundle())
    (tmp_path / INDEX).unlink()
    assert f"{INDEX}: not there" in error_of(tmp_path)
    assert f"{INDEX}: not there" in error_of(tmp_path / "nowhere")


def test_saving_again_removes_the_old_index_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, bundle())

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, bundle())
    assert not (tmp_path / INDEX).exists()


@pytest.mark.parametrize("name", [WEIGHTS, STEP])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    save(tmp_path, bundle())
    (tmp_path / name).unlink()
    assert f"{name}: not there" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": VERSION + 1}, "newer than this gradwatch"),
        ({"version": "1"}, "version is '1'"),
        ({"version": True}, "version is True"),
        ({"format": "else"}, "not the index"),
        ({"facts": []}, "facts is a list"),
        ({"notes": None}, "notes is None"),
        ({"files": {}}, "files is a dict"),
    ],
)
def test_an_index_of_another_shape(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    save(tmp_path, bundle())
    index = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps({**index, **change}))
    assert reason in error_of(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '"x"', "{}", "[" * 100_000, "\x00", '{"format": NaN}'])
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    error_of(tmp_path)


@pytest.mark.parametrize(
    "step",
    [
        [],
        {},
        {"batches": 1},
        {"batches": [], "buffers": [], "random_states": [], "optimizer_state": None},
        {"batches": [], "buffers": {"a": 1}, "random_states": [], "optimizer_state": None},
        {"batches": [], "buffers": {}, "random_states": [{"cpu": torch.zeros(3)}], "optimizer_state": None},
        {"batches": [], "buffers": {}, "random_states": [], "optimizer_state": {"a": 1}},
        {"batches": [1], "buffers": {}, "random_states": [], "optimizer_state": None},
        {"batches": [{"class": 1, "kind": "object", "fields": {}}], "buffers": {}, "random_states": []},
    ],
)
def test_a_step_of_another_shape(tmp_path: Path, step: Any) -> None:
    save(tmp_path, bundle())
    torch.save(step, tmp_path / STEP)
    assert STEP in error_of(tmp_path)


ODD_KINDS = ["object", "dataclass", "namedtuple", "dict", "list", "set", "bytes", "array", "pairs", "else", 3]
ODD_FIELDS = [1, [], {}, {"attributes": 1}, {"attributes": {1: 2}}, {"items": 1, "attributes": {}}]


@pytest.mark.parametrize("cls", ["tests.replica.samples:Plain", "builtins:dict", "os:system", "no such", ":", ""])
def test_objects_of_another_shape(tmp_path: Path, cls: str) -> None:
    save(tmp_path, bundle())
    step = torch.load(tmp_path / STEP, weights_only=True)
    for kind, fields in itertools.product(ODD_KINDS, ODD_FIELDS):
        step["batches"] = [{"class": cls, "kind": kind, "fields": fields}]
        torch.save(step, tmp_path / STEP)
        with contextlib.suppress(BundleError):  # either answer will do, any other exception will not
            load(tmp_path)


class Attack:
    def __reduce__(self) -> Any:
        return RAN.append, ("attack",)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickled_code_does_not_run(tmp_path: Path, write: Any) -> None:
    save(tmp_path, bundle())
    RAN.clear()
    write({"batches": Attack()}, tmp_path / STEP)
    error_of(tmp_path)
    assert RAN == []


def test_a_module_that_lies_in_the_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    save(tmp_path, bundle(Plain(1)))
    (tmp_path / "brought_along.py").write_text("raise SystemExit\n")
    step = torch.load(tmp_path / STEP, weights_only=True)
    step["batches"][0]["class"] = "brought_along:Plain"
    torch.save(step, tmp_path / STEP)
    back = load(tmp_path)
    assert back.batches[0].x == 1
    assert back.notes == [
        "brought_along:Plain cannot be imported here (ImportError): a plain object with its attributes stands for it"
    ]
    assert "brought_along" not in sys.modules


@pytest.mark.parametrize("name", ["Plain", "Pair", "Example", "Ordered", "Items"])
def test_a_class_that_is_gone_is_replaced_by_a_plain_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    value = Pair(1, 2) if name == "Pair" else getattr(samples, name)([1]) if name != "Ordered" else Ordered(x=[1])
    save(tmp_path, bundle(value))
    monkeypatch.delattr(samples, name)
    back = load(tmp_path)
    assert len(back.notes) == 1
    assert f"samples:{name} cannot be imported here" in back.notes[0]
    got = back.batches[0]
    assert got == [1] if name == "Items" else (got["x"] if name == "Ordered" else got.x) == getattr(value, "x", [1])


def test_a_class_that_has_become_another_kind_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, bundle(Plain(1)))
    monkeypatch.setattr(samples, "Plain", WithNew)
    back = load(tmp_path)
    assert back.notes[0].startswith("tests.replica.samples:Plain is no object here")


@pytest.mark.parametrize("name", [INDEX, STEP, WEIGHTS])
def test_truncated_and_spoilt_files(tmp_path: Path, name: str) -> None:
    good = tmp_path / "good"
    save(good, bundle(Example(torch.ones(3), {"a": Frozen(1)})))
    data = (good / name).read_bytes()
    rng = random.Random(0)
    for round_ in range(60):
        folder = tmp_path / f"{round_}"
        shutil.copytree(good, folder)
        spoilt = bytearray(data)
        if round_ % 3 == 0:
            spoilt = spoilt[: rng.randrange(len(data))]
        elif round_ % 3 == 1:
            for _ in range(rng.randrange(1, 20)):
                spoilt[rng.randrange(len(data))] = rng.randrange(256)
        else:
            spoilt = bytearray(rng.randbytes(rng.randrange(300)))
        (folder / name).write_bytes(spoilt)
        with contextlib.suppress(BundleError):  # none either: the changed byte may be one of a number
            load(folder)


def test_the_format_is_written_down(tmp_path: Path) -> None:
    save(tmp_path, bundle())
    index = json.loads((tmp_path / INDEX).read_text())
    assert (index["format"], index["version"], index["files"]) == (FORMAT, VERSION, [WEIGHTS, STEP])
