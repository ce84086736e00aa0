"""``python -P -m memreap.config [OPTIONS]``: the Settings as JSON, for a guard that reloads.

OPTIONS is ``Options.as_message()`` as JSON. A process of its own, so that a file that hangs, or
that exhausts what reads it, is no trouble of the guard's. -P: nothing of the folder it runs in.
"""

import sys

from memreap.config.command import main

sys.exit(main(sys.argv[1:]))
