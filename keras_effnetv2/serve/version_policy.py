"""`VersionPolicy`: which versions of a model are served. This module does not import TensorFlow."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class VersionPolicy:
    """Which versions of a model are served; as `model_version_policy` of TensorFlow Serving."""

    numbers: frozenset[int] | None = None  # these versions; None: any
    latest: bool = True  # of those only the one with the largest number

    @classmethod
    def parse(cls, text: str) -> "VersionPolicy":
        """Read "latest", "all", or numbers such as "1,3"; anything else is a ValueError."""
        if text in ("latest", "all"):
            return cls(latest=text == "latest")
        if not re.fullmatch(r"\d{1,18}(,\d{1,18})*", text, re.ASCII):
            raise ValueError(
                f"`versions` must be latest, all, or numbers such as 1,3. Received: {text!r}"
            )
        return cls(frozenset(map(int, text.split(","))), latest=False)


LATEST = VersionPolicy()
