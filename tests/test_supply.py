"""What is installed is pinned: pyproject.toml, the constraints and the lock agree."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEPENDENCIES = PYPROJECT["project"]["dependencies"]
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
DIRECT = {"build": PYPROJECT["build-system"]["requires"], "normlab": DEPENDENCIES} | EXTRAS
PIN = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)


def pins_of(name):
    return PIN.findall((ROOT / name).read_text())


def pins(name):
    return {canonicalize_name(package): version for package, version in pins_of(name)}


CONSTRAINTS, LOCK = pins("constraints.txt"), pins("requirements.lock")


@pytest.mark.parametrize("whose", DIRECT)
def test_every_direct_dependency_is_pinned_within_its_bounds(whose):
    for requirement in map(Requirement, DIRECT[whose]):
        assert CONSTRAINTS[canonicalize_name(requirement.name)] in requirement.specifier


def test_no_package_is_pinned_twice():
    """`make audit` compares the number of lines with that of audited packages."""
    for name in ("constraints.txt", "requirements.lock"):
        found = [canonicalize_name(package) for package, _ in pins_of(name)]
        assert sorted(found) == sorted(set(found))


def test_the_lock_holds_what_make_test_installs_at_the_constraints_versions():
    assert LOCK.items() <= CONSTRAINTS.items()
    installed = map(Requirement, DEPENDENCIES + EXTRAS["dev"])
    assert {canonicalize_name(requirement.name) for requirement in installed} <= LOCK.keys()


def test_the_lock_is_packages_with_hashes_and_nothing_else():
    whole = re.compile(r"[\w.-]+==[^\s;]+( ; [^-]+?)?( +--hash=sha256:[0-9a-f]{64})+")
    lines = (ROOT / "requirements.lock").read_text().replace("\\\n", "").splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert [line for line in packages if not whole.fullmatch(line)] == []
    assert len(packages) == len(LOCK)


def test_torchs_hashes_are_of_the_pinned_version():
    lines = (ROOT / "torch.sha256").read_text().splitlines()[1:]
    files = [line.split() for line in lines]
    assert {parse_wheel_filename(name)[1].public for _, name in files} == {CONSTRAINTS["torch"]}
    block = (ROOT / "requirements.lock").read_text().partition("\ntorch==")[2]
    assert re.findall("sha256:(.*?)(?: |$)", block, re.MULTILINE) == [digest for digest, _ in files]
