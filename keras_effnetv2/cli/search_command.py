"""The command `search`: architectures for one's own pictures, and `search show`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

from keras_effnetv2.architectures.config_file import read_config
from keras_effnetv2.cli.options import DataIfAny, DataOptions, RecipeOptions, check_data
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.search.objective import Objective
from keras_effnetv2.search.storage import DEFAULT_STORAGE

if TYPE_CHECKING:
    from keras_effnetv2.search.space import SearchSpace

_STORAGE = (
    "Where the study is kept; all workers share it: sqlite:///FILE (one machine), "
    "postgresql://... or mysql://... (several), journal:FILE (a network disk), redis://..., "
    "grpc://HOST:PORT."
)
Storage = Annotated[str, Option(metavar="URL", help=_STORAGE)]


_RECIPE = RecipeOptions("search")
_LAYER_OFFSETS = [-1, 0, 1]


def search(
    *,
    data: DataIfAny = None,
    trials: int | None = None,
    storage: Storage = DEFAULT_STORAGE,
    study: str = "search",
    data_options: DataOptions,
    backbone: str = "efficientnetv2-b0",
    space: Path | None = None,
    layer_offsets: list[int] = _LAYER_OFFSETS,
    sampler: Literal["random", "tpe", "nsga2"] = "tpe",
    startup_trials: int = 10,
    no_prune: bool = False,
    sampler_seed: int | None = None,
    step_time_exponent: float = Objective.step_time_exponent,
    parameters_exponent: float = Objective.parameters_exponent,
    recipe_options: RecipeOptions = _RECIPE,
) -> None:
    """Search for networks that are accurate, quick to train and small, on your own pictures.

    Options:
      --trials N: Total number of trials in the study, of all workers together.
      --study NAME: Name in the storage; a study of this name is continued.

    Which networks:
      --backbone VARIANT_OR_FILE: The network that gives widths and strides, and that times are
        compared with.
      --space FILE: A search space as JSON (SearchSpace.to_dict).  [default: the paper's, around
        the backbone]
      --layer-offsets N...: How many layers a stage may have more than the backbone's.

    How networks are chosen:
      --sampler: tpe: towards the best score; nsga2: towards the front of accuracy, step time and
        parameters.
      --startup-trials N: Random trials at first.
      --no-prune: Also train hopeless networks to the end.
      --sampler-seed N: Seed of the choice; several workers need different ones.
      --step-time-exponent W: w of the score accuracy * step_time^w * parameters^v.
      --parameters-exponent V: v of the score.

    Example:
      keras-effnetv2 search --data photos/ --trials 50
      keras-effnetv2 search show search   # what it has found; also while it runs
    """
    if data is None or trials is None:
        missing = [name for name, value in (("data", data), ("trials", trials)) if value is None]
        raise ValueError(f"A search needs {' and '.join(f'--{name}' for name in missing)}.")
    networks = _space(space, backbone, layer_offsets)
    objective = Objective(step_time_exponent, parameters_exponent)
    recipe_options.check()
    check_data(data)
    start_tensorflow()
    from keras_effnetv2.data.training_data import TrainingData
    from keras_effnetv2.search.engine import Sampling, run_search
    from keras_effnetv2.search.storage import require_optuna
    from keras_effnetv2.search.summary import describe

    # Its own lines would repeat ours.
    optuna = require_optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    result = run_search(
        networks,
        TrainingData(data, **{**vars(data_options), "cache": data_options.cache or "memory"}),
        trials=trials,
        storage=storage,
        study=study,
        recipe=recipe_options.load(),
        objective=objective,
        sampling=Sampling(sampler, startup_trials, not no_prune, sampler_seed),
        echo=_say,
    )
    print(describe(result))


def _space(path: Path | None, backbone: str, layer_offsets: list[int]) -> "SearchSpace":
    from keras_effnetv2.search.space import SearchSpace

    if path is None:
        return SearchSpace.from_backbone(read_config(backbone), layer_offsets=layer_offsets)
    try:
        return SearchSpace.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no search space: {error}") from None


def _say(line: str) -> None:
    print(line, flush=True)  # also into a file, where one watches for hours


def show_search(study: str, storage: Storage = DEFAULT_STORAGE, output: Path | None = None) -> None:
    """Show what a study has found; write report.html, best.json, front.csv and pareto.svg.

    Options:
      study STUDY: Name of the study in the storage.
      --output DIR: Folder to write the files to.  [default: search-STUDY]

    Example:
      keras-effnetv2 search show search
    """
    from keras_effnetv2.search.storage import read_study
    from keras_effnetv2.search.study_page import write_results
    from keras_effnetv2.search.summary import describe

    record = read_study(storage, study)
    print(describe(record))
    for path in write_results(record, output or Path(f"search-{study}")):
        print(f"wrote {path}")
