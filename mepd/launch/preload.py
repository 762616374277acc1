"""What every launch child needs, loaded once in the process that it is forked from.

It is loaded there and never called: requests and templates are the children's. Jinja's
compiler is run once, on a constant, because it builds its lexer when it is first used.
"""

from __future__ import annotations

import globus_identity_mapping.mappers.expression  # noqa: F401
import jsonschema  # noqa: F401
import multiprocessing_logging  # noqa: F401
import referencing  # noqa: F401

import mepd.launch.main  # noqa: F401
from mepd.launch import templating

templating.render("{{ 1 }}", {}, {})
