"""The rules of docs/design.md: which package imports which, no pickles, and the size of files and functions."""

from __future__ import annotations

import ast
import configparser
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import get_args

import pytest

from airsmith.recipe.operation import BackendName
from tests.support.repository import REPOSITORY

FOLDERS = ("plugins", "containers", "dags", "demo")

LAYERS = (
    {"errors"},
    {"recipe", "artifacts"},
    {"settings", "hub", "registry"},
    {"contracts"},
    {"backends"},
    {"process", "cluster"},
    {"preflight", "serving"},
    {"janitor", "pipeline"},
    {"terminal", "ui"},
    {"cli", "airflow"},
)
"""The packages of `airsmith`, the lowest first. A package imports from itself and from the layers below it."""

GROUND_FLOOR = set().union(*LAYERS[:4])
"""The layers that the stages import as well."""
STAGES_MAY_IMPORT = GROUND_FLOOR | {"process"}

AIRFLOW_ROOM = ("plugins/airsmith/airflow/", "plugins/airsmith_plugin.py")
TRAINING_LIBRARIES = {"accelerate", "datasets", "peft", "safetensors", "tokenizers", "torch", "transformers"}
TRAINING_LIBRARIES_ARE_KNOWN_TO = ("containers/", "demo/tiny_llama.py")
PICKLES = {"cPickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
PICKLES_ARE_KNOWN_TO = ("containers/airsmith_stages/torch_pickles.py",)
GENERIC_NAMES = {"common", "helpers", "helper", "manager", "managers", "misc", "util", "utils"}

DISTRIBUTIONS = {
    "airflow": "apache-airflow",
    "mlflow": "mlflow-skinny",
    "optimum": "optimum-neuron",
    "pydantic_core": "pydantic",
    "yaml": "pyyaml",
}
"""Whose import name is not their distribution's."""

OF_A_BASE_IMAGE = {"neuronx_distributed", "torch_neuronx", "torch_xla"}
"""What no package index has."""

FILE_LINES, FUNCTION_LINES = 300, 40
"""Aimed at: beyond them a warning, a tenth or a half beyond them a failure."""


@dataclass(frozen=True)
class Module:
    """A Python file of the repository."""

    path: str

    @cached_property
    def text(self) -> str:
        return (REPOSITORY / self.path).read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def imports(self) -> set[str]:
        """Dotted names, from anywhere in the file: late and type-checking imports count."""
        names = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno} imports relatively"
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
        return names

    @property
    def imported_packages(self) -> set[str]:
        return {name.partition(".")[0] for name in self.imports}

    @property
    def dotted_name(self) -> str:
        """`airsmith.recipe.load` of `plugins/airsmith/recipe/load.py`."""
        parts = Path(self.path).with_suffix("").parts
        return ".".join(parts[0 if parts[0] == "demo" else 1 :]).removesuffix(".__init__")

    @property
    def room(self) -> str:
        """`recipe` of `plugins/airsmith/recipe/load.py`, `settings` of `plugins/airsmith/settings.py`."""
        return Path(self.path).parts[2].removesuffix(".py")


MODULES = [
    Module(path.relative_to(REPOSITORY).as_posix())
    for folder in FOLDERS
    for path in (REPOSITORY / folder).rglob("*.py")
]
OF_AIRSMITH = [module for module in MODULES if module.path.startswith("plugins/airsmith/")]


def under(path: str) -> list[Module]:
    return [module for module in MODULES if module.path.startswith(path)]


def known_only_to(names: set[str], places: tuple[str, ...]) -> list[str]:
    """The files outside `places` that import one of `names`."""
    return [
        module.path for module in MODULES if names & module.imported_packages and not module.path.startswith(places)
    ]


def test_imports_point_down():
    layer_of = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    violations = [
        f"{module.path} imports {name}"
        for module in OF_AIRSMITH
        if (room := module.room) != "__init__"
        for name in module.imports
        if name.startswith("airsmith.")
        and (imported := name.split(".")[1]) not in (room, "__version__")
        and layer_of[imported] >= layer_of[room]
    ]
    assert not violations


def test_every_room_has_a_layer():
    assert {module.room for module in OF_AIRSMITH} - {"__init__"} == set().union(*LAYERS)


@pytest.mark.parametrize("root", ["plugins", "containers", "demo"])
def test_no_modules_import_each_other_in_a_circle(root: str):
    """Imports inside functions count: they would only hide a circle."""
    modules = {module.dotted_name: module for module in under(f"{root}/")}
    sorter = TopologicalSorter(
        {
            name: {imported for full in module.imports if (imported := longest_known(full, modules))} - {name}
            for name, module in modules.items()
        }
    )
    try:
        sorter.prepare()
    except CycleError as circle:
        pytest.fail(f"import circle: {' -> '.join(circle.args[1])}")


def longest_known(name: str, modules: Mapping[str, Module]) -> str | None:
    """The module that an imported name is or comes from."""
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name if name in modules else None


