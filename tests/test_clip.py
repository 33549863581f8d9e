"""Words typed by hand: CLIP and SigLIP of transformers, and open_clip's, built small and saved with random weights."""

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import advimg
from advimg.classifiers import processors
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.load import identity_of, labels_of, load_classifier
from advimg.classifiers.sources.base import OpenVocabulary, find, find_any, takes_words
from advimg.classifiers.spec import ModelSpec
from advimg.classifiers.word_network import Probe, WordNetwork, features_of
from advimg.errors import ClassifierError, UsageError
from advimg.labels import Labels
from advimg.models import Models
from tests.batches import assert_one_line
from tests.conftest import Cli, random_photo, sample

transformers: Any = pytest.importorskip("transformers")
open_clip: Any = pytest.importorskip("open_clip")
sentencepiece: Any = pytest.importorskip("sentencepiece")

WORDS = ("a dog", "a pelican", "a cat", "a bus")
SIDE = 32
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = {"image_size": SIDE, "patch_size": 8, **_TOWER}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models ``clip``, ``siglip`` and ``open``."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    _save_clip(folder / "clip")
    _save_siglip(folder / "siglip")
    _save_open(folder / "open")
    return folder


def _save_clip(folder: Path) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    texts = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {text: index for index, text in enumerate(texts)}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    ends = {"bos_token_id": len(texts) - 2, "eos_token_id": len(texts) - 1, "pad_token_id": len(texts) - 1}
    text = {"vocab_size": len(texts), "max_position_embeddings": 40, **ends, **_TOWER}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16))
    _sharpen(model.vision_model.embeddings.patch_embedding.weight)
    model.save_pretrained(folder)
    sides = {"height": SIDE, "width": SIDE}
    transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=sides).save_pretrained(folder)


def _save_siglip(folder: Path) -> None:
    folder.mkdir()
    texts = ["this is a photo of a dog", "a pelican and a cat", "the quick brown fox jumps over the lazy dog"]
    pieces = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts * 10),
        model_writer=pieces,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    (folder / "spiece.model").write_bytes(pieces.getvalue())
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"))
    tokenizer.save_pretrained(folder)
    ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "projection_size": 32, **ends, **_TOWER}
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=_VISION))
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
        model.logit_bias.fill_(-2.0)
    _sharpen(model.vision_model.embeddings.patch_embedding.weight)
    model.save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


_OPEN: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def _save_open(folder: Path) -> None:
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": _OPEN}), encoding="ascii")
    model = open_clip.CLIP(**_OPEN)
    _sharpen(model.visual.conv1.weight)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")


def _sharpen(weight: torch.Tensor) -> None:
    """Let the first layer see differences that a random one hardly sees."""
    with torch.no_grad():
        weight.mul_(10)


def _of_transformers(folder: Path, picture: Image.Image) -> torch.Tensor:
    """Return the logits of the unmodified model in 32 bits, as transformers' pipeline computes them."""
    pipe = transformers.pipeline("zero-shot-image-classification", model=str(folder), dtype=torch.float32)
    with torch.no_grad():
        inputs = pipe.preprocess(picture, candidate_labels=list(WORDS))
        logits: torch.Tensor = pipe._forward(dict(inputs))["logits"]
    return logits


def _of_open_clip(folder: Path, picture: Image.Image) -> torch.Tensor:
    """Return the logits as open_clip's documentation computes them."""
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)([f"a photo of a {word}" for word in WORDS])
    with torch.no_grad():
        image, text = model.eval().encode_image(preprocess(picture)[None]), model.encode_text(tokens)
        image, text = (features / features.norm(dim=-1, keepdim=True) for features in (image, text))
        logits: torch.Tensor = model.logit_scale.exp() * image @ text.T
    return logits


KINDS = [
    ("clip:{}/clip", "clip", _of_transformers),
    ("clip:{}/siglip", "siglip", _of_transformers),
    ("open_clip/local-dir:{}/open", "open", _of_open_clip),
]
Official = Callable[[Path, Image.Image], torch.Tensor]
kinds = pytest.mark.parametrize(("name", "folder", "official"), KINDS, ids=["clip", "siglip", "open_clip"])


