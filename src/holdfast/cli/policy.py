"""`holdfast policy`: policies, the rules that turn a call into a verdict."""

from holdfast.cli import policy_init, policy_replay, policy_test

VERBS = {"init": policy_init.verb, "test": policy_test.verb, "replay": policy_replay.verb}
