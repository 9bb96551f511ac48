"""The structs that cross rooms: data only, one shape comment per field.

Axes: B rows, T tokens of a sequence, P prompt, G response (generated), K outputs of a
score model.
"""

from typing import Any

from flax import struct
import jax


class PromptBatch(struct.PyTreeNode):
    """Prompts for a rollout, left padded."""

    tokens: jax.Array  # [B, P] int32
    mask: jax.Array  # [B, P] bool
    row: jax.Array  # [B] int32, index of the prompt in its data set


class SftBatch(struct.PyTreeNode):
    """Supervised sequences, right padded; with segments several to a row."""

    tokens: jax.Array  # [B, T] int32
    mask: jax.Array  # [B, T] bool
    loss_mask: jax.Array  # [B, T] bool, True where the token is to be predicted
    # [B, T] int32, from 1 in each row, 0 at padding; None where a row is one sequence.
    # Of a segment's first token, which follows nothing, loss_mask is False.
    segments: jax.Array | None = None


class PairBatch(struct.PyTreeNode):
    """Pairs of responses to one prompt, right padded.

    Index 0 of the second axis is the preferred sequence (the better one for a reward
    model, the safer one for a cost model), index 1 the other; by `order`, where it is
    there, each output prefers either.
    """

    tokens: jax.Array  # [B, 2, T] int32
    mask: jax.Array  # [B, 2, T] bool
    safety_sign: jax.Array  # [B, 2, K] int32: +1 safe, -1 unsafe, 0 unknown
    valid: jax.Array  # [B] bool, False for rows that only fill up the last batch
    # [B, K] int32: +1 index 0 is preferred, -1 index 1, 0 unknown; None: all +1.
    order: jax.Array | None = None


class Samples(struct.PyTreeNode):
    """Prompts (left padded) with sampled responses (right padded)."""

    tokens: jax.Array  # [B, P + G] int32
    mask: jax.Array  # [B, P + G] bool
    response_mask: jax.Array  # [B, G] bool, the EOS included
    logps: jax.Array  # [B, G] float32, of the sampled policy, at its temperature
    truncated: jax.Array  # [B] bool, cut by length: no EOS
    # The same rows without padding; models that read them compute only what is there.
    packs: 'Packs | None' = None


class Packs(struct.PyTreeNode):
    """Where rows of samples stand in R packs of T tokens, without their padding.

    Indices are into a device's own rows or packs (and a part's own), flattened.
    """

    source: jax.Array  # [R, T] int32, token of the rows that stands there; -1 none
    segments: jax.Array  # [R, T] int32, from 1 in each pack, 0 at padding
    # [B, G + 1] int32, token of the packs before each response token, then the last.
    places: jax.Array


class Sequences(struct.PyTreeNode):
    """Whole conversations in the ids of a scorer's own tokenizer, right padded."""

    tokens: jax.Array  # [B, T] int32
    mask: jax.Array  # [B, T] bool


class Experience(struct.PyTreeNode):
    """Samples with all that an update needs to know of them. One key per constraint."""

    samples: Samples
    ref_logps: jax.Array  # [B, G] float32
    reward: jax.Array  # [B] float32
    costs: dict[str, jax.Array]  # [B] float32 each
    # [B, G + 1] float32, V before each token and at the end; None where the one update
    # that learns from the batch says so itself.
    reward_values: Any
    cost_values: dict[str, Any]  # the same, by constraint
