"""Operators as functions: all that models and runners do with values.

This is the only documentation of each operator. T is tokens, S sequences, R logits rows,
H query heads, G key-value heads, D head dimension, V vocabulary; "float" is the model's type.
Each function checks its shapes once and hands over to the implementation of its first value
(`dispatch`); `reference.py` is the readable truth that every other implementation is tested
against.
"""

from __future__ import annotations

from runtime.kernels.dispatch import implementation
from runtime.kernels.forward_batch import Array, ForwardBatch, SamplingBatch

__all__ = [
    "Array",
    "ForwardBatch",
    "SamplingBatch",
    "add",
    "gather_rows",
    "gelu_and_multiply",
    "linear",
    "norm_heads",
    "output_logits",
    "paged_attention",
    "rms_norm",
    "rotate_heads",
    "sample_tokens",
    "scale",
    "silu_and_multiply",
    "soft_cap",
    "write_kv",
]


def gather_rows(table: Array, rows: Array) -> Array:
    """Return `table[rows]`: `[num_rows, ...]` and `[N]` int64 to `[N, ...]`."""
    assert rows.ndim == 1
    return implementation("gather_rows", table)(table, rows)


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Return `x @ weight.T + bias`: `[T, in]`, `[out, in]`, `[out]` to `[T, out]`, float."""
    assert weight.shape[1:] == x.shape[1:], (x.shape, weight.shape)
    return implementation("linear", x)(x, weight, bias)


def output_logits(
    x: Array, weight: Array, bias: Array | None = None, sampling: SamplingBatch | None = None
) -> Array:
    """Return `linear(x, weight, bias)`, `[R, V]`, where `sample_tokens` will look at it.

    Only logits that a row's mask allows, and all of a row that is scored or reports
    log-probabilities, are defined; all are where there is no mask or no `sampling`.
    """
    assert weight.shape[1:] == x.shape[1:], (x.shape, weight.shape)
    return implementation("output_logits", x)(x, weight, bias, sampling)


def add(x: Array, y: Array) -> Array:
    """Return `x + y`, both `[T, C]` float."""
    assert x.shape == y.shape, (x.shape, y.shape)
    return implementation("add", x)(x, y)


def scale(x: Array, factor: float) -> Array:
    """Return `x * factor`, `[T, C]` float."""
    return implementation("scale", x)(x, factor)


def soft_cap(x: Array, cap: float) -> Array:
    """Return `cap * tanh(x / cap)`, `[T, C]` float: all values lie within `cap` of 0.

    Source: Gemma 2 report, arXiv 2408.00118, section 2.
    """
    assert cap > 0
    return implementation("soft_cap", x)(x, cap)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Return `x / sqrt(mean(x**2) + eps) * weight` over the last axis, in float32 inside.

    `x` is `[T, C]` float, `weight` `[C]`. Source: Zhang and Sennrich, arXiv 1910.07467.
    """
    assert x.shape[-1:] == weight.shape, (x.shape, weight.shape)
    return implementation("rms_norm", x)(x, weight, eps)


def silu_and_multiply(gate_up: Array) -> Array:
    """Return `silu(gate) * up`: `[T, 2 * C]` (gate, then up) to `[T, C]`, float.

    Source: SwiGLU, Shazeer, arXiv 2002.05202.
    """
    assert gate_up.shape[-1] % 2 == 0
    return implementation("silu_and_multiply", gate_up)(gate_up)


def gelu_and_multiply(gate_up: Array) -> Array:
    """Return `gelu(gate) * up`: `[T, 2 * C]` (gate, then up) to `[T, C]`, float.

    gelu is the tanh approximation. Source: GEGLU, Shazeer, arXiv 2002.05202.
    """
    assert gate_up.shape[-1] % 2 == 0
    return implementation("gelu_and_multiply", gate_up)(gate_up)


def norm_heads(qkv: Array, weight: Array, eps: float) -> Array:
    """RMS-normalise the first heads of fused projections, each by its own weights.

    Args:
        qkv: `[T, (H + 2 * G) * D]` float: queries, keys, values.
        weight: `[H + G, D]`: a row per head of queries and keys; values stay as they are.
        eps: added to the mean square, as in `rms_norm`.

    Returns:
        like `qkv`.

    Source: query-key normalisation, Henry et al., arXiv 2010.04245; Qwen 3, arXiv 2505.09388.
    """
    num_heads, head_dim = weight.shape
    assert qkv.shape[-1] > num_heads * head_dim
    assert qkv.shape[-1] % head_dim == 0
    return implementation("norm_heads", qkv)(qkv, weight, eps)


