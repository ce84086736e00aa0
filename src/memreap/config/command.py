"""``memreap config``, ``memreap guard --check-config``, and the way back on a reload."""

import json
import sys
from importlib import resources
from itertools import islice

from memreap.config.faults import Fault
from memreap.config.keys import KEYS_OF
from memreap.config.load import Loaded, load, without_scopes
from memreap.config.options import Options
from memreap.config.places import Places
from memreap.config.toml import literal
from memreap.linux.procfs import printable

EXIT_FINE = 0
EXIT_FAULTS = 2
FAULTS_SHOWN = 100
COMMENT_COLUMN = 44


def show(options: Options, as_json: bool, where: Places | None = None) -> int:
    """What is in force and where each value comes from: TOML that can be loaded again, or JSON."""
    loaded = load(options, where or Places())
    faults = without_scopes(loaded.faults)
    if faults:
        return tell(faults)
    print(as_json_text(loaded) if as_json else as_toml(loaded))
    return EXIT_FINE


def check(options: Options, where: Places | None = None) -> int:
    """Whether a guard would start with it."""
    loaded = load(options, where or Places())
    if loaded.faults:
        return tell(loaded.faults)
    tell(loaded.remarks)
    files = " ".join(map(printable, loaded.files))
    print(f"configuration is fine: {files or 'no files, only defaults'}")
    return EXIT_FINE


def settings_json(options: Options, where: Places | None = None) -> int:
    """``Settings.as_message()`` on stdout, or the faults on stderr."""
    loaded = load(options, where or Places())
    if loaded.faults:
        return tell(loaded.faults)
    print(json.dumps(loaded.settings.as_message()))
    return EXIT_FINE


def example() -> int:
    """The example file, with every key and its default."""
    print(resources.files("memreap.config").joinpath("memreap.toml").read_text(), end="")
    return EXIT_FINE


def main(arguments: list[str]) -> int:
    """``settings_json`` for options that come as JSON."""
    try:
        options = Options.from_message(json.loads(arguments[0]) if arguments else {})
    except (ValueError, TypeError, AttributeError) as error:
        print(f"memreap: not options: {error}", file=sys.stderr)
        return EXIT_FAULTS
    return settings_json(options)


def tell(faults: tuple[Fault, ...]) -> int:
    """Say what is wrong, a line each; the exit code."""
    for fault in islice(faults, FAULTS_SHOWN):
        print(fault, file=sys.stderr)
    if len(faults) > FAULTS_SHOWN:
        print(f"and {len(faults) - FAULTS_SHOWN} more", file=sys.stderr)
    return EXIT_FAULTS


def as_toml(loaded: Loaded) -> str:
    """Every value with the place it came from."""
    lines = [f"# Read: {printable(file)}" for file in loaded.files] or ["# No file was read."]
    if not loaded.settings.scopes:
        lines.append("# Nothing is guarded.")
    for table, entry in loaded.merged.all():
        lines += ["", table.header]
        for name in KEYS_OF[table.name]:
            if name in entry.values:
                value = entry.values[name]
                stated = f"{name} = {literal(value.raw)}"
                lines.append(f"{stated:<{COMMENT_COLUMN}}  # {value.origin}")
    return "\n".join(lines)


def as_json_text(loaded: Loaded) -> str:
    """The same as a list of objects."""
    return json.dumps(
        [
            {
                "key": name,
                "value": value.raw,
                "origin": value.origin.kind,
                "file": value.origin.file or None,
                "line": value.origin.line or None,
            }
            for name, value in loaded.merged.named()
        ],
        indent=2,
    )
