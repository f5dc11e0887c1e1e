"""A tokenizer that the project builds itself, for models with random weights and without a hub.

Byte-level BPE with the vocabulary size, the special ids and the chat format of SmolLM2. Its merges
are not learned but listed: every run of up to three letters is a token, with and without a space or
a capital before it, so that English takes two to three letters a token, any UTF-8 text survives
encoding and decoding, and no id is without text.
"""

from itertools import product
from string import ascii_lowercase, ascii_uppercase

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # ids 0, 1 and 2, as in SmolLM2
SPACE = "Ġ"  # how byte-level BPE writes a space
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def merges(count: int) -> list[tuple[str, str]]:
    """The first so many merges, most general first; each makes one new token."""
    pairs = ["".join(letters) for letters in product(ascii_lowercase, repeat=2)]
    triples = ["".join(letters) for letters in product(ascii_lowercase, repeat=3)]
    rules = [tuple(pair) for pair in pairs] + [(triple[:2], triple[2]) for triple in triples]
    rules += [(SPACE, run) for run in [*ascii_lowercase, *pairs, *triples]]
    rules += list(product(ascii_uppercase, [*ascii_lowercase, *pairs]))
    return rules[:count]


def build_tokenizer(vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """The tokenizer of so many tokens, for a model of so many positions."""
    rules = merges(vocabulary - len(SPECIAL) - 256)
    merged = ("".join(pair) for pair in rules)
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *merged]
    ids = {token: id_ for id_, token in enumerate(tokens)}
    bpe = Tokenizer(models.BPE(vocab=ids, merges=rules))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[2],
        unk_token=SPECIAL[0],
        chat_template=CHAT_TEMPLATE,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def invisible_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids whose text alone cannot be seen: special tokens, white space, control characters, parts
    of a character.
    """
    first_byte = len(SPECIAL)
    texts = {id_: tokenizer.decode([id_]) for id_ in range(first_byte, first_byte + 256)}
    unseen = [id_ for id_, text in texts.items() if not text.isprintable() or text in " \ufffd"]
    return [*range(first_byte), *unseen]
