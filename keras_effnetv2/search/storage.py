"""Open the storage of a search, and read a study from it as plain data."""

import json
import re
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from keras_effnetv2._common.text import install_hint, without_passwords
from keras_effnetv2.search.record import StudyRecord, TrialRecord, TrialState
from keras_effnetv2.search.space import SearchSpace

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

DEFAULT_STORAGE = "sqlite:///search.db"

SETTINGS = "keras_effnetv2"
"""The attribute of a study with its settings; see `engine.run_search`."""

RESULTS = ("accuracy", "step_time", "step_seconds", "parameters", "score", "epochs")
"""Attributes of a complete trial, as in `TrialRecord`; one that failed has a "reason"."""

_SQLITE_WAIT = 60  # seconds for another process to finish its write; SQLite's own 5 are few
_MAKING_TABLES = 1.0  # seconds
_MADE_BY_OTHERS = ("already exists", "UNIQUE constraint", "unique constraint", "Duplicate entry")
_SQLITE, _JOURNAL, _REDIS, _GRPC = "sqlite:///", "journal:", "redis://", "grpc://"
_DRIVERS = (
    "for postgresql:// pip install 'psycopg[binary]', for mysql:// mysqlclient (or PyMySQL, and "
    "mysql+pymysql://), for redis:// redis, for grpc:// grpcio and protobuf"
)
_ALLOWED = (
    "a URL of SQLAlchemy (sqlite:///FILE, postgresql://..., mysql://...), journal:FILE, redis://..."
    " or grpc://HOST:PORT"
)


def require_optuna() -> Any:
    """Import Optuna; ImportError says how to install it."""
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            f"A search needs the package optuna, which cannot be imported ({error}). "
            + install_hint("search")
        ) from error
    return optuna


def open_storage(
    url: str, *, must_exist: bool = False, heartbeat_seconds: int | None = None
) -> "BaseStorage":
    """Open the storage of studies.

    Args:
        url: see `_ALLOWED` in the message of the error.
        must_exist: do not create a file.
        heartbeat_seconds: how often a worker says that it is alive, if the storage is a database;
            a trial whose worker is silent for three times as long counts as lost, and its network
            is tried once more (not twice: it may be the cause).

    Raises:
        ImportError: Optuna or the package for the database is not installed.
        ValueError: the storage does not exist or cannot be reached.
    """
    optuna = require_optuna()
    if not isinstance(url, str) or ":" not in url:
        raise ValueError(f"A storage must be {_ALLOWED}. Received: {url!r}")
    shown = without_password(url)
    path = _file_of(url)
    if path is not None and must_exist and not path.is_file():
        raise ValueError(
            f"There is no storage {shown!r}: {path} does not exist. Start a search first, "
            "or say where the study is kept (--storage, storage=)."
        )
    if path is not None and not path.absolute().parent.is_dir():
        raise ValueError(
            f"The storage {shown!r} cannot be made: there is no folder {path.absolute().parent}. "
            "Make it, or choose another file."
        )
    try:
        with warnings.catch_warnings():
            # Redis and heartbeats count as experimental, since 2021; nothing else finds a lost
            # worker.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return _open(optuna.storages, url, heartbeat_seconds)
    except ImportError as error:
        raise ImportError(
            f"The storage {shown!r} needs a package that cannot be imported "
            f"({error.__cause__ or error}). Install it: {_DRIVERS}."
        ) from error
    except Exception as error:  # of any database's driver
        details = getattr(error, "details", None)  # of gRPC, whose text begins with nothing
        text = str(details() if callable(details) else error) or repr(error)
        reason = text.splitlines()[0].rstrip(".")
        if _words(reason) & (_words(unquote(url)) - _words(unquote(shown))):
            reason = type(error).__name__  # "invalid literal for int(): 'half of the password"
        raise ValueError(
            f"The storage {shown!r} cannot be opened: {reason}. It must be {_ALLOWED}, and it must "
            "be reachable."
        ) from error


