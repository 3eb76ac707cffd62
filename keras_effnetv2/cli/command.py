"""How a function becomes a command: its options, its help page, several words after an option.

Typer reads the words of a command line. Here it does not run the command: it returns a `Call`, so
that a command line can be checked without running it, and all errors are caught in one place.
"""

import copy
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

PROGRAM = "keras-effnetv2"

Command = Callable[..., int | None]

# Options that take several words: `--batch-sizes 1 16` is the same as `--batch-sizes 1
# --batch-sizes 16`, which is what Typer understands.
LISTS = ("--batch-sizes", "--formats", "--layer-offsets")

_OPTIONS, _EXAMPLE = "Options", "Example"  # sections of a help page
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback on failure.")]


@dataclass(frozen=True)
class Call:
    """A command line that was understood.

    Attributes:
        context: of the command, for its usage line.
        function: what runs it; it returns an exit code or None.
        values: what was given for each option, or its default.
    """

    context: typer.Context
    function: Command
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The command, e.g. "train" or "weights fetch"."""
        return self.context.command_path.removeprefix(f"{PROGRAM} ")

    def run(self) -> int:
        """Run the command and return its exit code.

        Raises:
            typer.BadParameter: options that do not go together.
        """
        arguments = {
            name: self._value(name, parameter.annotation)
            for name, parameter in _parameters(self.function).items()
        }
        try:
            return self.function(**arguments) or 0
        except typer.BadParameter as error:
            error.ctx = self.context
            raise

    def _value(self, name: str, annotation: Any) -> Any:
        if not _is_group(annotation):
            return self.values[name]
        return annotation(**{field.name: self.values[field.name] for field in fields(annotation)})


class OptionGroup:
    """Options that several commands have, for a frozen dataclass to inherit from."""

    def shown_defaults(self) -> Mapping[str, str]:
        """Return name -> text of the defaults that the help page shows in place of the fields'."""
        return {}


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, OptionGroup)


def add_command(app: typer.Typer, function: Command, name: str = "") -> None:
    """Make a command of a function.

    Its docstring is the help page, as in `keras_effnetv2.cli.predict_command`: a section has a line
    "name METAVAR: help" for each argument and a line "--name METAVAR: help" for each option that
    is not annotated with a help text; the section "Example:" is shown as it is. A parameter may
    also be an `OptionGroup`, with such a docstring of its own; its default, if there is one, gives
    the defaults of its fields.

    Args:
        app: gets the command.
        function: what runs it.
        name: of the command; default that of the function.
    """
    app.command(name or function.__name__, cls=_Command, **_page(function))(_reader(function))


def add_group(
    app: typer.Typer,
    function: Command,
    name: str,
    actions: Mapping[str, Command],
) -> None:
    """Make a command of a function that has further commands below it.

    An option of both may stand on either side of the action's name.

    Args:
        app: gets the command.
        function: what runs without an action; see `add_command`.
        name: of the command.
        actions: name -> function of the commands below.
    """
    group = typer.Typer(rich_markup_mode=None)
    for action, below in actions.items():
        add_command(group, below, action)
    app.add_typer(
        group,
        name=name,
        cls=Group,
        callback=_reader(function),
        invoke_without_command=True,
        subcommand_metavar="[ACTION]",
        **_page(function),
    )


def _sections(owner: Any) -> dict[str, str]:
    """Return title -> text of the sections of a docstring; "" is what comes first."""
    text, *parts = re.split(r"\n\n([A-Z].*):\n(?= )", inspect.cleandoc(owner.__doc__))
    titles, texts = parts[::2], map(textwrap.dedent, parts[1::2])
    return {"": text, **dict(zip(titles, texts, strict=True))}


def _page(function: Command) -> dict[str, Any]:
    sections = _sections(function)
    return {"help": sections[""], "epilog": sections[_EXAMPLE]}


