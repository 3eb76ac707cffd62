"""The command `search`: architectures for one's own pictures, and `search show`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from keras_effnetv2.architectures.config_file import read_config
from keras_effnetv2.cli.training_options import add_data_options, add_recipe_options, recipe_of

if TYPE_CHECKING:
    from keras_effnetv2.search.space import SearchSpace

_DEFAULT_STORAGE = "sqlite:///search.db"
_STORAGE_HELP = (
    "where the study is kept, shared by all workers: sqlite:///FILE (one machine), "
    "postgresql://... or mysql://... (many), journal:FILE (a network disk), redis://..., "
    "grpc://HOST:PORT"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `search` and `search show` to the parser."""
    add_data_options(parser, required=False)
    add = parser.add_argument
    add("--trials", type=int, metavar="N", help="that the study has in the end")
    add("--storage", default=_DEFAULT_STORAGE, metavar="URL", help=_STORAGE_HELP)
    add("--study", default="search", metavar="NAME", help="in the storage; go on with it, if there")
    space = parser.add_argument_group("which networks")
    space.add_argument(
        "--backbone",
        default="efficientnetv2-b0",
        metavar="VARIANT_OR_FILE",
        help="gives widths and strides, and is what times are compared with",
    )
    space.add_argument(
        "--space",
        type=Path,
        metavar="FILE",
        help="a search space as JSON (SearchSpace.to_dict), in place of the paper's around the "
        "backbone",
    )
    space.add_argument(
        "--layer-offsets",
        type=int,
        nargs="+",
        default=[-1, 0, 1],
        metavar="N",
        help="layers more than the backbone's in each stage",
    )
    choice = parser.add_argument_group("how networks are chosen")
    choice.add_argument(
        "--sampler",
        choices=("random", "tpe", "nsga2"),
        default="tpe",
        help="tpe: for the best score; nsga2: for the front of accuracy, step time, parameters",
    )
    choice.add_argument(
        "--startup-trials", type=int, default=10, metavar="N", help="random ones at first"
    )
    choice.add_argument("--no-prune", action="store_true", help="train hopeless networks, too")
    choice.add_argument(
        "--sampler-seed", type=int, metavar="N", help="for one worker (default: none)"
    )
    choice.add_argument(
        "--step-time-exponent", type=float, default=-0.07, help="w of the score A * S**w * P**v"
    )
    choice.add_argument(
        "--parameters-exponent", type=float, default=-0.05, help="v of the score A * S**w * P**v"
    )
    add_recipe_options(parser.add_argument_group("the short training"), "search")
    _add_show(parser)


def _add_show(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="search_command", metavar="show")
    show = commands.add_parser(
        "show",
        help="show what a study has found, and write a report",
        description="Show what a study has found, and write report.html, best.json, front.csv and "
        "pareto.svg.",
    )
    show.add_argument("study", metavar="STUDY", help="its name in the storage")
    unset = argparse.SUPPRESS
    show.add_argument("--storage", metavar="URL", default=unset, help=_STORAGE_HELP)
    show.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where the files are written (default: search-STUDY)",
    )
    show.add_argument("--debug", action="store_true", default=unset, help="show a traceback")
    show.set_defaults(starts_tensorflow=False)


def search(arguments: argparse.Namespace) -> None:
    """Runs the command."""
    if arguments.search_command == "show":
        _show(arguments)
        return
    missing = [name for name in ("data", "trials") if getattr(arguments, name) is None]
    if missing:
        raise ValueError(f"A search needs {' and '.join(f'--{name}' for name in missing)}.")
    space = _space(arguments)

    from keras_effnetv2.data.training_data import TrainingData
    from keras_effnetv2.search.engine import Sampling, run_search
    from keras_effnetv2.search.objective import Objective
    from keras_effnetv2.search.storage import require_optuna

    # Its own lines would repeat ours.
    optuna = require_optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = run_search(
        space,
        TrainingData(
            arguments.data,
            validation_fraction=arguments.validation_fraction,
            max_train_examples=arguments.max_train_examples,
            skip_bad=arguments.skip_bad,
            scan=arguments.scan,
            cache=arguments.cache or "memory",
        ),
        trials=arguments.trials,
        storage=arguments.storage,
        study=arguments.study,
        recipe=recipe_of(arguments),
        objective=Objective(arguments.step_time_exponent, arguments.parameters_exponent),
        sampling=Sampling(
            arguments.sampler,
            arguments.startup_trials,
            not arguments.no_prune,
            arguments.sampler_seed,
        ),
        echo=_say,
    )
    from keras_effnetv2.search.summary import describe

    print(describe(study))


def _say(line: str) -> None:
    print(line, flush=True)  # also into a file, where one watches for hours


def _space(arguments: argparse.Namespace) -> "SearchSpace":
    from keras_effnetv2.search.space import SearchSpace

    if arguments.space is None:
        backbone = read_config(arguments.backbone)
        return SearchSpace.from_backbone(backbone, layer_offsets=arguments.layer_offsets)
    try:
        return SearchSpace.from_dict(json.loads(arguments.space.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{arguments.space} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{arguments.space} holds no search space: {error}") from None


def _show(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.search.storage import read_study
    from keras_effnetv2.search.study_page import write_results
    from keras_effnetv2.search.summary import describe

    study = read_study(arguments.storage, arguments.study)
    print(describe(study))
    folder = arguments.output or Path(f"search-{arguments.study}")
    for path in write_results(study, folder):
        print(f"wrote {path}")
