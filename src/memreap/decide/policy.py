"""What a configuration means: who is protected, preferred, avoided, and who dies together.

Pure: it judges what was read of a process; it reads nothing itself.
"""

import functools
import re
from dataclasses import dataclass, fields
from enum import StrEnum
from fnmatch import fnmatchcase

from memreap.decide.events import Tier

COMM_BYTES = 15  # TASK_COMM_LEN without its end: include/linux/sched.h


class Verdict(StrEnum):
    """What a rule says of those whom it matches."""

    PROTECT = "protect"
    PREFER = "prefer"
    AVOID = "avoid"
    TOGETHER = "together"


class Together(StrEnum):
    """What dies as one."""

    NO = ""
    CGROUP = "cgroup"
    SESSION = "session"
    PROCESS_GROUP = "process-group"


@dataclass(frozen=True, slots=True)
class Rule:
    """Matches a process if every field that is not empty does.

    ``command`` is a regular expression that is searched for in the whole command line; all others
    are matched whole, with ``*`` and ``?`` (fnmatch). ``name`` is compared with comm, which the
    kernel cuts at 15 bytes, and with the last part of exe and of the first argument, which are
    whole. ``user`` is a name or a number. ``cgroup`` is the path as /proc/PID/cgroup has it.
    """

    verdict: Verdict
    name: str = ""
    command: str = ""
    exe: str = ""
    cgroup: str = ""
    user: str = ""
    unit: str = ""  # a systemd unit: the last part of the cgroup that ends in .service or .scope
    by: Together = Together.NO  # with TOGETHER


@dataclass(frozen=True, slots=True)
class Policy:
    """Every rule, and which marks of others are respected."""

    rules: tuple[Rule, ...] = ()
    oom_group: bool = True  # memory.oom.group: the cgroup dies as one
    crowd: bool = True  # many young processes of one program die as one
    oomd_preference: bool = True  # user.oomd_avoid, user.oomd_omit (ManagedOOMPreference=)
    defaults: bool = True  # DEFAULT_RULES, too

    @property
    def needs_commands(self) -> bool:
        """Whether nobody can be judged without his command line."""
        return any(rule.command for rule in self.rules)


@dataclass(frozen=True, slots=True)
class Subject:
    """What was read of a process. Empty where there is none, or it could not be read."""

    name: str  # comm
    exe: str
    command: str | None  # arguments joined by spaces; None: could not be read
    cgroup: str
    uid: int
    user: str
    unit: str
    oomd_preference: str  # "avoid", "omit" or none, of its cgroup
    oom_group: str  # the cgroup directory that dies as one
    session: int
    process_group: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """What policy says of a process: why it must not die, or how gladly, and with whom."""

    barred: str = ""
    tier: Tier = Tier.NORMAL
    together: str = ""  # the same for everyone who dies as one with it


def _root(verdict: Verdict, *names: str) -> tuple[Rule, ...]:
    return tuple(Rule(verdict, name=name, user="0") for name in names)


def _anyone(verdict: Verdict, *names: str) -> tuple[Rule, ...]:
    return tuple(Rule(verdict, name=name) for name in names)


# Whom no sane guard kills unless told otherwise. Everyone can take a name: so what may run as
# anyone is avoided, which saves no hog (see badness), and protected is only who runs as root.
DEFAULT_RULES: tuple[Rule, ...] = (
    # Without these the machine is lost, or cannot say what happened; they are small.
    *_root(Verdict.PROTECT, "systemd", "systemd-journald", "systemd-logind", "systemd-udevd"),
    # The way in: the listener, and root's half of each login. The shells behind it are others.
    *_root(Verdict.PROTECT, "sshd", "sshd-session", "dropbear"),
    # The system bus, by the users it runs as; without it logins and services hang.
    *(
        Rule(Verdict.PROTECT, name=name, user=user)
        for name in ("dbus-daemon", "dbus-broker", "dbus-broker-launch")
        for user in ("messagebus", "dbus", "0")
    ),
    # One beside each container, small; its death leaves the container without a keeper.
    *_root(Verdict.PROTECT, "containerd-shim*", "conmon"),
    # The managers of containers and of the network: a restart is bearable, and they can leak.
    *_root(Verdict.AVOID, "containerd", "dockerd", "kubelet", "crio", "NetworkManager"),
    # A user's own manager, bus and half of the login: each ends the session.
    *_anyone(Verdict.AVOID, "systemd", "dbus-daemon", "dbus-broker", "sshd", "sshd-session"),
    # Display servers and shells: each takes every window along, but they can leak, too.
    *_anyone(Verdict.AVOID, "Xorg", "Xwayland", "gnome-shell", "kwin_wayland", "kwin_x11"),
    *_anyone(Verdict.AVOID, "plasmashell", "sway", "Hyprland", "gdm*", "sddm*", "lightdm"),
    # Sound: small, missed at once, and started again by nobody until the next login.
    *_anyone(Verdict.AVOID, "pipewire", "pipewire-pulse", "wireplumber"),
    # What keeps work in a terminal alive after the connection is gone.
    *_anyone(Verdict.AVOID, "tmux: server", "screen"),
)


