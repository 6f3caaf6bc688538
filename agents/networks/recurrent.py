"""Recurrent cores: an LSTM whose state resets at episode starts, and an encoder for text instructions."""

from __future__ import annotations

from typing import Any

import sonnet as snt
import tensorflow as tf

from agents.networks.initializers import glorot_for_lstm
from mlma.core.types import WORD_BUCKETS


class InstructionEncoder(snt.Module):
    """Encodes a text: embedding of 20, LSTM of 64, its output after the last word. Espeholt et al. 2018, figure 3."""

    def __init__(self, glorot: bool = False, name: str | None = None) -> None:
        """Words are hash buckets, see mlma.core.types.WORD_BUCKETS. `glorot`: as ResetLSTM."""
        super().__init__(name=name)
        self._embedding = snt.Embed(WORD_BUCKETS + 1, 20)
        w_init = glorot_for_lstm(20, 64) if glorot else None
        self._lstm = snt.LSTM(64, w_i_init=w_init, w_h_init=w_init)

    def __call__(self, words: tf.Tensor) -> tf.Tensor:
        """int32 [N, W], padded with 0, -> [N, 64]; zeros for an empty text."""
        embedded = self._embedding(words)  # [N, W, 20]
        state = self._lstm.initial_state(tf.shape(words)[0])
        for word, vector in zip(tf.unstack(words, axis=1), tf.unstack(embedded, axis=1), strict=True):
            _, new_state = self._lstm(vector, state)
            is_word = (word > 0)[:, tf.newaxis]
            state = tf.nest.map_structure(
                lambda new, old, is_word=is_word: tf.where(is_word, new, old), new_state, state
            )
        return state.hidden


class ResetLSTM(snt.Module):
    """LSTM over time whose state resets to zero where `first`. The inputs of all steps are projected in one product."""

    def __init__(self, size: int, glorot: bool = False, name: str | None = None) -> None:
        """`size` units. The weights are Glorot uniform or have Sonnet's initialisers."""
        super().__init__(name=name)
        self._size, self._glorot = size, glorot
        self._from_input = snt.Linear(4 * size, name="from_input")
        self._from_hidden = snt.Linear(4 * size, with_bias=False, name="from_hidden")

    def initial_state(self, batch_size: int) -> tuple[tf.Tensor, tf.Tensor]:
        """(hidden, cell), zeros [B, N]."""
        zeros = tf.zeros([batch_size, self._size])
        return zeros, zeros

    def __call__(self, inputs: tf.Tensor, first: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        """(outputs [T, B, N], last state) from inputs [T, B, F], first bool [T, B] and the state before step 0."""
        if self._glorot:  # has an effect at the first call only, which creates the weights
            self._from_input.w_init = self._from_hidden.w_init = glorot_for_lstm(inputs.shape[-1], self._size)
        hidden, cell = state  # [B, N]
        keep = 1 - tf.cast(first, tf.float32)[..., tf.newaxis]  # [T, B, 1]
        projected = snt.BatchApply(self._from_input)(inputs)  # [T, B, 4N]
        outputs = []
        for x_t, keep_t in zip(tf.unstack(projected), tf.unstack(keep), strict=True):
            hidden, cell = hidden * keep_t, cell * keep_t
            i, f, o, g = tf.split(x_t + self._from_hidden(hidden), 4, axis=-1)
            # Forget bias 1 (Jozefowicz et al. 2015): the untrained LSTM already remembers.
            cell = tf.sigmoid(f + 1) * cell + tf.sigmoid(i) * tf.tanh(g)
            hidden = tf.sigmoid(o) * tf.tanh(cell)
            outputs.append(hidden)
        return tf.stack(outputs), (hidden, cell)  # [T, B, N]
