"""Operators on recorded values: each appends what `kernels.h` calls by the same name.

Contracts stand in `runtime.kernels`; every shape was checked there.
"""

from __future__ import annotations

from runtime.kernels.cpu.native import load_library
from runtime.kernels.cpu.recorder import Buffer, StepArray
from runtime.kernels.cpu.structs import Domain, OpKind
from runtime.kernels.cpu.values import Constant, KvPages, PackedWeight
from runtime.kernels.forward_batch import ForwardBatch, SamplingBatch

_INDEX_OF = {"token_ids": 0, "positions": 1, "logits_rows": 2}


def gather_rows(table: PackedWeight | Constant | Buffer, rows: StepArray) -> Buffer:
    recorder = rows.recorder
    if isinstance(table, PackedWeight):
        (part,) = table.parts
        out = recorder.rows(rows.domain, part.shape[1])
        n = (part.shape[1], part.packed_format)
        recorder.record(OpKind.EMBED, rows.domain, (part,), (out,), n=n, f=(1.0,))
        return out
    shape = [size for size in table.shape[1:] if isinstance(size, int)]
    out = recorder.rows(rows.domain, *shape)
    n = (out.width, _INDEX_OF[rows.name])
    recorder.record(OpKind.GATHER, rows.domain, (table,), (out,), n=n)
    return out


def linear(x: Buffer, weight: PackedWeight, bias: Constant | None) -> Buffer:
    return _multiply(OpKind.LINEAR, x, weight, bias)


def output_logits(
    x: Buffer, weight: PackedWeight, bias: Constant | None, sampling: SamplingBatch | None
) -> Buffer:
    if sampling is None:
        return linear(x, weight, bias)
    assert len(weight.parts) == 1
    return _multiply(OpKind.OUTPUT_LOGITS, x, weight, bias)


def _multiply(kind: OpKind, x: Buffer, weight: PackedWeight, bias: Constant | None) -> Buffer:
    recorder = x.recorder
    num_outputs, num_inputs = weight.shape
    out = recorder.rows(x.domain, num_outputs)
    row = 0
    for part in weight.parts:
        part_bias = None if bias is None else Constant(bias.values[row : row + part.shape[0]])
        n = (num_inputs, part.shape[0], part.packed_format, x.domain, num_outputs)
        operands = (_quantize(x) if part.is_quantized else x, part, part_bias)
        recorder.record(kind, Domain.TASKS, operands, (out,), n=n, offset=4 * row)
        row += part.shape[0]
    return out


def _quantize(x: Buffer) -> Buffer:
    if x.quantized is None:
        row_bytes: int = load_library().zonda_quantized_row_bytes(x.width)
        x.quantized = x.recorder.quantized_rows(x.domain, row_bytes)
        x.recorder.record(OpKind.QUANTIZE, x.domain, (x,), (x.quantized,), n=(x.width,))
    return x.quantized


def add(x: Buffer, y: Buffer) -> Buffer:
    out = x.recorder.rows(x.domain, x.width)
    x.recorder.record(OpKind.ADD, x.domain, (x, y), (out,), n=(x.width,))
    return out


def scale(x: Buffer, factor: float) -> Buffer:
    return _map(OpKind.SCALE, x, factor)


def soft_cap(x: Buffer, cap: float) -> Buffer:
    return _map(OpKind.SOFT_CAP, x, cap)


def _map(kind: OpKind, x: Buffer, number: float) -> Buffer:
    out = x.recorder.rows(x.domain, x.width)
    x.recorder.record(kind, x.domain, (x,), (out,), n=(x.width,), f=(number,))
    return out


def rms_norm(x: Buffer, weight: Constant, eps: float) -> Buffer:
    out = x.recorder.rows(x.domain, x.width)
    x.recorder.record(OpKind.RMS_NORM, x.domain, (x, weight), (out,), n=(x.width,), f=(eps,))
    return out


def silu_and_multiply(gate_up: Buffer) -> Buffer:
    return _gate(OpKind.SILU_AND_MULTIPLY, gate_up)


