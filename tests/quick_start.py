"""Run the first block of Python of a page with the sklr that is installed: python quick_start.py README.md.

`make wheel-check` does so in an environment that holds the wheel and nothing else of sklr.
"""

import re
import sys
from pathlib import Path


def first_block(page):
    return re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]


def main(path):
    exec(compile(first_block(Path(path).read_text(encoding="utf-8")), path, "exec"), {"__name__": "__main__"})
    print("sklr is", sys.modules["sklr"].__file__)


if __name__ == "__main__":
    main(*sys.argv[1:])
