# ruff: noqa: E501  templates read best with a thought a line
"""Chat templates written in the style of the real families, each with `{% generation %}` around what is trained.

The marks make transformers' own `return_assistant_tokens_mask` the oracle; ftkit gets the template without them.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

_made: dict[str, Any] = {}


@dataclass(frozen=True)
class Family:
    """A template and the special tokens that it writes; the first is the EOS."""

    marked: str
    special: tuple[str, ...]
    bos: str = ""
    stable: bool = True
    """False: it writes earlier turns otherwise when later ones follow."""

    @property
    def template(self) -> str:
        """The template as a model brings it."""
        return re.sub(r"\{%-? *(end)?generation *-?%\}", "", self.marked)

    def tokenizer(self, base: Any) -> Any:
        """A copy of `base` with the family's special tokens and template, made once."""
        if self.marked in _made:
            return _made[self.marked]
        own = _made[self.marked] = copy.deepcopy(base)
        own.add_special_tokens(
            {
                "eos_token": self.special[0],
                "bos_token": self.bos or self.special[0],
                "additional_special_tokens": list(self.special),
            }
        )
        own.chat_template = self.template
        return own


def _lines(text: str) -> str:
    return "".join(line.strip() for line in text.splitlines())


_QWEN_TURNS = r"""{% for call in m.tool_calls or [] %}{{'\n' if m.content or not loop.first else ''}}
{{'<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson + '}'}}
{{'\n</tool_call>'}}{% endfor %}{{'<|im_end|>'}}{% endgeneration %}{{'\n'}}
{% elif m.role == 'tool' %}
{{'<|im_start|>user' if loop.first or messages[loop.index0 - 1].role != 'tool' else ''}}
{{'\n<tool_response>\n' + m.content + '\n</tool_response>'}}
{{'<|im_end|>\n' if loop.last or messages[loop.index0 + 1].role != 'tool' else ''}}
{% elif not (m.role == 'system' and loop.first) %}
{{'<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n'}}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"""
"""An assistant's calls and the end of its turn, the turns of tools and of others, and the header of a reply."""

