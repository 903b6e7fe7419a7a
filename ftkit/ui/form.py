"""Forms generated from the Recipe's fields: label, control, tooltip, and what is wrong below the control.

A field's name becomes its label, its docstring the tooltip, its type the control. What is typed is kept as
typed: a text that is no value is explained below the control and leaves the Recipe as last valid.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import ipywidgets as widgets

from ftkit.errors import RecipeError
from ftkit.recipe import Recipe, Section
from ftkit.ui import host, markup
from ftkit.ui.workspace import Workspace

_LABELS = {
    "dtype": "Precision",
    "ld_alpha": "Weight of the longer reply's rest",
    "lora": "LoRA",
    "mlp": "feed-forward",
    "lr_scheduler": "Learning rate schedule",
    "loraplus_ratio": "LoRA+ ratio",
    "max_grad_norm": "Max gradient norm",
    "sft_weight": "Weight of learning the chosen",
    "too_long": "Rows that are too long",
    "train_on": "Train on",
    "use_dora": "DoRA",
    "use_rslora": "rsLoRA",
}
_TYPES = {
    "adalora": "AdaLoRA",
    "boft": "BOFT",
    "cpo": "Preference pairs (CPO)",
    "distillation": "A teacher's words (distillation)",
    "dpo": "Preference pairs (DPO)",
    "freeze": "Some layers",
    "full": "Full fine-tuning",
    "ia3": "IA3",
    "kto": "Rated replies (KTO)",
    "lora": "LoRA",
    "oft": "OFT",
    "orpo": "Preference pairs (ORPO)",
    "pretraining": "Plain text",
    "reward": "Reward model",
    "grpo": "Rewards (GRPO)",
    "rloo": "Rewards (RLOO)",
    "sft": "Chat (supervised)",
    "simpo": "Preference pairs (SimPO)",
    "vera": "VeRA",
}


def label(name: str) -> str:
    """What a field is called on the screen: `learning_rate` is `Learning rate`."""
    return _LABELS.get(name) or name.replace("_", " ").capitalize()


def type_label(name: str) -> str:
    """What a class of a discriminated union is called on the screen: `lora` is `LoRA`."""
    return _TYPES.get(name) or label(name)


def kind(annotation: Any) -> tuple[Any, bool]:
    """The plain type of a field (int, float, bool, str, Path, tuple, Literal), and if it may be None."""
    if get_origin(annotation) is Annotated:
        return kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        optional = len(parts) < len(get_args(annotation))
        plain = [kind(part)[0] for part in parts]
        return (tuple if tuple in plain else plain[0]), optional
    return (tuple if get_origin(annotation) is tuple else annotation), False


def show(value: Any) -> str:
    """A value as a person types it: `0.0002`, `1e-05`, `q_proj, v_proj`; empty for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def read(text: str, plain: Any, optional: bool) -> Any:
    """The value of what was typed.

    Raises
    ------
    ValueError
        When it is no value of that type, in a sentence for the person who typed it.
    """
    text = text.strip()
    if not text and optional:
        return None
    if plain in (int, float) and not text:
        raise ValueError("A number is needed here.")
    if plain is int:
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number. Write it like 8.") from None
    if plain is float:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number. Write it like 0.0002 or 2e-4.") from None
    if plain is tuple:
        names = tuple(re.split(r"[,\s]+", text.strip("[](), ").replace("'", "").replace('"', "")))
        return names[0] if names in (("all-linear",), ("auto",)) else tuple(filter(None, names))
    return Path(text) if plain is Path else text


