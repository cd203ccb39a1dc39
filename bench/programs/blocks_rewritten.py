"""An array filled block by block beside short-lived temporaries, then verified three times. Argument: MiB.

Not a benchmark: what `ramster run --resident` a quarter of it must get right, with large allocations that come and go.
Exit code 3: wrong bytes.
"""

import sys

import numpy as np

ROWS, COLUMNS = 1 << 16, 16
count = int(sys.argv[1]) * (1 << 20) // (4 * COLUMNS)
array = np.empty((count, COLUMNS), np.float32)
bad = 0
for turn in range(4):
    rng = np.random.default_rng(2)
    for at in range(0, count, ROWS):
        wanted = rng.integers(0, 10000, array[at : at + ROWS].shape).astype(np.float32) / 100
        if turn == 0:
            array[at : at + ROWS] = wanted
            continue
        wrong = np.nonzero((wanted != array[at : at + ROWS]).ravel())[0]
        if len(wrong):
            bad += 1
            first = array.ctypes.data + (at * COLUMNS + int(wrong[0])) * 4
            print(
                f"turn {turn}: {len(wrong)} wrong numbers from {first:#x} on, the first is {array.flat[at * COLUMNS + wrong[0]]}"
            )
print("wrong blocks:", bad)
sys.exit(3 if bad else 0)
