"""Whole evaluations: what is asked of the child, what becomes of it, which model is recommended, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from quant import builtin, label
from quant.evaluate import EvaluateError, Evaluation, Measured, evaluate, labelled, recommended
from quant.evaluate_figures import Estimate, Scores
from quant.evaluate_jobs import Answered, Ask, Compare, Event, Figures, Rendered, Speed, Step, Text
from quant.evaluate_texts import Chats
from quant.quantize import quantize
from tests.quant import made

TEXTS = (Text("one", "One text about boats."), Text("two", "Another one, about bees."))
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


class Child:
    """Says what a child would: each model has a KLD by its name."""

    def __init__(self, **klds: float) -> None:
        self.klds, self.jobs = klds, list[Compare | Ask]()

    def __call__(self, job: Compare | Ask, heard: Callable[[Event], None]) -> None:
        self.jobs.append(job)
        heard(Step(1, 2))
        kld = self.klds.get(Path(job.model).stem, 0.0)
        if kld < 0:
            raise EvaluateError(f"{Path(job.model).name} is ill.")
        if isinstance(job, Compare):
            for at, text in enumerate(job.texts):
                heard(Figures(text.name, (kld, kld * (1 + at)), 2, 2, 3.0 + kld, 3.0, 0, 0.0))
            return
        for chat in job.chats:
            refused = chat["messages"][0]["content"] == "refused"
            heard(Rendered("" if refused else "<u>hi</u>", "no" if refused else ""))
        for _ in job.questions:
            heard(Answered("43"))
        if job.speed:
            heard(Speed(40.0, 400.0))


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """Three files of one model, the largest first."""
    return {name: made.llama(tmp_path / f"{name}.gguf", kind=kind) for name, kind in (("f16", "F16"), ("q8", "Q8_0"), ("q4", "Q4_0"))}


def test_all_of_it(models: dict[str, Path]) -> None:
    child, told = Child(q8=0.01, q4=0.2), []
    prompts = Chats((CHAT, {"messages": [{"role": "user", "content": "refused"}]}), ("plain",), 80, 1)
    found = evaluate(
        [models["q4"], models["q8"]], models["f16"], prompts=prompts, threads=3, texts=TEXTS, do=child,
        progress=lambda what, done, total: told.append(what),
    )  # fmt: skip
    assert [(job.model, type(job)) for job in child.jobs] == [
        (str(models["f16"]), Ask), (str(models["f16"]), Ask), (str(models["q4"]), Ask), (str(models["q4"]), Compare),
        (str(models["q8"]), Ask), (str(models["q8"]), Compare),
    ]  # fmt: skip
    last = child.jobs[-1]
    assert isinstance(last, Compare) and last.source == str(models["f16"]) and last.threads == 3
    assert last.texts == (*TEXTS, Text("prompt 1", "<u>hi</u>", True, 24), Text("text 1", "plain", False, 24))
    assert found.source is not None and found.source.scores is not None and found.source.scores.kld is None
    q4, q8 = found.models
    assert q8.scores is not None and q8.scores.kld is not None and q8.scores.kld.value == pytest.approx(0.0125)
    assert q4.prompts is not None and q4.prompts.texts == 2 and q4.speed == Speed(40.0, 400.0)
    assert q4.tasks is not None and q4.tasks.asked == 32 and q4.tasks.flips is not None and q4.tasks.flips.value == 0.0
    assert found.recommended == str(models["q8"]) and found.why == "F16 is the smallest with a KLD below 0.03 (0.013)."
    assert found.own_count == 2 and found.notes == (
        "2 of the prompts were left out: they hold more than text, or the model's template refuses them.",
        "Of 80 prompts 4 were read, evenly spread."
    )  # fmt: skip
    assert {"hashing q4.gguf", "asking f16.gguf", "reading with q8.gguf", "writing out prompts for f16.gguf"} <= set(told)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Evaluation) == found


def test_the_largest_is_the_source_unless_one_is_named(models: dict[str, Path]) -> None:
    found = evaluate(list(models.values()), texts=TEXTS, do=Child())
    assert found.source is not None and found.source.name == "f16.gguf" and [m.name for m in found.models] == ["q8.gguf", "q4.gguf"]
    alone = evaluate([models["q4"]], texts=TEXTS, do=Child(), tasks=False, speed=False)
    assert alone.source is None and alone.why == "" and alone.models[0].scores is not None and alone.models[0].scores.kld is None
    assert str(labelled(alone)[str(models["q4"])]) == "perplexity 4.482"


def test_one_that_fails_does_not_stop_the_others(models: dict[str, Path]) -> None:
    found = evaluate([models["q4"], models["q8"]], models["f16"], texts=TEXTS, do=Child(q4=-1.0, q8=0.01))
    assert found.models[0].failed == "q4.gguf is ill." and found.models[1].scores is not None
    assert list(labelled(found)) == [str(models["q8"])]
    for ill in ({"q4": -1.0, "q8": -1.0}, {"f16": -1.0}):
        with pytest.raises(EvaluateError, match="is ill"):
            evaluate([models["q4"], models["q8"]], models["f16"], texts=TEXTS, do=Child(**ill))


def test_what_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    whole = models["q8"].read_bytes()
    cut, noise, empty = tmp_path / "cut.gguf", tmp_path / "noise.gguf", tmp_path / "empty.gguf"
    for path, raw in ((cut, whole[: len(whole) // 2]), (noise, b"\x93" * 4096), (empty, b"")):
        path.write_bytes(raw)
    for given, against, said in (
        ([cut], None, "cut.gguf is not a usable GGUF model: it has"),
        ([models["q8"]], noise, "noise.gguf is not a usable GGUF model: it does not start with GGUF"),
        ([empty], None, "empty.gguf is not a usable GGUF model"),
        ([tmp_path / "none.gguf"], None, "does not exist"),
        ([tmp_path], None, "is a folder"),
        ([], None, "0 models cannot be evaluated at once"),
        ([models["q8"]], models["q8"], "q8.gguf is the source itself"),
    ):
        with pytest.raises(EvaluateError, match=said):
            evaluate(given, against, texts=TEXTS, do=Child())
    for threads in (0, 257):
        with pytest.raises(EvaluateError, match=f"{threads} threads cannot work"):
            evaluate([models["q8"]], threads=threads, do=Child())
    refused = Chats(({"messages": [{"role": "user", "content": "refused"}]},), (), 1, 0)
    with pytest.raises(EvaluateError, match=r"None of the prompts can be given to q8\.gguf: no"):
        evaluate([models["q8"]], prompts=refused, texts=TEXTS, do=Child())


def one(name: str, size: int, bits: float, kld: float | None, weighed: bool = False) -> Measured:
    on = Scores(1, 10, Estimate(5.0), kld=None if kld is None else Estimate(kld))
    return Measured(f"/m/{name}", f"{name}.gguf", name, label.Identity(size, "s"), bits, weighed, on)


def test_the_recommendation() -> None:
    q8, q4, q3, q2 = one("Q8_0", 80, 8.5, 0.001), one("Q4_K_M", 46, 4.9, 0.028), one("Q3_K_M", 37, 3.9, 0.1), one("Q2_K", 29, 2.9, 0.02)
    assert recommended([q8, q4, q3, q2])[0] == q4.path  # Q2_K is smaller and near, and not to be trusted
    assert recommended([q8, q4, q3, msgspec.structs.replace(q2, weighed=True)])[0] == q2.path
    assert recommended([q3, one("Q3_K_S", 30, 3.5, 0.3)]) == (q3.path, "None has a KLD below 0.03; Q3_K_M comes closest (0.100).")
    assert recommended([q2]) == ("", "All of them have less than three bits a weight, made without an importance matrix.")
    assert recommended([one("F16", 160, 16.0, None)]) == ("", "")


def test_the_built_in_model_really(tmp_path: Path) -> None:
    kinds = {kind: quantize(builtin.path(), tmp_path / f"{kind}.gguf", kind, threads=2).target for kind in ("Q8_0", "Q2_K")}
    texts = (Text("a", "The harbour was quiet."), Text("b", "What is 12+7? Repeat: banana"))
    chat = {"messages": [{"role": "user", "content": "What is 3+4?"}]}
    found = evaluate(list(kinds.values()), builtin.path(), texts=texts, prompts=Chats((chat,), (), 1, 0), threads=1)
    q8, q2 = found.models
    assert q8.scores is not None and q8.scores.kld is not None and q2.scores is not None and q2.scores.kld is not None
    assert q8.scores.kld.value < 0.01 < q2.scores.kld.value and found.recommended == kinds["Q8_0"]
    assert q8.tasks is not None and q8.tasks.asked == 76 and q8.tasks.right.value > 0.85  # its own questions
    assert q8.prompts is not None and q8.prompts.kld is not None and q8.speed is not None and q8.speed.writing > 0
    assert labelled(found)[kinds["Q2_K"]].of == label.identity(Path(kinds["Q2_K"]), whole=True)