def test_the_stages_import_only_the_ground_floor_and_process():
    violations = [
        f"{module.path} imports {name}"
        for module in under("containers/")
        for name in module.imports
        if name.startswith("airsmith.") and name.split(".")[1] not in STAGES_MAY_IMPORT | {"__version__"}
    ]
    assert not violations


def test_dag_files_import_only_the_dags():
    violations = [
        f"{module.path} imports {name}"
        for module in under("dags/")
        for name in module.imports
        if not name.startswith("airsmith.airflow.dags.") and name.partition(".")[0] not in sys.stdlib_module_names
    ]
    assert not violations


def test_airsmith_imports_neither_its_stages_nor_the_demo():
    assert not known_only_to({"airsmith_stages"}, ("containers/",))
    assert not known_only_to({"demo"}, ("demo/",))


def test_only_the_airflow_room_and_the_plugin_import_airflow():
    assert not known_only_to({"airflow"}, AIRFLOW_ROOM)


def test_only_the_stages_import_training_libraries():
    assert not known_only_to(TRAINING_LIBRARIES, TRAINING_LIBRARIES_ARE_KNOWN_TO)


def test_only_the_device_modules_name_a_backend():
    names = set(get_args(BackendName)) - {"cpu", "cuda"}  # torch's own names for its devices, too
    modules = [*under("containers/airsmith_stages/"), *under("dags/")]
    violations = [
        f"{module.path}:{node.lineno} says {node.value!r}"
        for module in modules
        if "/devices/" not in module.path
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert not violations


def test_only_the_pickle_reader_reads_pickles():
    assert not known_only_to(PICKLES, PICKLES_ARE_KNOWN_TO)
    assert not [f"{module.path}:{line}" for module in MODULES for line in pickle_reads(module)]


def pickle_reads(module: Module) -> Iterator[int]:
    """Lines with a `torch.load` outside `train` or with pickles allowed, or a `numpy.load` with pickles allowed."""
    folders = ("training/", "neuron/")
    in_train = module.path.startswith(tuple(f"containers/airsmith_stages/{folder}" for folder in folders))
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        loads_torch = ast.unparse(node.func) == "torch.load"
        if (loads_torch and not (in_train and given.get("weights_only") == "True")) or given.get(
            "allow_pickle"
        ) == "True":
            yield node.lineno


def test_pickle_reads_are_detected(tmp_path: Path):
    trusting = tmp_path / "trusting.py"
    trusting.write_text(
        "torch.load(f)\ntorch.load(f, weights_only=False)\nnp.load(f, allow_pickle=True)\nnp.load(f)\njson.load(f)\n"
    )
    assert list(pickle_reads(Module(str(trusting)))) == [1, 2, 3]


def test_no_module_has_a_generic_name():
    assert not [module.path for module in MODULES if Path(module.path).stem in GENERIC_NAMES]


@pytest.mark.parametrize(
    ("prefix", "requirements"),
    [
        ("plugins/", {"setup.cfg": ["airflow"]}),
        ("containers/", {"setup.cfg": [], "containers/setup.cfg": ["train", "ray", "neuron-xla"]}),
    ],
)
def test_every_imported_package_is_a_declared_dependency(prefix: str, requirements: dict[str, list[str]]):
    """An undeclared import works only as long as another dependency requires the package."""
    required = {name for file, extras in requirements.items() for name in required_by(REPOSITORY / file, extras)}
    ours = {"airsmith", "airsmith_stages", "airsmith_plugin"}
    undeclared = {
        f"{module.path} imports {package}"
        for module in under(prefix)
        for package in module.imported_packages - ours - OF_A_BASE_IMAGE - sys.stdlib_module_names - {"__future__"}
        if normalized(DISTRIBUTIONS.get(package, package)) not in required
    }
    assert not undeclared


def required_by(setup: Path, extras: list[str]) -> set[str]:
    """Normalized names of the distributions that a setup.cfg requires."""
    options = configparser.ConfigParser(interpolation=None)
    options.read(setup, encoding="utf-8")
    lines = options["options"]["install_requires"].splitlines()
    for extra in extras:
        lines += options["options.extras_require"][extra].splitlines()
    return {normalized(found.group()) for line in lines if (found := re.match(r"[\w.-]+", line))}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_files_and_functions_stay_small():
    sizes = [(len(module.text.splitlines()), FILE_LINES, 1.1, module.path) for module in MODULES]
    sizes += [
        ((node.end_lineno or 0) - node.lineno + 1, FUNCTION_LINES, 1.5, f"{module.path}:{node.lineno} {node.name}")
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for lines, aim, _, place in sizes:
        if lines > aim:
            warnings.warn(f"{place} has {lines} lines; aim at {aim}", stacklevel=1)
    assert not [f"{place} has {lines} lines" for lines, aim, slack, place in sizes if lines > aim * slack]
