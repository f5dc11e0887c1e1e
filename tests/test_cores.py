"""A CPU quota of any control group counts: nested ones, and those of version 1."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.process.cores import control_groups, cpu_quota

ROOT = Path(__file__).parent.parent


def described(tmp_path: Path, groups: str, mounts: str) -> Path:
    """A folder that says of a process what /proc/self would."""
    (tmp_path / "cgroup").write_text(groups)
    (tmp_path / "mountinfo").write_text(mounts)
    return tmp_path


def granted(folder: Path, **texts: str) -> None:
    """A control group with these files, "_" for "." in their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


def test_the_tightest_quota_of_all_levels_of_version_2_counts(tmp_path):
    hierarchy = tmp_path / "fs"
    proc = described(tmp_path, "0::/a/b\n", f"31 23 0:28 / {hierarchy} rw - cgroup2 cgroup2 rw\n")
    assert cpu_quota(proc) is None
    granted(hierarchy / "a" / "b", cpu_max="150000 100000\n")
    granted(hierarchy, cpu_max="max 100000\n")
    assert cpu_quota(proc) == 1.5
    granted(hierarchy / "a", cpu_max="50000 100000\n")
    assert cpu_quota(proc) == 0.5


@pytest.mark.parametrize("mounted", ["/", "/docker/1f"])
def test_a_quota_of_version_1_counts_from_inside_a_container_too(mounted, tmp_path):
    hierarchy = tmp_path / "cpu,cpuacct"
    mounts = f"32 31 0:29 {mounted} {hierarchy} rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    groups = "4:memory:/x\n3:cpu,cpuacct:/docker/1f/in\n0::/\n"
    proc = described(tmp_path, groups, mounts)
    group = hierarchy / ("in" if mounted != "/" else "docker/1f/in")
    assert next(control_groups("cpu", proc)) == group
    granted(group, cpu_cfs_quota_us="-1\n", cpu_cfs_period_us="100000\n")
    assert cpu_quota(proc) is None
    granted(group.parent, cpu_cfs_quota_us="70000\n", cpu_cfs_period_us="100000\n")
    assert cpu_quota(proc) == 0.7


def test_a_container_that_names_its_group_as_the_host_does_reads_what_is_mounted(tmp_path):
    hierarchy = tmp_path / "cpu"
    mounts = f"32 31 0:29 /docker/1f {hierarchy} rw - cgroup cgroup rw,cpu\n"
    proc = described(tmp_path, "1:cpu:/kubepods/other\n", mounts)
    granted(hierarchy, cpu_cfs_quota_us="50000\n", cpu_cfs_period_us="100000\n")
    assert cpu_quota(proc) == 0.5


def test_no_proc_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path / "nothing") is None


def test_a_real_quota_around_a_nested_group_is_seen():
    for group in control_groups("cpu"):
        outer = group / f"quota-{os.getpid()}"
        try:
            outer.mkdir()
        except OSError:
            continue
        inner = outer / "inner"
        try:
            inner.mkdir()
            if (outer / "cpu.max").exists():
                (outer / "cpu.max").write_text("50000 100000")
            else:
                (outer / "cpu.cfs_quota_us").write_text("50000")
            code = "from harness.process.cores import *; print(cpu_quota(), usable_cores())"
            enter = f"echo $$ > {inner}/cgroup.procs && exec {sys.executable} -c '{code}'"
            said = subprocess.run(enter, shell=True, cwd=ROOT, capture_output=True, text=True)
            assert said.stdout == "0.5 1\n", said.stderr
            return
        except OSError:
            continue  # no quotas in this hierarchy
        finally:
            for folder in (inner, outer):
                if folder.exists():
                    folder.rmdir()
    pytest.skip("no control group can be made here")
