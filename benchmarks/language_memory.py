"""Private memory of tokenising a large corpus and training on it, through the ordinary command line.

    python benchmarks/language_memory.py [--megabytes 2000] [--tokens 200000] [--folder DIR] [--tokenizer bytes]

Writes a text of that size into a temporary folder (paragraphs of the language reference that every Python carries, drawn
anew for every document, so that no two are alike), and runs `clsuite run` on it with a cache of its own. Anonymous memory
of the command and all its children is read from /proc every tenth of a second: mapped pages of files are not counted, as
the system takes them back when it needs room. Exit code 1 when the command fails or the peak is 2 GB or more. Nothing is
left behind, neither text nor token arrays; while it runs, bytes need three times the size of the text on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LIMIT_MB = 2000
DOCUMENT, PIECE = 16_000, 1 << 24


def write_corpus(path: Path, size: int) -> int:
    """A text of `size` bytes; the documents in it."""
    from pydoc_data.topics import topics

    paragraphs = [p.encode() for topic in topics.values() for p in topic.split("\n\n") if len(p) > 80]
    average = sum(map(len, paragraphs)) / len(paragraphs) + 2
    rng = np.random.default_rng(0)
    documents, written, held = 0, 0, bytearray()
    with path.open("wb") as file:
        while written < size:
            held += b"Document %d\n\n" % documents
            held += b"\n\n".join([paragraphs[k] for k in rng.integers(0, len(paragraphs), round(DOCUMENT / average)).tolist()]) + b"\n\n"
            documents += 1
            if len(held) >= PIECE:
                written += file.write(held)
                held.clear()
    return documents


def anonymous_mb(pid: int) -> float:
    """Anonymous memory of a process and its descendants, in MB of 10^6 bytes; 0 for one that is gone."""
    total = 0.0
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) * 1024 / 1e6
        children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    except (OSError, StopIteration):
        return total
    return total + sum(map(anonymous_mb, children))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--tokenizer", default="bytes")
    parser.add_argument("--folder", default=None, help="where the temporary folder is made: a disk, not memory")
    arguments = parser.parse_args()
    if not Path("/proc/self/smaps_rollup").exists():
        print("this needs the /proc of Linux", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="clsuite-memory-", dir=arguments.folder) as name:
        folder = Path(name)
        documents = write_corpus(folder / "corpus.txt", arguments.megabytes * 10**6)
        items = ["scenario=llm_pretraining", f"scenario.corpora=['file:{folder / 'corpus.txt'}']", f"scenario.tokens={arguments.tokens}"]
        command = [sys.executable, "-m", "clsuite", "run", *items, f"scenario.tokenizer={arguments.tokenizer}", "device=cpu", "--json"]
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        started, peak, at, trained = time.monotonic(), 0.0, 0.0, 0.0
        with (folder / "out").open("w") as out:
            process = subprocess.Popen([*command, "--out", str(folder / "runs")], stdout=out, env=environment)
            while process.poll() is None:
                now, seconds = anonymous_mb(process.pid), time.monotonic() - started
                if now > peak:
                    peak, at = now, seconds
                if (folder / "runs").exists():
                    trained = trained or seconds
                else:
                    before = peak
                time.sleep(0.1)
        size = sum(file.stat().st_size for file in (folder / "cache").rglob("*.tokens"))
        found = {
            "corpus_mb": arguments.megabytes,
            "documents_written": documents,
            "token_arrays_mb": round(size / 1e6),
            "tokens_trained_on": arguments.tokens,
            "seconds": round(time.monotonic() - started, 1),
            "seconds_before_training": round(trained, 1),
            "peak_private_mb_before_training": round(before),
            "peak_private_mb": round(peak),
            "peak_after_seconds": round(at, 1),
            "exit_code": process.returncode,
        }
    print(json.dumps(found, indent=1))
    return int(process.returncode != 0 or peak >= LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
