"""The failures that a cohort keeps beside its maps: what failed, why, and how many shards each cause has cost."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pipeline.plan.shard_reports import Failure, tally
from pipeline.store.backend import scrub
from pipeline.store.groups import Group

#: Failures that are kept with their message; of further ones the number is.
MAX_ENTRIES = 500

#: Length of a message that is kept.
MAX_MESSAGE = 600


class Failures:
    """The failures of one cohort as its attribute holds them; those beyond the first are counted without a message."""

    def __init__(self, cohort: str, document: Mapping[str, Any]) -> None:
        kept = [Failure(cohort, **entry) for entry in document.get("entries", ())]
        self._kept = {failure.key: failure for failure in kept}
        self._omitted: Counter[str] = Counter(document.get("omitted", {}))

    @classmethod
    def of(cls, group: Group) -> "Failures":
        """Those recorded of a cohort of the store."""
        return cls(group.name, group.document("failures"))

    @property
    def kept(self) -> tuple[Failure, ...]:
        """Those with a message, the first ones that were noted."""
        return tuple(self._kept.values())

    @property
    def counts(self) -> dict[str, int]:
        """How many shards each cause has cost."""
        counts = Counter(self._omitted)
        for failure in self.kept:
            counts[failure.cause] += failure.shards
        return dict(counts)

    def note(self, failure: Failure) -> None:
        """Count a failure; its message is kept within bounds and without secrets."""
        if failure.key not in self._kept:
            if len(self._kept) >= MAX_ENTRIES:
                self._omitted[failure.cause] += failure.shards
                return
            message = scrub(failure.message)
            shortened = message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 3]}..."
            failure = replace(failure, message=shortened)
        tally(self._kept, failure)

    def forget(self, checkpoints: Iterable[str], name: str | None = None) -> "Failures":
        """Leave out those of some checkpoints, of one map or of all."""
        gone = set(checkpoints)
        self._kept = {
            key: failure
            for key, failure in self._kept.items()
            if failure.checkpoint not in gone or name not in (None, failure.map)
        }
        return self

    def holds(self, checkpoint: str, name: str) -> bool:
        """Whether there is one of that map of that checkpoint."""
        return any((failure.checkpoint, failure.map) == (checkpoint, name) for failure in self.kept)

    def text(self) -> str:
        """The attribute that holds them."""
        if not self._kept and not self._omitted:
            return "{}"
        entries = [
            {name: getattr(failure, name) for name in ("checkpoint", "map", "cause", "shards", "message")}
            for failure in self.kept
        ]
        document: dict[str, Any] = {"entries": entries}
        if self._omitted:
            document["omitted"] = dict(self._omitted)
        return json.dumps({**document, "counts": self.counts}, ensure_ascii=False)


def pruned(failures: str, checkpoints: Iterable[str], name: str | None = None) -> str:
    """The attribute without the failures of some checkpoints, of one map or of all."""
    return Failures("", json.loads(failures)).forget(checkpoints, name).text()