def loaded(name: str, **options: Any) -> Classifier:
    return load_classifier(name, labels=WORDS, device="cpu", progress=False, **options)


@kinds
def test_logits_are_those_of_the_unmodified_model(models: Path, name: str, folder: str, official: Official) -> None:
    classifier = loaded(name.format(models))
    assert classifier.labels.names == WORDS
    with Image.open(sample("chelsea.png")) as opened:
        picture = opened.convert("RGB")
    with torch.no_grad():
        logits = classifier.network(classifier.preprocessing.stock(picture)[None])
    wanted = official(models / folder, picture)
    assert wanted.shape == (1, len(WORDS))
    assert wanted.std() > 0.01
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def test_weights_that_are_stored_in_16_bits_are_judged_in_32(models: Path, tmp_path: Path) -> None:
    folder = changed(models, "clip", tmp_path)
    transformers.CLIPModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert load_file(folder / "model.safetensors")["visual_projection.weight"].dtype == torch.bfloat16
    classifier = loaded(f"clip:{folder}")
    picture = Image.fromarray(random_photo(50, 40).levels)
    with torch.no_grad():
        logits = classifier.network(classifier.preprocessing.stock(picture)[None])
    wanted = _of_transformers(folder, picture)
    assert wanted.dtype == torch.float32
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@kinds
def test_a_written_file_is_the_target_to_the_library_itself(
    models: Path, tmp_path: Path, name: str, folder: str, official: Official
) -> None:
    classifier = loaded(name.format(models))
    seen = advimg.classify(sample("chelsea.png"), model=classifier)
    target = int(seen.probabilities.argsort()[-2])
    outcome = advimg.attack(sample("chelsea.png"), WORDS[target], model=classifier, eps=8)
    (tmp_path / "adversarial.png").write_bytes(outcome.png())
    with Image.open(tmp_path / "adversarial.png") as opened:
        logits = official(models / folder, opened.convert("RGB"))
    assert seen.top1 != target
    assert int(logits.argmax()) == target
    confidence = float(logits.softmax(dim=-1)[0, target])
    assert outcome.record.confidence == pytest.approx(confidence, abs=1e-4)


def test_a_target_joins_the_words_and_the_record_lets_verify_judge_again(
    models: Path, cli: Cli, tmp_path: Path
) -> None:
    shutil.copy(sample("chelsea.png"), tmp_path / "cat.png")
    name = f"clip:{models}/clip"
    seen = advimg.classify(tmp_path / "cat.png", model=loaded(name, prompt="a drawing of {}"))
    first, target = (WORDS[int(index)] for index in seen.probabilities.argsort(descending=True)[:2])
    others = [word for word in WORDS if word != target]
    command = ["attack", "cat.png", "-t", target, "-m", name, "--labels", ",".join(others), "-e", "8", "--no-figure"]
    ran = cli(*command, "--prompt", "a drawing of {}", "--json", "-o", "adversarial.png")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert record["model"] == "clip:clip"
    assert record["before"][0]["name"] == first
    assert record["after"][0]["name"] == target
    assert record["view"]["words"] == [*others, target]
    assert record["view"]["prompt"] == "a drawing of {}"

    pipe = transformers.pipeline("zero-shot-image-classification", model=str(models / "clip"))
    best, *_ = pipe(
        str(tmp_path / "adversarial.png"),
        candidate_labels=[*others, target],
        hypothesis_template="a drawing of {}",
    )
    assert best["label"] == target
    assert best["score"] == pytest.approx(record["after"][0]["confidence"], abs=1e-4)

    verify = ["verify", "adversarial.png", "--original", "cat.png", "--json"]
    ran = cli(*verify, "-m", name)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["view"] == record["view"]
    ran = cli(*verify, "-m", name, "--labels", ",".join((*others, target)))  # with another sentence around them
    assert ran.code == 3
    assert json.loads(ran.out)["record_differs"] == [
        "prompt a drawing of {} in the record, This is a photo of {}. here"
    ]
    ran = cli(*verify)
    assert_one_line(ran, 2)
    assert "was made with clip:clip, whose weights are not on disk; give it with -m" in ran.err


