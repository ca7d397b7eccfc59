import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_longctx.backends.vllm import Vllm
from pytest_longctx.errors import LaunchError, TableError, UsageError
from pytest_longctx.launchers.docker import DockerLauncher, connect, container, container_cleanup
from pytest_longctx.launchers.start_command import of_command
from tests.unit import factories

LABELS = {"run": "0123456789abcdef"}


def planned(where="/models/llama", here=None, **changes):
    one = factories.deployment(**{"image": "vllm/vllm-openai:v0.12.0", "pass_env": ["HF_TOKEN"], **changes})
    recipe = Vllm().recipe(one, where, 8123, one.docker.python, host="0.0.0.0", key="sesame")
    return container.plan(recipe, one, where, LABELS, here or {})


def test_the_engine_replaces_the_entrypoint_and_is_told_where_to_listen():
    run = planned(flags={"host": "127.0.0.1"})
    assert run.command[:3] == ("python3", "-m", "vllm.entrypoints.openai.api_server")
    assert run.command[-2:] == ("--host", "0.0.0.0")  # the last one counts
    assert run.env["VLLM_API_KEY"] == "sesame"
    assert run.name == "longctx-tiny-01234567"


def test_nothing_of_the_host_goes_in_but_what_was_asked_for():
    run = planned(here={"HF_TOKEN": "hf_1", "PATH": "/bin", "SECRET": "x", "HF_HOME": "/cache"})
    assert run.env["HF_TOKEN"] == "hf_1"
    assert not {"PATH", "SECRET", "HF_HOME"} & set(run.env)


@pytest.mark.parametrize(
    ("model", "mount"),
    [
        ("/models/llama", "/models/llama:/models/llama:ro"),
        # A snapshot is links into its repository.
        ("/hub/models--a--b/snapshots/0123", "/hub/models--a--b:/hub/models--a--b:ro"),
    ],
)
def test_a_folder_is_mounted_where_it_is_and_cannot_be_written(model, mount):
    assert planned(model).mounts == (mount,)


@pytest.mark.parametrize(("env", "way"), [({}, ""), ({"HF_HUB_OFFLINE": "1"}, ":ro")])
def test_the_cache_of_a_model_by_name_is_writable_unless_offline(tmp_path, env, way):
    here = {"HF_HOME": str(tmp_path / "cache")}
    run = planned("meta-llama/Llama", here, env=env, model={"name": "llama", "id": "meta-llama/Llama"})
    assert run.mounts == (f"{tmp_path / 'cache'}:{container.CACHE_INSIDE}{way}",)
    assert run.env["HF_HOME"] == container.CACHE_INSIDE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hardware": "8xH200"}, ["--gpus", "8"]),
        ({"hardware": "8xB200", "docker": {"gpus": ["0", "1"]}}, ["--gpus", '"device=0,1"']),
        ({"hardware": "1xH200", "docker": {"gpus": ["nvidia.com/gpu=0"]}}, ["--device", "nvidia.com/gpu=0"]),
        ({"docker": {"memory_gib": 4}}, ["--memory", "4g", "--memory-swap", "4g"]),
        ({"docker": {"ulimits": {"memlock": -1}}}, ["--ulimit", "memlock=-1"]),
        ({}, ["--shm-size", "10g"]),
        ({}, ["--publish", "127.0.0.1:8123:8123"]),
    ],
)
def test_the_line_a_person_would_type(changes, words):
    typed = shlex.split(planned(**changes).line())
    assert any(typed[i : i + len(words)] == words for i in range(len(typed)))
    read = of_command(planned(**changes).line())
    assert read.image == "vllm/vllm-openai:v0.12.0"
    assert read.entrypoint == ("python3",)
    assert read.model == "/models/llama"
    assert not read.open_to_all


def test_no_gpu_is_asked_for_on_a_cpu_and_no_port_on_the_hosts_network():
    run = planned(hardware="cpu", docker={"network": "host"})
    assert run.gpus == 0
    assert "--publish" not in run.line()
    assert "--gpus" not in run.line()


