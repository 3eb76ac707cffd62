"""Recognises requests from pages of other sites, by the headers that browsers send."""

import re
from collections.abc import Collection, Mapping


def is_foreign(method: str, headers: Mapping[str, str], own_names: Collection[str]) -> bool:
    """Return whether a page of another site sent a request.

    Any page can make its reader's browser send requests to a server on the reader's machine. It
    cannot read the answer, but the server would compute it. The rules are those of Go's
    `http.CrossOriginProtection`, but a foreign Origin counts for GET, too. Programs send neither
    header, so their requests are not foreign.

    Args:
        method: method of the request.
        headers: headers of the request, by lower-case name.
        own_names: lower-case host names whose pages are not foreign; IPv6 addresses in brackets.
    """
    site = headers.get("sec-fetch-site")
    origin = headers.get("origin")
    if origin is None:  # a link to a page of this server does no harm
        return method not in ("GET", "HEAD") and site in ("cross-site", "same-site")
    address = origin.lower().partition("://")[2]
    own = (headers.get("host", "").lower(), *own_names)
    is_own = address != "" and (address in own or re.sub(r":\d+$", "", address) in own_names)
    # A proxy may have changed the host; then the browser's word is enough.
    return not is_own and site != "same-origin"