def test_words_from_a_file_and_from_toml(models: Path, cli: Cli, tmp_path: Path) -> None:
    Image.fromarray(random_photo(50, 40).levels).save(tmp_path / "photo.png")
    (tmp_path / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    lines = [f'model = "clip:{models}/clip"', f"labels = {json.dumps(WORDS)}", 'prompt = "This is a photo of {}."']
    (tmp_path / "mine.toml").write_text("\n".join(lines), encoding="utf-8")
    given = (
        ["-m", f"clip:{models}/clip", "--labels", ",".join(WORDS)],
        ["-m", f"clip:{models}/clip", "--labels", "words.txt"],
        ["-m", "mine.toml"],
    )
    seen = []
    for options in given:
        ran = cli("classify", "photo.png", *options, "--json")
        assert ran.code == 0, ran.err
        seen.append(json.loads(ran.out)["top5"])
    assert seen[0] == seen[1] == seen[2]
    assert {each["name"] for each in seen[0]} == set(WORDS)


def test_words_hold_for_all_models_that_see_words(models: Path, cli: Cli, tmp_path: Path) -> None:
    Image.fromarray(random_photo(50, 40).levels).save(tmp_path / "photo.png")
    clip, siglip, words = f"clip:{models}/clip", f"clip:{models}/siglip", ["--labels", ",".join(WORDS)]
    ran = cli("classify", "photo.png", "-m", clip, "-m", siglip, *words, "--json")
    assert ran.code == 0, ran.err
    assert [json.loads(line)["model"] for line in ran.out.splitlines()] == ["clip:clip", "clip:siglip"]
    ran = cli("attack", "photo.png", "-t", "a tree", "-m", clip, "--check-on", siglip, *words, "--json", "--steps", "1")
    record = json.loads(ran.out)
    assert record["checked"][0]["view"]["words"] == record["view"]["words"] == [*WORDS, "a tree"]


def test_a_batch_knows_its_words_before_it_loads_them(models: Path, cli: Cli, tmp_path: Path) -> None:
    spec = ModelSpec(model=f"clip:{models}/clip", labels=WORDS, prompt="{}")
    identity, classifier = identity_of(spec, progress=False), load_classifier(spec, device="cpu")
    assert identity.view == classifier.view
    assert identity.weights_sha256 == classifier.weights_sha256

    Image.fromarray(random_photo(50, 40).levels).save(tmp_path / "photo.png")
    command = ["batch", "photo.png", "-m", spec.model, "--labels", "a dog,a cat", "-O", "out", "--steps", "1", "--json"]
    ran = cli(*command, "-t", "a dog", "-t", "a pelican")
    assert ran.code in (0, 3), ran.err
    records = sorted(map(json.loads, ran.out.splitlines()), key=lambda record: record["target"]["index"])
    assert [record["target"] for record in records] == [
        {"index": 0, "name": "a dog"},
        {"index": 2, "name": "a pelican"},
    ]
    assert {tuple(record["view"]["words"]) for record in records} == {("a dog", "a cat", "a pelican")}
    again = cli(*command, "-t", "a dog", "-t", "a pelican")
    assert again.code in (0, 3)
    assert again.out == ""
    other = cli(*command, "-t", "a dog", "-t", "a bus")  # other words: indices would mean other classes
    assert_one_line(other, 1)
    assert "was begun with other settings (view " in other.err


def test_many_words_are_recorded_by_their_hash(models: Path) -> None:
    words = tuple(f"thing {number}" for number in range(1001))
    spec = ModelSpec(model=f"clip:{models}/clip", labels=words)
    view = identity_of(spec, progress=False).view
    assert view["words_sha256"] == hashlib.sha256("\n".join(words).encode()).hexdigest()
    assert "words" not in view
    assert len(identity_of(spec.changed(labels=words[:1000]), progress=False).view["words"]) == 1000


def test_words_are_encoded_a_few_at_a_time() -> None:
    counts = []

    def encode(sentences: Any) -> torch.Tensor:
        counts.append(len(sentences))
        return torch.tensor([[float(len(sentence)), 1.0] for sentence in sentences])

    features = features_of(["x" * (1 + number % 7) for number in range(200)], encode, name="model")
    assert counts == [64, 64, 64, 8]
    torch.testing.assert_close(features[8], torch.tensor([2.0, 1.0]) / 5**0.5)

    def greedy(sentences: Any) -> torch.Tensor:
        raise MemoryError

    with pytest.raises(ClassifierError, match="model: 2 words need more memory than there is; give fewer"):
        features_of(["a", "b"], greedy, name="model")
    with pytest.raises(ClassifierError, match="features of words that are not finite"):
        features_of(["a", "b"], lambda some: torch.full((len(some), 2), torch.nan), name="model")


def test_a_network_that_is_not_the_model_is_refused() -> None:
    image = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 8))
    words = torch.nn.functional.normalize(torch.randn(10, 8), dim=-1)
    network = WordNetwork(image, words, scale=torch.tensor([5.0]), bias=torch.tensor([-1.0]))

    def official(pictures: torch.Tensor, sentences: Any) -> torch.Tensor:
        chosen = words[[int(sentence) for sentence in sentences]]
        return 5 * torch.cosine_similarity(image(pictures)[:, None], chosen[None], dim=-1) - 1

    sentences = [str(number) for number in range(10)]
    probe = Probe.of(official, sentences, size=(4, 4))
    assert probe.logits.shape == (2, 5)
    probe.check(network, name="model")
    off = Probe(probe.pictures, probe.logits + 1e-3, probe.step)
    with pytest.raises(ClassifierError, match="model cannot be used: its logits are not scaled cosines"):
        off.check(network, name="model")


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (None, [], "clip:clip sees words that you give: --labels 'a dog,a pelican', or a file of them"),
        ("a dog,A Dog", [], "words 1 and 2 are the same, 'A Dog'"),
        ("a dog,,a cat", [], "word 2 is empty"),
        ("one.txt", [], "clip:clip has one word to see, 'a dog'; give at least two"),
        ("a dog,a cat", ["--prompt", "a photo"], "the prompt 'a photo' must have {} once, in the place of the word"),
        ("a dog,a cat", ["--prompt", "{} {}"], "must have {} once"),
        ("a dog,a cat", ["--prompt", "{} {x}"], "must have {} once"),
        ("a dog,a cat", ["--prompt", "{}" + "x" * 1000], "the prompt has 1,002 characters; the most is 1,000"),
    ],
)
def test_words_and_prompts_that_make_no_sense(
    models: Path, cli: Cli, tmp_path: Path, labels: str | None, options: list[str], message: str
) -> None:
    Image.fromarray(random_photo(9, 9).levels).save(tmp_path / "photo.png")
    (tmp_path / "one.txt").write_text("a dog\n", encoding="utf-8")
    (tmp_path / "clip").symlink_to(models / "clip")
    ran = cli("classify", "photo.png", "-m", "clip:clip", *(["--labels", labels] if labels else []), *options)
    assert_one_line(ran, 2)
    assert message in ran.err


