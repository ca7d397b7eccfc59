"""The kernel's evidence, read from files in the kernel's format."""

import os
import subprocess
import sys
import threading

import pytest

from pytest_longctx.diagnosis import oom_killer
from pytest_longctx.diagnosis.oom_killer import MemoryWatch, counted, kernel_log

VICTIM = "Out of memory: Killed process 2320 (VLLM::Worker_TP) total-vm:198764544kB, anon-rss:82837504kB, file-rss:0kB"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A counter at 2 and a kernel log, with a way to write to both."""
    counter, log = tmp_path / "vmstat", tmp_path / "kmsg"
    counter.write_text("nr_free_pages 5\noom_kill 2\n")
    log.write_text("")
    monkeypatch.setattr(oom_killer, "_COUNTERS", {str(counter): "this host"})
    monkeypatch.setattr(oom_killer, "kernel_log", lambda since_s: kernel_log(since_s, log))
    return counter, log


@pytest.mark.parametrize(
    ("text", "count"), [("oom_kill 3\n", 3), ("low 0\noom 1\noom_kill 1\n", 1), ("", None), ("oom_kill x", None)]
)
def test_a_counter_is_read(tmp_path, text, count):
    path = tmp_path / "events"
    path.write_text(text)
    assert counted(path) == count
    assert counted(tmp_path / "absent") is None


def test_nothing_new_is_an_empty_answer_and_nothing_readable_is_none(files, monkeypatch):
    watch = MemoryWatch()
    seen = watch.kills()
    assert seen is not None
    assert (seen.lines, seen.killed_gib) == ((), None)
    monkeypatch.setattr(oom_killer, "_COUNTERS", {"/no/such/file": "nobody"})
    monkeypatch.setattr(oom_killer, "kernel_log", lambda since_s: None)
    assert MemoryWatch().kills() is None


def test_a_counter_that_rose_is_evidence(files):
    watch = MemoryWatch()
    files[0].write_text("oom_kill 4\n")
    seen = watch.kills()
    assert seen is not None
    assert seen.lines == (f"{files[0]}: 2 more out-of-memory kills on this host since the start",)


def test_a_victim_is_named_with_the_memory_it_held(files):
    watch = MemoryWatch()
    files[1].write_text(f"3,100,{10**15},-;{VICTIM}\n")
    seen = watch.kills()
    assert seen is not None
    assert seen.lines == (f"kernel log: {VICTIM}",)
    assert seen.killed_gib == pytest.approx(79.0)


def test_a_victim_of_an_earlier_time_is_not_ours(files):
    watch = MemoryWatch()
    files[1].write_text(f"3,100,1,-;{VICTIM}\n")
    seen = watch.kills()
    assert seen is not None
    assert seen.lines == ()


@pytest.mark.parametrize(
    ("killed", "sees", "ours"),
    [([], True, True), ([2320], True, True), ([77], True, False), ([77, 2320], True, True), ([77], False, True)],
    ids=["none known", "the victim", "another", "the victim and another", "in a container"],
)
def test_a_victim_of_another_program_is_not_ours(files, monkeypatch, killed, sees, ours):
    monkeypatch.setattr(oom_killer, "_sees_the_kernels_ids", lambda: sees)
    watch = MemoryWatch()
    files[0].write_text("oom_kill 3\n")
    files[1].write_text(f"3,100,{10**15},-;{VICTIM}\n")
    seen = watch.kills(killed)
    assert seen is not None
    assert bool(seen.lines) is ours
    assert (seen.killed_gib is not None) is ours


def test_a_kill_that_the_log_does_not_name_still_counts(files, monkeypatch):
    monkeypatch.setattr(oom_killer, "_sees_the_kernels_ids", lambda: True)
    watch = MemoryWatch()
    files[0].write_text("oom_kill 4\n")
    files[1].write_text(f"3,100,{10**15},-;{VICTIM}\n")
    seen = watch.kills([77])
    assert seen is not None
    assert seen.lines == (f"{files[0]}: 1 more out-of-memory kills on this host since the start",)


def test_records_are_read_one_at_a_time_until_there_are_none(tmp_path):
    """Like ``/dev/kmsg``: one record for each read, without waiting for the next."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer: list[int] = []
    opener = threading.Thread(target=lambda: writer.append(os.open(path, os.O_WRONLY)))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    opener.start()
    opener.join()
    os.write(writer[0], b"6,1,2000000,-;first\n")
    assert kernel_log(1.0, path) == ["first"]
    assert kernel_log(1.0, path) == []
    os.close(reader)
    os.close(writer[0])
    assert kernel_log(1.0, tmp_path / "absent") is None


def test_this_machine_is_looked_at_without_harm():
    """Whatever is readable on this machine, a process that was not killed for memory leaves no such evidence."""
    watch = MemoryWatch()
    subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], check=False)
    seen = watch.kills()
    assert seen is None or all(
        "Killed process" in line or "oom" in line or "out-of-memory" in line for line in seen.lines
    )


@pytest.mark.parametrize(
    ("row", "file"),
    [("7:memory:/docker/0a", "memory/docker/0a/memory.oom_control"), ("0::/docker/0a", "docker/0a/memory.events")],
)
def test_the_kills_of_one_group_are_counted_by_either_interface(tmp_path, row, file):
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(f"9:name=systemd:/x\n{row}\n")
    assert oom_killer.kills_in_group_of(7, tmp_path / "proc", tmp_path) is None
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text("under_oom 0\noom_kill 2\n")
    assert oom_killer.kills_in_group_of(7, tmp_path / "proc", tmp_path) == 2
    assert oom_killer.kills_in_group_of(8, tmp_path / "proc", tmp_path) is None
