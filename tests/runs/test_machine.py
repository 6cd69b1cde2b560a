"""The memory and the cores that a process may use."""

import os

import pytest
import torch

from normlab.config import Execution
from normlab.errors import UsageError
from normlab.runs import machine
from normlab.study.estimate import workers_for


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Writes the files of a control group and of the group around it."""
    for name in ("MEMINFO", "OWN_GROUP", "CONTROL_GROUPS"):
        monkeypatch.setattr(machine, name, tmp_path / name)
    (tmp_path / "MEMINFO").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (tmp_path / "OWN_GROUP").write_text("1:cpu:/\n0::/pod/one\n")

    def write(group, **files):
        folder = tmp_path / "CONTROL_GROUPS" / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name.replace("_", ".")).write_text(content + "\n")

    return write


def test_without_a_limit_the_memory_is_the_machines(container):
    assert machine.available_memory() == 8000 * 1024
    container("pod/one", memory_max="max", memory_current="5", memory_stat="inactive_file 1")
    assert machine.available_memory() == 8000 * 1024


def test_in_a_container_its_limit_counts_and_cached_files_are_free(container):
    held = "anon 2000\ninactive_file 400"
    container("pod", memory_max="3000", memory_current="2500", memory_stat=held)
    assert machine.available_memory() == 900
    container("pod/one", memory_max="500", memory_current="600", memory_stat="inactive_file 0")
    assert machine.available_memory() == 0
    assert workers_for(None, torch.device("cpu")) == 1


def test_workers_are_as_many_as_asked_for_and_one_on_a_gpu():
    assert workers_for(3, torch.device("cuda")) == 3
    assert workers_for(None, torch.device("cuda")) == 1


def test_the_cores_are_the_containers_share(container):
    bound = machine.cores()
    assert bound >= 1
    container("pod", cpu_max="max 100000")
    assert machine.cores() == bound
    container("pod/one", cpu_max="150000 100000")
    assert machine.cores() == 1


NO_LIMIT = "9223372036854771712"  # of version 1


def test_limits_of_version_1_count_too(container, tmp_path):
    """Version 1 has a tree for each controller, often two in one, and a link to it."""
    groups = "9:name=systemd:/\n4:cpu,cpuacct:/docker/one\n3:memory:/docker/one\n0::/system"
    (tmp_path / "OWN_GROUP").write_text(groups + "\n")

    def write(group, **files):
        container(group)
        for name, content in files.items():
            path = tmp_path / "CONTROL_GROUPS" / group / name.replace("memory_", "memory.")
            path.write_text(f"{content}\n")

    bound = machine.cores()
    write("memory", memory_limit_in_bytes=NO_LIMIT, memory_usage_in_bytes="5")
    write("memory", memory_stat="inactive_file 1\ntotal_inactive_file 2")
    write("cpu,cpuacct", **{"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"})
    assert machine.available_memory() == 8000 * 1024
    assert machine.cores() == bound
    held = "inactive_file 1\ntotal_inactive_file 400"
    write("memory", memory_limit_in_bytes="3000", memory_usage_in_bytes="2500", memory_stat=held)
    assert machine.available_memory() == 900  # the container's own, at the top
    write(
        "memory/docker/one",
        memory_limit_in_bytes="500",
        memory_usage_in_bytes="450",
        memory_stat="total_inactive_file 10",
    )
    assert machine.available_memory() == 60
    write("cpu,cpuacct/docker", **{"cpu.cfs_quota_us": "150000", "cpu.cfs_period_us": "100000"})
    assert machine.cores() == 1


def test_files_that_a_system_lacks_or_fills_otherwise_are_no_limit(container):
    bound = machine.cores()
    container("pod", memory_max="3000", memory_current="2500")  # no memory.stat
    container("pod/one", memory_max="", memory_current="?", memory_stat="inactive_file")
    container("pod/one", cpu_max="nonsense")
    assert machine.available_memory() == 8000 * 1024
    assert machine.cores() == bound


def test_a_busy_machine_is_named_only_if_the_load_is_above_its_cores(monkeypatch):
    cores = os.cpu_count()
    monkeypatch.setattr(os, "getloadavg", lambda: (cores + 0.5, 0.0, 0.0))
    assert machine.busy().startswith(f"this machine is busy: a load of {cores}.5 on {cores} core")
    monkeypatch.setattr(os, "getloadavg", lambda: (float(cores), 99.0, 99.0))
    assert machine.busy() == ""
    monkeypatch.delattr(os, "getloadavg")  # Windows
    assert machine.busy() == ""


def test_without_these_files_the_memory_is_unknown(tmp_path, monkeypatch):
    for name in ("MEMINFO", "OWN_GROUP"):
        monkeypatch.setattr(machine, name, tmp_path / name)
    assert machine.available_memory() is None
    assert machine.cores() >= 1


def test_a_data_root_may_be_text():
    assert machine.prepare(Execution(data_root="data", device="cpu")).type == "cpu"


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda:0", "", 3])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(UsageError, match="--device must be"):
        machine.prepare(Execution(device=device))
