#!/usr/bin/env python3
"""Tokenizers and what PyPI's `tokenizers` makes of 20,000 strings with them.

Writes testdata/tokenizers/<name>/ (the files a repository would hold), strings.jsonl (the strings, one JSON text a line) and for each tokenizer
ids.txt (one line a string: ids with special tokens, space separated). Decoding is checked against decode.sha256: the hash of all decoded texts.
"""

import argparse
import hashlib
import json
import pathlib
import random
import shutil

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SEED = 20260101
# One sentence or so of each script; combined at random below. Ours, or too short to be anybody's.
SAMPLES = {
    "english": "The quick brown fox jumps over the lazy dog. It's what we'd've said, isn't it? They'll go at 10:30, I'm told; you're late.",
    "french": "L’été dernier, nous avons déjeuné près de la forêt ; où étais-tu, mon cœur ? Ça va très bien, merci.",
    "german": "Füße größer als Übermut: die Straße war naß, und der König schlief fünfzehn Stunden.",
    "arabic": "هذا نص عربي قصير، كُتِبَ للتجربة. هل تقرأه؟ نعم، وفيه أرقام ١٢٣ وفواصل؛ ونقطة۔",
    "hebrew": "שלום עולם, זה טקסט קצר בעברית. מה שלומך היום?",
    "hindi": "यह हिन्दी का एक छोटा वाक्य है। क्या आप इसे पढ़ सकते हैं? क़िला, ज़मीन और १२३।",
    "bengali": "এটি বাংলা ভাষার একটি ছোট বাক্য। তুমি কেমন আছ?",
    "chinese": "这是一个短句子，用来测试分词。你好，世界！今天天气很好、我们去公园吧。",
    "japanese": "これは短い文です。カタカナとひらがなと漢字、そして１２３。",
    "korean": "이것은 짧은 한국어 문장입니다. 안녕하세요?",
    "thai": "นี่คือประโยคสั้น ๆ ภาษาไทย สวัสดีครับ",
    "russian": "Съешь ещё этих мягких французских булок, да выпей чаю.",
    "greek": "Η γρήγορη αλεπού πηδά πάνω από το τεμπέλικο σκυλί.",
    "vietnamese": "Tiếng Việt có nhiều dấu: ă â đ ê ô ơ ư, và thanh điệu.",
    "code": "def f(x):\n\treturn [i**2 for i in range(x) if i % 2 == 0]  # even\nif (a && b || !c) { printf(\"%d\\n\", x->y[0]); }\r\n",
    "json": '{"key": [1, 2.5e-3, null, true], "nested": {"a": "b\\u00e9"}}',
    "url": "https://example.org/a/b?c=d&e=%20f#g user@example.org C:\\path\\file.txt",
    "emoji": "😀😃 👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷 👍🏽 ❤️ ✈︎ ☕️ 🤷‍♀️",
    "combining": "e\u0301 a\u0308 n\u0303 Z\u0351\u036b\u0343\u036a\u0302 \u0915\u094d\u0937 \u1112\u1161\u11ab",
    "spaces": "a  b   c    d\t\te\n\n\nf \u00a0g\u2003h\u3000i\u200bj\u0085k\u180el  ",
    "control": "\x00\x01\x02\x1b[31m\x7f\x80\x9f\ufeff\u202e\ufffd\u2028\u2029",
    "numbers": "0 1 12 123 1234567890 3.14159 1,000,000 ½ ² Ⅷ ٣ १ 四 0x1F 1e10",
    "punctuation": "...!!! ??? -- — … 。，、！？「」『』()[]{}<>|~`^*_#@$%&+=/\\\"'’“”«»",
    "specials": "</s> <s> <pad> <unk> text</s>more<s>text <|endoftext|> <mask> </s></s> < /s> <S>",
}


