"""Forms generated from the Recipe's fields: label, control, tooltip, and what is wrong below the control.

A field's name becomes its label, its docstring the tooltip, its type the control. What is typed is kept as
typed: a text that is no value is explained below the control and leaves the Recipe as last valid. What this
machine cannot do is greyed out, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import ipywidgets as widgets

from ftkit.errors import RecipeError
from ftkit.recipe import Recipe, Section, extras
from ftkit.recipe.cards import kinds
from ftkit.recipe.optimizers import OPTIMIZERS, SCHEDULES
from ftkit.ui import host, markup
from ftkit.ui.ticker import Worker
from ftkit.ui.typed import kind, read, show
from ftkit.ui.workspace import Workspace

_LABELS = {
    "dtype": "Precision",
    "ema_decay": "EMA decay",
    "init": "First values",
    "ld_alpha": "Weight of the longer reply's rest",
    "lora": "LoRA",
    "loraplus_ratio": "LoRA+ ratio",
    "lr_scheduler": "Learning rate schedule",
    "lr_scheduler_kwargs": "Settings of the schedule",
    "max_grad_norm": "Max gradient norm",
    "mlp": "feed-forward",
    "neftune_alpha": "NEFTune alpha",
    "optimizer_kwargs": "Settings of the optimizer",
    "sft_weight": "Weight of learning the chosen",
    "too_long": "Rows that are too long",
    "train_on": "Train on",
    "use_dora": "DoRA",
    "use_rslora": "rsLoRA",
}
_NONE = "none"
_EMPTY = re.compile(r"\bEmpty(?:, [^:]*)?: ([^.]+)")
"""What a field's docstring says of a control that is left empty."""
_UNIONS = ("method", "objective")
_SETTINGS: Mapping[str, Callable[[Recipe], Mapping[str, Any]]] = {
    "training.optimizer_kwargs": lambda recipe: OPTIMIZERS[recipe.training.optimizer].settings,
    "training.lr_scheduler_kwargs": lambda recipe: SCHEDULES[recipe.training.lr_scheduler],
}
"""Fields that hold the settings of another one's choice, and what that choice has."""


