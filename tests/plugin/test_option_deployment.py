"""``--longctx-deployment`` takes names and patterns; deployments that boot on request are left out otherwise."""

from pytest_longctx import paths

SUITE = str(paths.suites() / "state_paths")


def collected(run, *options):
    return run("--backend=vllm-cpu", "--collect-only", "-q", "-k", "SP-0001", *options, what=SUITE).text


def test_a_deployment_that_boots_on_request_is_left_out_unless_it_is_named(run):
    assert "[SP-0001-cpu-paths]" in collected(run)
    assert "cpu-paths-mqa-128" not in collected(run)
    named = collected(run, "--longctx-deployment=cpu-paths-mqa-128")
    assert "[SP-0001-cpu-paths-mqa-128]" in named
    assert "[SP-0001-cpu-paths]" not in named


def test_a_pattern_selects_every_deployment_that_it_matches(run):
    text = collected(run, "--longctx-deployment=cpu-paths-gemma*,cpu-paths")
    assert all(f"[SP-0001-{name}]" in text for name in ("cpu-paths", "cpu-paths-gemma2", "cpu-paths-gemma3"))
    assert "gpt-oss" not in text


def test_a_pattern_that_matches_nothing_is_refused(run):
    done = run("--backend=vllm-cpu", "--longctx-deployment=gpu-*", "--collect-only", what=SUITE)
    assert "--longctx-deployment: gpu-* matches none of the" in done.text
    assert "deployments for --backend=vllm-cpu" in done.text
