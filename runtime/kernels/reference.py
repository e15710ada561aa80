"""Every operator in plain torch, written to be read: the truth in tests, and the fallback.

Runs on whatever torch runs on. Contracts stand in `runtime.kernels`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from runtime.kernels.forward_batch import ForwardBatch, SamplingBatch


def gather_rows(table: Tensor, rows: Tensor) -> Tensor:
    return table.index_select(0, rows)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.linear(x, weight, bias)


def output_logits(
    x: Tensor, weight: Tensor, bias: Tensor | None, sampling: SamplingBatch | None
) -> Tensor:
    return linear(x, weight, bias)


def add(x: Tensor, y: Tensor) -> Tensor:
    return x + y


def scale(x: Tensor, factor: float) -> Tensor:
    return x * factor


def soft_cap(x: Tensor, cap: float) -> Tensor:
    return torch.tanh(x / cap) * cap


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x32 = x.float()
    scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return (x32 * scale * weight).to(x.dtype)


def silu_and_multiply(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


def gelu_and_multiply(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.gelu(gate, approximate="tanh") * up


def norm_heads(qkv: Tensor, weight: Tensor, eps: float) -> Tensor:
    num_heads, head_dim = weight.shape
    normed, values = qkv.tensor_split((weight.numel(),), dim=1)
    heads = normed.view(len(qkv), num_heads, head_dim).float()
    spread = torch.rsqrt(heads.square().mean(-1, keepdim=True) + eps)
    return torch.cat(((heads * spread * weight).to(qkv.dtype).flatten(1), values), dim=1)


def rotate_heads(
    qkv: Tensor, cos_sin: Tensor, num_heads: int, num_kv_heads: int, *, interleaved: bool
) -> tuple[Tensor, Tensor, Tensor]:
    num_rotated = num_heads + num_kv_heads
    heads = qkv.view(len(qkv), num_rotated + num_kv_heads, -1)  # [T, H + 2G, D]
    num_pairs = cos_sin.shape[1]
    pairs = (num_pairs, 2) if interleaved else (2, num_pairs)
    axis = -1 if interleaved else -2
    qk, still = heads[:, :num_rotated].tensor_split((2 * num_pairs,), -1)
    first, second = qk.float().reshape(len(qkv), num_rotated, *pairs).unbind(axis)
    cos, sin = cos_sin[:, None].unbind(-1)  # [T, 1, N / 2] each
    turned = torch.stack((first * cos - second * sin, first * sin + second * cos), axis)
    rotated = turned.flatten(-2).to(qkv.dtype)
    if still.shape[2]:
        rotated = torch.cat((rotated, still), dim=-1)
    return rotated[:, :num_heads], rotated[:, num_heads:], heads[:, num_rotated:]


def write_kv(k: Tensor, v: Tensor, kv_pages: Tensor, slot_mapping: Tensor) -> None:
    keys, values = kv_pages.flatten(1, 2)  # [slots, G, D] each
    keys.index_copy_(0, slot_mapping, k.to(keys.dtype))
    values.index_copy_(0, slot_mapping, v.to(values.dtype))


def paged_attention(
    q: Tensor,
    kv_pages: Tensor,
    batch: ForwardBatch,
    scale: float,
    *,
    window: int,
    soft_cap: float,
) -> Tensor:
    scoring = _Scoring(scale, window, soft_cap)
    if len(q) == len(batch.seq_lens):  # nothing here waits for the device: it can be captured
        attended = _attend_decodes(q, kv_pages, batch.seq_lens, batch.page_tables, scoring)
        return attended.flatten(1)
    bounds = batch.cu_seqlens_q.tolist()
    seq_lens = batch.seq_lens.tolist()
    output = torch.empty_like(q)
    decodes = [i for i in range(len(seq_lens)) if bounds[i + 1] - bounds[i] == 1]
    if decodes:
        tokens = [bounds[i] for i in decodes]
        seq_lens_of, pages_of = batch.seq_lens[decodes], batch.page_tables[decodes]
        output[tokens] = _attend_decodes(q[tokens], kv_pages, seq_lens_of, pages_of, scoring)
    for i in range(len(seq_lens)):
        start, end = bounds[i], bounds[i + 1]
        if end - start > 1:
            keys, values = _read_pages(kv_pages, batch.page_tables[i], seq_lens[i])
            output[start:end] = _attend_prefill(q[start:end], keys, values, scoring)
    return output.flatten(1)


class _Scoring(NamedTuple):
    """How scores become weights; see `runtime.kernels.paged_attention`."""

    scale: float
    window: int
    soft_cap: float

    def cap(self, scores: Tensor) -> Tensor:
        return soft_cap(scores, self.soft_cap) if self.soft_cap else scores


def _attend_decodes(
    q: Tensor, kv_pages: Tensor, seq_lens: Tensor, page_tables: Tensor, scoring: _Scoring
) -> Tensor:
    """One query per sequence `[N, H, D]`, all sequences padded to the width of the tables."""
    keys, values = kv_pages[:, page_tables].flatten(2, 3)  # [N, L, G, D] each
    grouped = q.reshape(len(q), keys.shape[2], -1, q.shape[2])  # [N, G, H / G, D]
    scores = grouped @ keys.to(q.dtype).permute(0, 2, 3, 1) * scoring.scale  # [N, G, H / G, L]
    positions = torch.arange(keys.shape[1], device=q.device)
    hidden = positions >= seq_lens[:, None]
    if scoring.window:
        hidden |= positions < seq_lens[:, None] - scoring.window
    scores = scoring.cap(scores.float()).masked_fill(hidden[:, None, None], -torch.inf)
    attended: Tensor = scores.softmax(-1).to(q.dtype) @ values.to(q.dtype).transpose(1, 2)
    return attended.flatten(1, 2)


def _attend_prefill(q: Tensor, keys: Tensor, values: Tensor, scoring: _Scoring) -> Tensor:
    """The last n tokens `[n, H, D]` of one sequence over all its keys `[L, G, D]`."""
    num_new, num_all = q.shape[0], keys.shape[0]
    ones = torch.ones(num_new, num_all, dtype=torch.bool, device=q.device)
    visible = ones.tril(num_all - num_new)
    if scoring.window:
        visible = visible.triu(num_all - num_new - scoring.window + 1)
    q, keys, values = (part.to(q.dtype).transpose(0, 1) for part in (q, keys, values))
    if scoring.soft_cap:
        return _attend_capped(q, keys, values, visible, scoring).transpose(0, 1)
    attended = functional.scaled_dot_product_attention(
        q[None],
        keys[None],
        values[None],
        attn_mask=visible,
        scale=scoring.scale,
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)


def _attend_capped(
    q: Tensor, keys: Tensor, values: Tensor, visible: Tensor, scoring: _Scoring
) -> Tensor:
    """`[H, n, D]` over `[G, L, D]`, written out: torch's own attention caps no scores."""
    grouped = q.reshape(len(keys), -1, *q.shape[1:])  # [G, H / G, n, D]
    scores = scoring.cap((grouped @ keys[:, None].mT * scoring.scale).float())
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1).to(q.dtype)
    attended: Tensor = (weights @ values[:, None]).flatten(0, 1)
    return attended


