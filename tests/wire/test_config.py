"""The configuration tree: precedence, origins, faults in words, and the ways out and back in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from wire.codec.values import Values
from wire.config import DEFAULT, Config, RunConfig, amend, complete, environment, fields, load
from wire.errors import ConfigError, NoInput

VALUE_CODES = " or ".join(f'"{v}"' for v in ("auto", *(v.name.lower() for v in Values)))


def fault(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(None, overrides, {})
    return str(caught.value)


def test_without_sources_all_values_are_defaults() -> None:
    loaded = load(None, [], {})
    assert loaded.config == Config()
    assert set(loaded.origins.values()) == {DEFAULT}


def test_the_later_source_wins_and_is_the_origin(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[run]\nseed = 1\nsteps = 1\neval_every = 1\n")
    environ = {"SPARSYNC_RUN__STEPS": "2", "SPARSYNC_RUN__EVAL_EVERY": "2"}
    loaded = load(file, ["run.eval_every=3"], environ)
    assert (loaded.config.run.seed, loaded.config.run.steps, loaded.config.run.eval_every) == (1, 2, 3)
    assert loaded.origins["run.seed"] == str(file)
    assert loaded.origins["run.steps"] == "SPARSYNC_RUN__STEPS"
    assert loaded.origins["run.eval_every"] == "-s run.eval_every=3"
    assert loaded.origins["run.checkpoint_every"] == DEFAULT


def test_the_last_of_two_flags_wins() -> None:
    assert load(None, ["run.steps=1", "run.steps=2"], {}).config.run.steps == 2


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.source=shakespeare", "shakespeare"),
        ("data.source='quoted'", "quoted"),
        ("data.source=2024", "2024"),
        ("data.source=a = b", "a = b"),
        ("optimizer.lr=1e-3", 1e-3),
        ("optimizer.lr=1", 1.0),
        ("optimizer.betas=[0.8, 0.9]", (0.8, 0.9)),
        ("security.insecure=true", True),
        ("cluster.min-workers=1", 1),
        ("cluster.min_workers=none", None),
        ("push.values=sign2", "sign2"),
        ("push.decay=0.95", 0.95),
        ('push.policy=["1d=fp16", "*.bias=fp32"]', ("1d=fp16", "*.bias=fp32")),
        ("pull.policy=[]", ()),
        ("pull.policy=none", None),
    ],
)
def test_text_becomes_the_type_of_its_key(override: str, value: object) -> None:
    section, _, key = override.partition("=")[0].replace("-", "_").partition(".")
    config = load(None, [override], {}).config
    assert getattr(getattr(config, section), key) == value


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("run.step", "run.steps"),
        ("cluster.worker", "cluster.workers"),
        ("steps", "run.steps"),
        ("train.steps", "run.steps"),
        ("sync.density", "push.density"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key: str, nearest: str) -> None:
    assert fault(f"{key}=1") == f"{key} (from -s {key}=1): no such key; did you mean {nearest}?"


def test_an_unknown_key_like_no_other_points_at_the_list() -> None:
    assert "`sparsync config show` lists all keys" in fault("zzz.qqq=1")


def test_all_unknown_keys_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("model = 3\n[rum]\nsteps = 1\n[run]\nstep = 1\n[sync.mode]\nx = 1\n")
    with pytest.raises(ConfigError) as caught:
        load(file, [], {})
    assert str(caught.value).splitlines() == [
        f"model (from {file}): expected a table [model], found the integer 3",
        f"rum (from {file}): no such key; did you mean run?",
        f"run.step (from {file}): no such key; did you mean run.steps?",
    ]


def test_an_unknown_variable_is_refused_but_foreign_ones_are_not() -> None:
    assert load(None, [], {"SPARSYNC_TOKEN": "x", "RUN__STEPS": "x"}).config == Config()
    with pytest.raises(ConfigError, match=r"run\.step \(from SPARSYNC_RUN__STEP\).*run\.steps"):
        load(None, [], {"SPARSYNC_RUN__STEP": "1"})


@pytest.mark.parametrize(
    ("override", "expected", "found"),
    [
        ("run.steps=many", "integer ≥ 1", 'the string "many"'),
        ("run.steps=0", "integer ≥ 1", "the integer 0"),
        ("run.steps=1.5", "integer ≥ 1", "the number 1.5"),
        ("run.steps=true", "integer ≥ 1", "the boolean true"),
        ("run.epochs=0", "integer ≥ 1 or none", "the integer 0"),
        ("run.seed=-1", "integer ≥ 0 and < 9223372036854775808", "the integer -1"),
        ("run.on_bad_unit=halt", '"stop" or "skip"', 'the string "halt"'),
        ("sync.mode=bulk", '"sync" or "delayed" or "ssp" or "async" or "local"', 'the string "bulk"'),
        ("sync.quorum=0", "integer ≥ 1 or none", "the integer 0"),
        ("push.decay=3", "number > 0 and ≤ 1 or none", "the integer 3"),
        ("push.values=fp64", VALUE_CODES, 'the string "fp64"'),
        ("push.feedback=ef14", '"auto" or "none" or "ef" or "ef21"', 'the string "ef14"'),
        ("push.policy=1d=fp16", "list of text or none", 'the string "1d=fp16"'),
        ("push.density=0", "number > 0 and ≤ 1 or none", "the integer 0"),
        ("push.density=nan", "number > 0 and ≤ 1 or none", "the number nan"),
        ("optimizer.lr=inf", "number > 0 or none", "the number inf"),
        ("optimizer.betas=[0.9]", "list of 2 with number ≥ 0 and < 1 each", "the list [0.9]"),
        ("security.insecure=1", "true or false", "the integer 1"),
        ("data.source=", "text", 'the string ""'),
    ],
)
def test_a_wrong_value_tells_found_expected_key_and_origin(override: str, expected: str, found: str) -> None:
    key = override.partition("=")[0]
    assert fault(override) == f"{key} (from -s {override}): expected {expected}, found {found}"


def test_a_wrong_type_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[run]\nsteps = "60"\n')
    with pytest.raises(ConfigError) as caught:
        load(file, [], {})
    assert str(caught.value) == f'run.steps (from {file}): expected integer ≥ 1, found the string "60"'


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["run.steps=1", "run.epochs=1"], "a run has one length"),
        (["model.heads=3"], "no multiple of model.heads = 3"),
        (["cluster.dead_s=2"], "must rise in this order"),
        (["cluster.min_workers=3"], "more than cluster.workers = 2"),
        (["security.tls_ca=ca.pem", "security.authority=certs"], "security.authority beside TLS files"),
        (
            ["security.tls_ca=a", "security.tls_cert=b", "security.tls_key=c", "security.insecure=true"],
            "beside TLS files",
        ),
        (["run.steps"], "expected section.key=value"),
        (['push.policy=["1d"]'], "push.policy: rule '1d': expected PATTERN=VALUES, as in '1d=fp16'"),
        (['pull.policy=["=fp16"]'], "pull.policy: rule '=fp16': expected PATTERN=VALUES"),
        (['push.policy=["1d=fp64"]'], "push.policy: values 'fp64': expected one of fp32, fp16, bf16, int8"),
        (
            ["push.feedback=none"],
            'beside push.codec = "dense" with four-bit values would lose what is not sent: use "ef"',
        ),
        (
            ["push.feedback=none", "push.density=0.1"],
            'beside push.codec = "topk" with sign1 values would lose what is not sent: use "ef"',
        ),
        (
            ["push.codec=dense", "push.feedback=none", "push.values=int4"],
            "int4 values would lose what is not sent",
        ),
        (
            ["push.codec=dense", "push.feedback=none", 'push.policy=["1d=sign"]'],
            'push.codec = "dense" with fp32, sign values would lose what is not sent',
        ),
        (["push.clip=2", "optimizer.aggregate=sum"], "there every unit counts in full"),
        (["push.clip=2", "sync.mode=delayed"], "what of its last push comes back"),
    ],
)
def test_values_that_contradict_each_other_are_refused(overrides: list[str], words: str) -> None:
    assert words in fault(*overrides)


def test_a_missing_file_and_a_file_that_is_no_toml(tmp_path: Path) -> None:
    with pytest.raises(NoInput, match=r"nowhere\.toml: No such file"):
        load(tmp_path / "nowhere.toml", [], {})
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"[run\n")
    with pytest.raises(ConfigError, match=r"bad\.toml is not TOML"):
        load(bad, [], {})
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bad\.toml is not TOML"):
        load(bad, [], {})


def test_the_run_begins_with_all_workers_or_min_workers() -> None:
    assert load(None, ["cluster.workers=3"], {}).config.cluster.workers_to_begin == 3
    assert load(None, ["cluster.workers=3", "cluster.min_workers=1"], {}).config.cluster.workers_to_begin == 1


def test_json_and_toml_give_the_same_tree_back(tmp_path: Path) -> None:
    overrides = [
        "run.epochs=2",
        'data.source=a "quoted" \\ ü\x7f',
        "optimizer.lr=1e-05",
        "cluster.min_workers=1",
    ]
    loaded = load(None, overrides, {})
    assert Config.from_json(loaded.config.to_json()) == loaded.config
    file = tmp_path / "config.toml"
    for text in (loaded.config.to_toml(), loaded.config.to_toml(loaded.origins)):
        file.write_text(text)
        assert load(file, [], {}).config == loaded.config


def test_a_policy_comes_back_from_json_and_toml(tmp_path: Path) -> None:
    policy = 'push.policy=["layer.*=int8", "1d=fp16"]'
    loaded = load(
        None, ["push.codec=dense", "push.feedback=none", "push.values=bf16", policy, "pull.policy=[]"], {}
    )
    assert Config.from_json(loaded.config.to_json()) == loaded.config
    file = tmp_path / "config.toml"
    file.write_text(loaded.config.to_toml())
    config = load(file, [], {}).config
    assert (config.push.policy, config.pull.policy) == (("layer.*=int8", "1d=fp16"), ())
    assert config == loaded.config


@pytest.mark.parametrize(
    ("overrides", "reader"),
    [
        (["push.feedback=ef", "push.momentum=0.5"], "ef21"),
        (["push.codec=dense", "push.feedback=none", "push.decay=0.9"], "ef"),
        (["push.feedback=ef21", "push.decay=0.9"], "ef"),
    ],
)
def test_a_weight_that_nothing_reads_is_refused(overrides: list[str], reader: str) -> None:
    with pytest.raises(ConfigError, match=f'only "{reader}" reads it'):
        load(None, overrides, {})
    topk = ["push.codec=topk", "push.momentum=0.5", "push.decay=0.9"]
    assert load(None, topk, {}).config.push.decay == 0.9
    with pytest.raises(ConfigError, match="beside whole blocks"):
        load(None, topk[1:2], {})
    assert load(None, topk[2:], {}).config.push.decay == 0.9
    with pytest.raises(ConfigError, match="beside a codec that leaves no rest"):
        load(None, ["push.codec=dense", "push.values=int8", "push.decay=0.9"], {})


@pytest.mark.parametrize("way", ["push", "pull"])
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", ("dense", "mxint4", {"push": 4.0, "pull": 5.0})),
        ("mode=local", ("dense", "int4", 6.0)),
        ("coarse=3", ("dense", "mxint4", 3.0)),
        ("values=int4", ("dense", "int4", 1.0)),
        ("codec=dense values=int4", ("dense", "int4", 1.0)),
        ("values=int8", ("dense", "int8", 1.0)),
        ("values=sign2", ("topk", "sign2", 1.0)),
        ("density=0.1", ("topk", "auto", 1.0)),
        ("density=0.1 values=int4 coarse=2", ("topk", "int4", 2.0)),
        ("codec=dense", ("dense", "auto", 1.0)),
        ("codec=topk", ("topk", "auto", 1.0)),
    ],
)
def test_what_an_unset_codec_stands_for(
    way: str, keys: str, expected: tuple[str, str, float | dict[str, float]]
) -> None:
    overrides = [f"{'sync' if key.startswith('mode') else way}.{key}" for key in keys.split()]
    config = complete(load(None, overrides, {}).config)
    section = getattr(config, way)
    *codes, coarse = expected
    assert [section.codec, section.values] == codes
    assert section.coarse == (coarse[way] if isinstance(coarse, dict) else coarse)
    assert complete(config) == config


@pytest.mark.parametrize("way", ["push", "pull"])
def test_coarse_steps_are_those_of_whole_numbers_of_four_bits(way: str) -> None:
    for values in ("int4", "mxint4"):
        config = load(None, [f"{way}.values={values}", f"{way}.coarse=4"], {}).config
        assert getattr(config, way).coarse == 4
    with pytest.raises(ConfigError, match='only "int4" and "mxint4" read it'):
        load(None, [f"{way}.values=sign1", f"{way}.coarse=4"], {})
    with pytest.raises(ConfigError, match="≥ 1 and ≤ 16"):
        load(None, [f"{way}.values=int4", f"{way}.coarse=17"], {})


def test_what_needs_no_feedback_may_do_without() -> None:
    for values in ("auto", "fp32", "fp16", "bf16", "int8"):
        overrides = [
            "push.codec=dense",
            "push.feedback=none",
            f"push.values={values}",
            'push.policy=["1d=int8"]',
        ]
        assert load(None, overrides, {}).config.push.feedback == "none"


def test_json_of_another_build_is_refused_by_key() -> None:
    with pytest.raises(ConfigError, match=r"run\.colour \(from the coordinator\)"):
        Config.from_json('{"run": {"colour": "red"}}')
    with pytest.raises(ConfigError, match="the coordinator"):
        Config.from_json("no json")


def test_a_loaded_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().run.steps = 1  # type: ignore[misc]
    assert Config(run=RunConfig(steps=7)).run.steps == 7


def test_every_key_is_described() -> None:
    assert [key for key, field in fields() if not field.description] == []


def test_the_environment_is_a_copy() -> None:
    environment()["SPARSYNC_NEW"] = "x"
    assert "SPARSYNC_NEW" not in os.environ


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sync.mode=delayed"], ("adamw", 2e-3)),
        (["sync.mode=local", "sync.local_steps=1"], ("muon", 8e-3)),
        (["sync.mode=async", "sync.local_steps=4"], ("muon", 8e-3)),
        (["sync.mode=local", "optimizer.name=sgd", "optimizer.lr=0.1"], ("sgd", 0.1)),
    ],
)
def test_the_default_optimizer_depends_on_who_runs_it(
    overrides: list[str], expected: tuple[str, float]
) -> None:
    chosen = complete(load(None, overrides, {}).config).optimizer
    assert (chosen.name, chosen.lr) == expected


def test_a_pace_is_live_and_who_runs_the_optimizer_is_not() -> None:
    local = load(None, ["sync.mode=local", "optimizer.outer_lr=0.7"], {}).config
    free = amend(local, {"sync.mode": "async"})
    assert (free.sync.mode, free.sync.local_steps, free.sync.is_local) == ("async", 15, True)
    assert amend(free, {"sync.mode": "local", "sync.quorum": "3"}).sync.steps_a_round == 15
    with pytest.raises(ConfigError, match=r"the servers run the optimizer in this run.*--resume"):
        amend(load(None, [], {}).config, {"sync.mode": "local"})
    single = load(None, ["sync.mode=local", "sync.local_steps=1"], {}).config
    with pytest.raises(ConfigError, match="the workers run the optimizer in this run"):
        amend(single, {"sync.mode": "async"})


@pytest.mark.parametrize(
    ("overrides", "refusal"),
    [
        (["optimizer.outer_lr=0.7"], "only a run with local steps reads that"),
        (["optimizer.aggregate=count"], 'optimizer.aggregate = "count" beside sync.mode'),
        (["optimizer.name=muon"], "only a run with local steps reads that"),
        (["sync.mode=local", "push.feedback=ef21"], "differences are added up, not estimated"),
        (["sync.mode=local", "sync.quorum=2", "sync.staleness=1"], "leave one of them out"),
        (["sync.mode=local", "optimizer.outer_nesterov=true"], "it needs momentum"),
        (["sync.mode=local", "sync.warmup_rounds=3", "sync.warmup_local_steps=20"], "more than the 15 steps"),
        (["sync.mode=local", "sync.warmup_local_steps=4"], "no warm-up to read it"),
        (["sync.mode=local", "push.codec=topk", "push.momentum=0.5"], 'only "ef21" reads it'),
        (["sync.mode=local", "optimizer.count_power=1"], 'only "count" reads it'),
        (["sync.mode=delayed", "sync.local_steps=4", "sync.look_ahead=3"], "only units of one step"),
        (["sync.mode=async", "sync.local_steps=4", "sync.look_ahead=3"], "only units of one step"),
        (
            ["sync.mode=local", "push.warmup_density=0.05", "push.warmup_steps=9"],
            "below push.density = 0.0625",
        ),
    ],
)
def test_what_local_steps_read_and_what_they_cannot(overrides: list[str], refusal: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(None, overrides, {})
    assert refusal in str(error.value)


def test_what_is_read_may_be_set() -> None:
    for overrides in (
        ["sync.mode=delayed", "sync.look_ahead=3"],
        ["sync.mode=delayed", "sync.local_steps=4"],
        ["sync.mode=local", "optimizer.aggregate=count", "optimizer.count_power=1"],
    ):
        load(None, overrides, {})


def test_defaults_follow_who_runs_the_optimizer() -> None:
    servers, workers = (0.25, "mxint4", 4.0), (0.0625, "int4", 6.0)
    for mode, expected in (("sync", servers), ("delayed", servers), ("local", workers)):
        config = load(None, [f"sync.mode={mode}"], {}).config
        assert config.push.density is None
        push = complete(config).push
        assert (push.density, push.values, push.coarse) == expected
    assert complete(load(None, ["sync.mode=local", "push.density=0.5"], {}).config).push.density == 0.5


def test_delayed_is_one_step_behind_and_no_other() -> None:
    assert load(None, ["sync.mode=delayed", "sync.staleness=1"], {}).config.sync.staleness == 1
    with pytest.raises(ConfigError, match=r"in `delayed` it is 1"):
        load(None, ["sync.mode=delayed", "sync.staleness=2"], {})
    with pytest.raises(ConfigError, match=r"only `sync`"):
        load(None, ["sync.mode=delayed", "sync.quorum=2"], {})
    free = load(None, ["sync.mode=ssp", "sync.staleness=4"], {}).config
    assert amend(free, {"sync.mode": "delayed"}).sync.staleness is None
