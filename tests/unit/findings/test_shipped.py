"""The shipped data: every finding, deployment and signature is usable."""

import re
from fnmatch import fnmatchcase

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_longctx import backends, paths, plan, predict, toml
from pytest_longctx.backends import Backend, defaults
from pytest_longctx.deployments import models, random_models, trained_model
from pytest_longctx.deployments.deployment import load_all as load_deployments
from pytest_longctx.deployments.hardware import Hardware, Machine
from pytest_longctx.diagnosis.diagnose import explain_refusal
from pytest_longctx.diagnosis.log_reader import LogReader
from pytest_longctx.diagnosis.pattern_set import PatternSet
from pytest_longctx.findings import claims
from pytest_longctx.findings.ask import questions
from pytest_longctx.findings.finding import Finding
from pytest_longctx.findings.finding import load_all as load_findings
from pytest_longctx.findings.markers import LENGTHS
from pytest_longctx.findings.scope import dead
from pytest_longctx.findings.verdicts import concerns_memory, judge
from pytest_longctx.launchers import lint
from pytest_longctx.observation import KINDS
from pytest_longctx.probe import codes
from pytest_longctx.registry import BACKENDS, load
from pytest_longctx.units import GiB

SUITES = paths.suites()
FINDINGS = load_findings((SUITES / "findings",))
DEPLOYMENTS = load_deployments((SUITES / "deployments",))
CATALOGUES = {name: backends.load_signatures(path) for name, path in backends.signature_files().items()}
SIGNATURES = [
    pytest.param(known, signature, id=f"{name}-{signature.id}")
    for name, known in CATALOGUES.items()
    for signature in known.signature
]
FACTS = [
    pytest.param(known, fact, id=f"{name}-{number}")
    for name, known in CATALOGUES.items()
    for number, fact in enumerate(known.fact)
]
REFUSALS = [
    pytest.param(known, refusal, id=f"{name}-{refusal.id}")
    for name, known in CATALOGUES.items()
    for refusal in known.refusal
]
BENIGN = [
    pytest.param(known, benign, id=f"{name}-{benign.id}")
    for name, known in CATALOGUES.items()
    for benign in known.benign
]

