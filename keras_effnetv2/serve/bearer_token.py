"""The token that clients must send if the server has one."""

import base64
import hmac
import re


def check_token(token: str) -> None:
    """Raise ValueError unless a token can stand in a header (RFC 6750, b64token)."""
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token):
        raise ValueError(
            "The token must be a line of letters, digits and the signs . _ ~ + / - with = at its "
            'end at most, for example the output of: python -c "import secrets; '
            'print(secrets.token_urlsafe())". Received: '
            + ("nothing" if not token else f"{len(token)} characters, some of them others")
        )


def has_token(authorization: str, token: str) -> bool:
    """Return whether a header has the token, in a time that does not depend on it.

    Args:
        authorization: value of the header Authorization: "Bearer TOKEN", or for browsers, which
            ask for a name and a password, "Basic" with the token as password and any name.
        token: the token of the server.
    """
    scheme, _, given = authorization.partition(" ")
    sent = given.strip().encode("utf-8")
    if scheme.lower() == "basic":
        try:
            sent = base64.b64decode(sent).partition(b":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(sent, token.encode("utf-8"))