def label(name: str) -> str:
    """What a field is called on the screen: `learning_rate` is `Learning rate`."""
    return _LABELS.get(name) or name.replace("_", " ").capitalize()


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
        self._reasons: dict[str, str] = {}
        self._kept: dict[Any, Any] = {}
        self._probing: Worker[dict[str, str]] | None = None
        self._probed_for = ""
        section, name = path.rsplit(".", 1)
        self._section, self._name = section, name
        field = _section_class(workspace.recipe, section, name).model_fields[name]
        self._annotation = field.annotation
        self._plain, self._optional = kind(field.annotation)
        self._lines = "lines" in field.metadata
        help_text = " ".join((field.description or "").split())
        examples = () if suggest else field.examples
        self.control = self._make(title or _title(section, name), field.default, examples, help_text)
        host.set_tooltip(self.control, help_text)
        self._wrong: widgets.HTML | None = None
        self._note: widgets.HTML | None = None
        self._help = [widgets.HTML(markup.field_help(help_text))] if explain else []
        super().__init__([self.control, *self._help])
        self.add_class("ftk-field")
        self._fill()
        self.control.observe(self._typed, "value")
        workspace.observe(self._recipe_changed, "recipe")
        workspace.observe(self._problems_changed, "problems")
        self._ask_machine()

    def __repr__(self) -> str:
        return f"Field({self.path!r})"

    @property
    def error(self) -> str:
        """What is wrong with the text in the control, or empty."""
        return self.workspace.problems.get(self.path, "") if self._wrong is not None else ""

    def wait(self, timeout: float | None = 30.0) -> None:
        """Wait until it is known what this machine cannot do."""
        if self._probing is not None:
            self._probing.wait(timeout)

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

    def _make(
        self, title: str, default: Any, examples: Sequence[Any] | None, help_text: str
    ) -> widgets.Widget:
        if self._plain is bool:
            return widgets.Checkbox(description=title, indent=False)
        if get_origin(self._plain) is Literal:
            values = [*([None] if self._optional else []), *get_args(self._plain)]
            options = [(_NONE if value is None else str(value), value) for value in values]
            if self.path not in extras.FIELDS:
                return widgets.Dropdown(description=title, options=options)
            from ftkit.ui.options import Options

            return Options(options, title)
        empty = _EMPTY.search(help_text)
        may_be_empty = self._optional or self._plain is tuple
        hint = show(default) or (empty[1].replace("`", "") if empty else _NONE if may_be_empty else "")
        if self._lines:
            return widgets.Textarea(
                description=title, placeholder="One a line", rows=3, continuous_update=False
            )
        if examples is not None:  # to choose from, or something else
            return widgets.Combobox(
                description=title,
                placeholder=hint,
                options=tuple(map(show, examples)),
                ensure_option=False,
                continuous_update=False,
            )
        return widgets.Text(description=title, placeholder=hint, continuous_update=False)

    @property
    def _is_text(self) -> bool:
        return isinstance(self.control, (widgets.Text, widgets.Textarea))

    def _read(self) -> Any:
        return read(self.control.value, self._plain, self._optional, self._lines)

    def _value(self) -> tuple[bool, Any]:
        section = _section(self.workspace.recipe, self._section)
        field = type(section).model_fields.get(self._name) if isinstance(section, Section) else None
        # of a union another class may have a field of this name with other choices
        there = field is not None and field.annotation == self._annotation
        return there, getattr(section, self._name) if there else None

    def _fill(self) -> None:
        exists, value = self._value()
        self.layout.display = None if exists else "none"
        self._seen = value
        self._say("")
        self._show_note(value)
        if not exists or (self._is_text and self._is_shown(value)):
            return
        self._filling = True
        try:
            self.control.value = show(value, self._lines) if self._is_text else value
        finally:
            self._filling = False

    def _is_shown(self, value: Any) -> bool:
        """Whether the text in the control means `value`: "2e-4" stays as it was typed."""
        try:
            return bool(self._read() == value)
        except ValueError:
            return False

    def _typed(self, _: Any) -> None:
        if self._filling:
            return
        try:
            value = self._read() if self._is_text else self.control.value
            if not self._is_text and value in self._reasons:
                raise ValueError(f"{value!r} {self._reasons[value]}.")
            self.workspace.edit(self._changes(value))
        except RecipeError as error:
            self._say(_plainly(error.message, self.path))
        except ValueError as error:
            self._say(str(error))
        else:
            self._say("")
            self._show_note(value)
            if self.path in self.workspace.problems:
                self.workspace.report(self.path, None)

    def _changes(self, value: Any) -> dict[str, Any]:
        """What the value changes: the settings of a choice go with it, and come back with it."""
        settings = f"{self.path}_kwargs"
        if settings not in _SETTINGS:
            return {self.path: value}
        recipe = self.workspace.recipe
        self._kept[_section(recipe, self.path)] = _section(recipe, settings)
        return {self.path: value, settings: self._kept.get(value, {})}

    def _say(self, problem: str) -> None:
        had_one = self._wrong is not None and bool(self._wrong.value)
        if problem and self._wrong is None:
            self._wrong = widgets.HTML()
            self._wrong.add_class("ftk-wrong")
        if self._wrong is not None:
            self._wrong.value = f'<span role="alert">{markup.escape(problem)}</span>' if problem else ""
        if problem or had_one:
            (self.add_class if problem else self.remove_class)("ftk-invalid")
            self._arrange()
            self.workspace.report(self.path, problem or None)

    def _arrange(self) -> None:
        wrong = [self._wrong] if self._wrong is not None and self._wrong.value else []
        note = [self._note] if self._note is not None and self._note.value else []
        children = (self.control, *wrong, *note, *self._help)
        if self.children != children:
            self.children: tuple[widgets.Widget, ...] = children

    def _recipe_changed(self, _: Any) -> None:
        exists, value = self._value()
        if value != self._seen or exists != (self.layout.display is None):
            self._fill()
        elif self.path in _SETTINGS:
            self._show_note(value)
        self._ask_machine()

    def _problems_changed(self, _: Any) -> None:
        """Another control of the same field was set right: show what it says."""
        if self._wrong is not None and self._wrong.value and self.path not in self.workspace.problems:
            self._fill()

    # What this machine cannot do, and what there is to say of a choice

    def _ask_machine(self) -> None:
        device = self.workspace.recipe.compute.device
        if self.path in extras.FIELDS and device != self._probed_for:
            self._probed_for = device
            self._probing = self._probing or Worker(self._answered, lambda _: None)
            self._probing.submit(lambda: _lacking(device)[self.path])

    def _answered(self, reasons: dict[str, str]) -> None:
        self._reasons = reasons
        self.control.blocked = {value: why.split(":")[0] for value, why in reasons.items()}
        self._show_note(self._value()[1])

    def _show_note(self, value: Any) -> None:
        if self.path in _SETTINGS:
            self.control.placeholder = show(_SETTINGS[self.path](self.workspace.recipe)) or "no settings"
        needs = getattr(_section(self.workspace.recipe, self._section), "needs", {})
        asked = needs.get(self._name, "") if not value else ""
        text = markup.asked(asked) if asked else _note_on(self.path, value, self._reasons)
        if text and self._note is None:
            self._note = widgets.HTML()
        if self._note is not None and self._note.value != text:
            self._note.value = text
            self._arrange()


