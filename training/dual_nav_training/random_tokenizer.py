"""A small byte-level tokenizer with Qwen's control tokens, for checkpoints with random weights.

Its words are learned from the prompt's own text, so that prompts have about as many tokens as with Qwen's. In
vocabularies of release size the control tokens have their released ids; in small ones they are the last ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from s2_planner_node.prompt import load_template

RELEASE_TOKEN_IDS = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
    "<traj>": 151667,
}
_LEARNED_TOKENS = 800  # 256 bytes and merges; leaves room for control tokens in a vocabulary of 1024

# The text format of Qwen2.5-VL's conversations.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Splits words, single digits, runs of signs and blanks, before merges are learned or applied.
_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def special_token_ids(vocab_size: int) -> dict[str, int]:
    """Control token → id for a vocabulary of that size."""
    if vocab_size > max(RELEASE_TOKEN_IDS.values()):
        return dict(RELEASE_TOKEN_IDS)
    first = vocab_size - len(RELEASE_TOKEN_IDS)
    if first < _LEARNED_TOKENS:
        raise ValueError(f"vocab_size is {vocab_size}, must be at least {_LEARNED_TOKENS + len(RELEASE_TOKEN_IDS)}")
    return {token: first + number for number, token in enumerate(RELEASE_TOKEN_IDS)}


def build_tokenizer(config: Mapping[str, Any], answers: Sequence[str] = ()) -> Tokenizer:
    """Tokenizer for a config.json of ``random_checkpoint``.

    An answer in which a token comes back (``→→→→``, ``100 200``) becomes one token of its own, because a fixture's
    next token follows from the one before it.
    """
    tokenizer = learn_tokens(_prompt_text(), _LEARNED_TOKENS)
    whole = [answer for answer in dict.fromkeys(answers) if _repeats(tokenizer.encode(answer).ids)]
    return with_added_tokens(tokenizer, whole, config["vocab_size"])


def with_added_tokens(tokenizer: Tokenizer, whole: Sequence[str], vocab_size: int, **options: bool) -> Tokenizer:
    """A tokenizer with these texts as tokens of their own, and the control tokens of a vocabulary of that size.

    options: of the added texts, as tokenizers' ``AddedToken`` has them (``single_word``, ``lstrip``).
    """
    learned = tokenizer.get_vocab_size()
    added = {text: learned + number for number, text in enumerate(whole)}
    control = special_token_ids(vocab_size)
    if learned + len(whole) > min(control.values()):
        raise ValueError(f"vocab_size {vocab_size} has no room for {len(whole)} texts as tokens")
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"].update(added | control)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] = [
        {**plain, **options, "id": number, "content": text, "special": False} for text, number in added.items()
    ] + [{**plain, "id": number, "content": text, "special": True} for text, number in control.items()]
    return Tokenizer.from_str(json.dumps(content))


def _prompt_text() -> list[str]:
    template = load_template()
    return [
        template.task.replace("{instruction}", "walk past the table, go straight, turn left, turn right at the door"),
        template.history.replace("{images}", ""),
        template.current.replace("{image}", ""),
        "system\nYou are a helpful assistant.\nuser\nassistant\n",
        *(f"{symbol}\n" for symbol in template.actions),
    ]


def learn_tokens(text: Sequence[str], size: int) -> Tokenizer:
    """Byte-level pair encoding of at most ``size`` tokens learned from ``text``: any other text has tokens, too."""
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


def _repeats(ids: Sequence[int]) -> bool:
    return len(set(ids)) != len(ids)