def _open(storages: Any, url: str, heartbeat_seconds: int | None) -> "BaseStorage":
    if url.startswith(_JOURNAL):
        file = url.removeprefix(_JOURNAL)
        return storages.JournalStorage(storages.journal.JournalFileBackend(file))
    if url.startswith(_REDIS):
        return storages.JournalStorage(storages.journal.JournalRedisBackend(url))
    if url.startswith(_GRPC):
        host, _, port = url.removeprefix(_GRPC).rpartition(":")
        proxy = storages.GrpcStorageProxy(host=host, port=int(port))
        proxy.get_all_studies()  # connects
        return proxy
    options: dict[str, Any] = {}
    if url.startswith(_SQLITE):
        options["engine_kwargs"] = {"connect_args": {"timeout": _SQLITE_WAIT}}
    if heartbeat_seconds is not None:
        options |= {
            "heartbeat_interval": heartbeat_seconds,
            "grace_period": 3 * heartbeat_seconds,
            "heartbeat_stale_trial_callback": storages.RetryHeartbeatStaleTrialCallback(1),
        }
    for is_last in (False, False, True):
        try:
            return storages.RDBStorage(url, **options)
        except Exception as error:  # each database has its own
            # Workers that begin at the same moment may all want to make the tables; then the second
            # try of those that came late finds them made.
            if is_last or not any(words in str(error) for words in _MADE_BY_OTHERS):
                raise
            time.sleep(_MAKING_TABLES)
    raise AssertionError("the last try returns or raises")


def without_password(url: str) -> str:
    """Return a URL that may be shown."""
    shown = without_passwords(url)
    if _file_of(url) is None:  # perhaps mistyped: all between a colon and the last @
        shown = re.sub(r"^((?:[\w+]+:/*)?[^/:]*:).*@", r"\1***@", shown)
    return re.sub(r"(?i)([?&][^=&]*pass[^=&]*=)[^&]*", r"\1***", shown)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def read_study(storage: str, name: str) -> StudyRecord:
    """Read a study from a storage, see `open_storage`.

    Raises:
        ImportError: Optuna or the package for the database is not installed.
        ValueError: the storage or study does not exist, or is not from this package.
    """
    opened = open_storage(storage, must_exist=True)
    optuna = require_optuna()
    try:
        study = optuna.load_study(study_name=name, storage=opened)
    except KeyError:
        known = optuna.get_all_study_names(opened)
        raise ValueError(
            f"There is no study {name!r} in {without_password(storage)}. There are: "
            f"{', '.join(known) or 'none'}."
        ) from None
    return as_record(study, storage)


def settings_of(study: "Study") -> tuple[SearchSpace, dict[str, Any]]:
    """Return space and other settings of a study; ValueError if it is not from this package."""
    if SETTINGS not in study.user_attrs:
        raise ValueError(
            f"The study {study.study_name!r} was not made by keras-effnetv2. Choose another name "
            "(--study, study=)."
        )
    try:
        settings = dict(json.loads(study.user_attrs[SETTINGS]))
        return SearchSpace.from_dict(settings.pop("space", None)), settings
    except (TypeError, ValueError, RecursionError) as error:
        raise _damaged(study, error) from None


def _damaged(study: "Study", error: Exception) -> ValueError:
    return ValueError(
        f"The study {study.study_name!r} is damaged: {error}. Put a copy of its storage in its "
        "place, or choose another name (--study, study=)."
    )


def as_record(study: "Study", storage: str) -> StudyRecord:
    """Return a study as plain data; ValueError if it is not from this package."""
    space, settings = settings_of(study)
    try:
        trials = [
            _as_record(trial, space)
            for trial in study.get_trials(deepcopy=False)
            # One that waits, or was lost before its network was drawn, is none yet.
            if trial.state.name != "WAITING" and set(space.parameters) <= set(trial.params)
        ]
    except (TypeError, ValueError) as error:
        raise _damaged(study, error) from None
    return StudyRecord(study.study_name, without_password(storage), space, settings, tuple(trials))


def _as_record(trial: "FrozenTrial", space: SearchSpace) -> TrialRecord:
    states: dict[str, TrialState] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    state = states.get(trial.state.name, "running")
    known: dict[str, Any] = {name: trial.user_attrs.get(name) for name in RESULTS}
    known["epochs"] = known["epochs"] or 0
    for name, value in known.items():
        if not isinstance(value, float | int | None):  # NaN is left to who compares
            raise ValueError(f"`{name}` of trial {trial.number} is {value!r}")
    if state != "complete":
        known |= {"accuracy": None, "score": None}
    reason = trial.user_attrs.get("reason", "interrupted, or its worker was lost")
    return TrialRecord(
        number=trial.number,
        state=state,
        config=space.sample(lambda name, choices: trial.params[name]),
        reason=reason if state == "failed" else None,
        **known,
    )


def _file_of(url: str) -> Path | None:
    prefix = next((one for one in (_SQLITE, _JOURNAL) if url.startswith(one)), None)
    path = "" if prefix is None else url.removeprefix(prefix)
    return Path(path) if path not in ("", ":memory:") else None
