"""Recording and planning: which operators share a region, and which buffers share memory."""

from __future__ import annotations

import itertools

from runtime.kernels.cpu.recorder import Buffer, Limits, Recorder
from runtime.kernels.cpu.structs import Domain, OpKind

LIMITS = Limits(max_tokens=10, max_sequences=4, context_length=64, row_block=3)


def _append(recorder: Recorder, source: Buffer | None, domain: Domain, width: int = 8) -> Buffer:
    out = recorder.rows(Domain.TOKENS if domain is Domain.TASKS else domain, width)
    recorder.record(OpKind.SCALE, domain, (source,), (out,), n=(width,), f=(1.0,))
    return out


def test_row_operators_of_one_kind_share_a_region() -> None:
    recorder = Recorder(LIMITS)
    domains = [Domain.TOKENS, Domain.TOKENS, Domain.TASKS, Domain.TASKS, Domain.TOKENS, Domain.ROWS]
    value = None
    for domain in domains:
        value = _append(recorder, value, domain)
    recording = recorder.finish()
    assert [op.joins for op in recording.ops] == [0, 1, 0, 0, 0, 0]
    assert recording.first_row_op == 5


def test_program_without_logits_rows_has_no_row_part() -> None:
    recorder = Recorder(LIMITS)
    _append(recorder, None, Domain.TOKENS)
    assert recorder.finish().first_row_op == 1


def test_buffers_of_one_region_never_overlap_and_later_ones_reuse_memory() -> None:
    recorder = Recorder(LIMITS)
    buffers: list[Buffer] = []
    regions: dict[int, set[Buffer]] = {}
    source = None
    for index in range(40):
        domain = Domain.TASKS if index % 3 == 0 else Domain.TOKENS
        out = _append(recorder, source, domain, width=8 * (1 + index * 7 % 5))
        buffers.append(out)
        source = out
    recording = recorder.finish()
    region = -1
    for op, out, before in zip(recording.ops, buffers, [None, *buffers], strict=False):
        region += not op.joins
        regions.setdefault(region, set()).add(out)
        if before is not None:
            regions[region].add(before)
    for living in regions.values():
        spans = sorted((item.address, item.address + 10 * item.row_bytes) for item in living)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert len(recording.arena) < sum(10 * item.row_bytes for item in buffers) / 3


def test_kept_buffer_is_one_for_all_who_ask_and_lives_to_the_end() -> None:
    recorder = Recorder(LIMITS)
    kept, is_new = recorder.keep("plan", 100)
    assert (recorder.keep("plan", 100), is_new) == ((kept, False), True)
    first = _append(recorder, kept, Domain.TASKS)
    last = _append(recorder, _append(recorder, first, Domain.TASKS), Domain.TASKS)
    recorder.finish()
    assert kept.address % 64 == 0
    for other in (first, last):
        span = range(other.address, other.address + 10 * other.row_bytes)
        assert kept.address not in span


def test_tokens_that_a_block_of_rows_reads_are_there_for_the_next_block() -> None:
    recorder = Recorder(LIMITS)
    tokens = _append(recorder, _append(recorder, None, Domain.TASKS, width=200), Domain.TASKS)
    source = tokens
    for domain in (Domain.ROWS, Domain.ROWS):
        out = recorder.rows(Domain.ROWS, 8)
        recorder.record(OpKind.SCALE, domain, (source,), (out,), n=(8,), f=(1.0,))
        source = out
    logits = recorder.rows(Domain.ROWS, 900)
    recorder.record(OpKind.LINEAR, Domain.TASKS, (source,), (logits,))
    recorder.finish()
    span = range(tokens.address, tokens.address + 10 * tokens.row_bytes)
    assert not set(span) & set(range(logits.address, logits.address + 3 * logits.row_bytes))
