"""``python -m memreap``: the same as the ``memreap`` command."""

from memreap.cli import main

main()
