"What all tests share: one thread each, and the folder of the layout checks."
import socket
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / 'layout'))
torch.set_num_threads(1)


@pytest.fixture
def unused_tcp_port():
    "A port of this machine that nobody listens on."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]
