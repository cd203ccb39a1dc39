"""Lloyd's k-means on float32 points, eight rounds in blocks. Argument: MiB of points. Prints one JSON object."""

import json
import sys
import time

import numpy as np

DIMENSIONS, CLUSTERS, ROUNDS, BLOCK = 16, 8, 8, 1 << 16
count = int(sys.argv[1]) * (1 << 20) // (4 * DIMENSIONS)
start = time.perf_counter()
rng = np.random.default_rng(2)
points = np.empty((count, DIMENSIONS), np.float32)
for at in range(0, count, BLOCK):
    points[at : at + BLOCK] = rng.integers(0, 10000, points[at : at + BLOCK].shape).astype(np.float32) / 100
centres = points[:: count // CLUSTERS][:CLUSTERS].copy()
for _ in range(ROUNDS):
    sums = np.zeros((CLUSTERS, DIMENSIONS))
    sizes = np.zeros(CLUSTERS)
    for at in range(0, count, BLOCK):
        block = points[at : at + BLOCK]
        nearest = ((centres**2).sum(1) - 2 * block @ centres.T).argmin(1)
        for cluster in range(CLUSTERS):
            sums[cluster] += block[nearest == cluster].sum(0)
        sizes += np.bincount(nearest, minlength=CLUSTERS)
    centres = (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32)
print(json.dumps({"seconds": time.perf_counter() - start, "check": round(float(centres.sum()), 2)}))
