"""Networks keep the variables of version 0.1: their names, order and shapes are in checkpoints and in the handshake."""

from __future__ import annotations

import pytest

from agents import make_agent
from mlma.core.flat_weights import build_variables, named_variables
from mlma.core.types import ArraySpec
from tests.support.samples import IMAGE, small_config

# As written by version 0.1, for observations of 84x84x1 and 4 actions.
IMPALA_CONV_LSTM = """
network/000/conv_lstm/resetting_lstm/from_hidden/w:0 (512, 2048)
network/001/conv_lstm/resetting_lstm/from_input/b:0 (2048,)
network/002/conv_lstm/resetting_lstm/from_input/w:0 (517, 2048)
network/003/conv_lstm/policy/b:0 (4,)
network/004/conv_lstm/policy/w:0 (512, 4)
network/005/conv2_d/b:0 (32,)
network/006/conv2_d/w:0 (8, 8, 1, 32)
network/007/conv2_d/b:0 (64,)
network/008/conv2_d/w:0 (4, 4, 32, 64)
network/009/conv2_d/b:0 (64,)
network/010/conv2_d/w:0 (3, 3, 64, 64)
network/011/linear/b:0 (512,)
network/012/linear/w:0 (3136, 512)
network/013/conv_lstm/value/b:0 (1,)
network/014/conv_lstm/value/w:0 (512, 1)
"""

R2D2_CONV_LSTM = """
network/000/conv_lstm/resetting_lstm/from_hidden/w:0 (512, 2048)
network/001/conv_lstm/resetting_lstm/from_input/b:0 (2048,)
network/002/conv_lstm/resetting_lstm/from_input/w:0 (517, 2048)
network/003/conv_lstm/dueling/linear/b:0 (512,)
network/004/conv_lstm/dueling/linear/w:0 (512, 512)
network/005/conv_lstm/dueling/linear/b:0 (4,)
network/006/conv_lstm/dueling/linear/w:0 (512, 4)
network/007/conv_lstm/dueling/linear/b:0 (512,)
network/008/conv_lstm/dueling/linear/w:0 (512, 512)
network/009/conv_lstm/dueling/linear/b:0 (1,)
network/010/conv_lstm/dueling/linear/w:0 (512, 1)
network/011/conv2_d/b:0 (32,)
network/012/conv2_d/w:0 (8, 8, 1, 32)
network/013/conv2_d/b:0 (64,)
network/014/conv2_d/w:0 (4, 4, 32, 64)
network/015/conv2_d/b:0 (64,)
network/016/conv2_d/w:0 (3, 3, 64, 64)
network/017/linear/b:0 (512,)
network/018/linear/w:0 (3136, 512)
"""

APEX_CONV_NET = """
network/000/conv/dueling/linear/b:0 (512,)
network/001/conv/dueling/linear/w:0 (3136, 512)
network/002/conv/dueling/linear/b:0 (4,)
network/003/conv/dueling/linear/w:0 (512, 4)
network/004/conv/dueling/linear/b:0 (512,)
network/005/conv/dueling/linear/w:0 (3136, 512)
network/006/conv/dueling/linear/b:0 (1,)
network/007/conv/dueling/linear/w:0 (512, 1)
network/008/conv2_d/b:0 (32,)
network/009/conv2_d/w:0 (8, 8, 1, 32)
network/010/conv2_d/b:0 (64,)
network/011/conv2_d/w:0 (4, 4, 32, 64)
network/012/conv2_d/b:0 (64,)
network/013/conv2_d/w:0 (3, 3, 64, 64)
"""

