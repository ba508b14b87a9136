"""All detectors of a run: each record in, findings out; their memory as plain values for a checkpoint."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwatch.detectors.episodes import Episode, Episodes, advance
from gradwatch.detectors.known import as_known
from gradwatch.observations import Observation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gradwatch.detectors.detector import Detector
    from gradwatch.records import Finding

log = logging.getLogger("gradwatch")


class Watch:
    """One detector at work for one optimizer: its state and its episodes."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self.state: Any = detector.init()
        self.episodes: Episodes = {}
        self.layers: tuple[str, ...] = ()

    def update(self, record: Any) -> list[Finding]:
        """Take in one record."""
        detector = self.detector
        if detector.needs is not None and getattr(record, detector.needs) is None:
            return []
        if detector.by_layer:
            self._align(record.layers.names)
        self.state, reading = detector.update(self.state, record, detector.limits)
        if reading is None:
            return []
        self.episodes, findings = advance(self.episodes, detector, reading, record)
        return findings

    def _align(self, layers: tuple[str, ...]) -> None:
        """Keep what is known of each layer when layers join or go (a new parameter group, another model)."""
        if layers == self.layers:
            return
        if self.layers:
            place = {layer: i for i, layer in enumerate(self.layers)}
            origin = np.array([place.get(layer, -1) for layer in layers], dtype=np.intp)
            changed = {name: _taken(getattr(self.state, name), origin) for name in self.detector.by_layer}
            self.state = self.state._replace(**changed)
        self.layers = layers

    def state_dict(self) -> dict[str, Any]:
        """Return state and episodes as plain values."""
        return {
            "state": to_plain(self.state),
            "episodes": [[subject, *to_plain(tuple(episode))] for subject, episode in self.episodes.items()],
            "layers": list(self.layers),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``."""
        state = restored(self.detector.init(), saved["state"])
        episodes = {entry[0]: Episode(*entry[1:]) for entry in saved["episodes"]}
        self.state, self.episodes, self.layers = state, episodes, tuple(saved["layers"])


class Panel:
    """Runs the detectors on what they read, each optimizer's observations by themselves."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self._detectors = list(detectors)
        self._watches: dict[tuple[str, int], Watch] = {}
        self._saved: dict[str, Any] = {}
        self._warned: set[str] = set()
        self._readers: dict[tuple[type, int], list[Watch]] = {}

    def observe(self, record: Any) -> list[Finding]:
        """Return what a record opens, updates and closes. A detector that fails is left out from then on."""
        optimizer = 0
        if isinstance(record, Observation):
            optimizer, record = record.optimizer, as_known(record)
        findings: list[Finding] = []
        for watch in self._readers_of(type(record), optimizer):
            try:
                findings += watch.update(record)
            except Exception as error:  # noqa: BLE001 - a rule, perhaps the user's own, must not end a training
                self._detectors.remove(watch.detector)
                self._readers.clear()
                code, kind = watch.detector.rule.code, type(error).__name__
                log.warning("gradwatch: the rule %s failed and is off from now on: %s: %s", code, kind, error)
        return findings

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered, in plain values that ``torch.load(weights_only=True)`` opens."""
        saved = dict(self._saved)
        for (code, optimizer), watch in self._watches.items():
            try:
                saved[f"{code}/{optimizer}"] = watch.state_dict()
            except TypeError as error:
                self._warn_once(f"the memory of the rule {code} goes into no checkpoint: {error}")
        return saved

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``; a rule that it does not know begins anew."""
        self._saved, self._watches = dict(saved), {}
        self._readers.clear()

    def _readers_of(self, kind: type, optimizer: int) -> list[Watch]:
        """Return the detectors at work that read records of a kind."""
        readers = self._readers.get((kind, optimizer))
        if readers is None:
            chosen = [detector for detector in self._detectors if issubclass(kind, detector.reads)]
            readers = self._readers[kind, optimizer] = [self._watch(detector, optimizer) for detector in chosen]
        return readers

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            log.warning("gradwatch: %s", message)

    def _watch(self, detector: Detector, optimizer: int) -> Watch:
        key = (detector.rule.code, optimizer)
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = self._begun(detector, f"{detector.rule.code}/{optimizer}")
        return watch

    def _begun(self, detector: Detector, name: str) -> Watch:
        """Return a watch that goes on from where the last run has left it."""
        watch, saved = Watch(detector), self._saved.pop(name, None)
        if saved is not None:
            try:
                watch.load_state_dict(saved)
            except (TypeError, ValueError, KeyError, AttributeError, IndexError):  # of another version
                return Watch(detector)
        return watch


def to_plain(value: Any) -> Any:
    """Return a state as dictionaries, lists, strings and numbers.

    Raises:
        TypeError: something in it is none of these, nor a NamedTuple or an array of numbers.
    """
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: to_plain(item) for name, item in zip(value._fields, value, strict=True)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: to_plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(
        f"{type(value).__name__} is no number, string, list, NamedTuple or dictionary with strings for keys"
    )


def restored(template: Any, saved: Any) -> Any:
    """Return ``saved`` in the types of ``template``, a fresh state."""
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        values = {name: restored(getattr(template, name), saved[name]) for name in template._fields}
        return type(template)(**values)
    if isinstance(template, np.ndarray):
        return np.array(saved, dtype=template.dtype)
    return tuple(saved) if isinstance(template, tuple) else saved


def _taken(values: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return the entries of known layers in their new places, NaN for new ones; layers are the last axis."""
    if not values.size:
        return values
    taken = values[..., origin]
    taken[..., origin < 0] = np.nan
    return taken
