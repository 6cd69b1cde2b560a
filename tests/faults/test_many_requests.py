"""A server after 2,000 pictures: docs/serve.md says what it holds. Run by `make faults`."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving import predict_both_ways, served, wait_for

pytest.importorskip("gradio", reason="gradio is not installed")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process holds")
def test_2000_pictures_do_not_make_a_server_grow(trained, tmp_path):
    with served(tmp_path, trained.path) as server, ThreadPoolExecutor(4) as clients:
        at_first = server.held()["files"]
        held = {}
        asked = 0
        for count in (200, 1000, 2000):
            for done in clients.map(
                predict_both_ways, [server] * (count - asked), range(asked, count)
            ):
                assert done is None
            asked = count
            held[count] = server.held()
            print(f"after {count} pictures each way: {held[count]}")
        assert held[2000]["memory"] < held[200]["memory"] + 30
        assert held[2000]["threads"] <= held[200]["threads"] + 2
        assert held[2000]["open"] <= held[200]["open"] + 2
        wait_for(lambda: server.held()["files"] == at_first, seconds=200)