@pytest.mark.parametrize(
    ("changes", "request_"),
    [
        ({"hardware": "8xH200"}, {"Driver": "", "Count": 8, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}),
        (
            {"hardware": "1xH200", "docker": {"gpus": ["nvidia.com/gpu=0"]}},
            {"Driver": "cdi", "Count": 0, "DeviceIDs": ["nvidia.com/gpu=0"], "Capabilities": [], "Options": {}},
        ),
    ],
)
def test_what_the_engine_is_asked_for(changes, request_):
    types = pytest.importorskip("docker.types")
    reported = planned(**changes).keywords(types)
    assert reported["device_requests"] == [request_]
    assert reported["ports"] == {"8123/tcp": ("127.0.0.1", 8123)}


def test_amd_needs_its_devices_its_group_and_the_hosts_ipc(monkeypatch, tmp_path):
    """The machines that run this test have no device files of this vendor."""
    (row,) = (row for row in container.ACCESS if "MI300X" in row.kinds)
    assert row.devices == ("/dev/kfd", "/dev/dri")
    assert (row.groups, row.ipc) == (("video",), "host")
    mine = row._replace(devices=("/dev/null", "/dev/zer*"))
    monkeypatch.setattr(container, "ACCESS", (mine,))
    run = planned(hardware="8xMI300X")
    assert run.devices == ("/dev/null", "/dev/zero")
    assert run.gpus == 0
    assert "--ipc host" in run.line()
    assert "--shm-size" not in run.line()
    reported = run.keywords(None)
    assert reported["shm_size"] is None
    assert reported["devices"] == ["/dev/null:/dev/null:rwm", "/dev/zero:/dev/zero:rwm"]


def test_a_deployment_without_an_image_is_said():
    with pytest.raises(LaunchError, match="names no container image"):
        planned(image=None)


@pytest.mark.parametrize("mount", ["/a", "/a:b", ":/b", "/a:/b:rw:ro", "/a:/b:yes"])
def test_a_mount_is_checked_when_it_is_read(mount):
    with pytest.raises(TableError, match="must be a mount"):
        factories.deployment(docker={"mounts": [mount]})


@pytest.mark.parametrize("where", ["tcp://10.0.0.1:2375", "ssh://host", "socket"])
def test_only_an_engine_of_this_machine_will_do(where, monkeypatch):
    with pytest.raises(UsageError, match="only an engine at a Unix socket"):
        DockerLauncher(where)
    monkeypatch.setenv("DOCKER_HOST", where)
    with pytest.raises(LaunchError, match="DOCKER_HOST="):
        DockerLauncher()


def test_an_engine_that_is_not_there_is_said(tmp_path):
    pytest.importorskip("docker")
    path = str(tmp_path / "d.sock")
    with pytest.raises(LaunchError, match="there is no such socket"):
        connect(path)
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(path)
        with pytest.raises(LaunchError, match="no engine listens there"):
            connect(path)


def test_the_sdk_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(LaunchError, match=r"pip install 'pytest-longctx\[docker\]'"):
        connect("/var/run/docker.sock")


def test_the_launcher_does_not_import_the_sdk():
    ask = "import sys; from pytest_longctx.launchers.docker import DockerLauncher; print('docker' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_process_that_lives_is_not_dead():
    assert not container_cleanup.is_dead(container_cleanup.owner())


@pytest.mark.parametrize(
    ("part", "other", "dead"),
    [
        (0, "another-boot", True),
        (1, "pid:[1]", False),  # it is not visible from this host
        (2, str(2**22 + 1), True),
        (3, "1", True),  # the process id was reused by another process
    ],
)
def test_who_is_dead(part, other, dead):
    who = container_cleanup.owner().split()
    who[part] = other
    assert container_cleanup.is_dead(" ".join(who)) is dead


@pytest.mark.parametrize("who", ["", "nonsense", "a b c d", "  "])
def test_nobody_known_is_not_dead(who):
    assert not container_cleanup.is_dead(who)


def test_the_cleanup_script_needs_nothing_but_the_standard_library():
    ask = [sys.executable, "-I", "-S", container_cleanup.__file__]
    end, hold = os.pipe()
    os.close(hold)
    done = subprocess.Popen([*ask, str(end), "/nowhere.sock", "run", "0"], pass_fds=(end,), stderr=subprocess.PIPE)
    os.close(end)
    try:
        assert done.wait(1) is None
    except subprocess.TimeoutExpired:
        pass  # it retries the connection to the engine
    finally:
        done.kill()
        assert done.communicate()[1] == b""
    assert Path(container_cleanup.__file__).is_file()