class Field(widgets.VBox):
    """One field of the Recipe: a labelled control, its help, and what is wrong with what was typed.

    Parameters
    ----------
    workspace
        Whose Recipe is edited.
    path
        The field, such as `"training.learning_rate"`. The control is hidden while the Recipe has no such
        field (`method.rank` under full fine-tuning).
    title
        Label instead of the one made from the name.
    explain
        Show the field's docstring below the control as well as on hover.
    suggest
        Let values be chosen that `control.options` will name, or others be typed.
    """

    def __init__(
        self,
        workspace: Workspace,
        path: str,
        *,
        title: str = "",
        explain: bool = False,
        suggest: bool = False,
    ) -> None:
        self.workspace = workspace
        self.path = path
        self._filling = False
        section, name = path.rsplit(".", 1)
        self._section, self._name = section, name
        field = _section_class(workspace.recipe, section, name).model_fields[name]
        self._annotation = field.annotation
        self._plain, self._optional = kind(field.annotation)
        help_text = " ".join((field.description or "").split())
        examples = () if suggest else field.examples
        self.control = self._make(title or _title(section, name), field.default, examples)
        host.set_tooltip(self.control, help_text)
        self._wrong = widgets.HTML()
        self._wrong.add_class("ftk-wrong")
        self._help = (
            [widgets.HTML(f'<div class="ftk-help">{markup.prose(help_text)}</div>')] if explain else []
        )
        super().__init__([self.control, *self._help])
        self.add_class("ftk-field")
        self._fill()
        self.control.observe(self._typed, "value")
        workspace.observe(self._recipe_changed, "recipe")
        workspace.observe(self._problems_changed, "problems")

    def __repr__(self) -> str:
        return f"Field({self.path!r})"

    @property
    def error(self) -> str:
        """What is wrong with the text in the control, or empty."""
        return self.workspace.problems.get(self.path, "") if self._wrong in self.children else ""

    def ask(self, title: str, placeholder: str, text: str = "") -> None:
        """Ask for the value anew, under another label; the Recipe changes when something is typed."""
        self._filling = True
        try:
            self.control.description = title
            self.control.placeholder = placeholder
            self.control.value = text
        finally:
            self._filling = False
        self._say("")

    def _make(self, title: str, default: Any, examples: Sequence[Any] | None) -> widgets.Widget:
        if self._plain is bool:
            return widgets.Checkbox(description=title, indent=False)
        if get_origin(self._plain) is Literal:
            return widgets.Dropdown(description=title, options=get_args(self._plain))
        hint = "auto" if self._optional else show(default)
        if examples is not None:  # to choose from, or something else
            return widgets.Combobox(
                description=title,
                placeholder=hint,
                options=tuple(map(show, examples)),
                ensure_option=False,
                continuous_update=False,
            )
        return widgets.Text(description=title, placeholder=hint, continuous_update=False)

    def _value(self) -> tuple[bool, Any]:
        section = _section(self.workspace.recipe, self._section)
        field = type(section).model_fields.get(self._name)
        # of a union another class may have a field of this name with other choices
        there = field is not None and field.annotation == self._annotation
        return there, getattr(section, self._name) if there else None

    def _fill(self) -> None:
        exists, value = self._value()
        self.layout.display = None if exists else "none"
        self._seen = value
        self._say("")
        if not exists or (isinstance(self.control, widgets.Text) and self._is_shown(value)):
            return
        self._filling = True
        try:
            self.control.value = show(value) if isinstance(self.control, widgets.Text) else value
        finally:
            self._filling = False

    def _is_shown(self, value: Any) -> bool:
        """Whether the text in the control means `value`: "2e-4" stays as it was typed."""
        try:
            return bool(read(self.control.value, self._plain, self._optional) == value)
        except ValueError:
            return False

    def _typed(self, _: Any) -> None:
        if self._filling:
            return
        try:
            value = self.control.value
            if isinstance(self.control, widgets.Text):
                value = read(value, self._plain, self._optional)
            self.workspace.edit({self.path: value})
        except RecipeError as error:
            self._say(_plainly(error.message, self.path))
        except ValueError as error:
            self._say(str(error))
        else:
            self._say("")
            if self.path in self.workspace.problems:
                self.workspace.report(self.path, None)

    def _say(self, problem: str) -> None:
        had_one = self._wrong in self.children
        self._wrong.value = f'<span role="alert">{markup.escape(problem)}</span>' if problem else ""
        (self.add_class if problem else self.remove_class)("ftk-invalid")
        children = (self.control, *([self._wrong] if problem else []), *self._help)
        if self.children != children:
            self.children: tuple[widgets.Widget, ...] = children
        if problem or had_one:
            self.workspace.report(self.path, problem or None)

    def _recipe_changed(self, _: Any) -> None:
        exists, value = self._value()
        if value != self._seen or exists != (self.layout.display is None):
            self._fill()

    def _problems_changed(self, _: Any) -> None:
        """Another control of the same field was set right: show what it says."""
        if self._wrong in self.children and self.path not in self.workspace.problems:
            self._fill()


