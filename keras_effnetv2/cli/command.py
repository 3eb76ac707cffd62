"""Commands of Typer: options as dataclasses, help in sections, several words after an option."""

import copy
import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# Options that take several words: `--batch-sizes 1 16` is the same as `--batch-sizes 1
# --batch-sizes 16`, which is what Typer understands.
LISTS = ("--batch-sizes", "--formats", "--layer-offsets")


def option(metavar: str | None, help: str, default: Any = None, **details: Any) -> Any:
    """Return a `typer.Option` with its parameter's name; a default of `...` makes it required."""
    return typer.Option(default, metavar=metavar, help=help, **details)


def flag(name: str, help: str) -> Any:
    """Return a `typer.Option` that is on if it is given."""
    return typer.Option(False, name, help=help)


def argument(metavar: str, help: str, default: Any = ...) -> Any:
    """Return a `typer.Argument`, which is required unless it has a default."""
    return typer.Argument(default, metavar=metavar, help=help)


class OptionGroup:
    """Options that belong together: the fields of a frozen dataclass that inherits from this."""

    section: str | None = None  # of the help page; None is the first one

    def note(self, name: str) -> str:
        """Return an addition to a field's text on the help page, if this is a command's default."""
        return ""


def command(example: str) -> Callable[[Callable[..., int | None]], Any]:
    """Decorate a function as a command; its docstring is the help text.

    Its parameters are those of Typer. A parameter may also be an `OptionGroup`, which adds its
    fields as options; a default group provides the defaults of its fields. All commands have the
    option --debug.

    Args:
        example: shown unchanged at the end of the help page.
    """

    def decorate(function: Callable[..., int | None]) -> Any:
        parameters = inspect.signature(function).parameters.values()
        groups = {one.name: one.annotation for one in parameters if _is_group(one)}

        @functools.wraps(function)
        def run(*, debug: bool, **values: Any) -> int | None:
            for name, group in groups.items():
                values[name] = group(**{one.name: values.pop(one.name) for one in fields(group)})
            return function(**values)

        options = [option for one in parameters for option in _options(one)]
        options.append(_option("debug", bool, flag("--debug", "Show a traceback on failure.")))
        vars(run).update(example=example, __signature__=inspect.Signature(options))
        return run

    return decorate


def _is_group(parameter: inspect.Parameter) -> bool:
    return inspect.isclass(parameter.annotation) and issubclass(parameter.annotation, OptionGroup)


def _option(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _options(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """Yield the options of a parameter."""
    if not _is_group(parameter):
        yield _option(parameter.name, parameter.annotation, parameter.default)
        return
    group, defaults = parameter.annotation, parameter.default
    for field in fields(group):
        info: Any = copy.copy(field.default)
        info.rich_help_panel = group.section
        if defaults is not parameter.empty:
            info.help += defaults.note(field.name)
            value = getattr(defaults, field.name)
            info.default = info.default if value is field.default else value
        yield _option(field.name, field.type, info)


class Context(typer.Context):
    """A parsed command line, whose command does not run."""

    def invoke(self, *arguments: Any, **options: Any) -> Any:
        """Return the context of the command instead of running it."""
        return self


class _Page:
    """Changes to Typer's commands and groups."""

    context_class: Any = Context

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        valued = {
            name
            for option in self.params  # type: ignore[attr-defined]
            if not getattr(option, "is_flag", True)
            for name in option.opts
        }
        for name, value in itertools.pairwise(args):
            # Typer would take the name of the next option for a value, perhaps of --output.
            if name in valued and value.startswith("--"):
                raise typer.BadParameter("a value is missing.", ctx, param_hint=name)
        return super().parse_args(ctx, _name_each(args))  # type: ignore[misc]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the names of the arguments without the braces of Typer."""
        pieces = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        return [re.sub("[{}]", "", piece) for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options in sections, which Typer does only with boxes."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            name, text = parameter.get_help_record(ctx)
            title = parameter.rich_help_panel or "Options"
            if parameter.param_type_name == "argument":
                name, title = parameter.metavar, "Arguments"
            sections.setdefault(title, []).append((name, text))
        if isinstance(self, TyperGroup):
            helps = {
                name: (one.help or "").partition("\n\n")[0] for name, one in self.commands.items()
            }
            sections["Commands"] = [*helps.items()]
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the example as it is typed, without joining lines."""
        if example := self.epilog:  # type: ignore[attr-defined]
            with formatter.section("Example"):
                formatter.write(textwrap.indent(example, "  ") + "\n")


class Command(_Page, TyperCommand):
    """A command without subcommands."""


class Group(_Page, TyperGroup):
    """A command with subcommands."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the subcommand; its options may also come before its name."""
        name, below, words = super().resolve_command(ctx, args)
        values, source = ctx.params.items(), ctx.get_parameter_source
        given = {one: value for one, value in values if source(one).name == "COMMANDLINE"}
        ctx.default_map = {name: given}
        return name, below, words


def _name_each(words: Sequence[str]) -> list[str]:
    """Repeat the name of an option in `LISTS` before each of its words."""
    repeated: list[str] = []
    name = None
    for word in words:
        is_option = word.startswith("-") and not re.match(r"-\d", word)
        if name is not None and not is_option and repeated[-1] != name:
            repeated.append(name)
        repeated.append(word)
        if is_option:
            name = word if word in LISTS else None
    return repeated
