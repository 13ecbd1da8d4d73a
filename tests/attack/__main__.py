"""Attack the product at random: `make attack`, an hour at most; writes docs/attack.md.

A try runs a command as its user would, disturbs it, and judges how it ends. Two ways are right:

    same    exit code 0 and the bytes of the undisturbed run
    told    exit code 1 or 2 and one line that says why

All others are failures: `silent` (exit code 0 and other bytes), `loud` (a traceback, more than one line), `stuck` (no end
before the deadline), `dear` (more than 2 GB of memory) and `lost` (what an interruption or a full disk left cannot go on).
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from hostile import hostile
from mishaps import damaged, full, killed, project, replaced, reproduced
from servers import served
from steps import ROOT, STEPS, Arena, Tree
from tqdm import tqdm

KINDS = {killed: 24, damaged: 40, replaced: 12, full: 8, served: 4, reproduced: 4, hostile: 8}  # and how often, of 100
RIGHT, WRONG = ("same", "told"), ("silent", "loud", "stuck", "dear", "lost")


def attempt(number: int, seed: int, good: Tree, other: Tree, scratch: Path) -> tuple[str, str, str]:
    """The kind, the verdict and the notes of the try of that number; what it draws depends on the number and the seed."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    arena = Arena(scratch / str(number), rng, good, other)
    arena.folder.mkdir()
    try:
        verdict = kind(arena)
    finally:
        shutil.rmtree(arena.folder, ignore_errors=True)
    return kind.__name__, verdict, " ".join("; ".join(arena.notes).split())


def document(command: str, counts: Counter[tuple[str, str]], failures: list[str]) -> str:
    """The tries, counted by kind and verdict, in Markdown."""
    verdicts = RIGHT + WRONG
    table = [f"| attack | {' | '.join(verdicts)} |", "|---" * (1 + len(verdicts)) + "|"]
    for kind in KINDS:
        cells = [" ".join((kind.__doc__ or "").split()), *(str(counts[kind.__name__, verdict]) for verdict in verdicts)]
        table.append(f"| {' | '.join(cells)} |")
    sections = [
        "# Attack",
        f"Written by {command}: {sum(counts.values())} tries, drawn at random, on study `tiny`.",
        (__doc__ or "").split("\n\n", 1)[1].strip(),
        "\n".join(table),
        "Failures, each of which `--only NUMBER` repeats:" if failures else "No try failed.",
        "\n".join(failures),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60, help="start no try after that time [60]")
    parser.add_argument("--tries", type=int, default=600, help="how many tries [600]")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers that draw the tries [0]")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="these tries alone; print what they did")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "attack.md", help="file to write [docs/attack.md]")
    asked = parser.parse_args()
    begun, counts, failures = time.monotonic(), Counter[tuple[str, str]](), []
    with tempfile.TemporaryDirectory(prefix="attack ") as place, ThreadPoolExecutor(2) as pool:
        scratch = Path(place)
        good, other = Tree(scratch / "good"), Tree(scratch / "other")
        with tqdm(total=2 * len(STEPS) + 1, desc="undisturbed") as bar:
            builds = [pool.submit(good.build, 0, bar.update), pool.submit(other.build, 1, bar.update)]
            builds.append(pool.submit(project, scratch / "project"))
            for build in as_completed(builds):
                build.result()
            bar.update()

        def one(number: int) -> tuple[int, str, str, str] | None:
            if time.monotonic() - begun > asked.minutes * 60:
                return None
            return number, *attempt(number, asked.seed, good, other, scratch)

        tries = [pool.submit(one, number) for number in asked.only or range(asked.tries)]
        with tqdm(total=len(tries), desc="tries", postfix={"failures": 0}) as bar:
            for done in as_completed(tries):
                if (result := done.result()) is None:
                    continue
                number, kind, verdict, notes = result
                line = f"- {number}, {kind}, {verdict}: {notes}"
                counts[kind, verdict] += 1
                if verdict in WRONG:
                    failures.append(line[:200])
                if verdict in WRONG or asked.only:
                    bar.write(line)
                bar.update()
                bar.set_postfix(failures=len(failures))
    if not asked.only:
        command = f"python tests/attack --tries {sum(counts.values())} --seed {asked.seed}"
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
        asked.out.write_text(document(f"`{command}` at commit {commit.strip()}", counts, failures), encoding="utf-8")
        print(f"wrote {asked.out}: {sum(counts.values())} tries, {len(failures)} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
