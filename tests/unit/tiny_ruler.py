"""Two small wheels in the form of the packages that publish RULER, with words of our own, for tests without a network."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from pytest_longctx.prompts.ruler.published_data import Material, Wheel

NOISE = "Rain fell on the roof. A dog slept by the door. Nothing else moved."
CONSTANTS = '''"""Templates."""
TASKS = {
    "niah": {
        "tokens_to_generate": 128,
        "template": """Some secret {type_needle_v} are kept in the text below. You are asked for the {type_needle_v} later.
{context}
What are all the secret {type_needle_v} for {query} in the text?""",
        "answer_prefix": " The secret {type_needle_v} for {query} are",
    },
    "variable_tracking": {
        "template": "Follow the variables.\\n\\n{context}\\nQuestion: which of them are {query}?",
        "answer_prefix": " Answer: {num_v} variables are {query}: ",
    },
    "common_words_extraction": {
        "template": "Here is a list.\\n{context}\\nQuestion: which ten words are the most common?",
        "answer_prefix": " Answer: they are:",
    },
    "freq_words_extraction": {
        "template": "Read the codes. {context}\\nQuestion: which three are the most frequent?",
        "answer_prefix": " Answer: they are:",
    },
    "qa": {
        "template": "Read the papers.\\n\\n{context}\\n\\nAnswer briefly.\\n\\nQuestion: {query}",
        "answer_prefix": " Answer:",
    },
}
'''
NIAH = f"""
needle = "The secret {{type_needle_v}} for {{key}} is: {{value}}."
if args.kind == "essay":
    haystack = essay.split(" ")
elif args.kind == "repeat":
    haystack = "{NOISE}"
raise SystemExit("this module must not be run")
"""
THINGS = ("lamp", "kettle", "ladder", "bucket", "mirror", "saddle", "wheel", "hammer", "drawer", "anchor")
PLACES = ("harbour", "market", "chapel", "orchard", "bridge", "tavern", "stable", "quarry", "meadow", "cellar")


def _paragraph(number: int) -> str:
    thing, place = THINGS[number % 10], PLACES[number // 10 % 10]
    return (
        f"Paper {number} is about the {thing} of the {place}. " + f"It was seen near the {place} on day {number}. " * 4
    )


def _squad() -> dict[str, Any]:
    def paragraph(number: int) -> dict[str, Any]:
        right: dict[str, Any] = {"question": f"What is paper {number} about?", "is_impossible": False}
        right["answers"] = [{"text": THINGS[number % 10]}, {"text": f"the {THINGS[number % 10]}"}]
        wrong = {"question": "What is it not about?", "answers": [], "is_impossible": True}
        return {"context": _paragraph(number), "qas": [right, wrong]}

    return {"data": [{"paragraphs": [paragraph(10 * article + each) for each in range(10)]} for article in range(4)]}


def _hotpotqa() -> list[dict[str, Any]]:
    def own(number: int) -> list[list[Any]]:
        return [[f"Title {number + each}", [_paragraph(number + each), " And no more."]] for each in range(3)]

    return [{"question": f"Which of {n}?", "answer": THINGS[n % 10], "context": own(n)} for n in range(0, 90, 3)]


def _essays() -> str:
    lines = [f"We   walked to the {place}\nand carried a {thing}." for place in PLACES for thing in THINGS]
    return " ".join(lines)


def wheels(folder: Path) -> tuple[Wheel, Wheel]:
    """Write both wheels to *folder* and return what is published about them."""
    folder.mkdir(parents=True, exist_ok=True)
    place = "long_context_eval/data/synthetic"
    ruler = {
        f"{place}/constants.py": CONSTANTS,
        f"{place}/niah.py": NIAH,
        f"{place}/qa.py": 'DOCUMENT_PROMPT = "Paper {i}:\\n{document}"\n',
        f"{place}/json/PaulGrahamEssays.json": json.dumps({"text": _essays()}),
        f"{place}/json/squad.json": json.dumps(_squad()),
        f"{place}/json/hotpotqa.json": json.dumps(_hotpotqa()),
    }
    syllables = ("ba", "ko", "mi", "ru", "sen", "tal", "vor", "ex", "quil", "on")
    nouns = [a + b + c for a in syllables for b in syllables for c in syllables]
    words = {
        "wonderwords/assets/nounlist.txt": "\n".join(nouns),
        "wonderwords/assets/adjectivelist.txt": "\n".join(f"{one}ish" for one in nouns[:200]),
        "wonderwords/assets/verblist.txt": "\n".join([*nouns[:5], "carry", "walk"]),
    }
    return _wheel(folder, "tiny_ruler", ruler), _wheel(folder, "tiny_words", words)


def _wheel(folder: Path, name: str, files: dict[str, str]) -> Wheel:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    files = {
        **files,
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as packed:
        for member, text in files.items():
            packed.writestr(zipfile.ZipInfo(member), text)
        packed.writestr(zipfile.ZipInfo(f"{name}-1.0.dist-info/RECORD"), "".join(f"{each},,\n" for each in files))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(name.replace("_", "-"), "1.0", path.name, digest, "MIT", f"https://example.org/{name}")


def material(folder: Path) -> Material:
    """The material in small wheels, which are written to *folder*."""
    ruler, words = wheels(folder)
    return Material(folder / ruler.wheel, folder / words.wheel)
