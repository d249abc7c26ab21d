"""How a result looks: its conclusion in short, and in a notebook as it prints."""

from html import escape

SHORT = 100  # characters of a conclusion that a `repr` shows


class ShownAsText:
    """Shows in a notebook what `print` shows, lines and columns kept, and in a list its conclusion.

    Dataclasses that hold arrays say ``repr=False``, so that theirs is not printed number by number.

    Examples
    --------
    >>> class Result(ShownAsText):
    ...     def __str__(self):
    ...         return "loss < 1, after a step\\nand more"
    >>> Result()._repr_html_()
    '<pre>loss &lt; 1, after a step\\nand more</pre>'
    >>> Result()
    <Result: loss < 1, after a step>
    """

    def conclusion(self) -> str:
        """Return the result in one line, without its figures."""
        return str(self).partition("\n")[0]

    def __repr__(self) -> str:
        said = self.conclusion()
        return f"<{type(self).__name__}: {said if len(said) <= SHORT else said[: SHORT - 3] + '...'}>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
