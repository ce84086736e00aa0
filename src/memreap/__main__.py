"""The ``memreap`` command, and ``python -m memreap``."""

import signal
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if raises:
        # Amid an import an exception is a traceback, now and then: end by the signal itself.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from memreap.cli import main as run  # noqa: PLC0415

    if raises:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
