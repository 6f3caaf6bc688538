"""Before TensorFlow is imported: fewer messages, and no GPU, on which a sum is not the same twice."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
