"""A CPython dict of tuples: build it, then look up at random. Arguments: tuples, gets. Prints one JSON object."""

import json
import os
import random
import sys
import time

count, gets = int(sys.argv[1]), int(sys.argv[2])
start = time.perf_counter()
table = {f"key-{i:012d}": (i, float(i), f"value {i} of the table") for i in range(count)}
built = time.perf_counter()
draw = random.Random(3)
total = 0
for _ in range(gets):
    i = draw.randrange(count)
    found = table[f"key-{i:012d}"]
    assert found[0] == i
    total += len(found[2])
end = time.perf_counter()
print(json.dumps({"seconds": end - start, "build_s": built - start, "gets_s": end - built, "check": total}), flush=True)
# Taking the table apart would touch every page again; a program that ends does not need it.
os._exit(0)