class UnionForm(widgets.VBox):
    """A discriminated union of the Recipe (the method, the objective): its types, then that type's fields.

    What was set for a type comes back when the type is chosen again.
    """

    def __init__(self, workspace: Workspace, section: str, *, explain: bool = True) -> None:
        self.workspace = workspace
        self.section = section
        self._kept: dict[str, Any] = {}
        self._forms: dict[str, widgets.Widget] = {}
        names = [get_args(part.model_fields["type"].annotation)[0] for part in _union(section)]
        self.choice = widgets.Dropdown(
            description=label(section), options=[(type_label(n), n) for n in names]
        )
        host.set_tooltip(self.choice, f"Which {label(section).lower()} to use")
        self._about = widgets.HTML() if explain else None
        top = widgets.VBox([self.choice, *([self._about] if self._about else [])])
        top.add_class("ftk-field")
        self._top = top
        super().__init__([top])
        self._recipe_changed(None)
        self.choice.observe(self._chosen, "value")
        workspace.observe(self._recipe_changed, "recipe")

    def __repr__(self) -> str:
        return f"UnionForm({self.section!r})"

    def _chosen(self, change: Mapping[str, Any]) -> None:
        current = getattr(self.workspace.recipe, self.section)
        if change["new"] == current.type:
            return
        self._kept[current.type] = current.model_dump()
        self.workspace.edit({self.section: self._kept.get(change["new"], {"type": change["new"]})})

    def _recipe_changed(self, _: Any) -> None:
        section = getattr(self.workspace.recipe, self.section)
        if section.type not in self._forms:
            own = vars(type(section)).get("__annotations__", {})
            names = [name for name in type(section).model_fields if name != "type"]
            names.sort(key=lambda name: name not in own)  # what all share comes last
            self._forms[section.type] = grid([Field(self.workspace, f"{self.section}.{n}") for n in names])
        if self._about:
            about = " ".join((type(section).__doc__ or "").split())
            self._about.value = f'<div class="ftk-help">{markup.prose(about)}</div>'
        self.choice.value = section.type
        shown = (self._top, self._forms[section.type])
        if self.children != shown:
            self.children: tuple[widgets.Widget, ...] = shown


def grid(children: Sequence[widgets.Widget]) -> widgets.Box:
    """Children in columns of equal width, as many as there is room for."""
    box = widgets.Box(list(children))
    box.add_class("ftk-grid")
    return box


def section_form(
    workspace: Workspace, section: str, names: Sequence[str] = (), without: Sequence[str] = ()
) -> widgets.Box:
    """All fields of a section (or those named, or all but some), in columns."""
    values = _section(workspace.recipe, section)
    fields: list[widgets.Widget] = []
    for name in names or [n for n in type(values).model_fields if n != "type"]:
        if name in without:
            continue
        path, inner = f"{section}.{name}", getattr(values, name, None)
        if isinstance(inner, Section):
            fields += [Field(workspace, f"{path}.{part}") for part in type(inner).model_fields]
        else:
            fields.append(Field(workspace, path))
    return grid(fields)


def folded(builders: Mapping[str, Callable[[], widgets.Widget]]) -> widgets.Accordion:
    """Titled parts, closed at first; what a part holds is built when it is first opened."""
    titles = list(builders)
    accordion = widgets.Accordion([widgets.VBox() for _ in titles], selected_index=None)
    host.set_titles(accordion, titles)

    def opened(change: Mapping[str, Any]) -> None:
        index = change["new"]
        if index is not None and not accordion.children[index].children:
            accordion.children[index].children = (builders[titles[index]](),)

    accordion.observe(opened, "selected_index")
    accordion.add_class("ftk-folded")
    return accordion


def _section(recipe: Recipe, path: str) -> Any:
    """The section at a dotted path, such as `compute.fast`."""
    return functools.reduce(getattr, path.split("."), recipe)


def _title(section: str, name: str) -> str:
    """A field's label; one of a section inside a section says that too: `Fast norms`."""
    _, nested, last = section.rpartition(".")
    own = label(name)
    return f"{label(last)} {own if own.isupper() or own == 'LoRA' else own.lower()}" if nested else own


def _union(section: str) -> tuple[Any, ...]:
    annotation = Recipe.model_fields[section].annotation
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return get_args(annotation) or (annotation,)


def _section_class(recipe: Recipe, section: str, name: str) -> Any:
    """The class that has the field: the one in use, or the one of the union that knows it."""
    union = () if "." in section else _union(section)
    for candidate in (type(_section(recipe, section)), *union):
        if name in candidate.model_fields:
            return candidate
    msg = f"no section {section!r} of a Recipe has a field {name!r}"
    raise AttributeError(msg)


def _plainly(message: str, path: str) -> str:
    """A Recipe's error for the person at the control: without the path, which the label says already."""
    lines = [line.removeprefix(f"{path}: ") for line in message.splitlines()]
    return "\n".join(re.sub(r"^(Input|Value) should", "It should", line) for line in lines)
