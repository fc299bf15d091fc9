"""Reading the output of the compiler's tool, with examples from AWS's documentation and public issues."""

from __future__ import annotations

from pathlib import Path

import pytest

from airsmith_stages.neuron.graph_log import GraphLog, read_graph_log

CACHE = "/var/tmp/neuron-compile-cache/neuronxcc-2.0.0.22266a0+a69f71e55"


def summary(prefix: str = "", **graphs: str) -> str:
    """The summary in the documentation's format, with these graphs and their status."""
    report = ",\n".join(
        f'        "{CACHE}/MODULE_{name}+abb26765/model.hlo.pb": {{\n            "status": {status},\n'
        '            "retry": 0\n        }'
        for name, status in graphs.items()
    )
    failed = sum(status == "false" for status in graphs.values())
    begin = "2023-08-24 20:21:11.000895:  161136  INFO ||NEURON_PARALLEL_COMPILE||:"
    text = f"""\
{begin} {{
    "compilation_summary": {{
        "true": {len(graphs) - failed}
    }},
    "compilation_report": {{
{report}
    }}
}}
{begin} Total graphs: {len(graphs)}
{begin} Total successful compilations: {len(graphs) - failed}
{begin} Total failed compilations: {failed}
"""
    return "".join(f"{prefix}{line}\n" for line in text.splitlines())


@pytest.fixture
def read(tmp_path: Path):  # type: ignore[no-untyped-def]
    def read_text(text: str) -> GraphLog:
        path = tmp_path / "output.log"
        path.write_text(text)
        return read_graph_log(path)

    return read_text


@pytest.mark.parametrize("prefix", ["", "INFO: "])
def test_a_summary_names_the_failed_graphs(read, prefix: str) -> None:  # type: ignore[no-untyped-def]
    graph_log = read("....\nCompiler status PASS\n" + summary(prefix, **{"1970": "true", "1614": "false"}))
    assert graph_log == GraphLog(frozenset({"MODULE_1614+abb26765"}), 1, "", was_killed=False)


def test_a_summary_without_failures_names_no_graph(read) -> None:  # type: ignore[no-untyped-def]
    assert read(summary(**{"1970": "true"})) == GraphLog(frozenset(), 0, "", was_killed=False)


def test_a_compiler_s_message_names_graph_and_cause(read) -> None:  # type: ignore[no-untyped-def]
    line = (
        "2024-08-15 14:51:41.000622:  2216  ERROR ||NEURON_CC_WRAPPER||: Failed compilation with ['neuronx-cc', "
        "'compile', '--target=trn1', '--framework=XLA', '/tmp/no-user/neuroncc_compile_workdir/0cb6/model.MODULE_"
        "272695416573893802+00875417.hlo_module.pb', '--output', '/tmp/x/model.MODULE_272695416573893802+00875417.neff'"
        ", '--verbose=35']: 2024-08-15T14:51:41Z [NLA001]  Unhandled exception with message: tensor size must be more "
        "than 0, input1_set - Please open a support ticket at https://github.com/aws-neuron/aws-neuron-sdk/issues/new. "
        "You may also be able to obtain more information using the 'XLA_IR_DEBUG' variable.\n"
    )
    graph_log = read(line)
    assert graph_log.failed == {"MODULE_272695416573893802+00875417"}
    assert graph_log.cause == "[NLA001]  Unhandled exception with message: tensor size must be more than 0, input1_set"
    assert not graph_log.was_killed


@pytest.mark.parametrize(
    "line",
    [
        "[F137] neuronx-cc was forcibly killed - This most commonly occurs due to insufficient system memory.",
        "INFO ||NEURON_PARALLEL_COMPILE||: sub-process 1 got exception: A process in the process pool was terminated "
        "abruptly while the future was running or pending.",
        "subprocess.CalledProcessError: Command '['neuronx-cc']' returned non-zero exit status 137.",
    ],
)
def test_a_killed_compiler_is_distinguished_from_a_failed_one(read, line: str) -> None:  # type: ignore[no-untyped-def]
    assert read(f"{line}\n{summary()}").was_killed


def test_a_summary_with_other_output_in_it_yields_only_the_totals(read) -> None:  # type: ignore[no-untyped-def]
    text = summary(**{"1970": "false"}).replace('            "retry"', 'Compiler status PASS\n            "retry"')
    assert read(text) == GraphLog(frozenset(), 1, "", was_killed=False)
