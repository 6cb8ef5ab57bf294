"""Everything that may go wrong or mean harm, by the hundred: `python -m tests.faults`.

sources   600 sources for `prepare` with bad entries
models    95 model folders that mean harm
hubs      hostile Hubs that a push meets
kills     100 kills of commands at random moments, each command then started again

With names of these as arguments only those; `--number` limits the cases of each, or the kills. Prints what is not in
order, and a table of outcomes:

right       the end result is the one that a command without the fault has
clean       refused with a sentence
wrong       another end result, or an end without a sentence; a token or control characters that got out
traceback   Python's, anywhere in the output
hang        no end in time
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

OUTCOMES = ("right", "clean", "wrong", "traceback", "hang")

# A case: group, name, outcome as its generator calls it, and what to show unless all is well.
Case = tuple[str, str, str, str]


def sources(scratch: Path, number: int) -> Iterator[Case]:
    from tests.data.test_faults import outcomes

    for name, outcome in islice(outcomes(scratch), number):
        yield "sources", name, {"refused": "wrong"}.get(outcome, outcome), outcome


def models(scratch: Path, number: int) -> Iterator[Case]:
    from tests.hostile_models import outcomes

    for name, outcome in islice(outcomes(scratch), number):
        yield "models", name, outcome, outcome


def hubs(scratch: Path, number: int) -> Iterator[Case]:
    from tests.publishing.attacks import all_attacks, run, shown

    attacks = all_attacks()
    random.Random(0).shuffle(attacks)
    for result in run(attacks[:number], scratch):
        yield "hubs", result.attack.name, result.outcome, shown(result)


def kills(scratch: Path, number: int) -> Iterator[Case]:
    from tests.kills import cases

    for case in cases(scratch, min(number, 100)):
        signals = " and ".join(kill.number.name for kill in case.kills) or "no kill"
        yield f"kills: {case.work.name}", signals, case.outcome, case.output


# Each imports what only its faults need.
FAULTS: dict[str, Callable[[Path, int], Iterator[Case]]] = {
    "sources": sources,
    "models": models,
    "hubs": hubs,
    "kills": kills,
}


def table(counts: dict[str, Counter[str]]) -> str:
    width = max(map(len, counts), default=0)
    lines = [f"{'':{width}}  cases  " + "  ".join(OUTCOMES)]
    for group, found in counts.items():
        cells = "  ".join(f"{found[outcome]:>{len(outcome)}}" for outcome in OUTCOMES)
        lines.append(f"{group:{width}}  {found.total():>5}  {cells}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULTS", help=", ".join(FAULTS))
    parser.add_argument("--number", type=int, default=10**6)
    arguments = parser.parse_args()
    if unknown := set(arguments.faults) - set(FAULTS):
        parser.error(f"there are no faults called {', '.join(sorted(unknown))}: choose from {', '.join(FAULTS)}")
    counts: dict[str, Counter[str]] = {}
    for name in arguments.faults or FAULTS:
        with tempfile.TemporaryDirectory() as scratch:
            for group, case, outcome, shown in FAULTS[name](Path(scratch), arguments.number):
                column = outcome if outcome in OUTCOMES else "traceback" if "traceback" in outcome else "wrong"
                counts.setdefault(group, Counter())[column] += 1
                print(f"{group}: {case}: {column}", flush=True)
                if column not in ("right", "clean"):
                    print(shown[-5000:], flush=True)
    print("\n" + table(counts))
    sys.exit(any(found[bad] for found in counts.values() for bad in ("wrong", "traceback", "hang")))


if __name__ == "__main__":
    main()
