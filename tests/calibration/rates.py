"""Rates of all cases with their intervals, as a table.

python -m tests.calibration.rates [--trials 400] [--only WORD] [--json FILE]
"""

import argparse
import json
import sys
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from tests.calibration.cases import Case, cases


@dataclass(frozen=True)
class Rate:
    """How often a test said yes, and the 95 % interval (Clopper and Pearson) of that share."""

    case: Case
    share: float
    low: float
    high: float
    counted: int

    @property
    def verdict(self) -> str:
        """What the interval says of the rate that was promised."""
        if self.case.planted:
            return "found" if self.high >= self.case.least else "TOO SELDOM"
        if self.low > self.case.most:
            return "TOO OFTEN"
        return "as promised" if self.high >= 0.05 else "seldom: too few to say yes, or careful"


def rate_of(case: Case, trials: int) -> Rate:
    """The rate over so many trials, with a seed of the case's own."""
    rng = np.random.default_rng(zlib.crc32(f"{case.test} {case.data}".encode()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = [np.asarray(case.trial(rng), dtype=float) for _ in range(max(2, round(trials * case.trials)))]
    share = float(np.mean(np.concatenate(found)))
    # tests of one trial share its maps: so many independent ones would spread as far over trials
    counted = sum(map(len, found))
    if case.clustered and len(found[0]) > 1 and 0 < share < 1:
        spread = np.var([one.mean() for one in found], ddof=1) / len(found)
        counted = max(len(found), min(counted, round(share * (1 - share) / max(spread, 1e-12))))
    interval = stats.binomtest(round(share * counted), counted).proportion_ci(0.95, "exact")
    return Rate(case, share, float(interval.low), float(interval.high), counted)


def main() -> int:
    """Print the table; 1 where a rate is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--only", default="", help="cases whose words hold this")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print("| test | data | rate | 95 % interval | counted as | verdict |", flush=True)
    print("|---|---|---|---|---|---|")
    rates = []
    for case in cases():
        if arguments.only in f"{case.test}: {case.data}":
            rate = rate_of(case, arguments.trials)
            rates.append(rate)
            interval = f"{rate.low:.3f} to {rate.high:.3f}"
            cells = (case.test, case.data, f"{rate.share:.3f}", interval, str(rate.counted), rate.verdict)
            print("| " + " | ".join(cells) + " |", flush=True)
    if arguments.json is not None:
        rows = [
            {"test": r.case.test, "data": r.case.data, "rate": r.share, "low": r.low, "high": r.high} for r in rates
        ]
        arguments.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return int(any(rate.verdict.isupper() for rate in rates))


if __name__ == "__main__":
    sys.exit(main())