def _read_pages(kv_pages: Tensor, page_table: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
    num_pages = -(-seq_len // kv_pages.shape[2])
    keys, values = kv_pages[:, page_table[:num_pages]].flatten(1, 2)[:, :seq_len]
    return keys, values


def sample_tokens(
    logits: Tensor, sampling: SamplingBatch
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    logits = logits.float()
    token_ids = _draw_or_take(logits, sampling)
    is_scored = sampling.targets >= 0
    if sampling.num_top is not None:
        is_scored |= sampling.num_top >= 0
    logprobs = torch.zeros(len(logits), device=logits.device)
    if is_scored.any():
        scored = logits[is_scored].log_softmax(-1)
        logprobs[is_scored] = scored.gather(-1, token_ids[is_scored, None])[:, 0]
    if sampling.num_top is None:
        return token_ids, logprobs, None, None
    num_top = min(max(0, int(sampling.num_top.max())), logits.shape[1])
    order = logits.sort(dim=-1, descending=True, stable=True).indices[:, :num_top]
    top = logits.log_softmax(-1).gather(-1, order)
    return token_ids, logprobs, order.masked_fill(~(top > -torch.inf), -1), top


def _draw_or_take(logits: Tensor, sampling: SamplingBatch) -> Tensor:
    targets = sampling.targets
    is_scored = targets >= 0
    if sampling.bias_start is not None:
        logits = _add_bias(logits, sampling)
    if sampling.penalty_start is not None:
        logits = _penalize(logits, sampling)
    if sampling.token_bitmask is not None:
        logits = logits.masked_fill(
            ~_unpack_bits(sampling.token_bitmask, logits.shape[1]), -torch.inf
        )
    token_ids = torch.where(is_scored, targets, logits.argmax(-1))
    is_drawn = ~is_scored & (sampling.temperature > 0)
    if is_drawn.any():
        token_ids[is_drawn] = _draw(logits[is_drawn], sampling, is_drawn)
    return token_ids


def _add_bias(logits: Tensor, sampling: SamplingBatch) -> Tensor:
    rows = torch.arange(len(logits), device=logits.device)
    rows = rows.repeat_interleave(sampling.bias_start.diff())  # [B]
    places = (rows, sampling.bias_tokens)
    return logits.index_put(places, logits[places] + sampling.bias_values)


def _penalize(logits: Tensor, sampling: SamplingBatch) -> Tensor:
    rows = torch.arange(len(logits), device=logits.device)
    rows = rows.repeat_interleave(sampling.penalty_start.diff())  # [P]
    tokens, counts = sampling.penalty_tokens, sampling.penalty_counts
    repetition = sampling.repetition_penalty[rows]
    changed = logits[rows, tokens]
    changed = torch.where(changed > 0, changed / repetition, changed * repetition)
    changed = changed - sampling.frequency_penalty[rows] * counts
    changed = torch.where(counts > 0, changed - sampling.presence_penalty[rows], changed)
    return logits.index_put((rows, tokens), changed)


def _draw(logits: Tensor, sampling: SamplingBatch, rows: Tensor) -> Tensor:
    """Draw from `logits` `[N, V]`, the selected `rows` `[R]` of the batch."""
    ranked, order = (logits / sampling.temperature[rows, None]).sort(-1, descending=True)
    rank = torch.arange(ranked.shape[1], device=logits.device)
    top_k = sampling.top_k[rows, None]
    ranked = ranked.masked_fill((top_k > 0) & (rank >= top_k), -torch.inf)
    probabilities = ranked.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    dropped = before >= sampling.top_p[rows, None]
    dropped |= probabilities < sampling.min_p[rows, None] * probabilities[:, :1]
    dropped[:, 0] = False
    mass = probabilities.masked_fill(dropped, 0).cumsum(-1)
    threshold = sampling.uniform[rows, None] * mass[:, -1:]
    choice = (mass <= threshold).sum(-1, keepdim=True).clamp(max=ranked.shape[1] - 1)
    token_ids: Tensor = order.gather(-1, choice)[:, 0]
    return token_ids


def _unpack_bits(token_bitmask: Tensor, vocab_size: int) -> Tensor:
    """`[R, ceil(V / 32)]` int32 to `[R, V]` bool."""
    bit = torch.arange(32, device=token_bitmask.device, dtype=torch.int32)
    bits = (token_bitmask[..., None] >> bit) & 1
    return bits.bool().flatten(1)[:, :vocab_size]