MATCHES = tuple(f.name for f in fields(Rule) if f.name not in ("verdict", "by"))
UNREADABLE = {"command": "command line", "exe": "executable"}


def judge(policy: Policy, subject: Subject) -> Judgement:
    """Judge one process: to protect beats to avoid, which beats to prefer."""
    rules = (*policy.rules, *(DEFAULT_RULES if policy.defaults else ()))
    names = _names(subject)
    agreed = [(r, doubt) for r in rules if (doubt := _agreement(r, subject, names)) is not None]
    preference = subject.oomd_preference if policy.oomd_preference else ""
    for rule, doubt in agreed:
        if rule.verdict is Verdict.PROTECT:
            return Judgement(_protection(rule, doubt))
    if preference == "omit":
        return Judgement("protected by user.oomd_omit of its cgroup")
    matching = [rule for rule, doubt in agreed if not doubt]
    verdicts = [rule.verdict for rule in matching]
    tier = Tier.NORMAL
    if Verdict.AVOID in verdicts or preference == "avoid":
        tier = Tier.AVOID
    elif Verdict.PREFER in verdicts:
        tier = Tier.PREFER
    keys = (_key(rule.by, subject) for rule in matching if rule.verdict is Verdict.TOGETHER)
    whole = f"cgroup:{subject.oom_group}" if policy.oom_group and subject.oom_group else ""
    return Judgement("", tier, next(filter(None, keys), whole))


def faults(rule: Rule) -> list[tuple[str, str]]:
    """What is wrong with a rule: (field, what), and an empty field for the rule as a whole."""
    found = []
    if not _given(rule):
        found.append(("", f"matches nobody: say one of {', '.join(MATCHES)}"))
    try:
        _compiled(rule.command)
    except re.error as error:
        found.append(("command", f"not a regular expression: {error}"))
    if rule.verdict is Verdict.TOGETHER and rule.by is Together.NO:
        found.append(("by", "missing: what dies as one, cgroup, session or process-group"))
    if rule.verdict is not Verdict.TOGETHER and rule.by is not Together.NO:
        found.append(("by", f"goes with together only, not with {rule.verdict}"))
    return found


@functools.cache
def _given(rule: Rule) -> tuple[tuple[str, str], ...]:
    return tuple((name, pattern) for name in MATCHES if (pattern := getattr(rule, name)))


def _agreement(rule: Rule, subject: Subject, names: tuple[str, ...]) -> str | None:
    """None where the rule is not about this one, else the field that must be taken on trust.

    That is one which could not be read, while all others match; empty where there is none.
    """
    doubt = "" if _given(rule) else None
    for name, pattern in _given(rule):
        if _match(name, pattern, subject, names):
            continue
        unread = subject.command is None if name == "command" else name == "exe" and not subject.exe
        if not unread:
            return None
        doubt = doubt or name
    return doubt


def _protection(rule: Rule, doubt: str) -> str:
    """Why one is protected, in words. In doubt it is."""
    if doubt:
        what = UNREADABLE[doubt]
        return f"its {what} could not be read, and a rule protects by {what}"
    return "protected by the rule " + ", ".join(f'{name}="{p}"' for name, p in _given(rule))


def _match(name: str, pattern: str, subject: Subject, names: tuple[str, ...]) -> bool:
    match name:
        case "name":
            return any(fnmatchcase(own, pattern) for own in names) or _is_cut(names, pattern)
        case "command":
            return bool(subject.command and _compiled(pattern).search(subject.command))
        case "user":
            return pattern == str(subject.uid) or fnmatchcase(subject.user, pattern)
    return fnmatchcase(getattr(subject, name), pattern)


def _names(subject: Subject) -> tuple[str, ...]:
    """Every name it goes by, comm first."""
    first = (subject.command or "").partition(" ")[0]
    paths = [path.rpartition("/")[2] for path in (subject.exe, first) if path]
    return (subject.name, *paths)


def _is_cut(names: tuple[str, ...], pattern: str) -> bool:
    """Whether comm, and nothing else being known, may be what the kernel left of the name."""
    comm, whole = (name.encode(errors="surrogateescape") for name in (names[0], pattern))
    return len(names) == 1 and len(comm) == COMM_BYTES < len(whole) and whole.startswith(comm)


def _key(by: Together, subject: Subject) -> str:
    """The mark of those who die as one; empty where that would be everyone, or nobody."""
    values = {
        Together.CGROUP: subject.cgroup if subject.cgroup != "/" else "",
        Together.SESSION: str(subject.session or ""),
        Together.PROCESS_GROUP: str(subject.process_group or ""),
    }
    value = values.get(by, "")
    return f"{by}:{value}" if value else ""


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
