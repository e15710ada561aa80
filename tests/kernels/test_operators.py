"""Every operator against its definition, written out element by element where that is short."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from runtime import kernels
from runtime.kernels import ForwardBatch, SamplingBatch
from tests.helpers.tolerances import assert_close

PAGE_SIZE = 4


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_tokens", [1, 63, 65])
def test_linear_multiplies_by_the_transposed_weight(num_tokens: int) -> None:
    x, weight, bias = randn(num_tokens, 5), randn(7, 5, seed=1), randn(7, seed=2)
    wanted = torch.tensor(
        [
            [sum(x[t, k] * weight[n, k] for k in range(5)) + bias[n] for n in range(7)]
            for t in range(num_tokens)
        ]
    )
    assert_close(kernels.linear(x, weight, bias), wanted, torch.float32)
    assert_close(kernels.linear(x, weight) + bias, wanted, torch.float32)


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    x, weight = randn(3, 8), randn(8, seed=1)
    wanted = torch.stack([row / math.sqrt(row.square().mean() + 1e-5) * weight for row in x])
    assert_close(kernels.rms_norm(x, weight, 1e-5), wanted, torch.float32)


def test_silu_and_multiply_gates_the_second_half_by_the_first() -> None:
    gate_up = randn(3, 10)
    gate, up = gate_up[:, :5], gate_up[:, 5:]
    assert_close(kernels.silu_and_multiply(gate_up), gate / (1 + (-gate).exp()) * up, torch.float32)


def test_gelu_and_multiply_gates_the_second_half_by_the_first() -> None:
    gate_up = randn(3, 10)
    gate, up = gate_up[:, :5], gate_up[:, 5:]
    inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    wanted = gate * (1 + inner.tanh()) / 2 * up
    assert_close(kernels.gelu_and_multiply(gate_up), wanted, torch.float32)


def test_scale_multiplies_and_soft_cap_bounds() -> None:
    x = 5 * randn(3, 8)
    assert torch.equal(kernels.scale(x, 0.25), x / 4)
    wanted = torch.tensor([[2 * math.tanh(value / 2) for value in row] for row in x.tolist()])
    assert_close(kernels.soft_cap(x, 2.0), wanted, torch.float32)


def test_norm_heads_normalises_queries_and_keys_and_leaves_values() -> None:
    num_heads, num_kv_heads, head_dim = 3, 1, 6
    qkv = randn(4, (num_heads + 2 * num_kv_heads) * head_dim)
    weight = randn(num_heads + num_kv_heads, head_dim, seed=1)
    wanted = qkv.clone().reshape(4, num_heads + 2 * num_kv_heads, head_dim)
    for token in wanted:
        for head, factors in enumerate(weight):
            mean = token[head].square().mean()
            token[head] *= factors / math.sqrt(mean + 1e-5)
    assert_close(kernels.norm_heads(qkv, weight, 1e-5), wanted.flatten(1), torch.float32)


def test_gather_and_add() -> None:
    table = randn(6, 3)
    rows = torch.tensor([4, 0, 4])
    assert torch.equal(kernels.gather_rows(table, rows), torch.stack([table[r] for r in rows]))
    assert torch.equal(kernels.add(table, table), 2 * table)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("rotary_dim", [6, 4, 0])
def test_rotate_heads_turns_each_pair_by_its_angle(interleaved: bool, rotary_dim: int) -> None:
    num_tokens, num_heads, num_kv_heads, head_dim = 3, 4, 2, 6
    qkv = randn(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim)
    angles = randn(num_tokens, rotary_dim // 2, seed=1)
    cos_sin = torch.stack((angles.cos(), angles.sin()), -1)
    heads = qkv.reshape(num_tokens, num_heads + 2 * num_kv_heads, head_dim)
    wanted = heads.clone()
    for t in range(num_tokens):
        for h in range(num_heads + num_kv_heads):
            for i in range(rotary_dim // 2):
                a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + rotary_dim // 2)
                turned = complex(heads[t, h, a], heads[t, h, b]) * complex(
                    math.cos(angles[t, i]), math.sin(angles[t, i])
                )
                wanted[t, h, a], wanted[t, h, b] = turned.real, turned.imag
    q, k, v = kernels.rotate_heads(qkv, cos_sin, num_heads, num_kv_heads, interleaved=interleaved)
    assert_close(q, wanted[:, :4], torch.float32)
    assert_close(k, wanted[:, 4:6], torch.float32)
    assert torch.equal(v, heads[:, 6:])


def paged(
    lengths: list[tuple[int, int]], num_kv_heads: int, head_dim: int
) -> tuple[ForwardBatch, torch.Tensor, list[torch.Tensor]]:
    """A batch of (context, new tokens) sequences, its pages, and each one's keys and values."""
    num_pages = [-(-context // PAGE_SIZE) for context, _ in lengths]
    free = iter(np.random.default_rng(0).permutation(sum(num_pages)).tolist())
    page_tables = np.zeros((len(lengths), max(num_pages)), np.int64)
    kv_pages = torch.zeros(2, sum(num_pages), PAGE_SIZE, num_kv_heads, head_dim)
    contents = []
    for index, (context, _) in enumerate(lengths):
        pages = [next(free) for _ in range(num_pages[index])]
        page_tables[index, : len(pages)] = pages
        content = randn(2, len(pages) * PAGE_SIZE, num_kv_heads, head_dim, seed=index + 10)
        kv_pages[:, pages] = content.reshape(2, len(pages), PAGE_SIZE, num_kv_heads, head_dim)
        contents.append(content[:, :context])
    counts = [new for _, new in lengths]
    none = torch.zeros(0, dtype=torch.int64)
    batch = ForwardBatch(
        token_ids=none,
        positions=none,
        slot_mapping=none,
        cu_seqlens_q=torch.tensor([0, *np.cumsum(counts).tolist()]),
        seq_lens=torch.tensor([context for context, _ in lengths]),
        page_tables=torch.from_numpy(page_tables),
        logits_rows=none,
    )
    return batch, kv_pages, contents


@pytest.mark.parametrize(
    "lengths",
    [
        [(1, 1)],
        [(3, 1), (4, 1), (5, 1)],
        [(9, 9)],
        [(9, 2), (17, 1), (4, 4), (1, 1), (8, 3)],
    ],
)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize(("window", "soft_cap"), [(0, 0.0), (1, 0.0), (4, 0.0), (0, 0.5), (5, 0.5)])
def test_paged_attention_weighs_what_came_before(
    lengths: list[tuple[int, int]], num_kv_heads: int, window: int, soft_cap: float
) -> None:
    num_heads, head_dim, scale = 4, 8, 0.3
    batch, kv_pages, contents = paged(lengths, num_kv_heads, head_dim)
    q = randn(sum(new for _, new in lengths), num_heads, head_dim)
    wanted = torch.empty_like(q)
    token = 0
    for (context, new), (keys, values) in zip(lengths, contents, strict=True):
        for position in range(context - new, context):
            seen = slice(max(0, position + 1 - window) if window else 0, position + 1)
            for head in range(num_heads):
                shared = head // (num_heads // num_kv_heads)
                scores = keys[seen, shared] @ q[token, head] * scale
                if soft_cap:
                    scores = soft_cap * (scores / soft_cap).tanh()
                wanted[token, head] = scores.softmax(0) @ values[seen, shared]
            token += 1
    actual = kernels.paged_attention(q, kv_pages, batch, scale, window=window, soft_cap=soft_cap)
    assert_close(actual, wanted.flatten(1), torch.float32)


def test_write_kv_touches_its_slots_only() -> None:
    kv_pages = torch.zeros(2, 3, PAGE_SIZE, 2, 5)
    k, v = randn(3, 2, 5), randn(3, 2, 5, seed=1)
    slots = torch.tensor([11, 0, 5])
    kernels.write_kv(k, v, kv_pages, slots)
    flat = kv_pages.flatten(1, 2)
    assert torch.equal(flat[0, slots], k)
    assert torch.equal(flat[1, slots], v)
    assert flat.abs().sum() == k.abs().sum() + v.abs().sum()


def sampling(num_rows: int, **fields: torch.Tensor) -> SamplingBatch:
    plain = SamplingBatch(
        targets=torch.full((num_rows,), -1),
        temperature=torch.zeros(num_rows),
        top_k=torch.zeros(num_rows, dtype=torch.int64),
        top_p=torch.ones(num_rows),
        min_p=torch.zeros(num_rows),
        uniform=torch.zeros(num_rows),
        token_bitmask=None,
    )
    return replace(plain, **fields)


def bitmask(allowed: list[list[int]], vocab_size: int) -> torch.Tensor:
    bits = np.zeros((len(allowed), -(-vocab_size // 32) * 32), np.uint8)
    for row, token_ids in enumerate(allowed):
        bits[row, token_ids] = 1
    return torch.from_numpy(np.packbits(bits, axis=1, bitorder="little").view(np.int32))


def test_greedy_takes_the_likeliest_legal_token() -> None:
    logits = randn(3, 70)
    allowed = [[3, 69], [40], list(range(70))]
    token_ids, logprobs, *_ = kernels.sample_tokens(
        logits, sampling(3, token_bitmask=bitmask(allowed, 70))
    )
    wanted = [max(row, key=lambda t: logits[i, t].item()) for i, row in enumerate(allowed)]
    assert token_ids.tolist() == wanted
    assert logprobs.tolist() == [0, 0, 0]


def test_targets_are_scored_and_not_drawn() -> None:
    logits = randn(3, 9)
    token_ids, logprobs, *_ = kernels.sample_tokens(
        logits, sampling(3, targets=torch.tensor([4, -1, 0]))
    )
    assert token_ids.tolist() == [4, int(logits[1].argmax()), 0]
    full = logits.log_softmax(-1)
    assert logprobs.tolist() == pytest.approx([full[0, 4].item(), 0, full[2, 0].item()])


def draw_many(logits: torch.Tensor, **fields: float) -> np.ndarray:
    """Frequencies of tokens over evenly spaced draws."""
    num_draws = 4000
    uniform = (torch.arange(num_draws) + 0.5) / num_draws
    repeated = {
        name: torch.full((num_draws,), value)
        for name, value in {"temperature": 1.0, **fields}.items()
    }
    rows = logits[None].expand(num_draws, -1)
    token_ids, _, *_ = kernels.sample_tokens(rows, sampling(num_draws, uniform=uniform, **repeated))
    return np.bincount(token_ids.numpy(), minlength=len(logits)) / num_draws


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_tempered_distribution(temperature: float) -> None:
    logits = randn(12)
    wanted = (logits / temperature).softmax(-1).numpy()
    assert np.abs(draw_many(logits, temperature=temperature) - wanted).max() < 1e-3


def test_top_k_top_p_and_min_p_cut_the_tail() -> None:
    logits = torch.tensor([0.5, 0.25, 0.125, 0.1, 0.025]).log()
    near = pytest.approx
    assert draw_many(logits, top_k=2).tolist() == near([2 / 3, 1 / 3, 0, 0, 0], abs=1e-3)
    assert draw_many(logits, top_p=0.5).tolist() == [1, 0, 0, 0, 0]
    assert draw_many(logits, top_p=0.6).tolist() == near([2 / 3, 1 / 3, 0, 0, 0], abs=1e-3)
    assert draw_many(logits, min_p=0.3).tolist() == near([2 / 3, 1 / 3, 0, 0, 0], abs=1e-3)


def test_masked_draw_never_leaves_the_mask() -> None:
    logits = randn(8, 40)
    mask = bitmask([[n, n + 20] for n in range(8)], 40)
    for uniform in (0.0, 0.5, 1 - 2**-24):
        token_ids, _, *_ = kernels.sample_tokens(
            logits,
            sampling(
                8,
                temperature=torch.full((8,), 1.5),
                uniform=torch.full((8,), uniform),
                token_bitmask=mask,
            ),
        )
        assert all(token in (row, row + 20) for row, token in enumerate(token_ids.tolist()))


def penalties(rows: list[dict[int, int]], **strengths: list[float]) -> dict[str, torch.Tensor]:
    """The penalty fields of rows whose tokens occurred so often in the generated text."""
    neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    return {
        "penalty_start": torch.tensor([0, *map(len, rows)]).cumsum(0),
        "penalty_tokens": torch.tensor([token for row in rows for token in row], dtype=torch.int64),
        "penalty_counts": torch.tensor(
            [count for row in rows for count in row.values()], dtype=torch.int32
        ),
        **{
            name: torch.tensor(strengths.get(name, [value] * len(rows)))
            for name, value in neutral.items()
        },
    }


@pytest.mark.parametrize(
    ("logits", "occurred", "strengths", "wanted"),
    [
        ([2.0, 1.5, 0.0], {0: 0}, {"repetition_penalty": [2.0]}, 1),
        ([2.0, 1.5, 0.0], {0: 0}, {"repetition_penalty": [1.25]}, 0),
        ([-1.0, -1.5, -9.0], {0: 1}, {"repetition_penalty": [2.0]}, 1),
        ([-1.0, -1.5, -9.0], {0: 0}, {"presence_penalty": [2.0], "frequency_penalty": [2.0]}, 0),
        ([2.0, 1.5, 0.0], {0: 1}, {"presence_penalty": [0.75]}, 1),
        ([2.0, 1.5, 0.0], {0: 9}, {"presence_penalty": [0.25]}, 0),
        ([2.0, 1.5, 0.0], {0: 1}, {"frequency_penalty": [0.25]}, 0),
        ([2.0, 1.5, 0.0], {0: 3}, {"frequency_penalty": [0.25]}, 1),
        ([2.0, 1.5, 0.0], {2: 1}, {"presence_penalty": [-2.0], "frequency_penalty": [-0.5]}, 2),
        ([2.0, 1.5, 0.0], {0: 1, 1: 1}, {"presence_penalty": [2.0]}, 0),
        ([4.0, 1.5, 0.0], {0: 1}, {"repetition_penalty": [2.0], "presence_penalty": [0.75]}, 1),
        ([2.0, 1.5, 0.0], {}, {"repetition_penalty": [2.0], "presence_penalty": [2.0]}, 0),
    ],
)
def test_penalties_change_the_logits_of_tokens_that_occurred(
    logits: list[float], occurred: dict[int, int], strengths: dict[str, list[float]], wanted: int
) -> None:
    fields = penalties([occurred], **strengths)
    token_ids, _, *_ = kernels.sample_tokens(torch.tensor([logits]), sampling(1, **fields))
    assert token_ids.tolist() == [wanted]


def test_penalties_are_their_rows_own_and_apply_before_mask_and_temperature() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]]).repeat(4, 1)
    fields = penalties(
        [{0: 1}, {}, {0: 1}, {0: 1}],
        repetition_penalty=[1.0, 1.0, 4.0, 1.0],
        presence_penalty=[1.5, 2.0, 0.0, 2.0],
    )
    mask = bitmask([[0, 1, 2], [0, 1, 2], [0, 2], [0, 1, 2]], 3)
    fields |= {"temperature": torch.tensor([0.01, 0, 0, 0]), "token_bitmask": mask}
    targets = torch.tensor([-1, -1, -1, 0])
    token_ids, logprobs, *_ = kernels.sample_tokens(logits, sampling(4, targets=targets, **fields))
    assert token_ids.tolist() == [1, 0, 2, 0]
    scored = logits[3].log_softmax(-1)[0].item()
    assert logprobs.tolist() == pytest.approx([0, 0, 0, scored])


def test_values_of_a_stranger_are_refused_by_name() -> None:
    with pytest.raises(
        TypeError, match=r"add: no operators for values of 'numpy', only of runtime, torch"
    ):
        kernels.add(np.zeros((1, 2)), np.zeros((1, 2)))
