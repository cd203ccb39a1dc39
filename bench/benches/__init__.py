"""Every bench by name, in the order of the table in docs/performance.md."""

from __future__ import annotations

from bench.benches import cluster, costs, density, fits, journey, paging, remote, whole
from bench.benches.bench import Bench

ALL: tuple[Bench, ...] = (
    *paging.BENCHES,
    *remote.BENCHES,
    *density.BENCHES,
    *fits.BENCHES,
    *whole.BENCHES,
    *journey.BENCHES,
    *cluster.BENCHES,
    *costs.BENCHES,
)
