"""Grouping and splitting a generated table without pixels: seconds and peak memory from 10 thousand to 1 million rows.

    python tests/bench/million_rows.py [--rows 10000 100000 1000000] [--queries 38]

Ids, labels, videos of about 20 rows, and for each row a random 64-bit hash with the queries that `looks` keeps beside
it. A tenth of the rows are planted near-duplicates of others: up to 5 bits away, half of them from one of the queries
(mirrored, cropped). Each size runs in a process of its own, so that one peak does not hide another's. Prints Markdown;
"CPU s" is what the process used, which on a busy machine is less than the seconds that passed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np

from natix_hf.data.duplicates.candidates import DISTANCE, search
from natix_hf.data.splits.cut import assign
from natix_hf.data.splits.groups import group_rows
from natix_hf.data.splits.places import components
from natix_hf.photos.perceptual_hashes import QUERIES

GIB = 2**20  # ru_maxrss counts KiB
ROWS_OF_VIDEO = 20


def table(rows: int, queries: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(n, queries)` hashes, and the rows and sources of the planted near-duplicates."""
    hashes = rng.integers(0, 2**64, (rows, queries), dtype=np.uint64)
    order = rng.permutation(rows)
    copies, sources = order[: rows // 10], order[rows // 10 : rows // 10 * 2]
    query = np.where(rng.random(len(copies)) < 0.5, 0, rng.integers(0, queries, len(copies)))
    flips = np.zeros(len(copies), dtype=np.uint64)
    for _ in range(DISTANCE):
        flips |= np.uint64(1) << rng.integers(0, 64, len(copies), dtype=np.uint64)
    # Some copies are equal, the others 1 to 5 bits away.
    flips[rng.random(len(copies)) < 0.2] = 0
    hashes[copies, 0] = hashes[sources, query] ^ flips
    return hashes, copies, sources


def near_rows(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows whose hashes are near; rows of one hash are tied to the first of them, which stands for all."""
    values, first, inverse = np.unique(hashes[:, 0], return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(len(hashes)))
    found = search(values, hashes[first])
    keep = (found.row < found.value) | ((found.query > 0) & (found.row != found.value))
    one, other = first[found.row[keep]], first[found.value[keep]]
    return np.concatenate([first[inverse[again]], one]), np.concatenate([again, other])


def run(rows: int, queries: int) -> dict:
    """Group and split one table; seconds of each step, peak GiB, and what was found of what was planted."""
    rng = np.random.default_rng(rows)
    hashes, copies, sources = table(rows, queries, rng)
    ids = [f"photo-{number:07d}" for number in rng.permutation(rows)]
    videos = [f"video-{number}" for number in rng.integers(0, max(rows // ROWS_OF_VIDEO, 1), rows)]
    labels = rng.integers(0, 2, rows).tolist()
    # Copies that stand in videos of their own would chain all random videos to one group: they stand in none.
    for copy in copies.tolist():
        videos[copy] = None
    prints = [f"{number:032x}" for number in range(rows)]
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB
    seconds = {}
    begin, busy = time.perf_counter(), time.process_time()
    first, second = near_rows(hashes)
    seconds["candidates"] = time.perf_counter() - begin
    near = components(rows, first, second)
    begin = time.perf_counter()
    grouping = group_rows(ids, {"video": videos, "near": near.astype(str).tolist()}, prints, None)
    seconds["grouping"] = time.perf_counter() - begin
    begin = time.perf_counter()
    split = np.array(assign(labels, [grouping.names[number] for number in grouping.numbers], ids))
    seconds["split"] = time.perf_counter() - begin
    return {
        "rows": rows,
        **seconds,
        "cpu": time.process_time() - busy,
        "table": base,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB,
        "recall": float((near[copies] == near[sources]).mean()),
        "pairs": len(first),
        "groups": len(grouping.names),
        "largest": grouping.largest[1],
        "straddle": int((split[first] != split[second]).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="sizes of tables")
    parser.add_argument("--queries", type=int, default=QUERIES, help="hashes of a row (default %(default)s)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run(given.rows[0], given.queries)))
        return
    print(
        "| rows | candidates s | grouping s | split s | total s | CPU s | growth of CPU s "
        "| table GiB | peak GiB | pairs | groups | largest | recall | straddle |\n|" + "---|" * 14
    )
    before = None
    for rows in given.rows:
        command = [sys.executable, __file__, "--one", "--rows", str(rows), "--queries", str(given.queries)]
        r = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        total = r["candidates"] + r["grouping"] + r["split"]
        growth = f"{r['cpu'] / before:.1f}x" if before else "-"
        before = r["cpu"]
        print(
            f"| {rows:,} | {r['candidates']:.1f} | {r['grouping']:.1f} | {r['split']:.1f} | {total:.1f} "
            f"| {r['cpu']:.1f} | {growth} | {r['table']:.2f} | {r['peak']:.2f} | {r['pairs']:,} "
            f"| {r['groups']:,} | {r['largest']} | {r['recall']:.4f} | {r['straddle']} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
