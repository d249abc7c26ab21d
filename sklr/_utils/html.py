"""How a result looks in a notebook: as it prints."""

from html import escape


class ShownAsText:
    """Shows in a notebook what `print` shows, lines and columns kept.

    Examples
    --------
    >>> class Result(ShownAsText):
    ...     def __str__(self):
    ...         return "loss < 1"
    >>> Result()._repr_html_()
    '<pre>loss &lt; 1</pre>'
    """

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
