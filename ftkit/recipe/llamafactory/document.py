"""KEYS.md: what becomes of every key, as a table to read.

    python -m ftkit.recipe.llamafactory.document

writes it anew; a test holds it to the table and to the schema.
"""

from __future__ import annotations

from pathlib import Path

from ftkit.recipe.llamafactory import places, values
from ftkit.recipe.llamafactory.table import Key, table

PATH = Path(__file__).with_name("KEYS.md")
_HEAD = """\
# Keys of a LLaMA-Factory file, and what becomes of each

Made by `python -m ftkit.recipe.llamafactory.document`: do not edit. A field that is *not in this version* is
reported by the importer, too; the key counts as soon as the field is there.

`becomes`: the field of the Recipe. `does`: ftkit does that anyway. `no`: it has no effect here, and why.
"""


def text() -> str:
    """The whole document."""
    groups: dict[str, list[Key]] = {}
    for key in table().values():
        groups.setdefault(key.group, []).append(key)
    parts = [_HEAD]
    for group, keys in groups.items():
        parts.append(
            f"\n## {group.capitalize()} arguments\n\n| key | default | | |\n| --- | --- | --- | --- |\n"
        )
        parts += [_line(key) for key in keys]
    return "".join(parts)


def _line(key: Key) -> str:
    default = "" if key.default is None else f"`{values.shown(key.default)}`"
    what, how = _fate(key)
    return f"| `{key.name}` | {default} | {what} | {how}{_where(key)} |\n"


def _fate(key: Key) -> tuple[str, str]:
    if key.to:
        there = any(_exists(key.to, key, kind) for kind in _KINDS)
        return "becomes", f"`{key.to}`" + ("" if there else ", *not in this version*")
    if key.chat:
        return "becomes", f"`{key.chat}` of `ftkit.chat.Sampling`"
    if key.does:
        return "does", key.does
    if key.rule:
        return "becomes", "part of the key that it belongs to"
    return "no", key.not_here or ""


_KINDS = (
    *(
        {"objective": one, "method": "lora"}
        for one in ("sft", "dpo", "orpo", "simpo", "kto", "reward", "rloo")
    ),
    *({"objective": "sft", "method": one} for one in ("full", "freeze", "oft")),
)


def _exists(path: str, key: Key, kinds: dict[str, str]) -> bool:
    if path.endswith(".type"):
        return True
    own = [value for there, value in key.values.items() if there is True]
    return places.missing(path, kinds, own[0] if own else None) is None


def _where(key: Key) -> str:
    read = {
        "stage": key.stages,
        "finetuning_type": key.methods,
        "pref_loss": key.losses,
        "optimizer": key.optimizers,
        "files for": key.kinds,
    }
    said = [f"{name} {' or '.join(wanted)}" for name, wanted in read.items() if wanted]
    return f" ({'; '.join(said)})" if said else ""


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
