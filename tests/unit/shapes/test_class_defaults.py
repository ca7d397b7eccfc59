"""The table of defaults beside the classes of the installed transformers."""

import pytest

from tests.class_defaults import FILE, classes, held, table


@pytest.mark.skipif(
    "# Defaults of transformers 5.24.0" not in FILE.read_text(encoding="utf-8"), reason="another version"
)
def test_the_table_is_what_the_classes_say():
    transformers = pytest.importorskip("transformers")
    if transformers.__version__ != "5.24.0":
        pytest.skip(f"the table is of transformers 5.24.0, and {transformers.__version__} is installed")
    mapped = classes()
    assert {name: table(name, mapped[name], keys) for name, keys in held().items()} == held()


def test_a_new_table_has_what_memory_may_depend_on():
    class Config:
        model_type = "made"
        hidden_size = 64
        rms_norm_eps = 1e-6
        use_cache = True
        num_key_value_heads = None
        vocab_size = 100

    assert table("made", Config, None) == {"hidden_size": 64, "vocab_size": 100}