def grid(children: Sequence[widgets.Widget], few: bool = False) -> widgets.Box:
    """Children in columns of equal width, as many as there is room for; a few share the whole width."""
    box = widgets.Box(list(children))
    box.add_class("ftk-grid")
    if few:
        box.add_class("ftk-few")
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
    """What is at a dotted path, such as `compute.fast`; None where the class in use has no such field."""
    part: Any = recipe
    for name in path.split("."):
        part = getattr(part, name, None)
    return part


def _lacking(device: Any) -> dict[str, dict[str, str]]:
    from ftkit.models.capabilities import lacking, probe

    return lacking(probe(device))


def _note_on(path: str, value: Any, reasons: Mapping[str, str]) -> str:
    """What there is to say of a choice, and of those that cannot be had here."""
    parts = []
    if path == "training.optimizer":
        parts.append(markup.prose(OPTIMIZERS[value].about))
    if isinstance(value, str) and value in reasons:
        parts.append(f'<span class="ftk-wrong">{markup.escape(value)} {markup.escape(reasons[value])}</span>')
    alike: dict[str, list[str]] = {}
    for name, why in reasons.items():
        alike.setdefault(why, []).append(name)
    if alike:
        lines = "".join(
            f"<div>{markup.escape(', '.join(names))}: {markup.escape(why)}</div>"
            for why, names in alike.items()
        )
        parts.append(f"<details><summary>Greyed out on this machine</summary>{lines}</details>")
    return f'<div class="ftk-help">{" ".join(parts)}</div>' if parts else ""


def _title(section: str, name: str) -> str:
    """A field's label; one of a section inside a section says that too: `Fast norms`."""
    _, nested, last = section.rpartition(".")
    own = label(name)
    return f"{label(last)} {own if own.isupper() or own == 'LoRA' else own.lower()}" if nested else own


def _section_class(recipe: Recipe, section: str, name: str) -> Any:
    """The class that has the field: the one in use, or the one of the union that knows it."""
    union = kinds(section).values() if section in _UNIONS else ()
    for candidate in (type(_section(recipe, section)), *union):
        if name in candidate.model_fields:
            return candidate
    msg = f"no section {section!r} of a Recipe has a field {name!r}"
    raise AttributeError(msg)


def _plainly(message: str, path: str) -> str:
    """A Recipe's error for the person at the control: without the path, which the label says already."""
    lines = [line.removeprefix("recipe: ").removeprefix(f"{path}: ") for line in message.splitlines()]
    lines = [line.removeprefix(f"{path}.") for line in lines]
    return "\n".join(re.sub(r"^(Input|Value) should", "It should", line) for line in lines)
