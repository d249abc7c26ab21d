"""How result objects are displayed: a one-line `repr`, and in a notebook the printed text."""

from html import escape

SHORT = 100  # maximum number of characters of the conclusion in a `repr`


class ShownAsText:
    """Mixin that shows an object in a notebook as `print` does, preformatted, and its `repr` as a one-line conclusion.

    Dataclasses that hold arrays set ``repr=False``, so that this `repr` is used and not one that prints every number.

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
        text = self.conclusion()
        return f"<{type(self).__name__}: {text if len(text) <= SHORT else text[: SHORT - 3] + '...'}>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
