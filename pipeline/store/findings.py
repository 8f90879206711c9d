"""What a check of a store found, region by region, and how a person is told."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from pipeline.plan.reports import span

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

    def __str__(self) -> str:
        parts = [f"{self.cohort}: {self.name}", self.checkpoint, span("neuron", self.neurons)]
        parts += [span("stimulus", self.stimuli), MEANINGS[self.kind], self.detail]
        return f"{self.kind}: " + ", ".join(part for part in parts if part)


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
        """The findings for a person: wrong claims first, ``limit`` of each kind, and a summary at the end."""
        shown = []
        for kind in MEANINGS:
            these = [finding for finding in self.findings if finding.kind == kind]
            shown += [str(finding) for finding in these[:limit]]
            if len(these) > limit:
                shown.append(f"{kind}: and {len(these) - limit} more")
        verdict = "NOT sound" if not self.sound else "sound and complete" if self.complete else "sound, not complete"
        counted = ", ".join(f"{count} {kind}" for kind, count in self.counts().items()) or "nothing amiss"
        requeued = f"; {self.requeued} regions marked for the next run" if self.requeued else ""
        shown.append(
            f"{verdict}: {self.done} of {self.regions} regions done, {self.objects} objects decoded,"
            f" {counted}{requeued}"
        )
        return shown
