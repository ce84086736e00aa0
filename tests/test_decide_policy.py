"""What a configuration says of a process."""

from dataclasses import replace

import pytest

from memreap.decide.events import Tier
from memreap.decide.policy import (
    DEFAULT_RULES,
    Judgement,
    Policy,
    Rule,
    Subject,
    Together,
    Verdict,
    faults,
    judge,
)

SHELL = Subject(
    name="bash",
    exe="/usr/bin/bash",
    command="-bash --login",
    cgroup="/user.slice/session-3.scope",
    uid=1000,
    user="me",
    unit="session-3.scope",
    oomd_preference="",
    oom_group="",
    session=40,
    process_group=41,
)
PROTECT, AVOID, PREFER = Verdict.PROTECT, Verdict.AVOID, Verdict.PREFER


def judged(*rules: Rule, subject: Subject = SHELL) -> Judgement:
    return judge(Policy(rules, defaults=False), subject)


def test_without_a_rule_nothing_is_said() -> None:
    assert judged() == Judgement("", Tier.NORMAL, "")


@pytest.mark.parametrize(
    "rule",
    [
        Rule(PREFER, name="ba*"),
        Rule(PREFER, command=r"--lo[g]in$"),
        Rule(PREFER, exe="/usr/bin/*"),
        Rule(PREFER, cgroup="/user.slice/*"),
        Rule(PREFER, user="me"),
        Rule(PREFER, user="1000"),
        Rule(PREFER, unit="session-?.scope"),
        Rule(PREFER, name="bash", user="me"),
    ],
)
def test_a_rule_matches(rule: Rule) -> None:
    assert judged(rule).tier is Tier.PREFER


@pytest.mark.parametrize(
    "rule",
    [
        Rule(PREFER, name="ash"),
        Rule(PREFER, command=r"^login"),
        Rule(PREFER, user="100"),
        Rule(PREFER, name="bash", user="root"),
        Rule(PREFER),
    ],
)
def test_a_rule_does_not_match(rule: Rule) -> None:
    assert judged(rule).tier is Tier.NORMAL


def test_names_are_compared_whole_where_the_kernel_cuts_them() -> None:
    rule = Rule(PROTECT, name="systemd-journald")
    cut = replace(SHELL, name="systemd-journal", exe="/usr/lib/systemd/systemd-journald")
    assert judged(rule, subject=cut).barred
    assert judged(rule, subject=replace(cut, exe="", command="/x/systemd-journald -q")).barred
    assert judged(rule, subject=replace(cut, exe="", command=None)).barred
    assert not judged(rule, subject=replace(cut, exe="/x/systemd-journalx", command=None)).barred
    assert not judged(rule, subject=replace(cut, name="systemd", exe="", command=None)).barred


def test_protect_beats_avoid_beats_prefer() -> None:
    rules = [Rule(verdict, name="bash") for verdict in (PREFER, AVOID, PROTECT)]
    assert judged(*rules) == Judgement('protected by the rule name="bash"')
    assert judged(*rules[:2]).tier is Tier.AVOID


def test_a_command_line_that_could_not_be_read_is_protected() -> None:
    hung = replace(SHELL, command=None)
    why = "its command line could not be read, and a rule protects by command line"
    assert judged(Rule(PROTECT, command="x"), subject=hung).barred == why
    assert not judged(Rule(PROTECT, command="x")).barred
    # What else the rule says is known, and does not match.
    assert not judged(Rule(PROTECT, command="x", user="root"), subject=hung).barred
    # In doubt nobody is preferred.
    assert judged(Rule(PREFER, command="x"), subject=hung).tier is Tier.NORMAL
    assert judged(Rule(PROTECT, exe="/x"), subject=replace(SHELL, exe="")).barred


def test_marks_of_oomd_are_respected_unless_told_otherwise() -> None:
    omit, avoid = (replace(SHELL, oomd_preference=p) for p in ("omit", "avoid"))
    assert judged(subject=omit).barred == "protected by user.oomd_omit of its cgroup"
    assert judged(Rule(PREFER, name="bash"), subject=avoid).tier is Tier.AVOID
    deaf = Policy(oomd_preference=False, defaults=False)
    assert judge(deaf, omit) == judge(deaf, avoid) == Judgement()


@pytest.mark.parametrize(
    ("by", "key"),
    [
        (Together.CGROUP, "cgroup:/user.slice/session-3.scope"),
        (Together.SESSION, "session:40"),
        (Together.PROCESS_GROUP, "process-group:41"),
    ],
)
def test_those_who_die_as_one_have_the_same_key(by: Together, key: str) -> None:
    assert judged(Rule(Verdict.TOGETHER, name="bash", by=by)).together == key


def test_nobody_dies_together_with_the_whole_system() -> None:
    root = replace(SHELL, cgroup="/", session=0)
    for by in (Together.CGROUP, Together.SESSION):
        assert judged(Rule(Verdict.TOGETHER, name="bash", by=by), subject=root).together == ""


def test_oom_group_dies_as_one_unless_told_otherwise() -> None:
    grouped = replace(SHELL, oom_group="/sys/fs/cgroup/x")
    assert judged(subject=grouped).together == "cgroup:/sys/fs/cgroup/x"
    assert judge(Policy(oom_group=False), grouped).together == ""


def test_faults_are_found_field_by_field() -> None:
    together = Verdict.TOGETHER
    fields = [
        [field for field, _ in faults(rule)]
        for rule in (
            Rule(PROTECT),
            Rule(PROTECT, command="("),
            Rule(together, name="x"),
            Rule(PREFER, name="x", by=Together.SESSION),
            Rule(PROTECT, name="*"),
            Rule(PREFER, command=".*"),
            Rule(together, name="x", by=Together.CGROUP),
        )
    ]
    assert fields == [[""], ["command"], ["by"], ["by"], [], [], []]


def test_the_defaults_keep_the_machine_and_save_no_hog_by_its_name() -> None:
    assert [fault for rule in DEFAULT_RULES for fault in faults(rule)] == []
    sshd = replace(SHELL, name="sshd", exe="/usr/sbin/sshd", command="sshd: me", uid=0, user="root")
    assert judge(Policy(), sshd).barred == 'protected by the rule name="sshd", user="0"'
    assert judge(Policy(), replace(sshd, uid=1000, user="me")) == Judgement(tier=Tier.AVOID)
    assert judge(Policy(), SHELL) == judge(Policy(defaults=False), sshd) == Judgement()
    shell = replace(SHELL, name="gnome-shell", exe="/usr/bin/gnome-shell")
    assert judge(Policy(), shell).tier is Tier.AVOID
