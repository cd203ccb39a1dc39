"""pandas: build a frame, group, filter, sort. Argument: rows. Prints one JSON object."""

import json
import sys
import time

import numpy as np
import pandas as pd

rows = int(sys.argv[1])
start = time.perf_counter()
rng = np.random.default_rng(4)
frame = pd.DataFrame(
    {
        "shop": rng.integers(0, 1000, rows),
        "item": rng.integers(0, 50000, rows),
        "price": rng.integers(0, 100000, rows) / 100,
        "count": rng.integers(0, 9, rows),
    }
)
by_shop = frame.groupby("shop")["price"].agg(["mean", "max"])
dear = frame[frame["price"] > 500.0]
ordered = frame.sort_values("price", kind="stable")
check = float(by_shop["mean"].sum()) + len(dear) + float(ordered["price"].iloc[rows // 2])
print(json.dumps({"seconds": time.perf_counter() - start, "check": round(check, 2)}))
