"""What a check of a store found, region by region, and how a person is told."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.plan.shard_reports import span

Kind = Literal["missing", "damaged", "non-finite", "unclaimed", "outdated", "failed", "pending"]

#: What each kind of finding means, for a person.
MEANINGS: dict[Kind, str] = {
    "missing": "recorded as done, but the object is not there",
    "damaged": "cannot be decoded, or its checksum does not fit",
    "non-finite": "recorded as done, but holds NaN or infinity",
    "unclaimed": "written, but not recorded as done",
    "outdated": "tells more than the copy in the root, as after a command that was stopped; run again",
    "failed": "failed",
    "pending": "not computed yet",
}

#: Findings that mean that a claim of the store is wrong.
UNSOUND: frozenset[Kind] = frozenset(("missing", "damaged", "non-finite"))


@dataclass(frozen=True)
class Finding:
    """A region of a map, or another object of a cohort, that is not as it should be."""

    kind: Kind
    cohort: str
    name: str
    checkpoint: str = ""
    neurons: tuple[str, ...] = ()
    stimuli: tuple[str, ...] = ()
    detail: str = ""

    @property
    def place(self) -> str:
        """Whose numbers it is about; empty for what belongs to all."""
        parts = (self.checkpoint, span("neuron", self.neurons), span("stimulus", self.stimuli))
        return ", ".join(part for part in parts if part)

    def __str__(self) -> str:
        return _in_words([self])


#: Findings of one kind about one array that are told place by place.
_PLACES = 3


def _in_words(alike: Sequence[Finding]) -> str:
    """Findings of one kind about one array, for a person: the places of the first, and how many there are."""
    first = alike[0]
    places = "; ".join(finding.place for finding in alike[:_PLACES])
    more = f"{len(alike):,} times, first at {places}" if len(alike) > 1 else places
    parts = [f"{first.cohort}: {first.name}", more, MEANINGS[first.kind], first.detail]
    return f"{first.kind}: " + ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Verification:
    """What a check of a store found.

    ``regions`` counts the regions of all maps, ``objects`` the objects that were decoded, and ``requeued`` the regions
    that are pending now and were not before.
    """

    findings: tuple[Finding, ...]
    regions: int
    objects: int
    done: int
    requeued: int = 0

    @property
    def sound(self) -> bool:
        """Whether everything that is recorded as done is there, decodes and is finite."""
        return not any(finding.kind in UNSOUND for finding in self.findings)

    @property
    def complete(self) -> bool:
        """Whether every region is done."""
        return self.done == self.regions

    def counts(self) -> dict[str, int]:
        """Findings of each kind."""
        tally: dict[str, int] = defaultdict(int)
        for finding in self.findings:
            tally[finding.kind] += 1
        return dict(tally)

    def lines(self, limit: int = 20) -> list[str]:
        """The findings for a person: a line for all of one kind about one array, wrong claims first, and a summary.

        ``limit``: Lines of each kind.
        """
        shown = []
        for kind in MEANINGS:
            alike: dict[tuple[str, str], list[Finding]] = {}
            for finding in self.findings:
                if finding.kind == kind:
                    alike.setdefault((finding.cohort, finding.name), []).append(finding)
            shown += [_in_words(group) for group in list(alike.values())[:limit]]
            if len(alike) > limit:
                shown.append(f"{kind}: and {len(alike) - limit} more arrays; --json lists each place")
        verdict = "NOT sound" if not self.sound else "sound and complete" if self.complete else "sound, not complete"
        counted = ", ".join(f"{count} {kind}" for kind, count in self.counts().items()) or "nothing amiss"
        requeued = f"; {self.requeued} regions marked for the next run" if self.requeued else ""
        shown.append(
            f"{verdict}: {self.done} of {self.regions} regions done, {self.objects} objects decoded,"
            f" {counted}{requeued}"
        )
        return shown