def test_what_is_no_file_and_no_list_of_words(cli: Cli, tmp_path: Path, models: Path) -> None:
    Image.fromarray(random_photo(9, 9).levels).save(tmp_path / "photo.png")
    ran = cli("classify", "photo.png", "-m", f"clip:{models}/clip", "--labels", "a dog")
    assert_one_line(ran, 1)
    assert "the labels a dog cannot be read" in ran.err
    assert "words themselves have commas between them" in ran.err


def test_too_many_words(models: Path) -> None:
    spec = ModelSpec(model=f"clip:{models}/clip", labels=tuple(map(str, range(100_001))))
    with pytest.raises(UsageError, match="there are 100,001 words; the most is 100,000"):
        labels_of(spec)


def test_a_sentence_that_is_too_long_for_the_model(models: Path) -> None:
    with pytest.raises(ClassifierError, match="clip:clip cannot see these words: ") as caught:
        load_classifier(f"clip:{models}/clip", labels=["a dog", "very " * 50 + "long"], device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "joins"),
    [
        ("a tree", True),
        (" a tree ", True),
        ("A-Dog", False),
        ("1", False),
        ("9", False),
        ("runner_up", False),
        (1, False),
    ],
)
def test_only_new_words_join(models: Path, target: str | int, joins: bool) -> None:
    found = Models.of(ModelSpec(model=f"clip:{models}/clip", labels=WORDS)).joined_by([target, "untargeted"])
    assert found.labels[0].names == ((*WORDS, "a tree") if joins else WORDS)


