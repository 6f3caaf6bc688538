"""Recurrent cores: an LSTM whose state resets at episode starts, and an encoder for text instructions."""

from __future__ import annotations

from typing import Any

import sonnet as snt
import tensorflow as tf

from mlma.core.types import WORD_BUCKETS


class InstructionEncoder(snt.Module):
    """Words as numbers: an embedding of 20, an LSTM of 64, what it says after the last word. Espeholt et al. 2018, figure 3."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name=name)
        self._embedding = snt.Embed(WORD_BUCKETS + 1, 20)
        self._lstm = snt.LSTM(64)

    def __call__(self, words: tf.Tensor) -> tf.Tensor:
        """int32 [N, W] -> [N, 64]; zeros without words."""
        embedded = self._embedding(words)  # [N, W, 20]
        state = self._lstm.initial_state(tf.shape(words)[0])
        for word, vector in zip(tf.unstack(words, axis=1), tf.unstack(embedded, axis=1), strict=True):
            _, new = self._lstm(vector, state)
            there = (word > 0)[:, tf.newaxis]
            state = tf.nest.map_structure(lambda one, other, there=there: tf.where(there, one, other), new, state)
        return state.hidden


class ResetLSTM(snt.Module):
    """LSTM over time whose state starts at zero where `first`. The input's share of all gates is one product for all steps."""

    def __init__(self, size: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self._size = size
        self._from_input = snt.Linear(4 * size, name="from_input")
        self._from_hidden = snt.Linear(4 * size, with_bias=False, name="from_hidden")

    def initial_state(self, batch_size: int) -> tuple[tf.Tensor, tf.Tensor]:
        zeros = tf.zeros([batch_size, self._size])
        return zeros, zeros

    def __call__(self, inputs: tf.Tensor, first: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        hidden, cell = state  # [B, N]
        keep = 1 - tf.cast(first, tf.float32)[..., tf.newaxis]  # [T, B, 1]
        projected = snt.BatchApply(self._from_input)(inputs)  # [T, B, 4N]
        outputs = []
        for x_t, keep_t in zip(tf.unstack(projected), tf.unstack(keep), strict=True):
            hidden, cell = hidden * keep_t, cell * keep_t
            i, f, o, g = tf.split(x_t + self._from_hidden(hidden), 4, axis=-1)
            # Forget bias 1 (Jozefowicz et al. 2015): an untrained LSTM remembers.
            cell = tf.sigmoid(f + 1) * cell + tf.sigmoid(i) * tf.tanh(g)
            hidden = tf.sigmoid(o) * tf.tanh(cell)
            outputs.append(hidden)
        return tf.stack(outputs), (hidden, cell)  # [T, B, N]
