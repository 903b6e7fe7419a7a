"""The command `ftkit`: its arguments, and how an error reaches the person who typed it."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftkit import __version__
from ftkit.errors import FtkitError

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments
        The words after `ftkit`; those of the process when not given.

    Returns
    -------
    int
        0 when all went well, 1 after an explained error, 2 for a wrong command line, 130 after Ctrl-C.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 2
    if not options.debug and not sys.warnoptions:
        warnings.simplefilter(
            "ignore"
        )  # libraries' warnings are for those who write code, not for a terminal
    try:
        status: int = options.command(options)
    except FtkitError as error:
        if options.debug:
            raise
        from ftkit.cli.console import show_error

        show_error(error)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # `ftkit runs | head`: the reader has left. Python would complain again while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _demo(options: argparse.Namespace) -> int:
    from ftkit.cli.demo import demo

    return demo(folder=options.folder, model=options.model, quick=options.quick, offline=options.offline)


def _lab(options: argparse.Namespace) -> int:
    from ftkit.cli.lab import lab

    return lab(options.notebook, port=options.port, browser=options.browser, extra=options.extra)


def _run(options: argparse.Namespace) -> int:
    from ftkit.cli.run import run

    return run(options.recipe, options.set, fit=options.fit)


def _chat(options: argparse.Namespace) -> int:
    from ftkit.cli.chat import chat

    sampling = {
        "temperature": options.temperature,
        "max_new_tokens": options.max_new_tokens,
        "seed": options.seed,
    }
    return chat(
        options.run,
        folder=options.folder,
        mode=options.mode,
        system_prompt=options.system,
        sampling={name: value for name, value in sampling.items() if value is not None},
    )


def _import(options: argparse.Namespace) -> int:
    from ftkit.cli.llamafactory import import_file

    return import_file(options.file, out=options.out, overwrite=options.overwrite, as_json=options.json)


def _export(options: argparse.Namespace) -> int:
    from ftkit.cli.llamafactory import export_file

    return export_file(options.recipe, out=options.out, overwrite=options.overwrite)


def _runs(options: argparse.Namespace) -> int:
    from ftkit.cli.runs import runs

    return runs(options.folder)


def _inspect(options: argparse.Namespace) -> int:
    from ftkit.cli.data import inspect

    settings = {"format": options.format, "subset": options.subset, "split": options.split}
    return inspect(
        options.source,
        model=options.model,
        template=options.template,
        row=options.row,
        as_json=options.json,
        offline=options.offline,
        **{name: value for name, value in settings.items() if value is not None},
    )


def _convert(options: argparse.Namespace) -> int:
    from ftkit.cli.data import convert

    settings = {"format": options.format, "subset": options.subset, "split": options.split}
    return convert(
        options.source,
        options.target,
        overwrite=options.overwrite,
        offline=options.offline,
        **{name: value for name, value in settings.items() if value is not None},
    )


def _convert_weights(options: argparse.Namespace) -> int:
    from ftkit.cli.weights import convert_weights

    return convert_weights(options.folder, options.out)


def _assignment(text: str) -> tuple[str, Any]:
    """`training.epochs=1` as a path and a value; the value is read as YAML reads it."""
    import yaml

    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        msg = f"{text!r} is not FIELD=VALUE, such as training.epochs=1"
        raise argparse.ArgumentTypeError(msg)
    try:
        return path.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        return path.strip(), value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ftkit", description="Fine-tune language models: in a notebook, in a script, or from here."
    )
    parser.add_argument("--version", action="version", version=f"ftkit {__version__}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text[0].lower() + text[1:].rstrip("."), description=text)
        sub.set_defaults(command=function)
        sub.add_argument("--debug", action="store_true", help="show tracebacks and the warnings of libraries")
        return sub

    def add_folder(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--folder", type=Path, default=Path("runs"), help="folder of the runs (default: runs)"
        )

    def add_source(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("source", metavar="PATH", help="a file or folder, a starter set or a Hub id")
        sub.add_argument("--format", metavar="NAME", help="the row format (default: recognised)")
        sub.add_argument("--subset", metavar="NAME", help="the dataset of a dataset_info.json or on the Hub")
        sub.add_argument("--split", metavar="NAME", help="split of a dataset on the Hub (default: train)")
        sub.add_argument("--offline", action="store_true", help="use only what is already on this machine")

    sub = command("demo", _demo, "Fine-tune the starter model on a small task and show that it learned.")
    add_folder(sub)
    sub.add_argument(
        "--model", default="starter", help="a Hub id, folder or GGUF file instead of the starter model"
    )
    sub.add_argument(
        "--quick", action="store_true", help="a few steps on a few rows: does everything work here?"
    )
    sub.add_argument("--offline", action="store_true", help="use only what is already on this machine")

    sub = command("lab", _lab, "Open JupyterLab on a notebook with the Lab.")
    sub.add_argument(
        "notebook", nargs="?", type=Path, help="the notebook (default: ./ftkit-lab.ipynb, made if absent)"
    )
    sub.add_argument("--port", type=int, help="port of the server (default: 8888 or the next free one)")
    sub.add_argument(
        "--no-browser", dest="browser", action="store_false", help="print the address, open nothing"
    )
    sub.add_argument("extra", nargs="*", metavar="-- OPTION", help="options for JupyterLab itself, after --")

    sub = command("run", _run, "Train by a recipe, or go on with a run that was stopped.")
    sub.add_argument(
        "recipe", type=Path, help="the recipe, a YAML file; or the folder of a run, to go on where it stopped"
    )
    sub.add_argument(
        "--set",
        type=_assignment,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the recipe, such as training.epochs=1; may be given several times",
    )
    sub.add_argument(
        "--fit", action="store_true", help="smaller batches and more recomputation where memory is short"
    )

    sub = command("import", _import, "Turn a file of LLaMA-Factory into a recipe; say what each key became.")
    sub.add_argument("file", metavar="FILE.yaml", type=Path, help="its YAML or JSON")
    sub.add_argument("--out", metavar="recipe.yaml", type=Path, help="write the recipe there")
    sub.add_argument("--overwrite", action="store_true", help="replace that file where it is there already")
    sub.add_argument("--json", action="store_true", help="all of it as one JSON object")

    sub = command("export", _export, "Turn a recipe into a file of LLaMA-Factory; say what it cannot say.")
    sub.add_argument("recipe", metavar="RECIPE", type=Path, help="a recipe's YAML, or a run's folder")
    sub.add_argument("--out", metavar="FILE.yaml", type=Path, help="write it there (default: print it)")
    sub.add_argument("--overwrite", action="store_true", help="replace that file where it is there already")

    sub = command("chat", _chat, "Talk to the model of a run.")
    sub.add_argument("run", help="the run's folder, or its name in --folder")
    add_folder(sub)
    sub.add_argument("--mode", choices=["adapter", "base", "both"], default="adapter", help="who answers")
    sub.add_argument("--system", metavar="TEXT", help="system prompt (default: the recipe's)")
    sub.add_argument("--temperature", type=float, help="0 always takes the likeliest token")
    sub.add_argument("--max-new-tokens", type=int, help="longest reply, in tokens")
    sub.add_argument("--seed", type=int, help="makes the replies repeatable")

    sub = command("data", None, "Look at a dataset before training on it, or write it as OpenAI messages.")
    actions = sub.add_subparsers(title="commands", metavar="COMMAND", required=True)
    text = "Print a dataset's format, counts, refused rows and findings."
    sub = actions.add_parser("inspect", help=text[0].lower() + text[1:-1], description=text)
    sub.set_defaults(command=_inspect)
    add_source(sub)
    sub.add_argument("--model", default="starter", help="whose tokenizer and chat template to use")
    sub.add_argument("--template", metavar="NAME", help="another chat template: a name or a Jinja file")
    sub.add_argument(
        "--row", type=int, metavar="N", help="also the tokens of this row, from 0, with their mask"
    )
    sub.add_argument("--json", action="store_true", help="all of it as one JSON object")
    text = "Write a dataset of any format as OpenAI messages, one JSON object a line."
    sub = actions.add_parser("convert", help=text[0].lower() + text[1:-1], description=text)
    sub.set_defaults(command=_convert)
    add_source(sub)
    sub.add_argument("target", metavar="OUT.jsonl", type=Path, help="the file to write")
    sub.add_argument("--overwrite", action="store_true", help="replace the file where it is there already")

    text = "Write a model folder with safetensors instead of pickled weights, in a process without network."
    sub = command("convert-weights", _convert_weights, text)
    sub.add_argument("folder", metavar="FOLDER", type=Path, help="the model folder with *.bin or *.pt")
    sub.add_argument("out", metavar="OUT", type=Path, help="the folder to write")

    sub = command("runs", _runs, "List the runs in a folder, newest first.")
    add_folder(sub)
    return parser
