"""`Sampling`: how a search chooses the next networks. Optuna is imported when it is needed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from keras_effnetv2._common.checks import check_choice, check_integer
from keras_effnetv2.search.storage import require_optuna

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

SamplerName = Literal["random", "tpe", "nsga2"]

_MEDIAN_OF = 5  # complete trials, before any is given up for being below their median


@dataclass(frozen=True)
class Sampling:
    """How networks are chosen.

    Args:
        sampler: "random"; "tpe", tree-structured Parzen estimators, for the best score; or "nsga2",
            a genetic algorithm for the front of accuracy, step time and parameters.
        startup_trials: number of random trials at the start; for "nsga2" the size of its
            population.
        prune: stop a network whose score after an epoch is below the median of the others at this
            epoch; not with "nsga2", which has no score.
        seed: seed of the choice, at least 0. A new search of one worker with the same seed starts
            with the same networks. Several workers need different seeds, or None.

    Raises:
        ValueError: the sampler is unknown, `startup_trials` is below 1, or the seed is below 0.
    """

    sampler: SamplerName = "tpe"
    startup_trials: int = 10
    prune: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        check_choice("sampler", self.sampler, get_args(SamplerName))
        check_integer("startup_trials", self.startup_trials, minimum=1)
        check_integer("seed", self.seed, minimum=0, or_none=True)

    @property
    def is_pareto(self) -> bool:
        """Return whether the search has several goals at once."""
        return self.sampler == "nsga2"

    def check_trials(self, trials: int) -> None:
        """Raise ValueError if there are so few trials that this sampler would never choose."""
        check_integer("trials", trials, minimum=1)
        if self.sampler != "random" and trials <= self.startup_trials:
            raise ValueError(
                f"{trials} trials would all be random, because {self.sampler!r} draws its first "
                f"{self.startup_trials} at random. Ask for more trials (--trials, trials=), fewer "
                "random ones (--startup-trials, startup_trials=) or another sampler (--sampler "
                "random, sampler='random')."
            )

    def make_sampler(self, tried: int) -> "BaseSampler":
        """Return Optuna's sampler.

        A continued search, with some trials `tried`, draws different networks than a new one.
        """
        samplers = require_optuna().samplers
        seed = None if self.seed is None else (self.seed + tried) % 2**32
        if self.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        if self.sampler == "tpe":
            return samplers.TPESampler(n_startup_trials=self.startup_trials, seed=seed)
        return samplers.NSGAIISampler(population_size=self.startup_trials, seed=seed)

    def make_pruner(self, epochs: int) -> "BasePruner":
        """Return Optuna's pruner, which does nothing in the first third of the epochs."""
        pruners = require_optuna().pruners
        if not self.prune or self.is_pareto:
            return pruners.NopPruner()
        return pruners.MedianPruner(n_startup_trials=_MEDIAN_OF, n_warmup_steps=epochs // 3 + 1)
