"""Constants and errors that both ends of the transport share."""

from __future__ import annotations

import tensorflow as tf

CALL_TIMEOUT_SECONDS = 60.0  # a call that takes longer means that the learner is gone
OK, REFUSED, BUSY = 0, 1, 2  # answers to put
VERSION_UNAVAILABLE, TRAINING_OVER = -2, -3  # answers to fetch, in place of a version
FAREWELL = "farewell"  # in a handshake: the actor knows that training is over
STRING, INT64 = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)
ANSWER_SPECS = {
    "put": tf.TensorSpec([], tf.int32),
    "fetch": [INT64, INT64, STRING],
    "handshake": STRING,
    "infer": [STRING, tf.TensorSpec([], tf.float64)],
}


class LearnerLostError(Exception):
    """The learner does not answer, or has no session for this actor; connecting again may help."""


class HandshakeRefusedError(Exception):
    """The learner refused this actor; connecting again does not help."""
