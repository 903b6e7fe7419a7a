"""Speed of a chat on a CPU: ftkit's streaming replies beside `model.generate` in fp32, with the same adapter.

    python -m tests.benchmarks.chat_speed [--rounds 3] [--tokens 96] [--prompt 500]

Each contender runs in a process of its own, in turn. Taken are the time to the first token of a prompt of
about `--prompt` tokens, and tokens a second after it; both decode greedily, and the replies are compared.
The adapter is LoRA of rank 8 with small random weights, as a short fine-tune leaves them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from tests.benchmarks.figures import spread

CONTENDERS = ("generate-fp32", "generate-bf16", "ftkit")


def prepared(dtype: str) -> tuple[Any, Any]:
    """The starter model with an adapter, as ftkit loads it."""
    import torch

    from ftkit.models.adapters import apply_method
    from ftkit.models.load import load_model
    from ftkit.recipe import Compute, LoRA, Model

    loaded = load_model(Model(), Compute(dtype=dtype, device="cpu"))
    torch.manual_seed(0)
    apply_method(loaded, LoRA(rank=8, alpha=16.0))
    with torch.no_grad():
        for name, weights in loaded.model.named_parameters():
            if "lora_B" in name:
                weights.copy_(
                    torch.randn(weights.shape, generator=torch.Generator().manual_seed(len(name))) * 1e-3
                )
    loaded.model.eval()
    return loaded, torch


def messages(loaded: Any, tokens: int) -> Any:
    """A conversation of about so many tokens."""
    from ftkit.data import Message, Template, load

    turns = [turn for one in load("starter:persona").train for turn in one.messages if turn.role != "system"]  # type: ignore[union-attr]
    template, chosen = Template(loaded.tokenizer), list(turns[:1])
    at = 1
    while len(template.prompt_ids(chosen)) < tokens:
        chosen += turns[at : at + 2]
        at += 2
    return [Message(turn.role, turn.content) for turn in chosen], template.prompt_ids(chosen)


def measure(name: str, prompt: int, tokens: int) -> dict[str, Any]:
    """One contender in this process: seconds to the first token, tokens a second after it, the reply."""
    loaded, torch = prepared("float32" if name.endswith("fp32") else "auto")
    loaded.model.generation_config.eos_token_id = None  # all reply as long
    loaded.model.config.eos_token_id = None
    loaded.tokenizer.eos_token = None
    talk, ids = messages(loaded, prompt)

    def ours(count: int) -> list[float]:
        from ftkit.chat.engine import Sampling, generate

        moments = [time.perf_counter()]
        for piece in generate(loaded, talk, sampling=Sampling(max_new_tokens=count, temperature=0.0)):
            text.append(piece.text)
            moments += [time.perf_counter()] * (piece.tokens - len(moments) + 1)
        return moments

    def theirs(count: int) -> list[float]:
        from transformers.generation.streamers import BaseStreamer

        moments = [time.perf_counter()]

        class Clock(BaseStreamer):
            def put(self, value: Any) -> None:
                if value.numel() == 1:
                    moments.append(time.perf_counter())

            def end(self) -> None:
                pass

        inputs = torch.tensor([ids])
        done = loaded.model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=count,
            do_sample=False,
            streamer=Clock(),
            pad_token_id=0,
        )
        text.append(loaded.tokenizer.decode(done[0, len(ids) :]))
        return moments

    text: list[str] = []
    run = ours if name == "ftkit" else theirs
    run(4)
    text.clear()
    moments = run(tokens)
    return {
        "prompt": len(ids),
        "first": moments[1] - moments[0],
        "speed": (len(moments) - 2) / (moments[-1] - moments[1]),
        "text": "".join(text),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--prompt", type=int, default=500)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.child, given.prompt, given.tokens)))
        return
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    # as in a user's kernel: threads that sleep between the layers of one token are woken far too late
    usual = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    sizes = ["--tokens", str(given.tokens), "--prompt", str(given.prompt)]
    for turn in range(given.rounds):
        for name in CONTENDERS:
            command = [sys.executable, "-m", "tests.benchmarks.chat_speed", "--child", name, *sizes]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=usual)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
            latest = json.loads(done.stdout.strip().splitlines()[-1])
            results[name].append(latest)
            said = f"{latest['speed']:.1f} tokens/s, first token after {latest['first']:.2f} s"
            print(f"  round {turn + 1}: {name:14} {said} ({latest['prompt']} tokens of prompt)", flush=True)
    ours = results["ftkit"]
    for name in CONTENDERS[:-1]:
        pairs = list(zip(ours, results[name], strict=True))
        speed = [one["speed"] / other["speed"] for one, other in pairs]
        first = [other["first"] / one["first"] for one, other in pairs]
        same = [_same(one["text"], other["text"]) for one, other in pairs]
        print(
            f"bench: chat ftkit/{name} speed {spread(speed)} first token {spread(first)}; "
            f"the replies agree on {statistics.median(same):.0%}"
        )


def _same(one: str, other: str) -> float:
    """The share of a reply before it takes another way."""
    count = next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    return count / max(len(one), len(other), 1)


if __name__ == "__main__":
    main()
