"""The ``memreap`` command, and ``python -m memreap``."""

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line; an interrupt while it is still being loaded is no traceback."""
    try:
        from memreap.cli import main as run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
