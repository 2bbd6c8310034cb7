"""Plugins are loaded one by one from real installed metadata, and a broken one is named and left out."""

from __future__ import annotations

import importlib.metadata
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from cyclevar.core.config.base import Settings
from cyclevar.core.errors import ConfigError, PluginError, UnknownNameError
from cyclevar.core.extension import manager as manager_module
from cyclevar.core.extension.hookspecs import hookimpl
from cyclevar.core.extension.manager import Manager, get_manager, required_versions, trying
from cyclevar.core.extension.registry import Registry

REGISTER = """
from cyclevar.core.extension.hookspecs import hookimpl

@hookimpl
def cyclevar_register(registry):
    registry.add("metric", "{name}", "math:sqrt", summary="the metric {name}")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a distribution with one plugin module on the import path, as an installer would."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(
        distribution: str, code: str, *, name: str | None = None, version: str = "1.0", requires: tuple[str, ...] = ()
    ) -> None:
        name = name or distribution
        module = f"{tmp_path.name}_{distribution.replace('-', '_')}_{name}"  # imported once a process: unique per test
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        lines = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        (info / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {one}" for one in requires), ""]))
        with (info / "entry_points.txt").open("a") as lines:
            lines.write(f"[cyclevar]\n{name} = {module}\n")
        importlib.invalidate_caches()

    return put


def load(*, enabled: set[str] | None = None) -> Manager:
    return Manager(importlib.metadata.entry_points(group="cyclevar"), enabled)


def only_failure(manager: Manager) -> manager_module.Failure:
    [failure] = [failure for failure in manager.failures if not failure.distribution.startswith("cyclevar ")]
    return failure


def test_our_own_parts_come_through_entry_points() -> None:
    manager = load()
    assert manager.failures == []
    assert {plugin.distribution for plugin in manager.plugins} == {"cyclevar"}
    assert "patchgan" in manager.registry.names("discriminator")


def test_a_strangers_plugin_registers_after_ours(install: Callable[..., None]) -> None:
    install("aaa", REGISTER.format(name="first"))
    manager = load()
    plugin = manager.plugins[-1]
    assert (plugin.name, plugin.distribution, plugin.version) == ("aaa", "aaa", "1.0")
    assert Path(plugin.file).is_file()
    assert plugin.hooks == ("cyclevar_register",)
    assert plugin.registered == (manager.registry.get("metric", "first"),)
    assert manager.registry.get("metric", "first").owner == "plugin aaa (aaa 1.0)"


@pytest.mark.parametrize(
    ("code", "reason", "way_out"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'", "uninstall broken-part"),
        ("raise SystemError('a\\nb')", "SystemError: a b", "uninstall broken-part"),
        (
            REGISTER.replace("cyclevar_register", "cyclevar_regster").format(name="x"),
            "there is no hook named 'cyclevar_regster'; expected one of cyclevar_commands, cyclevar_configure",
            "did you mean 'cyclevar_register'?",
        ),
        (
            REGISTER.replace("cyclevar_register", "register").format(name="x"),
            "there is no hook named 'register'",
            "did you mean 'cyclevar_register'?",
        ),
        (
            REGISTER.replace("@hookimpl", "").format(name="x"),
            "its function cyclevar_register is not marked",
            "put @hookimpl above it",
        ),
        (
            REGISTER.replace("@hookimpl", "@hookimpl(wrapper=True)").format(name="x"),
            "its function cyclevar_register is a wrapper",
            "uninstall broken-part",
        ),
        (
            REGISTER.replace("(registry)", "(register)").format(name="x"),
            "Argument(s) {'register'} are declared in the hookimpl",
            "uninstall broken-part",
        ),
        (
            REGISTER.replace('"metric"', '"metri"').format(name="x"),
            "there is no kind of part named 'metri'",
            "did you mean 'metric'?",
        ),
        (
            REGISTER.replace('"metric"', '"discriminator"').format(name="patchgan"),
            "the discriminator 'patchgan' of plugin broken (broken-part 2.0) is already registered by plugin patchgan",
            "rename one of the two",
        ),
        (
            REGISTER.replace("registry.add", "registry.ad").format(name="x"),
            "plugin broken failed in cyclevar_register: AttributeError",
            "CYCLEVAR_PLUGINS",
        ),
    ],
)
def test_a_broken_plugin_is_named_and_the_others_work(
    install: Callable[..., None], code: str, reason: str, way_out: str
) -> None:
    install("broken-part", code, name="broken", version="2.0")
    install("works", REGISTER.format(name="fine"))
    manager = load()
    failure = only_failure(manager)
    assert (failure.name, failure.distribution) == ("broken", "broken-part 2.0")
    assert reason in failure.reason
    assert way_out in failure.way_out
    assert "\n" not in str(failure)
    assert manager.registry.names("metric") == ("fine",)
    assert "broken" not in [plugin.name for plugin in manager.plugins]


OWN = importlib.metadata.version("cyclevar")


@pytest.mark.parametrize(
    ("requires", "reason", "way_out"),
    [
        (("torch", "cyclevar<0.1,>=0.01"), f"it needs cyclevar <0.1,>=0.01, and this is {OWN}", "cyclevar <0.1,>=0.01"),
        (("Cyclevar>=99 ; python_version > '3'",), f"it needs cyclevar >=99, and this is {OWN}", "a release of late"),
        (("cyclevar what",), "its requirement 'cyclevar what' cannot be read", ""),
    ],
)
def test_a_plugin_for_another_version_is_not_imported(
    install: Callable[..., None], requires: tuple[str, ...], reason: str, way_out: str
) -> None:
    install("late", "raise SystemError('imported')", requires=requires)
    install("works", REGISTER.format(name="fine"))
    manager = load()
    failure = only_failure(manager)
    assert reason in failure.reason
    assert way_out in failure.way_out
    assert manager.registry.names("metric") == ("fine",)


@pytest.mark.parametrize(
    ("requires", "declared"),
    [
        ((), None),
        (("cyclevar",), ""),
        (("cyclevar>=0.0.1", "torch"), ">=0.0.1"),
        ((f"cyclevar=={OWN}",), f"=={OWN}"),
        (("cyclevar-other>=99", "cyclevar>=99; extra == 'later'"), None),
    ],
)
def test_what_a_plugin_declares_to_need(
    install: Callable[..., None], requires: tuple[str, ...], declared: str | None
) -> None:
    install("fits", REGISTER.format(name="fine"), requires=requires)
    assert load().registry.names("metric") == ("fine",)
    assert required_versions(importlib.metadata.distribution("fits")) == declared


def test_a_broken_plugin_leaves_no_hook_behind(install: Callable[..., None]) -> None:
    code = """
        @hookimpl
        def cyclevar_configure(config):
            return "changed"
    """
    install("broken", REGISTER.replace('"metric"', '"metri"').format(name="x") + textwrap.dedent(code))
    assert load().fold("cyclevar_configure", "as it was") == "as it was"


def test_two_plugins_of_one_name(install: Callable[..., None]) -> None:
    install("aaa", REGISTER.format(name="a"), name="same")
    install("bbb", REGISTER.format(name="b"), name="same")
    manager = load()
    failure = only_failure(manager)
    assert failure.distribution == "bbb 1.0"
    assert failure.reason == "the plugin name 'same' is already taken by aaa"
    assert manager.registry.names("metric") == ("a",)


def test_switching_off(install: Callable[..., None]) -> None:
    install("aaa", REGISTER.format(name="a"))
    install("bbb", REGISTER.format(name="b"))
    some = load(enabled={"bbb"})
    assert some.registry.names("metric") == ("b",)
    assert [(plugin.name, plugin.distribution, plugin.reason) for plugin in some.disabled] == [
        ("aaa", "aaa 1.0", "CYCLEVAR_PLUGINS does not name it")
    ]
    none = load(enabled=set())
    assert none.registry.names("metric") == ()
    assert [plugin.name for plugin in none.disabled] == ["aaa", "bbb"]
    assert none.disabled[0].reason == "CYCLEVAR_PLUGINS is empty, or --no-plugins was given"
    assert "patchgan" in none.registry.names("discriminator")


def test_switching_on_what_is_not_installed(install: Callable[..., None]) -> None:
    install("markov", REGISTER.format(name="a"))
    failure = only_failure(load(enabled={"marcov"}))
    assert (failure.name, failure.distribution) == ("marcov", "not installed")
    assert failure.way_out == "did you mean 'markov'?"


@pytest.mark.parametrize(("value", "names"), [(None, ("a", "b")), ("", ()), (" bbb ,", ("b",))])
def test_the_environment_switches(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch, value: str | None, names: tuple[str, ...]
) -> None:
    install("aaa", REGISTER.format(name="a"))
    install("bbb", REGISTER.format(name="b"))
    if value is None:
        monkeypatch.delenv("CYCLEVAR_PLUGINS", raising=False)
    else:
        monkeypatch.setenv("CYCLEVAR_PLUGINS", value)
    assert get_manager.__wrapped__().registry.names("metric") == names


def test_failures_are_logged_once(install: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    install("broken", "import no_such_library")
    get_manager.__wrapped__()
    [line] = [record.getMessage() for record in caplog.records if "broken" in record.getMessage()]
    assert line.startswith("plugin broken (broken 1.0) was left out: ModuleNotFoundError")


def test_without_an_installation_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(PluginError, match=r"without being installed.*pip install -e"):
        get_manager.__wrapped__()


HOOKS = """
from cyclevar.core.extension.hookspecs import hookimpl

