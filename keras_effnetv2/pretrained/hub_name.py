"""Names of repositories of the Hugging Face hub: hf://OWNER/NAME[@REVISION]."""

import re
from typing import Any, NamedTuple, TypeGuard

from keras_effnetv2._common.text import install_hint

_MEANT = re.compile(r"hf:|(https?://)?(www\.)?(huggingface\.co|hf\.co)/", re.IGNORECASE)
_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"hf://({_WORD}/{_WORD})(?:@({_WORD}(?:/{_WORD})*))?")


class Repository(NamedTuple):
    """A repository of models on the Hugging Face hub."""

    id: str  # OWNER/NAME
    revision: str | None = None  # a branch, tag or commit; None is the main branch


def is_hub_name(name: object) -> TypeGuard[str]:
    """Return whether a text is meant as the name of a repository, also misspelt."""
    return isinstance(name, str) and _MEANT.match(name) is not None


def parse_hub_name(name: str) -> Repository:
    """Return the repository of a name hf://OWNER/NAME[@REVISION].

    Raises:
        ValueError: it is misspelt.

    Examples:
        >>> parse_hub_name("hf://timm/tf_efficientnetv2_s.in21k_ft_in1k@main")
        Repository(id='timm/tf_efficientnetv2_s.in21k_ft_in1k', revision='main')
    """
    match = _NAME.fullmatch(name)
    if match is None or ".." in name or "--" in match[1]:
        raise ValueError(
            "A repository of the Hugging Face hub is named hf://OWNER/NAME[@REVISION], for example "
            "hf://timm/tf_efficientnetv2_s.in21k_ft_in1k: owner and name of letters, digits and "
            f"'_.-', and perhaps a branch, tag or commit. Received: {name!r}"
        )
    return Repository(match[1], match[2])


def check_hub_name(name: str) -> None:
    """Raise ValueError for a misspelt name, ImportError if huggingface_hub is not installed."""
    parse_hub_name(name)
    hub_library(name)


def hub_library(name: str) -> Any:
    """Return the module huggingface_hub; ImportError with the way to install it."""
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError(
            f"{name} needs the package huggingface_hub. {install_hint('hub')}"
        ) from None
    return huggingface_hub
