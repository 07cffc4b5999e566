"""Which segments may go: the decision held against its rules, one by one (C4.7, C3.5)."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from refbroker.config import LogConfig
from refbroker.log.retention import deletable

NOW_MS = 1_000_000


@st.composite
def logs(draw):
    """Segments one behind the other, the last one the active one, perhaps empty."""
    segments, offset = [], draw(st.integers(0, 5))
    for last in [False] * draw(st.integers(0, 4)) + [True]:
        count = draw(st.integers(0 if last else 1, 4))
        youngest = draw(st.sampled_from([-1, NOW_MS - 1000, NOW_MS - 10, NOW_MS])) if count else -1
        segments.append(SimpleNamespace(
            base_offset=offset, next_offset=offset + count, size=count * 10, max_timestamp=youngest,
            created_ms=draw(st.sampled_from([NOW_MS - 1000, NOW_MS])),
        ))  # fmt: skip
        offset += count
    return segments


def may_go(segments, index, config, high_watermark, log_start):
    """The rules for one segment, all older ones being gone."""
    segment = segments[index]
    if segment.next_offset > high_watermark or (index == len(segments) - 1 and not segment.size):
        return False
    youngest = segment.max_timestamp if segment.max_timestamp >= 0 else segment.created_ms
    too_old = config.retention_ms >= 0 and NOW_MS - youngest > config.retention_ms
    left_without_it = sum(each.size for each in segments[index + 1 :])
    too_much = config.retention_bytes >= 0 and left_without_it >= config.retention_bytes
    by_policy = "delete" in config.cleanup_policy and (too_old or too_much)
    return segment.next_offset <= log_start or by_policy


@given(
    logs(), st.sampled_from([-1, 0, 500]), st.sampled_from([-1, 0, 15, 40, 1000]), st.sampled_from(["delete", "compact"]), st.data()
)  # fmt: skip
def test_the_longest_run_of_segments_that_may_go(segments, retention_ms, retention_bytes, policy, data):
    config = LogConfig(retention_ms=retention_ms, retention_bytes=retention_bytes, cleanup_policy=policy)
    first, end = segments[0].base_offset, segments[-1].next_offset
    high_watermark = data.draw(st.integers(first, end))
    log_start = data.draw(st.integers(first, high_watermark))
    expected = 0
    while expected < len(segments) and may_go(segments, expected, config, high_watermark, log_start):
        expected += 1
    assert deletable(segments, config, NOW_MS, high_watermark, log_start) == expected
