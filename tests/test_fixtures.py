"""The shared fixtures themselves: a tiny model that saves, loads and generates."""

from __future__ import annotations


def test_tiny_model_loads_and_its_template_round_trips(tiny_model_folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": "Hé, twice?"}, {"role": "assistant", "content": "Yes."}]
    ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)["input_ids"]
    assert tokenizer.decode(ids[0]) == tokenizer.apply_chat_template(messages, tokenize=False)
    assert model(input_ids=ids).logits.shape == (1, ids.shape[1], len(tokenizer))
    assert model.num_parameters() < 100_000


def test_same_keywords_give_the_same_folder(tiny_model_folder):
    assert tiny_model_folder() == tiny_model_folder()
    assert tiny_model_folder(num_hidden_layers=1) != tiny_model_folder()
