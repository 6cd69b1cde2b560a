"""A server after 2,000 pictures: docs/serve.md says what it uses. Run by `make faults`."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving import predict_both_ways, served, wait_for

pytest.importorskip("gradio", reason="gradio is not installed")


@pytest.mark.skipif(sys.platform != "linux", reason="a process's usage is read from /proc")
def test_2000_pictures_do_not_make_a_server_grow(trained, tmp_path):
    with served(tmp_path, trained.path) as server, ThreadPoolExecutor(4) as clients:
        at_first = server.usage()["files"]
        usage = {}
        sent = 0
        for count in (200, 1000, 2000):
            for done in clients.map(
                predict_both_ways, [server] * (count - sent), range(sent, count)
            ):
                assert done is None
            sent = count
            usage[count] = server.usage()
            print(f"after {count} pictures each way: {usage[count]}")
        assert usage[2000]["memory"] < usage[200]["memory"] + 30
        assert usage[2000]["threads"] <= usage[200]["threads"] + 2
        assert usage[2000]["open"] <= usage[200]["open"] + 2
        wait_for(lambda: server.usage()["files"] == at_first, seconds=200)
