import numpy as np

from beaver_jax import sharding
from beaver_jax import types
from beaver_jax.rollout import packs

PROMPT, RESPONSE = 3, 4


def samples(prompts, responses):
    """Rows with prompts and responses of these lengths; token 10·row + place."""
    rows = len(prompts)
    place = np.arange(PROMPT)[None]
    asked = place >= PROMPT - np.array(prompts)[:, None]
    answered = np.arange(RESPONSE)[None] < np.array(responses)[:, None]
    mask = np.concatenate([asked, answered], axis=1)
    counts = np.cumsum(mask, axis=1) - 1 + 10 * np.arange(rows)[:, None]
    return types.Samples(
        tokens=np.where(mask, counts, -7),
        mask=mask,
        response_mask=answered,
        logps=np.zeros(answered.shape),
        truncated=np.zeros(rows, bool),
    )


def test_packs_by_hand():
    # Rows of 2 + 4, 1 + 1 and 3 + 2 tokens in packs of 7: the first and the third fill
    # one each, the second goes where one token is left or two: best fit beside the
    # third, 5 + 2 = 7.
    rows = samples([2, 1, 3], [4, 1, 2])
    found = packs.pack(rows, np.array([[0, 1, 2]]), devices=1, parts=1, sizes=3)
    tokens = np.where(found.source >= 0, rows.tokens.reshape(-1)[found.source], -7)
    np.testing.assert_array_equal(
        tokens[0], [[0, 1, 2, 3, 4, 5, -7], [10, 11, 20, 21, 22, 23, 24]]
    )
    np.testing.assert_array_equal(
        found.segments[0], [[1, 1, 1, 1, 1, 1, 0], [1, 1, 2, 2, 2, 2, 2]]
    )
    # The first row's response begins at its token 2, so what is said of it stands from
    # place 1; its last token is at 5. The others are 7 places further.
    np.testing.assert_array_equal(
        found.places[0], [[1, 2, 3, 4, 5], [7, 8, 8, 8, 8], [11, 12, 13, 13, 13]]
    )


def test_packs_of_devices_and_parts_hold_their_own_rows():
    random = np.random.default_rng(0)
    rows = samples(random.integers(1, 4, 96), random.integers(1, 3, 96))
    orders = random.permutation(96).reshape(2, 48)
    found = packs.pack(rows, orders, devices=2, parts=3, sizes=4)
    # 8 rows a group in steps of 2; of 3.5 tokens on average, so 4 packs of 7 or more.
    assert found.source.shape[1] in (2 * 3 * 4, 2 * 3 * 6)
    for m, order in enumerate(orders):
        made = types.Packs(found.source[m], found.segments[m], found.places[m])
        tokens, split = sharding.split_rows((rows.tokens[order], made), 3)
        for part in range(3):
            for own, source, places in zip(
                np.split(tokens[part], 2),
                np.split(split.source[part], 2),
                np.split(split.places[part], 2),
                strict=True,
            ):
                check_group(own, source, places)


def check_group(own, source, places):
    """Every token stands once in a group's packs, and places point to them."""
    flat = np.where(source >= 0, own.reshape(-1)[source], -7).reshape(-1)
    assert sorted(flat[flat >= 0]) == sorted(own[own >= 0])
    for row, found in zip(own, places, strict=True):
        response = row[PROMPT:][row[PROMPT:] >= 0]
        before, after = flat[found[: len(response)]], flat[found[len(response) :]]
        np.testing.assert_array_equal(before, response - 1)
        np.testing.assert_array_equal(after, np.full_like(after, response[-1]))