@pytest.mark.parametrize(
    ("targets", "added"),
    [
        (["Tree", "tree", " TREE"], ["Tree"]),
        (["a_small_tree", "a small-tree", "_a__small_tree_"], ["a small tree"]),
        (["t-shirt", "T_Shirt"], ["t-shirt"]),
        (["!", "?", "!"], ["!", "?"]),
    ],
)
def test_words_that_join_are_compared_as_lookups_compare_them(
    models: Path, targets: list[str], added: list[str]
) -> None:
    found = Models.of(ModelSpec(model=f"clip:{models}/clip", labels=WORDS)).joined_by(targets)
    assert found.labels[0].names == (*WORDS, *added)
    for target in set(targets) - {"!", "?"}:
        assert found.read_target(target) == len(WORDS)


def test_no_word_joins_classes_that_are_fixed() -> None:
    models = Models.of("resnet50")
    assert models.joined_by(["a tree of mine"]) == models
    assert not takes_words("resnet50")


def test_a_prompt_is_for_words_only(cli: Cli, tmp_path: Path) -> None:
    Image.fromarray(random_photo(9, 9).levels).save(tmp_path / "photo.png")
    ran = cli("classify", "photo.png", "-m", "efficientnet_lite0", "--prompt", "a {}")
    assert_one_line(ran, 2)
    assert "efficientnet_lite0 has classes of its own; a prompt is for models that see words typed by hand" in ran.err


def changed(models: Path, kind: str, into: Path) -> Path:
    """Return a copy of a model that a test may damage."""
    return Path(shutil.copytree(models / kind, into / "damaged"))


def refused(name: str) -> str:
    """Return the line with which a model is refused."""
    with pytest.raises((ClassifierError, UsageError)) as caught:
        load_classifier(name, labels=WORDS, device="cpu", progress=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "files"), [("clip", ["tokenizer.json"]), ("siglip", ["spiece.model"])])
def test_a_tokenizer_that_is_missing(models: Path, tmp_path: Path, kind: str, files: list[str]) -> None:
    folder = changed(models, kind, tmp_path)
    for file in files:
        (folder / file).unlink()
    assert "clip:damaged: its tokenizer" in refused(f"clip:{folder}")


