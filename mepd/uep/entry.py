"""mepd-uep's first module, which sees to it that the others load little."""

from __future__ import annotations

import gc
import sys

from mepd.uep.lean import import_little


def main() -> int:
    """The program; see mepd.uep.main, which collects garbage again once all is loaded."""
    gc.disable()
    import_little()
    from mepd.uep.main import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