@hookimpl
def cyclevar_configure(config):
    return {result}

@hookimpl
def cyclevar_model_built(model):
    model.append("{name}")
"""


def test_results_are_folded_in_order(install: Callable[..., None]) -> None:
    install("bbb", HOOKS.format(name="b", result="config * 2"))
    install("aaa", HOOKS.format(name="a", result="config + 1"))
    install("ccc", HOOKS.format(name="c", result="None"))
    manager = load()
    assert manager.fold("cyclevar_configure", 3) == 8
    model: list[str] = []
    assert manager.fold("cyclevar_model_built", model, config=None) is model
    assert model == ["a", "b", "c"]


def test_a_hook_that_fails_names_its_plugin(install: Callable[..., None]) -> None:
    install("aaa", HOOKS.format(name="a", result="1 / 0"))
    with pytest.raises(PluginError, match=r"plugin aaa failed in cyclevar_configure: ZeroDivisionError"):
        load().fold("cyclevar_configure", 3)


def test_a_plugin_may_ask_to_be_first_or_last(install: Callable[..., None]) -> None:
    code = HOOKS.replace("@hookimpl", "@hookimpl({order})")
    install("aaa", code.format(name="a", result="None", order="trylast=True"))
    install("bbb", code.format(name="b", result="None", order=""))
    install("ccc", code.format(name="c", result="None", order="tryfirst=True"))
    assert load().fold("cyclevar_model_built", [], config=None) == ["c", "b", "a"]


class Sized(Settings):
    """Settings of a part."""

    size: int = 3


def test_a_part_is_built_with_its_settings() -> None:
    manager = Manager([])
    manager.registry.add("loss", "sized", lambda given, config: (given, config.size), summary="", config=Sized)
    manager.registry.add("loss", "plain", lambda given: given, summary="")
    assert manager.build("loss", "sized", {}, "a") == ("a", 3)
    assert manager.build("loss", "sized", {"size": 4}, "a") == ("a", 4)
    assert manager.build("loss", "plain", {}, "a") == "a"
    with pytest.raises(ConfigError, match=r"no setting named 'sise'.*did you mean 'size'"):
        manager.build("loss", "sized", {"sise": 4}, "a")
    with pytest.raises(ConfigError, match="'plain' has no setting 'size'"):
        manager.build("loss", "plain", {"size": 4}, "a")


def test_a_plugin_can_be_tried_without_being_installed() -> None:
    @hookimpl
    def cyclevar_register(registry: Registry) -> None:
        registry.add("metric", "tried", "math:sqrt", summary="a metric")

    @hookimpl
    def cyclevar_configure(config: int) -> int:
        return config + 1

    manager = get_manager()
    with trying("mine", cyclevar_register, cyclevar_configure):
        assert manager.plugins[-1].hooks == ("cyclevar_configure", "cyclevar_register")
        assert manager.registry.get("metric", "tried").owner == "plugin mine (not installed)"
        assert manager.fold("cyclevar_configure", 1) == 2
        with pytest.raises(PluginError, match="'mine' is already taken"), trying("mine"):
            pass
    assert "mine" not in [plugin.name for plugin in manager.plugins]
    assert "tried" not in manager.registry.names("metric")
    assert manager.fold("cyclevar_configure", 1) == 1
    with pytest.raises(UnknownNameError, match="cyclevar_sepia"), trying("mine", hookimpl(cyclevar_sepia)):
        pass
    assert "mine" not in [plugin.name for plugin in manager.plugins]


def cyclevar_sepia() -> None:
    """A hook that does not exist."""