def test_folders_that_hold_no_such_model(models: Path, tmp_path: Path) -> None:
    assert "is no folder of a model; a file config.json was expected in it" in refused(f"clip:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}', encoding="ascii")
    assert "is no zero-shot image classifier but of the type 'vit'; types that are: " in refused(f"clip:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type":', encoding="ascii")
    assert "but of the type None" in refused(f"clip:{tmp_path}")
    assert "is no folder of an open_clip model" in refused(f"open_clip/local-dir:{tmp_path}")
    assert "there is no such folder" in refused(f"open_clip/local-dir:{tmp_path}/none")
    assert "none is no folder of a model" in refused("clip:./none")
    assert "unknown model 'clip:'" in refused("clip:")


def test_weights_that_are_missing_or_do_not_fit(models: Path, tmp_path: Path) -> None:
    folder = changed(models, "clip", tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lack 1 tensors of clip:damaged, such as visual_projection.weight" in refused(f"clip:{folder}")
    (folder / "model.safetensors").write_bytes(b"nothing")
    assert "clip:damaged cannot be loaded: " in refused(f"clip:{folder}")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert "has no weights in safetensors; others may hold code, and are not read" in refused(f"clip:{folder}")


def test_a_weight_of_another_shape(models: Path, tmp_path: Path) -> None:
    folder = changed(models, "clip", tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"] = torch.zeros(3, 32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "clip:damaged cannot be loaded: " in refused(f"clip:{folder}")


@pytest.mark.parametrize(
    ("kind", "name", "source"),
    [
        ("clip", "clip:{}", "hugging_face"),
        ("open", "open_clip/local-dir:{}", "open_clip"),
        ("", "open_clip/{}", "open_clip"),
    ],
)
def test_what_a_processor_does_is_found_out_once(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, source: str
) -> None:
    found = []

    def described(*given: Any) -> Any:
        found.append(given)
        return processors.described(*given)

    monkeypatch.setattr(f"advimg.classifiers.sources.{source}.described", described)
    folder = changed(models, kind, tmp_path) if kind else tmp_path
    if not kind:
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Once", _OPEN)
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Once", {"mine": {"url": "https://localhost/x.bin"}})
    model = find_any(name.format(folder if kind else "Once:mine"))
    assert isinstance(model, OpenVocabulary)
    first, again = (model.publish(Labels(WORDS[:count]), "{}") for count in (2, 3))
    assert first.preprocessing is again.preprocessing
    assert len(found) == 1
    if kind:
        config, *_ = folder.glob("*config.json")
        os.utime(config, ns=(1, 1))
        assert model.publish(Labels(WORDS), "{}").preprocessing is not first.preprocessing
        assert len(found) == 2


class _Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def test_open_clip_s_weights_run_no_code(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = changed(models, "open", tmp_path)
    weights = load_file(folder / "open_clip_model.safetensors")
    (folder / "open_clip_model.safetensors").unlink()
    assert "its folder has no weights" in refused(f"open_clip/local-dir:{folder}")
    torch.save(weights, folder / "open_clip_pytorch_model.bin")
    name = f"open_clip/local-dir:{folder}"
    wanted = loaded(f"open_clip/local-dir:{models}/open").judge(random_photo(40, 30).levels)
    assert torch.equal(loaded(name).judge(random_photo(40, 30).levels).probabilities, wanted.probabilities)
    torch.save({**weights, "code": _Code()}, folder / "open_clip_pytorch_model.bin")
    assert "do not fit, are damaged, or hold code, which is never run" in refused(name)
    assert not (tmp_path / "ran").exists()


_MINE = """\
from pathlib import Path
from transformers import PretrainedConfig, PreTrainedTokenizerFast
Path({ran!r}).touch()
class Mine(PreTrainedTokenizerFast):
    pass
class MineConfig(PretrainedConfig):
    model_type = "mine"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}},
            "wants code of its own to be run",
        ),
        ({"hf_model_config": [{"trust_remote_code": True}]}, "wants code of its own to be run"),
        ({"hf_tokenizer_name": "x"}, "its network or its tokenizer cannot be made"),
        ({"hf_model_name": "."}, "its network or its tokenizer cannot be made"),
    ],
)
def test_open_clip_s_folders_run_no_code(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers asks where it is told nothing
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = changed(models, "open", tmp_path)
    monkeypatch.chdir(folder)
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_bytes())
    config["model_cfg"]["text_cfg"] |= text
    path.write_text(json.dumps(config), encoding="ascii")
    (folder / "mine.py").write_text(_MINE.format(ran=str(tmp_path / "ran")), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [null, "mine.Mine"]}}', encoding="ascii"
    )
    (folder / "config.json").write_text(
        '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.MineConfig"}}', encoding="ascii"
    )
    assert message in refused(f"open_clip/local-dir:{folder}")
    assert not (tmp_path / "ran").exists()


def test_weights_of_its_own_and_other_preprocessing_are_refused(models: Path, tmp_path: Path) -> None:
    for name in (f"clip:{models}/clip", f"open_clip/local-dir:{models}/open"):
        with pytest.raises(ClassifierError, match="weights"):
            load_classifier(name, labels=WORDS, weights=models / "clip" / "model.safetensors", device="cpu")
        with pytest.raises(ClassifierError, match=r"comes with a preprocessing of its own .* which settles resize"):
            load_classifier(name, labels=WORDS, resize=40, device="cpu")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return Hugging Face's cache: empty, and no network to fill it from."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_without_a_network_the_command_that_fetches_a_model_is_named(offline: Path) -> None:
    line = refused("clip:openai/clip-vit-base-patch32")
    assert line.startswith("clip:openai/clip-vit-base-patch32 is not on disk and cannot be downloaded (")
    assert line.endswith("where there is a network, `hf download openai/clip-vit-base-patch32` fetches it")
    line = refused("open_clip/ViT-B-32:laion2b_s34b_b79k")
    assert line.endswith("where there is a network, `hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K` fetches it")


def test_a_model_in_the_hub_s_cache(models: Path, offline: Path, cli: Cli) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    folder = offline / "models--me--small"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision, encoding="ascii")
    shutil.copytree(models / "clip", folder / "snapshots" / revision)
    assert loaded("clip:me/small").name == "clip:me/small"
    ran = cli("models", "clip:", "--json")
    assert ran.code == 0, ran.err
    (model,) = json.loads(ran.out)
    assert (model["name"], model["input_size"], model["on_disk"]) == ("clip:me/small", SIDE, True)
    (folder / "snapshots" / revision / "model.safetensors").unlink()
    assert "clip:me/small has no weights in safetensors" in refused("clip:me/small")


@pytest.mark.parametrize("quick", [True, False])
def test_open_clip_s_activation_is_that_of_the_weights(
    models: Path, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    assert open_clip.get_pretrained_cfg("ViT-B-32", "openai")["quick_gelu"] is True
    assert "quick_gelu" not in open_clip.get_model_config("ViT-B-32")
    weights = models / "open" / "open_clip_model.safetensors"
    tags = {"mine": {"url": "https://localhost/mine.safetensors", "quick_gelu": quick}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Small", _OPEN)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Small", tags)
    monkeypatch.setattr("advimg.classifiers.sources.open_clip._cached", lambda _: weights)
    classifier = loaded("open_clip/Small:mine")
    picture = classifier.preprocessing.stock(Image.fromarray(random_photo(50, 40).levels))[None]
    tokens = open_clip.tokenize([f"a photo of a {word}" for word in WORDS])
    wanted = {}
    for each in (True, False):
        model = open_clip.CLIP(**_OPEN, quick_gelu=each).eval()
        model.load_state_dict(load_file(weights))
        with torch.no_grad():
            wanted[each] = model.get_logits(picture, tokens)[0]
    with torch.no_grad():
        logits = classifier.network(picture)
    torch.testing.assert_close(logits, wanted[quick])
    assert not torch.allclose(logits, wanted[not quick], rtol=1e-4)


def test_open_clip_names(offline: Path) -> None:
    with pytest.raises(UsageError, match="unknown model 'open_clip/ViT-B-23:openai'; did you mean open_clip/ViT-B-32"):
        find("open_clip/ViT-B-23:openai")
    assert "which weights of open_clip/ViT-B-32? use open_clip/ViT-B-32:openai or" in refused("open_clip/ViT-B-32")
    assert "has no such weights; use open_clip/ViT-B-32:openai or" in refused("open_clip/ViT-B-32:zzz")
    with pytest.raises(UsageError, match="has no classes of its own; it sees words that are given to it"):
        find("open_clip/ViT-B-32:openai")


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("clip:a/b", "transformers", "hf"), ("open_clip/a", "open_clip", "clip")],
)
def test_a_library_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert refused(name).endswith(f"pip install 'advimg-cli[{extra}]'")