def _entries(owner: Any) -> dict[str, Any]:
    """Return parameter -> its `typer.Option` or `typer.Argument`, as a docstring has them."""
    entries: dict[str, Any] = {}
    for title, text in _sections(owner).items():
        lines = "" if title in ("", _EXAMPLE) else text
        for entry in re.findall(r"^\S.*(?:\n +.*)*", lines, flags=re.MULTILINE):
            head, _, help = " ".join(entry.split()).partition(": ")
            names, _, metavar = head.partition(" ")
            details: Any = {"metavar": metavar or None, "help": help}
            if names.startswith("--"):
                parameter = names.partition("/")[0].removeprefix("--").replace("-", "_")
                panel = None if title == _OPTIONS else title
                entries[parameter] = typer.Option(names, rich_help_panel=panel, **details)
            else:
                entries[names] = typer.Argument(**details)
    return entries


def _parameters(function: Command) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _reader(function: Command) -> Callable[..., Call]:
    """Return what Typer calls in place of a function: it takes all options, and returns a Call."""
    options = [inspect.Parameter("context", _KEYWORD, annotation=typer.Context)]
    entries = _entries(function)
    for parameter in _parameters(function).values():
        if _is_group(parameter.annotation):
            options += _of_group(parameter)
        else:
            options.append(_annotated(parameter, entries))
    options.append(inspect.Parameter("debug", _KEYWORD, default=False, annotation=_Debug))

    def read(context: typer.Context, **values: Any) -> Call:
        if context.invoked_subcommand is not None:  # it gets what stands before its name
            given = {name: value for name, value in values.items() if _is_given(context, name)}
            context.default_map = {context.invoked_subcommand: given}
        return Call(context, function, values)

    read.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    read.__annotations__ = {option.name: option.annotation for option in options}
    return read


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _of_group(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """Return a parameter for each field of a group of options."""
    group = parameter.annotation
    given = None if parameter.default is inspect.Parameter.empty else parameter.default
    shown = {} if given is None else given.shown_defaults()
    entries = _entries(group)
    options = []
    for field in fields(group):
        default = field.default if given is None else getattr(given, field.name)
        default = inspect.Parameter.empty if default is MISSING else default
        option = inspect.Parameter(field.name, _KEYWORD, default=default, annotation=field.type)
        options.append(_annotated(option, entries))
        if field.name in shown:
            options[-1].annotation.__metadata__[0].help += f"  [{shown[field.name]}]"
    return options


def _annotated(parameter: inspect.Parameter, entries: Mapping[str, Any]) -> inspect.Parameter:
    """Return a parameter as Typer wants it, described by itself or by its entry."""
    kind, info = parameter.annotation, None
    if get_origin(kind) is Annotated:
        kind, info = get_args(kind)
    if info is None:
        info = entries[parameter.name]
    elif info.help is None:
        info, entry = copy.copy(info), entries[parameter.name]
        info.metavar = entry.metavar or info.metavar
        info.help, info.rich_help_panel = entry.help, entry.rich_help_panel
    return parameter.replace(kind=_KEYWORD, annotation=Annotated[kind, info])


class _Page:
    """What Typer's commands and groups do differently here."""

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
        pieces = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        return [re.sub(r"^{(.*)}", r"\1", piece) for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options in sections, which Typer does with boxes only."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            name, text = parameter.get_help_record(ctx)
            title = parameter.rich_help_panel or _OPTIONS
            if parameter.param_type_name == "argument":
                name, title = parameter.metavar, "Arguments"
            sections.setdefault(title, []).append((name, text))
        if isinstance(self, TyperGroup):
            sections["Commands"] = [(name, one.help or "") for name, one in self.commands.items()]
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples as they are typed, without filling lines."""
        if examples := self.epilog:  # type: ignore[attr-defined]
            with formatter.section(_EXAMPLE):
                formatter.write(textwrap.indent(examples, "  ") + "\n")


class _Command(_Page, TyperCommand):
    pass


class Group(_Page, TyperGroup):
    """A command that has further commands below it."""


def _name_each(words: Sequence[str]) -> list[str]:
    """Repeat the name of an option of `LISTS` before each word that follows it."""
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
