# ruff: noqa: E501  templates read best on a line
"""A chat template is a stranger's program: it ends, stays small, and reaches nothing but what it is given."""

from __future__ import annotations

import time
from typing import Any

import psutil
import pytest

from ftkit.data import Template
from ftkit.data.example import Conversation, Message
from ftkit.data.sandbox import ChatTemplate
from ftkit.errors import TemplateError

TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Ahoy."}]
HUNDRED_THOUSAND = "range(100000)"
ENDLESS = {
    "loops in loops": "{% for a in R %}{% for b in R %}{% for c in R %}{% endfor %}{% endfor %}{% endfor %}",
    "loops that write": "{% for a in R %}{% for b in R %}x{% endfor %}{% endfor %}",
    "a macro that calls itself": "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "a recursive loop": "{% for a in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
}
GREEDY = {
    "a product": "{{ 'a' * 10000000000 }}",
    "a product of a list": "{{ ([0] * 10000000000)|length }}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "numbers multiplied on": "{% set n = namespace(x=10) %}{% for a in R %}{% set n.x = n.x * n.x %}{% endfor %}",
    "text doubled": "{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "text added": "{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "a list added": "{% set n = namespace(x=[1]) %}{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "lists in lists": "{% set n = namespace(x=['ab']) %}{% for a in range(60) %}{% set n.x = [n.x, n.x] %}"
    "{% endfor %}{{ n.x }}",
    "a width": "{{ 'a'|center(10000000000) }}",
    "a width of a method": "{{ 'a'.ljust(10000000000) }}",
    "a format": "{{ '%10000000000d' % 1 }}",
    "a format of a method": "{{ '{:10000000000}'.format(1) }}",
    "a format with a star": "{{ '%*d' % (10000000000, 1) }}",
    "a filter format": "{{ '%10000000000d'|format(1) }}",
    "a replacement": "{% set x = 'a' * 1000000 %}{{ x.replace('a', x) }}",
    "a replacement of nothing": "{% set x = 'a' * 1000000 %}{{ x|replace('', x) }}",
    "a join": "{{ R|list|join('a' * 1000000) }}",
    "a join of a method": "{{ ('a' * 1000000).join(R|map('string')) }}",
    "JSON": "{{ (R|list)|tojson(separators=('a' * 1000000, ':')) }}",
    "an indent": "{{ [[1]]|tojson(indent=10000000000) }}",
    "an indent of lines": "{{ ('a\\n' * 100000)|indent('b' * 100000) }}",
    "a block that is kept": "{% set x %}{% for a in R %}"
    + "y" * 100_000
    + "{% endfor %}{% endset %}{{ x|length }}",
    "a call block that is kept": "{% macro m() %}" + "y" * 100_000 + "{{ caller() }}{% endmacro %}"
    "{% set x %}{% for a in R %}{% call m() %}z{% endcall %}{% endfor %}{% endset %}{{ x|length }}",
    "bytes of a number": "{{ (5).to_bytes(10000000000, 'big') }}",
    "batches": "{{ [1]|batch(10000000000, 'x')|list|length }}",
}
OUTSIDE = {
    "classes": "{{ ''.__class__.__mro__ }}",
    "globals of a function": "{{ raise_exception.__globals__ }}",
    "classes by a filter": "{{ ''|attr('__class__') }}",
    "a format that looks inside": "{{ '{0.__class__.__mro__}'.format('') }}",
    "names of its own in a namespace": "{{ namespace(__class__=1) }}",
    "a file": "{% include '/etc/passwd' %}",
    "a module": "{% import 'os' as os %}{{ os }}",
    "imports by a cycler": "{{ cycler.__init__.__globals__.os }}",
    "a list that is changed": "{{ messages.append(1) }}",
}


def _text(source: str) -> str:
    return source.replace("R", HUNDRED_THOUSAND) if "R" in source else source


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_does_not_end_is_ended(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftkit.data.sandbox.SECONDS", 0.3)
    began = time.thread_time()
    with pytest.raises(Exception, match=r"took more than|makes more text|recursion"):
        ChatTemplate(_text(ENDLESS[name])).render(TALK)
    assert time.thread_time() - began < 3


@pytest.mark.parametrize("name", GREEDY)
def test_a_template_does_not_take_the_memory(name: str) -> None:
    process = psutil.Process()
    before, began = process.memory_info().rss, time.thread_time()
    with pytest.raises(Exception, match=r"template|number|width"):
        ChatTemplate(_text(GREEDY[name])).render(TALK)
    assert process.memory_info().rss - before < 1_000_000_000
    assert time.thread_time() - began < 5, "it was made before it was refused"


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_template_reaches_nothing_outside(name: str) -> None:
    try:
        text = ChatTemplate(OUTSIDE[name]).render(TALK)
    except Exception:  # noqa: BLE001 - any refusal will do
        return
    assert "class" not in text
    assert "root" not in text


def test_objects_of_the_rows_reach_a_template_as_plain_values() -> None:
    class Text(str):
        def secret(self) -> str:
            return "reached"

    talk = [{"role": "user", "content": Text("hello")}]
    with pytest.raises(Exception, match="secret"):
        ChatTemplate("{{ messages[0].content.secret() }}").render(talk)


def test_long_conversations_are_within_the_limits() -> None:
    talk = [{"role": "user", "content": "word " * 400}, {"role": "assistant", "content": "yes " * 400}] * 500
    source = "{% set n = namespace(t='') %}{% for m in messages %}{% set n.t = n.t + m.content %}{% endfor %}{{ n.t }}"
    assert ChatTemplate(source).render(talk) == "".join(turn["content"] for turn in talk)


def test_a_template_that_goes_beyond_its_limits_is_not_asked_for_ever(starter_tokenizer: Any) -> None:
    import copy

    tokenizer = copy.deepcopy(starter_tokenizer)
    tokenizer.chat_template = (
        "{{ messages[0].content }}{% if messages[0].content != 'ftkit_probe' %}{{ 'a' * 10**9 }}{% endif %}"
    )
    talks = [Conversation((Message("user", f"{n}"), Message("assistant", "yes")), n) for n in range(20)]
    found = Template(tokenizer).encode_many(talks)
    assert all(isinstance(one, TemplateError) for one in found)
    assert "not asked any more" in str(found[-1])
