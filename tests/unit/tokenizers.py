"""Small tokenizers of each family, trained on the generated corpus in a second, without a download."""

from collections.abc import Callable
from functools import cache
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pytest_longctx.probe.checkpoint import word_level_tokenizer
from pytest_longctx.prompts import corpus
from pytest_longctx.prompts.tokenizer import ModelTokenizer

DIGITS = " ".join(str(number) for number in range(1000, 1400))
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ abcdefghijklmnopqrstuvwxyz ,?!:;é"
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _train(tokenizer, trainer):
    (some,) = islice(corpus.endless(1), 1)
    tokenizer.train_from_iterator([some[:120_000], DIGITS, LETTERS], trainer)
    return tokenizer


def byte_level():
    """GPT-2's kind: no added tokens, and a token for every byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _train(tokenizer, trainers.BpeTrainer(vocab_size=700, show_progress=False, initial_alphabet=alphabet))


def llama3():
    """Byte-level with its own pre-tokenizer, a leading BOS, and the special tokens of a chat."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|user|>", "<|end|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, show_progress=False, initial_alphabet=alphabet, special_tokens=special
    )
    _train(tokenizer, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return tokenizer


def llama2():
    """SentencePiece's BPE after conversion: no pre-tokenizer, a space before every text, bytes for unknown characters."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<unk>", "<s>", *alphabet]
    _train(trained, trainers.BpeTrainer(vocab_size=900, show_progress=False, special_tokens=special))
    import json

    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    bpe = models.BPE(vocab=model["vocab"], merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def unigram():
    """SentencePiece's unigram model with a trailing EOS, as in T5."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=700, show_progress=False, special_tokens=special, unk_token="<unk>")
    _train(tokenizer, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def word_piece():
    """BERT's kind: lower case, spaces dropped, two special tokens."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    _train(tokenizer, trainers.WordPieceTrainer(vocab_size=600, show_progress=False, special_tokens=special))
    ends = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    # Real tokenizers have a length limit, which must have no effect.
    tokenizer.enable_truncation(512)
    return tokenizer


def word_level():
    """The tiny model's own tokenizer, which knows no English."""
    import json

    return Tokenizer.from_str(
        json.dumps(word_level_tokenizer([f"<{i}>" if i < 16 else f"w{i}" for i in range(4096)], 16))
    )


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    each.__name__: each for each in (byte_level, llama3, llama2, unigram, word_piece)
}


@cache
def vocabulary(family: str) -> ModelTokenizer:
    """Return the tokenizer of *family*, trained once for each process."""
    return ModelTokenizer(FAMILIES[family]() if family in FAMILIES else globals()[family]())


@cache
def characters() -> ModelTokenizer:
    """Return a tokenizer that makes a token of each byte, as ByT5's does."""
    tokenizer = Tokenizer(
        models.BPE(vocab={each: i for i, each in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return ModelTokenizer(tokenizer)