every_finding = pytest.mark.parametrize("shipped", FINDINGS.values(), ids=FINDINGS)
every_deployment = pytest.mark.parametrize("shipped", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
every_signature = pytest.mark.parametrize(("known", "signature"), SIGNATURES)


def backend(name: str) -> Backend:
    made: Backend = load(BACKENDS[name])()
    return made


def test_there_is_data():
    assert len(FINDINGS) == len(list((SUITES / "findings").iterdir()))
    assert len(DEPLOYMENTS) == len(list((SUITES / "deployments").iterdir()))
    assert len(SIGNATURES) > 10


@every_finding
def test_a_findings_backends_are_ours(shipped):
    assert set(shipped.scope.backend) <= set(BACKENDS)


@every_finding
def test_a_findings_deployments_exist_and_have_its_backend(shipped):
    for pattern in shipped.scope.deployment:
        meant = [one for name, one in DEPLOYMENTS.items() if fnmatchcase(name, pattern)]
        assert meant, f"no deployment is called {pattern}"
        assert {one.backend for one in meant} <= set(shipped.scope.backend)


@every_finding
def test_a_findings_deployments_have_its_hardware_and_version(shipped):
    """A finding about a deployment on which it can never be judged is an error."""
    for name in shipped.scope.deployment:
        assert shipped.scope.hardware in (None, DEPLOYMENTS[name].hardware)
        assert DEPLOYMENTS[name].version in (None, shipped.scope.version)


@every_finding
def test_a_findings_signature_is_in_the_catalogue_of_each_of_its_backends(shipped):
    if shipped.expect.signature is None:
        return
    if shipped.question == "linted":
        assert shipped.expect.signature in lint.names()
        return
    for name in shipped.scope.backend or BACKENDS:
        catalogue = backend(name).catalogue
        signatures = {each.id: each for each in (*catalogue.signature, *catalogue.refusal)}
        assert shipped.expect.signature in signatures
        assert signatures[shipped.expect.signature].outcome == shipped.expect.outcome


@every_finding
def test_a_ratio_is_of_deployments_that_differ_in_one_flag(shipped):
    """Otherwise the ratio would not depend on that flag alone."""
    if shipped.question != "ratio":
        return
    one, other = (DEPLOYMENTS[name].model_dump(exclude={"name", "title", "only_named"}) for name in shipped.divided())
    differ = {name for name in {**one["flags"], **other["flags"]} if one["flags"].get(name) != other["flags"].get(name)}
    assert differ == {"kv-cache-dtype"}
    assert {**one, "flags": {}} == {**other, "flags": {}}


@every_finding
def test_an_expected_failure_names_its_cure_or_says_why_there_is_none(shipped):
    assert shipped.fails is bool(shipped.cure or shipped.no_cure)
    if shipped.cure:
        cure = FINDINGS[shipped.cure]
        assert not cure.fails
        assert cure.expect.outcome == "serves"
        assert cure.scope.backend == shipped.scope.backend
        assert not set(cure.scope.deployment) & set(shipped.scope.deployment)


@every_finding
def test_a_failure_that_is_predicted_has_a_cure_that_is_predicted_to_fit(shipped):
    if not shipped.cure or not concerns_memory(shipped):
        return
    host = shipped.scope.host_gib_at_most
    for finding, failing in ((shipped, True), (FINDINGS[shipped.cure], False)):
        for name in finding.scope.deployment:
            one = DEPLOYMENTS[name]
            here = (
                Machine(Hardware.parse(one.hardware), host_bytes=host and host * GiB) if one.hardware else Machine(None)
            )
            predicted = plan.predict(one, backend(one.backend), here)
            assert predicted is None or predicted.outcome == (finding.expect.outcome if failing else "serves")


@every_finding
def test_a_findings_notice_is_a_benign_line_of_each_of_its_backends(shipped):
    for name in (shipped.scope.backend or BACKENDS) if shipped.expect.notice else ():
        assert shipped.expect.notice in {each.id for each in backend(name).catalogue.benign}


@every_finding
def test_a_finding_bounds_only_what_its_signature_reads(shipped):
    """Other figures of a failed boot come from the facts in its log."""
    if shipped.question != "boot-fails":
        return
    for name in shipped.scope.backend:
        known = backend(name).catalogue
        patterns = [*(each.regex for each in known.fact), *(each.regex for each in known.signature)]
        read = {group for pattern in patterns for group in re.compile(pattern).groupindex}
        assert set(shipped.bounds) <= read


@every_finding
def test_a_prompt_is_marked_with_its_length(shipped):
    lengths = [LENGTHS[name] for name in shipped.markers if name in LENGTHS]
    tokens = shipped.ask.prompt_tokens
    if shipped.scope.deployment or tokens is None or not lengths:
        return
    (named,) = lengths
    assert named * 0.9 <= tokens <= named * 1.1


@every_finding
def test_a_finding_that_is_written_back_is_the_same(shipped, tmp_path):
    path = tmp_path / "again.toml"
    path.write_text(tomli_w.dumps(shipped.model_dump(exclude_unset=True)), encoding="utf-8")
    assert toml.load(path, Finding) == shipped


@every_finding
def test_a_document_of_this_project_exists(shipped):
    document = shipped.source.document
    assert not document.startswith("docs/") or (SUITES.parent / document).exists()


@every_finding
def test_a_claim_comes_out_as_documented(shipped):
    if shipped.claim is not None:
        assert judge(shipped, claims.observe(shipped.claim)).word == "holds"


def test_no_finding_is_dead():
    assert not dead(FINDINGS.values(), tuple(DEPLOYMENTS.values()))


@every_deployment
def test_a_deployments_backend_is_ours_and_can_be_launched(shipped):
    assert shipped.backend in BACKENDS
    assert backend(shipped.backend).launches


@every_deployment
def test_a_deployments_command_line_can_be_made(shipped):
    shipped = defaults.settle(shipped, backend(shipped.backend), Machine(Hardware("H100")))
    recipe = backend(shipped.backend).recipe(shipped, "/model", 8123, "python")
    assert recipe.argv[0] == "python"
    assert "8123" in recipe.argv
    assert str(shipped.max_model_len) in recipe.argv
    assert all(isinstance(word, str) for word in (*recipe.argv, *recipe.env, *recipe.env.values()))


@every_deployment
def test_a_deployments_made_model_can_be_made_and_says_what_its_weights_are(shipped):
    if shipped.model.make is None:
        return
    assert shipped.model.make in models.MADE
    assert (shipped.model.weights == "real") is (shipped.model.make in trained_model.MADE)
    ordinary = {
        "random": (random_models.TINY_SPECIAL_TOKENS, random_models.TINY_VOCABULARY),
        "probe": codes.FILLER_IDS,
        "real": (1000, 30_000),
    }
    assert shipped.model.ordinary_ids == ordinary[shipped.model.weights]
    assert (shipped.model.weights == "probe") is shipped.model.make.startswith("probe-")
    made_up = shipped.flags.get("load-format") == "dummy" or shipped.flags.get("random-weights", False)
    # Weights of a made model called random-... are in its checkpoint; those of any other are made by the engine.
    assert made_up is (shipped.model.weights == "random" and not shipped.model.make.startswith("random-"))


@every_deployment
def test_a_deployment_that_only_findings_name_is_named_by_one(shipped):
    named = {name for finding in FINDINGS.values() for name in finding.scope.deployment}
    assert shipped.name in named or not shipped.only_named


@every_signature
def test_a_signatures_example_is_known_as_that_signature(known, signature):
    """Alone, and before any other signature of its catalogue."""
    assert re.search(signature.regex, signature.example)
    reading = LogReader(known)
    reading.feed(signature.example)
    assert reading.failure is not None
    assert reading.failure.signature.id == signature.id


@every_signature
def test_a_signatures_near_miss_is_not_taken_for_it(known, signature):
    assert not re.search(signature.regex, signature.near_miss)
    reading = LogReader(known)
    reading.feed(signature.near_miss)
    assert reading.failure is None


@pytest.mark.parametrize(("known", "refusal"), REFUSALS)
def test_a_refusals_example_and_near_miss_are_told_apart(known, refusal):
    found = explain_refusal(known, refusal.example)
    assert found is not None
    assert found[0] == refusal.id
    assert explain_refusal(known, refusal.near_miss) is None


@pytest.mark.parametrize(("known", "benign"), BENIGN)
def test_a_benign_lines_example_is_noticed(known, benign):
    reading = LogReader(known)
    reading.feed(benign.example)
    assert reading.notices == {benign.id: 1}


@pytest.mark.parametrize(("known", "benign"), BENIGN)
def test_a_benign_lines_near_miss_is_not_taken_for_it(known, benign):
    """Otherwise a pattern that is too broad would hide a failure."""
    reading = LogReader(known)
    reading.feed(benign.near_miss)
    assert not reading.notices[benign.id]


@pytest.mark.parametrize(("known", "entry"), [*FACTS, *SIGNATURES, *BENIGN])
@settings(max_examples=25)  # of each of a hundred patterns
@given(data=st.data())
def test_whatever_a_pattern_matches_passes_the_filter(known, entry, data):
    """Or the fast way through a long log would pass it over."""
    line = data.draw(
        st.from_regex(re.compile(entry.regex, re.ASCII), fullmatch=True).filter(lambda text: "\n" not in text)
    )
    assert PatternSet([entry.regex]).numbers(f"INFO {line}")


@pytest.mark.parametrize("name", CATALOGUES)
def test_a_catalogue_has_each_signature_once(name):
    known = CATALOGUES[name]
    for ids in (
        [each.id for each in known.signature],
        [each.id for each in known.refusal],
        [each.id for each in known.benign],
    ):
        assert sorted(set(ids)) == sorted(ids)


@pytest.mark.parametrize(("known", "signature"), [*SIGNATURES, *REFUSALS])
def test_a_signature_has_a_class_and_an_outcome_that_go_together(known, signature):
    assert signature.kind in KINDS
    assert signature.outcome != "serves"
    assert (signature.outcome == "runs out of memory") is signature.kind.startswith("gpu-oom") or signature.kind in (
        "kv-cache-too-small",
        "host-oom",
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_that_launches_an_engine_has_a_catalogue(name):
    assert bool(backend(name).catalogue.signature) is backend(name).launches


@pytest.mark.parametrize("question", questions())
def test_every_question_is_answered_by_one_test(question):
    files = SUITES.rglob("test_*.py")
    assert sum(path.read_text(encoding="utf-8").count(f'judges("{question}")') for path in files) == 1


def test_no_test_answers_a_question_that_cannot_be_asked():
    texts = [path.read_text(encoding="utf-8") for path in SUITES.rglob("test_*.py")]
    assert {asked for text in texts for asked in re.findall(r'judges\("(.*?)"\)', text)} == set(questions())


@pytest.mark.parametrize("question", questions())
def test_every_question_is_asked_by_a_finding(question):
    assert any(finding.question == question for finding in FINDINGS.values())


QUANTISED = ("fp8", "nvfp4", "int8", "int4")
"""KV-cache dtypes that vLLM refuses on a CPU without AVX-512 and AMX."""


def on_a_cpu(shipped):
    return [
        DEPLOYMENTS[name]
        for name in shipped.scope.deployment
        if DEPLOYMENTS.get(name) and DEPLOYMENTS[name].backend == "vllm-cpu"
    ]


@every_finding
def test_a_quantised_cache_on_a_cpu_is_spoken_of_only_where_it_is_not_refused(shipped):
    dtypes = [str(one.flags.get("kv-cache-dtype", "")) for one in on_a_cpu(shipped)]
    if shipped.expect.signature == "unknown-argument" or not any(name.startswith(QUANTISED) for name in dtypes):
        return
    assert bool(shipped.scope.cpu) is not bool(shipped.scope.cpu_without)
    assert (shipped.expect.signature == "fp8-needs-avx512") is bool(shipped.scope.cpu_without)


@every_finding
def test_sizes_of_a_cache_on_a_cpu_name_the_dtype_where_the_machine_chooses_it(shipped):
    sizes = {"kv_cache_tokens", "concurrency", "kv_needed_gib", "kv_available_gib", "kv_mantissa_bits"}
    if sizes & set(shipped.bounds) and any(one.flags.get("dtype") == "fastest" for one in on_a_cpu(shipped)):
        assert shipped.scope.dtype


@every_finding
def test_no_finding_about_any_cpu_is_bounded_in_seconds(shipped):
    """Ratios, laws and counts hold on any machine. The ten seconds are the window of vLLM's log."""
    if shipped.scope.backend != ("vllm-cpu",):
        return
    timed = {name for name, bound in shipped.bounds.items() if bound.unit == "s" and bound.limits != (None, None)}
    assert timed <= {"log_window_s"}
    asked = shipped.ask
    if "good_share" in shipped.bounds and (asked.goal_ttft_s or asked.goal_tpot_s):
        assert shipped.bounds["good_share"].limits == (None, None)


@every_deployment
def test_a_deployment_that_boots_on_request_holds_one_request(shipped):
    if shipped.on_request and shipped.needs_full_context:
        predicted = predict(shipped, hardware="cpu")
        assert predicted is None or predicted.fits, str(predicted)
