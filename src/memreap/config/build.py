"""The merged tables, made Settings."""

from memreap.config.keys import RULES
from memreap.config.merge import Entry, Merged
from memreap.config.places import Places
from memreap.config.scopes import scopes
from memreap.decide import policy
from memreap.decide.policy import Policy, Rule, Together, Verdict
from memreap.guard.settings import Hook, Records, Settings


def settings(merged: Merged, where: Places) -> Settings:
    """What the guard is started with, if ``merged.faults`` is still empty after it."""
    guard = merged.one("guard")
    return Settings(
        scopes=scopes(merged, where),
        policy=_policy(merged),
        records=_records(merged),
        patience_s=guard.get("patience"),
        term_s=guard.get("term_first") or None,
        dry_run=guard.get("dry_run"),
        quiet=guard.get("quiet"),
    )


def _policy(merged: Merged) -> Policy:
    entry = merged.one("policy")
    rules = [
        rule
        for verdict in RULES
        for table in merged.entries[verdict]
        if (rule := _rule(Verdict(verdict), table, merged))
    ]
    return Policy(
        rules=tuple(rules),
        oom_group=entry.get("oom_group"),
        crowd=entry.get("crowd"),
        oomd_preference=entry.get("oomd_preference"),
        defaults=entry.get("defaults"),
    )


def _rule(verdict: Verdict, entry: Entry, merged: Merged) -> Rule | None:
    """None where it has faults; those of a single value were noted when it was read."""
    refused = {name for name, value in entry.values.items() if value.read is None}
    matches = {name: entry.get(name) or "" for name in policy.MATCHES}
    rule = Rule(verdict, **matches, by=Together(entry.get("by") or ""))
    faults = policy.faults(rule)
    for field, message in faults:
        if not refused:
            path = f"{verdict}.{field}" if field else verdict
            merged.fault(entry.where(field), path, message)
    return None if faults or refused else rule


def _records(merged: Merged) -> Records:
    entry = merged.one("records")
    return Records(
        database=entry.get("database", ""),
        keep=entry.get("keep"),
        trace=entry.get("trace"),
        journal=entry.get("journal"),
        metrics_file=entry.get("metrics_file"),
        metrics_listen=entry.get("metrics_listen"),
        notify=entry.get("notify"),
        bus_signal=entry.get("bus_signal"),
        socket=entry.get("socket", ""),
        hooks=tuple(
            Hook(hook.get("on"), hook.get("argv"), hook.get("timeout"))
            for hook in merged.entries["hook"]
            if hook.get("on") and hook.get("argv")
        ),
    )
