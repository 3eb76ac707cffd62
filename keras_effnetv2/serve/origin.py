"""Requests that pages of other sites send, of which a browser says where they come from."""

import re
from collections.abc import Collection, Mapping


def is_foreign(method: str, headers: Mapping[str, str], own_names: Collection[str]) -> bool:
    """Tell whether a page of another site sends a request.

    Any page can have its reader's browser ask a server on the reader's machine; it may not read the
    answer, but the work is done. The rules are those of Go's `http.CrossOriginProtection`, and a
    foreign Origin is one for GET, too. Programs send neither header, and are not foreign.

    Args:
        method: of the request.
        headers: by lower-case name.
        own_names: lower-case host names whose pages are not foreign; IPv6 addresses in brackets.
    """
    site = headers.get("sec-fetch-site")
    origin = headers.get("origin")
    if origin is None:  # a link to the page here is no harm
        return method not in ("GET", "HEAD") and site in ("cross-site", "same-site")
    address = origin.lower().partition("://")[2]
    own = (headers.get("host", "").lower(), *own_names)
    is_own = address != "" and (address in own or re.sub(r":\d+$", "", address) in own_names)
    # Behind a proxy that changes the host, what the browser says suffices.
    return not is_own and site != "same-origin"
