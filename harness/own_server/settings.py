"""--set: settings of a script that is not ours, changed wherever its author has put them."""

import ast
import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import litserve
import uvicorn

SERVER = inspect.signature(litserve.LitServer.__init__).parameters
RUN = inspect.signature(litserve.LitServer.run).parameters
UVICORN = inspect.signature(uvicorn.Config.__init__).parameters
API = inspect.signature(litserve.LitAPI.__init__).parameters
OBJECTS = {"lit_api", "model_metadata", "callbacks", "middlewares", "loggers", "spec", "loop"}
FIXED = {"self", "app", "host", "port", "generate_client_file"}  # the launcher's own, or nobody's
OF_SERVER = SERVER.keys() - API.keys() - OBJECTS - FIXED
OF_RUN = (RUN.keys() | UVICORN.keys()) - SERVER.keys() - API.keys() - FIXED - {"kwargs"}
IN_LOOP = "max_batch_size", "batch_timeout"  # what LitServe's loops read after setup
LEAST = {"max_batch_size": 1, "batch_timeout": 0, "workers_per_device": 1, "num_api_servers": 1}


class SettingError(Exception):
    """A setting does not exist, or cannot have that value; the message is one sentence."""


def literal(text: str) -> Any:
    """A number, a truth value, None or else the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    with contextlib.suppress(ValueError, SyntaxError):
        value = ast.literal_eval(text)
        return value if isinstance(value, int | float) else text
    return text


def typed(name: str, text: str, present: Any) -> Any:
    """The value in the type of the present one, where that is known.

    Raises SettingError if it cannot be such a value.
    """
    if isinstance(present, str):
        return text
    value = literal(text)
    if isinstance(present, bool):
        fits = isinstance(value, bool)
    elif isinstance(present, int | float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        fits = True
    if not fits or (
        name in LEAST and not (isinstance(value, int | float) and value >= LEAST[name])
    ):
        least = f" of at least {LEAST[name]}" if name in LEAST else ""
        kind = "true or false" if isinstance(present, bool) else f"a number{least}"
        raise SettingError(f"--set {name}={text}: {name} is {kind}")
    return float(value) if isinstance(present, float) else value


def is_simple(value: Any) -> bool:
    """Whether a value can be one that is set from a command line."""
    return value is None or isinstance(value, bool | int | float | str)


class Settings:
    """What was asked for, put in place as the script makes its APIs and its server.

    A name is looked for among the keywords of LitServer and of its `run` (uvicorn's are among
    those), then in every API: constructor keywords, attributes of the object or its class.

    Args:
        asked: the texts by name; None only to tell the value in effect.

    Attributes:
        in_effect: by name, of what has been met so far; where several APIs have it, the first's.
    """

    def __init__(self, asked: Mapping[str, str | None]) -> None:
        self.asked = dict(asked)
        self.in_effect: dict[str, Any] = {}
        self.constructed: set[tuple[type, str]] = set()

    def text(self, name: str) -> str | None:
        return self.asked.get(name)

    def value(self, name: str, present: Any, typed_as: Any) -> Any:
        """What is asked for of this name, else what is there; noted as in effect."""
        text = self.asked[name]
        value = present if text is None else typed(name, text, typed_as)
        self.in_effect.setdefault(name, value if is_simple(value) else repr(value))
        return value

    def of_api(self, names: Iterable[str]) -> list[str]:
        """Those of the names asked for that an API may have."""
        return [name for name in names if name not in OF_SERVER | OF_RUN]

    def constructing(self, kind: type, arguments: tuple, options: dict) -> tuple[tuple, dict]:
        """The arguments with which an API of this class is to be made."""
        parameters = inspect.signature(kind.__init__).parameters
        named = [
            name
            for name in self.of_api(self.asked)
            if name in parameters
            and parameters[name].kind
            in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        ]
        if not named:
            return arguments, options
        try:
            bound = inspect.signature(kind.__init__).bind(None, *arguments, **options)
        except TypeError:  # the script's own error, for the class to raise
            return arguments, options
        for name in named:
            default = parameters[name].default
            present = bound.arguments.get(name, None if default is inspect._empty else default)
            bound.arguments[name] = self.value(name, present, present)
            self.constructed.add((kind, name))
        return bound.args[1:], bound.kwargs

    def to_api(self, api: litserve.LitAPI) -> None:
        """Set the attributes of an API that has been made."""
        for name in self.of_api(self.asked):
            derived = (type(api), name) in self.constructed and name not in API
            if name.startswith("_") or derived or not is_simple(getattr(api, name, print)):
                continue
            present = getattr(api, name)
            value = self.value(name, present, present)
            if self.asked[name] is not None:
                setattr(api, name, value)

    def to_server(self, arguments: dict[str, Any]) -> None:
        """Change the arguments that a LitServer is made with; `arguments` are those given."""
        for name in self.asked:
            given = name in arguments or (name == "batch_timeout" and "max_batch_size" in arguments)
            if name in OF_SERVER:
                present = arguments.get(name, SERVER[name].default)
                arguments[name] = self.value(name, present, None)
            elif name in SERVER.keys() & API.keys() - OBJECTS and given:
                present = arguments.get(name, SERVER[name].default)  # deprecated there
                self.in_effect.pop(name, None)  # it overrules the API's own
                arguments[name] = self.value(name, present, API[name].default)

    def to_run(self, arguments: dict[str, Any]) -> None:
        """Change the arguments that `run` is called with, uvicorn's included."""
        for name in self.asked.keys() & OF_RUN:
            parameter = RUN.get(name) or UVICORN[name]
            arguments[name] = self.value(name, arguments.get(name, parameter.default), None)

    def refuse_unknown(self, apis: Iterable[litserve.LitAPI]) -> None:
        """SettingError if nobody has a setting of that name."""
        unknown = [name for name in self.asked.keys() - OF_RUN if name not in self.in_effect]
        if unknown:
            kinds = ", ".join(dict.fromkeys(type(api).__name__ for api in apis))
            raise SettingError(
                f"--set {unknown[0]}: neither LitServer, nor its run(), nor {kinds} has it as a "
                "keyword, or as an attribute that is a number, a text or a truth value"
            )

    def in_loop(self, api: litserve.LitAPI) -> dict[str, Any]:
        """What must hold in the worker although its setup may have set it again."""
        return {name: getattr(api, name) for name in IN_LOOP if self.text(name) is not None}


def parsed_setting(text: str) -> tuple[str, str | None]:
    """NAME=VALUE, or NAME alone, which only tells its value."""
    name, equals, value = text.partition("=")
    if not name.isidentifier():
        raise ValueError(text)
    return name, value if equals else None


def intercept_construction(before: Callable[[type, tuple, dict], tuple[tuple, dict]]) -> None:
    """Let `before` see and change the arguments of every LitAPI that is made from now on."""
    meta = type(litserve.LitAPI)
    original = meta.__call__

    def call(kind: type, *arguments: Any, **options: Any) -> Any:
        arguments, options = before(kind, arguments, options)
        return original(kind, *arguments, **options)

    meta.__call__ = call