def strings():
    """At least 20,000 different strings: pieces, mixtures, runs, specials inside text, random code points, random bytes with replacement."""
    rng = random.Random(SEED)
    found = dict.fromkeys([""] + list(SAMPLES.values()))
    joined = "".join(SAMPLES.values())
    names = list(SAMPLES)
    while len(found) < 8000:  # slices and mixtures of the samples
        parts = []
        for _ in range(rng.randint(1, 4)):
            text = SAMPLES[rng.choice(names)]
            start = rng.randrange(len(text))
            parts.append(text[start : start + rng.randint(1, 40)])
        found[rng.choice(["", " ", "\n", "  "]).join(parts)] = None
    while len(found) < 12000:  # any characters of the samples, in any order
        found["".join(rng.choice(joined) for _ in range(rng.randint(1, 30)))] = None
    while len(found) < 15000:  # random bytes, read as UTF-8 with replacement
        found[bytes(rng.randrange(256) for _ in range(rng.randint(1, 24))).decode("utf-8", "replace")] = None
    while len(found) < 18000:  # random code points of scripts assigned long ago, so that every Unicode table agrees on them
        ranges = [(0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x620, 0x64A), (0x905, 0x939), (0x3041, 0x3096), (0x4E00, 0x9FA5),
                  (0xAC00, 0xD7A3), (0x1F600, 0x1F64F), (0x2000, 0x206F), (0x0, 0x1F)]  # fmt: skip
        found["".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 16)))] = None
    while len(found) < 19500:  # words and white space in runs
        pieces = [rng.choice(["the", "a", "Emma", "x1", "été", "是", "!", "?", "'s", "'ll", "</s>"]) for _ in range(rng.randint(1, 6))]
        found["".join(p + rng.choice([" ", "\n", "\t", "\u3000", ""]) * rng.randint(0, 5) for p in pieces)] = None
    while len(found) < 20200:  # long words
        found[rng.choice(["ab", "lo", "ha", "é", "的", "😀", "1", "="]) * rng.randint(10, 120) + str(rng.random())] = None
    return [s for s in found if s.encode("utf-8", "surrogatepass").decode("utf-8", "ignore") == s]


def trained(vocab, specials):
    """Deterministic: the trainer's ties are broken by id, and it runs on one thread (RAYON_NUM_THREADS=1)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    rng = random.Random(SEED + 1)
    corpus = [" ".join(rng.sample(text.split(" "), len(text.split(" ")))) for text in SAMPLES.values() for _ in range(20)]
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def bloom_like():
    tokenizer = trained(1800, ["<unk>", "<s>", "</s>", "<pad>"])
    split = Regex(r" ?[^(\s|[.,!?…。，、।۔،])]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, behavior="isolated", invert=False), pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def opt_like():
    tokenizer = trained(1500, ["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", pair="</s> $A </s> $B", special_tokens=[("</s>", 2)])
    return tokenizer


def with_added_tokens():
    tokenizer = opt_like()
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True), AddedToken("<|endoftext|>", rstrip=True)])
    tokenizer.add_tokens([AddedToken("Emma", single_word=True), AddedToken("été", normalized=True), AddedToken("lazy dog", normalized=False)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def write(directory, tokenizer, texts):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n", encoding="utf-8")
    encoded = [tokenizer.encode(text).ids for text in texts]
    (directory / "ids.txt").write_text("".join(" ".join(map(str, ids)) + "\n" for ids in encoded))
    digest = hashlib.sha256()
    for ids in encoded:
        digest.update(tokenizer.decode(ids, skip_special_tokens=True).encode() + b"\0")
    (directory / "decode.sha256").write_text(digest.hexdigest() + "\n")
    return sum(map(len, encoded))


def write_slow_form(directory, tokenizer):
    """vocab.json and merges.txt with their configuration, as most OPT repositories have them; the same ids are expected."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    tokenizer.model.save(str(directory))
    special = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (directory / "special_tokens_map.json").write_text(json.dumps(special, sort_keys=True) + "\n")
    decoder = {str(i): {"content": t, "special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
               for i, t in enumerate(["<s>", "<pad>", "</s>", "<unk>"])}  # fmt: skip
    config = {"add_bos_token": True, "added_tokens_decoder": decoder, **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="root of the repository")
    root = parser.parse_args().output / "testdata" / "tokenizers"
    texts = strings()
    root.mkdir(parents=True, exist_ok=True)
    (root / "strings.jsonl").write_text("".join(json.dumps(text, ensure_ascii=True) + "\n" for text in texts))
    opt = opt_like()
    tokens = write(root / "bloom-like", bloom_like(), texts) + write(root / "opt-like", opt, texts) + write(root / "added-tokens", with_added_tokens(), texts)
    write_slow_form(root / "opt-like-vocab-merges", opt)
    print(f"tokenizers: 4 directories, {len(texts)} strings, {tokens} tokens")


if __name__ == "__main__":
    main()
