"""What must every client be able to do with the broker? These scenarios, the same for all.

A client is a program: `PROGRAM HOST:PORT [SCENARIO...]`. It makes its own topics (names that end in a tag of the run),
and prints one line for each scenario as it ends, on stdout:

    PASS name
    FAIL name: reason
    SKIP name: reason            (the client, not the broker, lacks the ability)

Where a scenario needs something done to the broker the program prints `DO kill-restart` and reads `DONE` from stdin when
the broker answers again; its own traffic goes on meanwhile. Every other line of output is for people.

The broker runs with `BROKER_PROPERTIES`; among them: topics are not made by asking for them. What each must show:

| Scenario | Shown |
| --- | --- |
| codec-none, -gzip, -snappy, -lz4, -zstd | 500 records of 0 to 3.5 KB come back as they were; the files hold that codec |
| headers | repeated names, empty and null values, bytes that are not ASCII, in their order |
| nulls | null key, null value, both, and empty ones, each told from the other |
| rebalance | a second member joins (4 partitions become 2 and 2) and leaves; none is missed, none comes twice |
| commit-resume | 10 of 20 read and committed; the next consumer of the group goes on at 10 |
| seek-by-time | the first offset at or after a timestamp; none after the last |
| admin-topics | create, describe, list, add partitions, delete; a second create and a second delete are refused |
| admin-configs | set, describe with source, unset |
| admin-groups | a working group's state and members; list; its offsets; delete |
| delete-records | the log starts at 4 of 10; nothing below is served |
| idempotent-across-kill | SIGKILL and restart under an idempotent producer: each record once, in order, none missing |
| error-unknown-topic | the error is told, and no topic made |
| error-too-large | a batch above max.message.bytes is refused, and the next one accepted |
| error-offset-out-of-range | a fetch beyond the end is refused, and a good one goes on |
| error-bad-config | unknown keys, values, replication factors, names: each refused with its own error |
"""

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
SCENARIOS = (
    *(f"codec-{codec}" for codec in CODECS),
    "headers",
    "nulls",
    "rebalance",
    "commit-resume",
    "seek-by-time",
    "admin-topics",
    "admin-configs",
    "admin-groups",
    "delete-records",
    "idempotent-across-kill",
    "error-unknown-topic",
    "error-too-large",
    "error-offset-out-of-range",
    "error-bad-config",
)
BROKER_PROPERTIES = {
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "4",
}