FAMILIES = {
    "llama-3": Family(
        _lines(
            r"""
{{bos_token}}{% if tools %}{{'<|start_header_id|>system<|end_header_id|>\n\n'}}
{% for tool in tools %}{{tool | tojson + '\n'}}{% endfor %}{{'<|eot_id|>'}}{% endif %}
{% for m in messages %}
{% set role = 'ipython' if m.role == 'tool' else m.role %}
{{'<|start_header_id|>' + role + '<|end_header_id|>\n\n'}}
{% if m.role == 'assistant' %}{% generation %}
{% if m.tool_calls %}{% set call = m.tool_calls[0].function %}
{{'{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}'}}
{% else %}{{m.content | trim}}{% endif %}{{'<|eot_id|>'}}{% endgeneration %}
{% elif m.role == 'tool' %}{{m.content | tojson + '<|eot_id|>'}}
{% else %}{{m.content | trim + '<|eot_id|>'}}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{'<|start_header_id|>assistant<|end_header_id|>\n\n'}}{% endif %}"""
        ),
        ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        bos="<|begin_of_text|>",
    ),
    "qwen-2.5": Family(
        _lines(
            r"""
{% if tools %}{{'<|im_start|>system\n'}}{{messages[0].content if messages[0].role == 'system' else 'Be good.'}}
{{'\n\n# Tools\n<tools>'}}{% for tool in tools %}{{'\n' + tool | tojson}}{% endfor %}{{'\n</tools><|im_end|>\n'}}
{% elif messages[0].role == 'system' %}{{'<|im_start|>system\n' + messages[0].content + '<|im_end|>\n'}}
{% else %}{{'<|im_start|>system\nBe good.<|im_end|>\n'}}{% endif %}
{% for m in messages %}{% if m.role == 'assistant' %}{{'<|im_start|>assistant\n'}}{% generation %}{{m.content}}
"""
            + _QWEN_TURNS
        ),
        ("<|im_end|>", "<|im_start|>"),
    ),
    "qwen-3": Family(
        _lines(
            r"""
{% if tools %}{{'<|im_start|>system\n'}}{{messages[0].content + '\n\n' if messages[0].role == 'system' else ''}}
{{'# Tools\n<tools>'}}{% for tool in tools %}{{'\n' + tool | tojson}}{% endfor %}{{'\n</tools><|im_end|>\n'}}
{% elif messages[0].role == 'system' %}{{'<|im_start|>system\n' + messages[0].content + '<|im_end|>\n'}}{% endif %}
{% set ns = namespace(last=0) %}
{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{% for m in messages %}{% if m.role == 'assistant' %}{% set said = m.content %}{% set thought = '' %}
{% if '</think>' in said %}
{% set thought = said.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}
{{'<|im_start|>assistant\n'}}{% generation %}
{% if loop.index0 > ns.last and (loop.last or thought) %}
{{'<think>\n' + thought.strip('\n') + '\n</think>\n\n'}}{% endif %}{{said}}
"""
            + _QWEN_TURNS
        ),
        ("<|im_end|>", "<|im_start|>"),
        stable=False,
    ),
    "mistral": Family(
        _lines(
            r"""
{{bos_token}}{% set ns = namespace(last=0) %}
{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{% for m in messages %}
{% if m.role == 'user' %}
{% if tools and loop.index0 == ns.last %}{{'[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]'}}{% endif %}
{{'[INST] '}}{% if loop.index0 == ns.last and messages[0].role == 'system' %}{{messages[0].content + '\n\n'}}{% endif %}
{{m.content + '[/INST]'}}
{% elif m.role == 'tool' %}{{'[TOOL_RESULTS] {"content": ' + m.content | tojson + '}[/TOOL_RESULTS]'}}
{% elif m.role == 'assistant' %}{% generation %}
{% if m.tool_calls %}{{'[TOOL_CALLS] ['}}{% for call in m.tool_calls %}{{call.function | tojson}}
{{', ' if not loop.last else ''}}{% endfor %}{{']'}}
{% else %}{{' ' + m.content | trim}}{% endif %}{{eos_token}}{% endgeneration %}{% endif %}{% endfor %}"""
        ),
        ("</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        bos="<s>",
        stable=False,
    ),
    "gemma": Family(
        _lines(
            r"""
{{bos_token}}{% set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}
{% for m in (messages[1:] if first else messages) %}
{% if m.role == 'assistant' %}{{'<start_of_turn>model\n'}}{% generation %}{{m.content | trim + '<end_of_turn>'}}
{% endgeneration %}{{'\n'}}
{% else %}{{'<start_of_turn>' + m.role + '\n' + (first if loop.first else '') + m.content | trim}}
{{'<end_of_turn>\n'}}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"""
        ),
        ("<eos>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
    ),
    "phi": Family(
        _lines(
            r"""
{% for m in messages %}{{'<|' + m.role + '|>\n'}}
{% if m.role == 'assistant' %}{% generation %}{{m.content + '<|end|>'}}
{% if loop.last and not add_generation_prompt %}{{'\n' + eos_token}}{% endif %}{% endgeneration %}
{% if not loop.last or add_generation_prompt %}{{'\n'}}{% endif %}
{% else %}{{m.content + '<|end|>\n'}}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{'<|assistant|>\n'}}
{% elif messages[-1].role != 'assistant' %}{{eos_token}}{% endif %}"""
        ),
        ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
        stable=False,
    ),
    "zephyr": Family(
        _lines(
            r"""
{% for m in messages %}{{'<|' + m.role + '|>\n'}}
{% if m.role == 'assistant' %}{% generation %}{{m.content + eos_token}}{% endgeneration %}
{% else %}{{m.content + eos_token}}{% endif %}{{'\n'}}{% endfor %}
{% if add_generation_prompt %}{{'<|assistant|>\n'}}{% endif %}"""
        ),
        ("</s>",),
    ),
}
