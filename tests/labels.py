"""Names for the cases of a test: what they print as, without addresses, so that workers and runs agree on them."""

import re


def label(case):
    """Return the beginning of a case's repr, or its name, free of addresses."""
    text = case if isinstance(case, str) else getattr(case, "__name__", None) or repr(case)
    return re.sub(r" at 0x[0-9a-f]+", "", text)[:60]
