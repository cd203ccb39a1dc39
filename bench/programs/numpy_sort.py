"""NumPy's in-place sort of rounded random float64, and a sum to check it by. Argument: MiB. Prints one JSON object."""

import json
import sys
import time

import numpy as np

count = int(sys.argv[1]) * (1 << 20) // 8
start = time.perf_counter()
values = np.random.default_rng(1).integers(0, 1 << 40, count).astype(np.float64)
total = values.sum()
values.sort()
assert values.sum() == total or abs(values.sum() - total) < 1e-6 * abs(total)
assert bool(np.all(values[:-1] <= values[1:]))
print(json.dumps({"seconds": time.perf_counter() - start, "check": float(values[count // 2])}))
