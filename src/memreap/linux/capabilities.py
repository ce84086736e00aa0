"""What this thread is privileged to do. See capabilities(7), capset(2), linux/capability.h.

Only the reading and the giving up of capabilities live here. Names are the kernel's, lower case.
"""

import errno
import re
from collections.abc import Collection

from memreap.linux import syscalls

NAMES = (
    "cap_chown",
    "cap_dac_override",
    "cap_dac_read_search",
    "cap_fowner",
    "cap_fsetid",
    "cap_kill",
    "cap_setgid",
    "cap_setuid",
    "cap_setpcap",
    "cap_linux_immutable",
    "cap_net_bind_service",
    "cap_net_broadcast",
    "cap_net_admin",
    "cap_net_raw",
    "cap_ipc_lock",
    "cap_ipc_owner",
    "cap_sys_module",
    "cap_sys_rawio",
    "cap_sys_chroot",
    "cap_sys_ptrace",
    "cap_sys_pacct",
    "cap_sys_admin",
    "cap_sys_boot",
    "cap_sys_nice",
    "cap_sys_resource",
    "cap_sys_time",
    "cap_sys_tty_config",
    "cap_mknod",
    "cap_lease",
    "cap_audit_write",
    "cap_audit_control",
    "cap_setfcap",
    "cap_mac_override",
    "cap_mac_admin",
    "cap_syslog",
    "cap_wake_alarm",
    "cap_block_suspend",
    "cap_audit_read",
    "cap_perfmon",
    "cap_bpf",
    "cap_checkpoint_restore",
)
CAPABILITIES_MAX = 64

_SETS = re.compile(rb"^Cap(Prm|Eff|Bnd):\s+([0-9a-f]+)$", re.MULTILINE)


def names_of(mask: int) -> frozenset[str]:
    """The names of a set's bits; one that is newer than this table is "cap_41" and so on."""
    bits = (bit for bit in range(CAPABILITIES_MAX) if mask >> bit & 1)
    return frozenset(NAMES[bit] if bit < len(NAMES) else f"cap_{bit}" for bit in bits)


def effective() -> frozenset[str]:
    """What the calling thread may do now."""
    return names_of(_sets()["Eff"])


def drop_all_but(names: Collection[str]) -> frozenset[str]:
    """Keep these of what the calling thread has; all else is given up for good, by exec too.

    The bounding set goes only where CAP_SETPCAP permits; PR_SET_NO_NEW_PRIVS holds in any case.
    Concerns this thread and its children: to be called before there are others. Returns what is
    effective now. Raises ValueError for a name that is none.
    """
    unknown = set(names) - set(NAMES)
    if unknown:
        raise ValueError(f"no such capability: {', '.join(sorted(unknown))}")
    keep = sum(1 << NAMES.index(name) for name in set(names))
    sets = _sets()
    for bit in range(CAPABILITIES_MAX):
        if sets["Bnd"] >> bit & 1 and not keep >> bit & 1:
            try:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, bit)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EINVAL):
                    raise
                break
    kept = keep & sets["Prm"]
    syscalls.capset(effective=kept, permitted=kept, inheritable=0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    return names_of(kept)


def _sets() -> dict[str, int]:
    with open("/proc/thread-self/status", "rb") as file:
        raw = file.read()
    return {match[1].decode(): int(match[2], 16) for match in _SETS.finditer(raw)}