IMPALA_RESNET_LSTM_WITH_EXTRAS = """
network/000/resnet_lstm/resetting_lstm/from_hidden/w:0 (256, 1024)
network/001/resnet_lstm/resetting_lstm/from_input/b:0 (1024,)
network/002/resnet_lstm/resetting_lstm/from_input/w:0 (389, 1024)
network/003/resnet_lstm/linear/b:0 (64,)
network/004/resnet_lstm/linear/w:0 (2, 64)
network/005/resnet_lstm/policy/b:0 (4,)
network/006/resnet_lstm/policy/w:0 (256, 4)
network/007/torso/linear/b:0 (256,)
network/008/torso/linear/w:0 (3872, 256)
network/009/torso/conv2_d/b:0 (16,)
network/010/torso/conv2_d/w:0 (3, 3, 1, 16)
network/011/torso/conv2_d/b:0 (16,)
network/012/torso/conv2_d/w:0 (3, 3, 16, 16)
network/013/torso/conv2_d/w:0 (3, 3, 16, 16)
network/014/torso/bias/b:0 (16,)
network/015/torso/conv2_d/b:0 (16,)
network/016/torso/conv2_d/w:0 (3, 3, 16, 16)
network/017/torso/conv2_d/w:0 (3, 3, 16, 16)
network/018/torso/bias/b:0 (16,)
network/019/torso/conv2_d/b:0 (32,)
network/020/torso/conv2_d/w:0 (3, 3, 16, 32)
network/021/torso/conv2_d/b:0 (32,)
network/022/torso/conv2_d/w:0 (3, 3, 32, 32)
network/023/torso/conv2_d/w:0 (3, 3, 32, 32)
network/024/torso/bias/b:0 (32,)
network/025/torso/conv2_d/b:0 (32,)
network/026/torso/conv2_d/w:0 (3, 3, 32, 32)
network/027/torso/conv2_d/w:0 (3, 3, 32, 32)
network/028/torso/bias/b:0 (32,)
network/029/torso/conv2_d/b:0 (32,)
network/030/torso/conv2_d/w:0 (3, 3, 32, 32)
network/031/torso/conv2_d/b:0 (32,)
network/032/torso/conv2_d/w:0 (3, 3, 32, 32)
network/033/torso/conv2_d/w:0 (3, 3, 32, 32)
network/034/torso/bias/b:0 (32,)
network/035/torso/conv2_d/b:0 (32,)
network/036/torso/conv2_d/w:0 (3, 3, 32, 32)
network/037/torso/conv2_d/w:0 (3, 3, 32, 32)
network/038/torso/bias/b:0 (32,)
network/039/resnet_lstm/words/embed/embeddings:0 (1001, 20)
network/040/resnet_lstm/words/lstm/w_h:0 (64, 256)
network/041/resnet_lstm/words/lstm/w_i:0 (20, 256)
network/042/resnet_lstm/words/lstm/b:0 (256,)
network/043/resnet_lstm/value/b:0 (1,)
network/044/resnet_lstm/value/w:0 (256, 1)
"""

EXTRAS = {"vector": ArraySpec((2,), "float32"), "words": ArraySpec((5,), "int32")}


@pytest.mark.parametrize(
    ("algorithm", "agent_name", "extras", "expected"),
    [
        ("impala", "ConvLSTMAgent", {}, IMPALA_CONV_LSTM),
        ("r2d2", "ConvLSTMAgent", {}, R2D2_CONV_LSTM),
        ("apex", "ConvNetAgent", {}, APEX_CONV_NET),
        ("impala", "ResNetLSTMAgent", EXTRAS, IMPALA_RESNET_LSTM_WITH_EXTRAS),
    ],
    ids=["impala-conv-lstm", "r2d2-conv-lstm", "apex-conv-net", "impala-resnet-lstm"],
)
def test_variables_have_the_names_order_and_shapes_of_version_0_1(
    algorithm: str, agent_name: str, extras: dict[str, ArraySpec], expected: str
) -> None:
    config = small_config(
        algorithm=algorithm, agent_name=agent_name, n_step=3, burn_in=2, sequence_length=4, target_period=5
    )
    spec = IMAGE._replace(extras=extras)
    agent = make_agent(config, spec)
    build_variables(agent, spec)
    variables = named_variables("network", agent.network.variables)
    assert [f"{name} {tuple(v.shape)}" for name, v in variables.items()] == expected.split("\n")[1:-1]