def rotate_heads(
    qkv: Array, cos_sin: Array, num_heads: int, num_kv_heads: int, *, interleaved: bool
) -> tuple[Array, Array, Array]:
    """Split fused projections into heads and rotate queries and keys by their positions.

    Args:
        qkv: `[T, (H + 2 * G) * D]` float: queries, keys, values.
        cos_sin: `[T, N / 2, 2]` float32, cosine and sine of each pair's angle; N <= D leading
            dimensions of a head are turned, the rest stay.
        num_heads: H.
        num_kv_heads: G.
        interleaved: pairs are neighbours (2i, 2i + 1), as in the original and in GGUF's llama
            family; else they are half of N apart (i, i + N / 2).

    Returns:
        q `[T, H, D]`, k `[T, G, D]`, v `[T, G, D]`.

    Source: RoFormer, Su et al., arXiv 2104.09864.
    """
    assert qkv.shape[-1] % (num_heads + 2 * num_kv_heads) == 0
    assert qkv.shape[-1] >= (num_heads + 2 * num_kv_heads) * cos_sin.shape[1] * 2
    rotate = implementation("rotate_heads", qkv)
    q, k, v = rotate(qkv, cos_sin, num_heads, num_kv_heads, interleaved=interleaved)
    return q, k, v


def write_kv(k: Array, v: Array, kv_pages: Array, slot_mapping: Array) -> None:
    """Store keys and values `[T, G, D]` in their slots of `kv_pages`, in place.

    `kv_pages` is `[2, num_pages, page_size, G, D]`, `slot_mapping` `[T]` int64.
    """
    assert k.shape == v.shape
    assert k.shape[0] == slot_mapping.shape[0]
    implementation("write_kv", k)(k, v, kv_pages, slot_mapping)


def paged_attention(
    q: Array,
    kv_pages: Array,
    batch: ForwardBatch,
    scale: float,
    *,
    window: int = 0,
    soft_cap: float = 0.0,
) -> Array:
    """Causal grouped-query attention of this step's tokens over their sequences' pages.

    Args:
        q: `[T, H, D]` float; the keys and values of all T tokens are in the pages already.
        kv_pages: `[2, num_pages, page_size, G, D]`; G divides H.
        batch: which tokens belong together and where their context lies.
        scale: factor of the scores, usually `D ** -0.5`.
        window: a token sees itself and the `window - 1` tokens before it; 0 sees all.
        soft_cap: bound of the scaled scores (see `soft_cap` above); 0 for none.

    Returns:
        `[T, H * D]` float.

    Source: PagedAttention, Kwon et al., arXiv 2309.06180; GQA, Ainslie et al., arXiv 2305.13245;
    sliding windows, Beltagy et al., arXiv 2004.05150.
    """
    assert q.shape[1] % kv_pages.shape[3] == 0
    assert q.shape[2] == kv_pages.shape[4]
    attend = implementation("paged_attention", q)
    return attend(q, kv_pages, batch, scale, window=window, soft_cap=soft_cap)


def sample_tokens(
    logits: Array, sampling: SamplingBatch
) -> tuple[Array, Array, Array | None, Array | None]:
    """Draw or score one token per row.

    Adds the biases, applies the penalties, masks, divides by the temperature, keeps the top k,
    then the top p, then what reaches min p, and draws by inverting the cumulative distribution
    (likeliest first) at `uniform`. Temperature 0 takes the likeliest of the penalised, legal
    tokens.

    The penalties change the logit of each of the row's `penalty_tokens`, with `count` from
    `penalty_counts`, in float32 and in this order, each operation rounded for itself:

        logit = logit / repetition_penalty if logit > 0 else logit * repetition_penalty
        logit = logit - frequency_penalty * count
        logit = logit - presence_penalty if count > 0 else logit

    Args:
        logits: `[R, V]`; those that `output_logits` leaves undefined are never looked at.
        sampling: parameters, draws, targets and masks.

    Returns:
        token ids `[R]` int64; their log-probabilities `[R]` float32 where there is a target or
        `num_top` is not -1, else 0; the `num_top` likeliest tokens of each row `[R, K]` int64,
        the lower id first among equals, -1 where the row has no more, and their
        log-probabilities `[R, K]` float32: undefined beyond `num_top`, both None where that
        is. All under the unbiased, unmasked, unpenalised, untempered distribution.

    Source: top-p, Holtzman et al., arXiv 1904.09751; min-p, Nguyen et al., arXiv 2407.01082;
    repetition, Keskar et al., arXiv 1909.05858; presence and frequency, OpenAI's API reference.
    """
    assert logits.shape[0] == sampling.targets.shape[0]
    sample = implementation("sample_tokens", logits)
    token_ids, logprobs, top_ids, top_logprobs = sample(logits, sampling)
    return token_ids, logprobs, top_ids, top_logprobs
