"""Which counters leave ramster under which name, and what each means: what `--stats` promises, and every metric of a node.

Not: the counters themselves, which are native (their order in the stat block is `_native.STAT_FIELDS`), adding them up (`totals`)
or the bytes that Prometheus reads (`exposition`). docs/operations.md has the same table of metrics; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# What `ramster run --stats` promises to scripts; the file has the other fields of the stat block after these.
STATS_PROMISED = (
    "faults",
    "faults_local",
    "faults_remote",
    "pages_out",
    "pages_remotified",
    "bytes_resident_max",
    "bytes_stored_max",
)

# Of a client, as `ramster status` shows it: the stat block's field for each promised key.
CLIENT_FIELDS = {
    "resident_bytes": "bytes_resident",
    "stored_bytes": "bytes_stored",
    "remote_bytes": "bytes_remote",
}

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
# Of owners with a series of their own; the others are one, with this label. A cluster may have a thousand.
OWNERS_MAX = 256
OTHERS = "others"


@dataclass(frozen=True)
class Metric:
    """One name. `fields`: of the stat block (or `_native.HISTOGRAMS`), each with its labels' values; summed over all clients of
    the node, those that have ended too. Without: the node's own."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...] = ()
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _own(kind: str, name: str, meaning: str, *labels: str) -> Metric:
    return Metric(f"ramster_{name}", kind, meaning, labels)


def _clients(name: str, meaning: str, stat: str = "") -> Metric:
    return Metric(f"ramster_{name}_total", COUNTER, meaning, (), {stat or name: ()})


def _split(name: str, label: str, meaning: str, fields: dict[str, str], kind: str = COUNTER) -> Metric:
    return Metric(f"ramster_{name}", kind, meaning, (label,), {stat: (value,) for stat, value in fields.items()})


