"""The pairwise tree."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.ranks.sums import TreeSum, tree

DTYPES = st.sampled_from((torch.bfloat16, torch.float32, torch.float64))


@given(st.integers(0, 5), st.integers(0, 99), DTYPES)
@settings(max_examples=40, deadline=None)
def test_terms_one_by_one_give_the_bits_of_all_at_once_in_few_buffers(
    doublings: int, seed: int, dtype: torch.dtype
) -> None:
    terms = torch.randn(2**doublings, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)
    one_by_one, buffer = TreeSum(), torch.empty(3, dtype=dtype)
    addresses = set()
    for _ in range(2):
        for term in terms:
            total = one_by_one.add(buffer.copy_(term))
        assert torch.equal(total, tree(terms))
        assert total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        addresses.add(total.data_ptr())
        one_by_one.restart()
    assert len(addresses) == 1
    assert len(one_by_one._buffers) <= max(doublings, 1)


@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 99), DTYPES)
@settings(max_examples=40, deadline=None)
def test_a_sum_of_ranks_sums_is_the_sum_of_all_parts(ranks: int, parts: int, seed: int, dtype: torch.dtype) -> None:
    terms = torch.randn(2 ** (ranks + parts), 3, generator=torch.Generator().manual_seed(seed)).to(dtype)
    of_ranks = torch.stack([tree(own) for own in terms.chunk(2**ranks)])
    assert torch.equal(tree(of_ranks), tree(terms))


def test_the_order_is_pairs_then_pairs_of_pairs() -> None:
    assert tree(torch.tensor([[1.0], [2.0**24], [1.0], [-(2.0**24)]])) == 1, "one by one it is 0, by halves 2"
