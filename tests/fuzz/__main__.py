"""Run many cases and count them: `python -m tests.fuzz --cases 100000`.

With `--coverage SECONDS` each target is fuzzed by atheris, too: guided by the code that an input reaches.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback
from importlib.util import find_spec

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import TARGETS, Target


def run(target: Target, cases: int, start: int = 0) -> tuple[int, int, list[str]]:
    """Give a target so many inputs; how many were tried, how many refused, and the crashes."""
    tried = refused = 0
    crashes: list[str] = []

    @seed(start)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def each(value: object) -> None:
        nonlocal tried, refused
        tried += 1
        try:
            refused += not target(value)
        except Exception:  # noqa: BLE001 - this is what is looked for
            if len(crashes) < 20:
                crashes.append(f"{target.name}: {value!r:.2000}\n{traceback.format_exc()}")

    each()
    while tried < cases and start < 50:  # hypothesis ends early where it has seen all that there is
        more = run(target, cases - tried, start := start + 1)
        tried, refused, crashes = tried + more[0], refused + more[1], crashes + more[2]
    return tried, refused, crashes


def main() -> int:
    """Print the counts; the exit status says whether there was a crash."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--only", help="one target")
    parser.add_argument("--coverage", type=int, default=0, metavar="SECONDS", help="atheris, for each target")
    options = parser.parse_args()
    chosen = [target for target in TARGETS if options.only in (None, target.name)]
    shares = sum(target.share for target in chosen)
    total = 0
    failed = False
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FTKIT_CACHE"] = cache
        for target in chosen:
            began = time.monotonic()
            tried, refused, crashes = run(target, -(-options.cases * target.share // shares))
            total += tried
            failed = failed or bool(crashes)
            for crash in crashes[:3]:
                print(crash, file=sys.stderr)
            print(
                f"fuzz: {target.name} {tried} cases, {len(crashes)} crashes "
                f"({refused} refused in words, {time.monotonic() - began:.0f} s)",
                flush=True,
            )
        print(f"fuzz: {total} cases in all", flush=True)
        if options.coverage:
            failed = _covered(chosen, options.coverage) or failed
    return int(failed)


def _covered(chosen: list[Target], seconds: int) -> bool:
    if find_spec("atheris") is None:
        print("fuzz: atheris is not installed here: no coverage-guided cases")
        return False
    failed = False
    for target in chosen:
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.guided",
            target.name,
            f"-max_total_time={seconds}",
            "-max_len=4000",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        counted = [line for line in done.stderr.splitlines() if line.startswith("Done ")]
        failed = failed or done.returncode != 0
        print(f"fuzz: {target.name}, guided: {counted[-1] if counted else done.stderr[-3000:]}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