METRICS: tuple[Metric, ...] = (
    _own(GAUGE, "node_info", "1; says which node and version this is", "node", "version"),
    _own(GAUGE, "node_offered_bytes", "what it offers now", "node"),
    _own(GAUGE, "node_limit_bytes", "what it offers at most, by its file or `set offer`", "node"),
    _own(GAUGE, "node_used_bytes", "what foreign pages take of that, with what it takes to find them", "node"),
    _own(GAUGE, "node_foreign_bytes", "pages of other nodes' clients here; the smallest owners together", "node", "owner"),
    _own(GAUGE, "node_foreign_pages", "the same in pages", "node", "owner"),
    _own(GAUGE, "members", "other nodes, by what this one believes of them", "state"),
    _own(GAUGE, "member_latency_seconds", "what the last heartbeat took, with opening its link; not with etcd", "member"),
    _own(GAUGE, "quorum_held", "1: this node lends and remotifies; 0: it hears too few"),
    _own(GAUGE, "certificate_end_timestamp_seconds", "when this node's certificates end", "certificate"),
    _own(GAUGE, "page_links", "open links of owners"),
    _own(COUNTER, "page_links_accepted_total", "links of owners, and heartbeats"),
    _own(COUNTER, "page_links_ended_total", "the same, ended; docs/protocol.md has the reasons", "reason"),
    _own(COUNTER, "page_accepts_paused_total", "times that no descriptors or memory were left for links"),
    _own(COUNTER, "foreign_puts_stored_total", "pages that this node took"),
    _own(COUNTER, "foreign_puts_refused_total", "pages that it did not take", "reason"),
    _own(COUNTER, "foreign_gets_total", "pages that it was asked for", "outcome"),
    _own(COUNTER, "foreign_pages_flushed_total", "pages that owners told it to forget"),
    _own(COUNTER, "foreign_pages_dropped_total", "ephemeral pages that made room"),
    _own(COUNTER, "foreign_shares_total", "forked children that got a view of their parent's pages"),
    _own(COUNTER, "foreign_refusals_total", "anything else that owners were refused", "reason"),
    _own(COUNTER, "foreign_owners_total", "stays of owners that ended or went on otherwise than by a goodbye", "event"),
    _own(GAUGE, "control_links", "open links to the control port"),
    _own(COUNTER, "control_events_total", "what happened there; docs/protocol.md has the names", "event"),
    _own(COUNTER, "admin_refused_total", "links to the admin socket that were refused", "reason"),
    _own(GAUGE, "clients", "processes that are registered with this node"),
    _own(GAUGE, "clients_bytes", "memory of those: resident, compressed here, at holders", "where"),
    _own(GAUGE, "clients_disk", "process trees whose spill directory does not answer, is full, or gives errors", "state"),
    _own(GAUGE, "clients_rebuilding", "process trees that make new copies for lost ones"),
    _clients("faults", "page faults of managed memory"),
    _split(
        "faults_by_source_total", "source", "the same, by where the page came from",
        {"faults_local": "local", "faults_remote": "remote", "faults_zero": "zero", "faults_victim": "victim",
         "faults_disk": "disk"},
    ),
    _clients("pages_out", "pages taken out of programs"),
    _clients("pages_in", "pages brought back"),
    _clients("pages_ahead", "pages brought along with a fault"),
    _clients("pages_remotified", "pages that went to holders"),
    _clients("pages_localified", "pages that came back from there"),
    _clients("pages_lost", "pages that cannot be brought back: each is an alarm"),
    _clients("pages_repatriated", "fetched pages that stayed at home"),
    _clients("pages_same", "same-value pages put"),
    _clients("pages_raw", "pages put that did not compress"),
    _clients("pages_evicted", "ephemeral pages that made room in the store"),
    _clients("pages_spilled", "pages written to spill files"),
    _clients("pages_unspilled", "pages read from there"),
    _clients("disk_read_along", "pages on disk that had been read along with others when they were wanted"),
    _clients("disk_unreadable", "pages on disk that could not be read, or were changed there: each is an alarm"),
    _clients("puts", "pages put into the store"),
    _clients("puts_unchanged", "of those, what was there already"),
    _split(
        "puts_refused_total", "reason", "pages that the store did not take",
        {"puts_refused_store_full": "store_full", "puts_refused_no_such_pool": "no_such_pool"},
    ),
    _clients("pools_refused", "pools that were one too many"),
    _clients("gets", "pages asked for"),
    _clients("gets_miss", "of those, what was not there"),
    _clients("gets_stale", "fetches of pages that were changed meanwhile, looked up again"),
    _clients("gets_joined", "fetches that found another one of the same page on its way"),
    _clients("gets_elsewhere", "fetches that one holder did not answer and another was asked"),
    _clients("gets_decoded", "coded pages that came back although a data shard was missing"),
    _clients("shards_forged", "shards that were not what their holder was sent: look at that machine"),
    _split(
        "gets_refused_total", "reason", "gets that were given up",
        {"gets_deadline": "deadline", "gets_overflow": "too_many"},
    ),
    _clients("flushes_sent", "flushes sent to holders"),
    _split(
        "remotify_refused_total", "reason", "pages that stayed: no room, no answer, too many sites, disk full, over their share",
        {"remotify_refused": "holder_full", "remotify_taken_back": "unanswered", "sites_refused": "too_many_sites",
         "spill_full": "spill_full", "remotify_over_share": "over_share"},
    ),
    _clients("store_over_limit", "times the store was over its limit with nowhere to put pages", "soft_limit"),
    _clients("holders_died", "holders that programs found dead"),
    _clients("copies_lost", "copies that holders lost of pages of which there was another"),
    _clients("copies_rebuilt", "copies made anew"),
    _split(
        "get_seconds", "source", "time of a get: of the local ones one in 64 (of runs their average), of the remote ones all",
        {"get_local": "local", "get_remote": "remote"}, HISTOGRAM,
    ),
    Metric(
        "ramster_put_seconds", HISTOGRAM,
        "time of a put: the average of each run of pages of a program; of single ones one in 64", (), {"put": ()},
    ),
    Metric(
        "ramster_recall_seconds", HISTOGRAM, "from a holder's wish to be rid of pages until they had gone", (), {"recall": ()}
    ),
    Metric(
        "ramster_rebuild_seconds", HISTOGRAM, "from the loss of copies until each page had its copies again", (),
        {"rebuild": ()},
    ),
)  # fmt: skip
BY_NAME = {metric.name: metric for metric in METRICS}

# Fields of the stat block that are no counters: what they say is in `ramster_clients...`, or of one process alone.
NO_COUNTERS = frozenset(
    {"bytes_resident", "bytes_resident_max", "bytes_stored", "bytes_stored_max", "bytes_remote", "processes", "rebuilding",
     "disk_hangs", "disk_full", "disk_failed",
     "puts_refused"}
)  # fmt: skip


def disk_word(stats: Mapping[str, int], *, has_disk: bool) -> str:
    """`ok`, `hangs`, `full` or `failed`: what the spill directories of a process tree are, or were when it ended; else `none`."""
    if not has_disk:
        return "none"
    return next((word for word in ("failed", "full", "hangs") if stats.get(f"disk_{word}")), "ok")


def promised_first(stats: Mapping[str, int]) -> dict[str, int]:
    """`stats` with the promised fields first, every one present."""
    ordered = {name: int(stats.get(name, 0)) for name in STATS_PROMISED}
    ordered.update({name: int(value) for name, value in stats.items() if name not in ordered})
    return ordered
