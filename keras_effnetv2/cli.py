"""The command `keras-effnetv2`: parse, call, print. A command imports what it needs."""

import argparse
import importlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_effnetv2.cli_parser import make_parser
from keras_effnetv2.config import ModelConfig

if TYPE_CHECKING:
    from keras_effnetv2.data.sources import ImageSource
    from keras_effnetv2.training.recipe import TrainRecipe
    from keras_effnetv2.training.run_folder import Run

_WORST_CLASSES = 10  # lines of the table that `evaluate` prints


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the words after the program's name; default those of the process.

    Returns:
        The exit code: 0, or 1 for a failure, which is printed to stderr without a traceback
        (with one under --debug). Wrong usage ends the process with 2, as argparse does.
    """
    arguments = make_parser().parse_args(argv)
    try:
        if not arguments.debug:
            _start_tensorflow_quietly()
        return _COMMANDS[arguments.command](arguments) or 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 1
    except Exception as error:
        if arguments.debug:
            raise
        # A KeyError's text is only the key; an error without text still needs its kind.
        text = str(error) if str(error) and not isinstance(error, KeyError) else repr(error)
        print(f"error: {text}", file=sys.stderr)
        return 1


def _start_tensorflow_quietly() -> None:
    """Imports TensorFlow without its start-up messages, which tell a person at a terminal nothing.

    Some are written before any setting of TensorFlow's is read, straight to the file descriptor.
    What it writes if the import fails is shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as captured:
        terminal = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except BaseException:
            captured.seek(0)
            os.write(terminal, captured.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


# --- commands -----------------------------------------------------------------------------------


def _train(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.training.fit import train

    train(
        arguments.model,
        arguments.data,
        _recipe(arguments),
        arguments.output,
        validation_fraction=arguments.validation_fraction,
        max_train_examples=arguments.max_train_examples,
        weights=arguments.weights,
        skip_bad=arguments.skip_bad,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        # A bar redraws its line; into a file or a pipe one line an epoch is better.
        verbose=1 if sys.stdout.isatty() else 2,
    )


def _recipe(arguments: argparse.Namespace) -> "TrainRecipe":
    """The preset or file, changed by the options that were given."""
    from dataclasses import fields, replace

    from keras_effnetv2.training.recipe import TrainRecipe

    if arguments.recipe is None:
        recipe = TrainRecipe.preset(arguments.preset)
    else:
        recipe = TrainRecipe.from_dict(_read_recipe(arguments.recipe))
    names = {field.name for field in fields(TrainRecipe)}
    return replace(recipe, **{k: v for k, v in vars(arguments).items() if k in names})


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the recipe.json of a run: {error!r}") from None
    return recipe


def _evaluate(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.data.scan import BadPicturesError, drop_bad, find_bad_pictures
    from keras_effnetv2.evaluation import evaluate_source
    from keras_effnetv2.training.run_folder import open_run

    run = open_run(arguments.run)
    source = _source_to_judge(run, arguments.data, arguments.split)
    bad = find_bad_pictures(source, progress=_progress("checking"))
    if bad and not arguments.skip_bad:
        raise BadPicturesError(bad)
    for picture in bad:
        print(f"left out: {picture.name!r}: {picture.reason}", file=sys.stderr)
    source = drop_bad(source, bad) if bad else source
    evaluation = evaluate_source(
        run.model,
        source,
        image_size=run.image_size,
        style=run.style,
        batch_size=arguments.batch_size,
        progress=_progress("evaluating"),
    )
    result = {
        "run": str(run.path),
        "data": source.spec,
        "split": source.split,
        "pictures": source.num_examples,
        "left_out": len(bad),
        "accuracy": evaluation.accuracy,
        "top_5_accuracy": evaluation.top_accuracy(5),
        "loss": evaluation.loss,
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print("\n".join(f"{name:<15} {_figure(value)}" for name, value in result.items()))
    print(f"\n{'class':<30} pictures  recall")
    recalls = evaluation.recall_by_class()
    counts = source.class_counts()
    present = [label for label in range(len(counts)) if counts[label]]
    for label in sorted(present, key=recalls.__getitem__)[:_WORST_CLASSES]:
        print(f"{source.class_names[label]:<30} {counts[label]:>8}  {recalls[label]:6.1%}")
    if len(present) > _WORST_CLASSES:
        print(f"(the {_WORST_CLASSES} worst of {len(present)} classes)")


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _source_to_judge(run: "Run", spec: str, split: str | None) -> "ImageSource":
    """The pictures to evaluate a run on: never those it was trained on, unless asked for."""
    from keras_effnetv2.data.sources import available_splits, load_source

    trained_on = run.settings["training"]["spec"]
    same = spec == trained_on or (
        os.path.exists(spec) and os.path.exists(trained_on) and os.path.samefile(spec, trained_on)
    )
    if split is None:
        split = "all"
        if "test" in available_splits(spec):
            split = "test"
        elif same:
            split = "validation"
    return load_source(
        spec,
        split,
        class_names=run.class_names,
        validation_fraction=run.settings["validation_fraction"] if same else None,
        seed=run.settings["recipe"]["seed"],
    )


def _predict(arguments: argparse.Namespace) -> int:
    import numpy as np

    from keras_effnetv2.preprocess import prepare_batch

    if arguments.top < 1:
        raise ValueError(f"--top must be at least 1. Received: {arguments.top}")
    model, names, image_size, style = _model_to_use(arguments.model, arguments.weights)
    results: list[dict[str, Any]] = []
    for path in arguments.pictures:
        try:
            data = path.read_bytes()
        except OSError as error:
            results.append({"picture": str(path), "error": error.strerror})
            continue
        images, (problem,) = prepare_batch([data], image_size, style)
        if problem.numpy():
            results.append({"picture": str(path), "error": problem.numpy().decode()})
            continue
        (scores,) = model.predict_on_batch(images)
        best = np.argsort(-scores, kind="stable")[: arguments.top]
        classes = [{"class": names[index], "score": float(scores[index])} for index in best]
        results.append({"picture": str(path), "classes": classes})
    if arguments.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        _print_predictions(results)
    return 1 if any("error" in result for result in results) else 0


def _print_predictions(results: list[dict[str, Any]]) -> None:
    width = max(len(result["picture"]) for result in results)
    for result in results:
        shown = f"{result['picture']:<{width}}"
        if "error" in result:
            print(f"{shown}  error: {result['error']}")
            continue
        for found in result["classes"]:
            print(f"{shown}  {found['score']:7.2%}  {found['class']}")
            shown = " " * width


def _model_to_use(name: str, weights: str | None) -> tuple[Any, Sequence[str], int, str]:
    """Model, class names, picture size and style of a run or of a variant."""
    if name in ModelConfig.variants():
        from keras_effnetv2.model import build_model

        config = ModelConfig.from_name(name)
        model = build_model(config, weights=weights or "imagenet")
        names = [str(index) for index in range(model.output_shape[-1])]
        style = "v1" if config.normalization == "imagenet" else "v2"
        return model, names, config.eval_size, style
    if weights is not None:
        raise ValueError(
            "--weights goes with a variant; a run has its own weights. Known variants: "
            + ", ".join(ModelConfig.variants())
        )
    if not os.path.isdir(name):
        raise ValueError(
            "RUN_OR_VARIANT must be the folder of a run or one of "
            f"{', '.join(ModelConfig.variants())}. Received: {name!r}"
        )
    from keras_effnetv2.training.run_folder import open_run

    run = open_run(name)
    return run.model, run.class_names, run.image_size, run.style


def _export(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.export import export_saved_model
    from keras_effnetv2.training.run_folder import SAVED_MODEL, open_run

    run = open_run(arguments.run)
    written = export_saved_model(
        run.model,
        arguments.output or run.path / SAVED_MODEL,
        run.class_names,
        version=arguments.version,
        top_k=arguments.top_k,
        image_size=run.image_size,
        style=run.style,
    )
    print(written)


def _info(arguments: argparse.Namespace) -> None:
    config = ModelConfig.from_name(arguments.variant)
    if arguments.json:
        print(config.to_json())
        return
    from keras_effnetv2.architecture import count_flops, stage_table
    from keras_effnetv2.model import build_model
    from keras_effnetv2.pretrained.registry import PUBLISHED

    size = arguments.image_size or config.eval_size
    model = build_model(config, classes=arguments.classes)
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    print(f"{config.name}, {arguments.classes} classes")
    print(
        f"{'parameters':<17} {trainable / 1e6:.2f} million trainable, {model.count_params():,} all"
    )
    print(f"{'multiply-adds':<17} {count_flops(model, size) / 1e9:.2f} billion at {size} x {size}")
    print(f"{'trained at':<17} up to {config.train_size} px, evaluated at {config.eval_size} px")
    print(f"{'dropout':<17} {config.dropout_rate:g}")
    print(f"{'published weights':<17} {', '.join(PUBLISHED[config.name])}")
    print(f"\nstage  {'operator':<28} stride  channels  layers  output")
    for row in stage_table(config, size):
        print(
            f"{row.stage:>5}  {row.operator:<28} {row.stride:>6}  {row.channels:>8}  "
            f"{row.layers:>6}  {row.size[0]} x {row.size[1]}"
        )


def _progress(label: str) -> Callable[[int, int], None] | None:
    """Prints progress on one line of a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{label} {done:,} / {total:,}", end=end, file=sys.stderr, flush=True)

    return show


_COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "info": _info,
}
