"""The commands `search` (architectures for your own pictures) and `search show`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from keras_effnetv2._common.files import read_json
from keras_effnetv2._common.text import say
from keras_effnetv2.cli.command import OptionGroup, argument, command, flag, option
from keras_effnetv2.cli.options import (
    DATA_IF_ANY,
    DataOptions,
    RecipeOptions,
    read_network,
)
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.search.objective import Objective
from keras_effnetv2.search.sampling import Sampling
from keras_effnetv2.search.storage import DEFAULT_STORAGE, require_optuna

if TYPE_CHECKING:
    from keras_effnetv2.search.space import SearchSpace

STORAGE = option(
    "URL",
    "Where to keep the study; all workers share it: sqlite:///FILE (one machine), "
    "postgresql://... or mysql://... (several), journal:FILE (a network disk), redis://..., "
    "grpc://HOST:PORT.",
    DEFAULT_STORAGE,
)


@dataclass(frozen=True)
class SpaceOptions(OptionGroup):
    """The networks that are searched."""

    section = "Which networks"

    backbone: str = option(
        "VARIANT_OR_FILE",
        "The network whose widths and strides are used, and the baseline for times.",
        "efficientnetv2-b0",
    )
    space: Path | None = option(
        "FILE",
        "A search space as JSON (SearchSpace.to_dict). [default: the paper's, around the backbone]",
    )
    layer_offsets: list[int] = option(
        "N...", "How many more (or fewer) layers than the backbone's a stage may have.", [-1, 0, 1]
    )

    def load(self) -> "SearchSpace":
        """Return the search space."""
        from keras_effnetv2.search.space import SearchSpace

        path = self.space
        if path is None:
            backbone = read_network(self.backbone, "--backbone")
            return SearchSpace.from_backbone(backbone, layer_offsets=self.layer_offsets)
        try:
            return SearchSpace.from_dict(read_json(path))
        except OSError as error:
            raise ValueError(f"--space: {path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"--space: {path} is not a search space: {error}") from None


@dataclass(frozen=True)
class ChoiceOptions(OptionGroup):
    """How the next network is chosen, and how networks are scored."""

    section = "How networks are chosen"

    sampler: Literal["random", "tpe", "nsga2"] = option(
        None,
        "tpe searches for the best score; nsga2 for the best combinations of accuracy, step time "
        "and parameters.",
        Sampling.sampler,
    )
    startup_trials: int = option(
        "N", "Number of random trials at the start.", Sampling.startup_trials
    )
    no_prune: bool = flag("--no-prune", "Train hopeless networks to the end, too.")
    sampler_seed: int | None = option(
        "N", "Seed of the choice; several workers need different seeds."
    )
    step_time_exponent: float = option(
        "W", "w of the score accuracy * step_time^w * parameters^v.", Objective.step_time_exponent
    )
    parameters_exponent: float = option("V", "v of the score.", Objective.parameters_exponent)


@dataclass(frozen=True)
class TrialOptions(RecipeOptions):
    """The recipe of the short trainings."""

    usual = "search"


_RECIPE = TrialOptions(None)


@command(
    "keras-effnetv2 search --data photos/ --trials 50\n"
    "keras-effnetv2 search show search   # its results, also while it runs"
)
def search(
    *,
    data: str | None = DATA_IF_ANY,
    trials: int | None = option(
        "N", "Total number of trials in the study, by all workers together."
    ),
    storage: str = STORAGE,
    study: str = option(
        "NAME", "Name of the study in the storage; an existing one is continued.", "search"
    ),
    data_options: DataOptions,
    space_options: SpaceOptions,
    choice: ChoiceOptions,
    recipe_options: TrialOptions = _RECIPE,
) -> None:
    """Search for networks that are accurate, fast to train and small, on your own pictures."""
    if data is None or trials is None:
        missing = [name for name, value in (("data", data), ("trials", trials)) if value is None]
        raise ValueError(f"A search needs {' and '.join(f'--{name}' for name in missing)}.")
    networks = space_options.load()
    objective = Objective(choice.step_time_exponent, choice.parameters_exponent)
    sampling = Sampling(
        choice.sampler, choice.startup_trials, not choice.no_prune, choice.sampler_seed
    )
    sampling.check_trials(trials)
    recipe = recipe_options.load(networks.backbone.name)
    recipe = recipe or recipe_options.changed(TrainRecipe.preset(recipe_options.usual))
    data_options.check(data, recipe.class_weights)
    optuna = require_optuna()
    start_tensorflow()
    from keras_effnetv2.data.training_data import TrainingData
    from keras_effnetv2.search.engine import run_search
    from keras_effnetv2.search.summary import describe

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its own lines would repeat ours
    result = run_search(
        networks,
        TrainingData(data, **{**vars(data_options), "cache": data_options.cache or "memory"}),
        trials=trials,
        storage=storage,
        study=study,
        recipe=recipe,
        objective=objective,
        sampling=sampling,
        echo=say,
    )
    say(describe(result))


@command("keras-effnetv2 search show search")
def show(
    study: str = argument("STUDY", "Name of the study in the storage."),
    storage: str = STORAGE,
    output: Path | None = option("DIR", "Folder to write the files to. [default: search-STUDY]"),
) -> None:
    """Show the results of a study; write report.html, best.json, front.csv and pareto.svg."""
    from keras_effnetv2.search.storage import read_study
    from keras_effnetv2.search.study_page import write_results
    from keras_effnetv2.search.summary import describe

    record = read_study(storage, study)
    say(describe(record))
    for path in write_results(record, output or Path(f"search-{study}")):
        say(f"wrote {path}")
