"""Tests of settings: who wins, and what a wrong one says."""

from pathlib import Path

import pytest

from runtime.config import Config, load_config, load_settings
from tools.errors import ConfigurationError


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_flag_wins_over_variable_over_file_over_default(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "zonda.toml",
        '# mine\nmodel = "from file"\nthreads = 1\nmax_queue = 7\ncache_dir = "/c"\n',
    )
    environ = {"ZONDA_MODEL": "from variable", "ZONDA_THREADS": "2", "OTHER": "x"}
    settings = load_settings(environ, config_file=file, model="from flag", device=None)
    assert settings.config == Config(
        model="from flag", threads=2, max_queue=7, cache_dir=Path("/c")
    )
    assert settings.origins == {
        "model": "flag",
        "cache_dir": f"{file}, line 5",
        "state_dir": "default",
        "device": "default",
        "threads": "ZONDA_THREADS",
        "context_length": "default",
        "kv_cache_mib": "default",
        "kv_type": "default",
        "max_sequences": "default",
        "max_queue": f"{file}, line 4",
        "max_step_tokens": "default",
        "max_step_ms": "default",
        "max_draft_tokens": "default",
        "keep_catalogues": "default",
        "host": "default",
        "port": "default",
        "drain_s": "default",
        "any_model_name": "default",
        "served_model_name": "default",
        "mcp_urls": "default",
        "share": "default",
        "engine_idle_s": "default",
        "policy_file": "default",
        "audit": "default",
        "audit_contents": "default",
        "oauth_issuer": "default",
        "oauth_resource": "default",
        "oauth_scopes": "default",
        "oauth_keys": "default",
        "access_log": "default",
        "otlp_endpoint": "default",
        "tls_cert": "default",
        "tls_key": "default",
    }
    assert (settings.path, settings.is_read) == (file, True)


def test_file_of_the_configuration_folder_is_read_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_config_path", lambda name: tmp_path / name)
    assert not load_settings({}).is_read
    (tmp_path / "zonda").mkdir()
    _write(tmp_path / "zonda" / "zonda.toml", "threads = 3\n")
    assert load_config({}).threads == 3
    other = _write(tmp_path / "other.toml", "threads = 4\n")
    assert load_config({"ZONDA_CONFIG": str(other)}).threads == 4


WRONG = [
    # (file, what the message says after the file's name)
    ("model = \n", r" is no TOML: .*line 1"),
    ("threads = 1\nmodle = 'x'\n", r", line 2: no setting .* 'modle'; did you mean 'model'\?"),
    ("\n[server]\nport = 1\n", r", line 2: no setting is named 'server'"),
    ("threads = 'two'\n", r", line 1: threads must be a whole number, not 'two'"),
    ("threads = true\n", r", line 1: threads must be a whole number, not True"),
    ("keep_catalogues = 1\n", r", line 1: keep_catalogues must be true or false, not 1"),
    ("keep_catalogues = 'on'\n", r", line 1: keep_catalogues must be true or false, not 'on'"),
    ("threads = 1\nmodel = 5\n", r", line 2: model must be a text, not 5"),
    ("\n\nmax_queue = 0\n", r", line 3: max_queue must be at least 1, not 0"),
    ("engine_idle_s = -1\n", r", line 1: engine_idle_s must be at least 0, not -1"),
    ('device = "gpu"\n', r", line 1: device must be auto, cpu or cuda, not 'gpu'"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_wrong_file_names_line_and_key(text: str, message: str, tmp_path: Path) -> None:
    file = _write(tmp_path / "zonda.toml", text)
    with pytest.raises(ConfigurationError, match=rf"zonda\.toml{message}"):
        load_config({}, config_file=file)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"ZONDA_THREADS": "x"}, r"^ZONDA_THREADS: threads must be a whole number, not 'x'$"),
        ({"ZONDA_THREADS": "-1"}, r"^ZONDA_THREADS: threads must be at least 0, not -1$"),
        (
            {"ZONDA_KEEP_CATALOGUES": "maybe"},
            r"keep_catalogues must be true or false, not 'maybe'$",
        ),
        ({"ZONDA_CONFIG": "/nowhere.toml"}, r"^no configuration is at /nowhere\.toml"),
    ],
)
def test_wrong_variable_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_config(environ)


def test_switch_is_off_unless_it_is_turned_on(tmp_path: Path) -> None:
    assert not load_config({}).keep_catalogues
    for text, wanted in (("1", True), ("TRUE", True), ("on", True), ("0", False), ("off", False)):
        assert load_config({"ZONDA_KEEP_CATALOGUES": text}).keep_catalogues is wanted
    file = _write(tmp_path / "zonda.toml", "keep_catalogues = true\n")
    assert load_config({}, config_file=file).keep_catalogues
    assert not load_config({}, config_file=file, keep_catalogues=False).keep_catalogues


def test_file_that_is_no_text_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "zonda.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match=r"zonda\.toml cannot be read"):
        load_config({}, config_file=tmp_path / "zonda.toml")


def test_policy_file_may_be_set_anywhere_and_its_home_is_found(tmp_path: Path) -> None:
    assert load_config({}, config_file=_write(tmp_path / "zonda.toml", "")).policy_file is None
    file = _write(tmp_path / "zonda.toml", 'policy_file = "~/policy.toml"\naudit = false\n')
    config = load_config({"ZONDA_AUDIT_CONTENTS": "1", "ZONDA_STATE_DIR": "/s"}, config_file=file)
    assert config.policy_file == Path.home() / "policy.toml"
    assert (config.audit, config.audit_contents) == (False, True)
    assert config.audit_file == Path("/s/audit.jsonl")
    assert load_config({}, config_file=file, policy_file=Path("p")).policy_file == Path("p")
    wrong = _write(tmp_path / "zonda.toml", "policy_file = 3\n")
    with pytest.raises(ConfigurationError, match="line 1: policy_file must be a text, not 3"):
        load_config({}, config_file=wrong)