def gelu_and_multiply(gate_up: Buffer) -> Buffer:
    return _gate(OpKind.GELU_AND_MULTIPLY, gate_up)


def _gate(kind: OpKind, gate_up: Buffer) -> Buffer:
    width = gate_up.width // 2
    out = gate_up.recorder.rows(gate_up.domain, width)
    gate_up.recorder.record(kind, gate_up.domain, (gate_up,), (out,), n=(width,))
    return out


def norm_heads(qkv: Buffer, weight: Constant, eps: float) -> Buffer:
    out = qkv.recorder.rows(qkv.domain, qkv.width)
    n = (*weight.shape, qkv.width)
    qkv.recorder.record(OpKind.NORM_HEADS, qkv.domain, (qkv, weight), (out,), n=n, f=(eps,))
    return out


def rotate_heads(
    qkv: Buffer, cos_sin: Buffer, num_heads: int, num_kv_heads: int, *, interleaved: bool
) -> tuple[Buffer, Buffer, Buffer]:
    head_dim = qkv.width // (num_heads + 2 * num_kv_heads)
    q, k, v = (
        qkv.recorder.rows(qkv.domain, heads, head_dim)
        for heads in (num_heads, num_kv_heads, num_kv_heads)
    )
    num_pairs = cos_sin.shape[1]
    assert isinstance(num_pairs, int)
    n = (num_heads, num_kv_heads, head_dim, num_pairs, interleaved)
    qkv.recorder.record(OpKind.ROTATE_HEADS, qkv.domain, (qkv, cos_sin), (q, k, v), n=n)
    return q, k, v


def write_kv(k: Buffer, v: Buffer, kv_pages: KvPages, slot_mapping: StepArray) -> None:
    _, _, _, num_kv_heads, head_dim = kv_pages.shape
    n = (num_kv_heads, head_dim, kv_pages.kv_type)
    k.recorder.record(OpKind.WRITE_KV, slot_mapping.domain, (k, v, kv_pages), n=n)


def paged_attention(
    q: Buffer,
    kv_pages: KvPages,
    batch: ForwardBatch,
    scale: float,
    *,
    window: int,
    soft_cap: float,
) -> Buffer:
    recorder, limits = q.recorder, q.recorder.limits
    _, _, _, num_kv_heads, head_dim = kv_pages.shape
    num_heads = q.width // head_dim
    bounds = (limits.max_tokens, limits.max_sequences, limits.context_length)
    library = load_library()
    shape = (num_heads, num_kv_heads)
    plan_bytes = library.zonda_attention_plan_bytes(*bounds, *shape)
    plan, is_new = recorder.keep(("plan", *shape, window), plan_bytes)
    if is_new:
        recorder.record(
            OpKind.PLAN_ATTENTION, Domain.TASKS, (), (plan,), n=(*shape, window, plan_bytes)
        )
    partials, _ = recorder.keep(
        ("partials", *shape, head_dim),
        library.zonda_attention_partial_bytes(*bounds, num_heads, head_dim),
    )
    out = recorder.rows(q.domain, num_heads * head_dim)
    n = (*shape, head_dim, kv_pages.kv_type, window)
    recorder.record(
        OpKind.ATTENTION,
        Domain.TASKS,
        (q, kv_pages, plan),
        (partials, out),
        n=n,
        f=(scale, soft_cap),
    )
    recorder.record(
        OpKind.MERGE_ATTENTION, Domain.TOKENS, (partials, plan), (out,), n=(num_heads, head_dim)
    )
    return out


def sample_tokens(logits: Buffer, sampling: SamplingBatch) -> tuple[StepArray, ...]:
    recorder = logits.recorder
    recorder.record(OpKind.SAMPLE, Domain.ROWS, (logits,), n=(logits.width,))
    names = ("drawn_ids", "logprobs", "top_ids", "top_logprobs")
    return tuple(StepArray(recorder, name, Domain.ROWS) for name in names)
