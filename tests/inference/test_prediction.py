import csv
import io
import json

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image

from natix_hf import UserError, load_model
from natix_hf.inference.classify import MISSING, load_classifier, missing_line, predict_photos, write_rows
from natix_hf.inference.named_photos import find_photos


@pytest.fixture(scope="module")
def finished(tiny_backbone, tmp_path_factory):
    """A model folder as a run leaves it, calibration included."""
    folder = tmp_path_factory.mktemp("model")
    model, processor = load_model(str(tiny_backbone), ["None", "Roadwork"], method="full", image_size=32)
    model.set_calibration(1.7, [0.2, -0.1])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def predictions(folder, photos, **options):
    model, processor = load_classifier(str(folder))
    names, sources = find_photos(str(photos))
    return list(predict_photos(model, processor, names, sources, **options)), model


@pytest.mark.parametrize("workers", [0, 2])
def test_probabilities_equal_those_of_a_pipeline(finished, photo_folder, workers):
    from transformers import pipeline

    rows, model = predictions(finished, photo_folder, batch_size=7, num_workers=workers)
    assert [row.name for row in rows] == sorted(row.name for row in rows)
    classify = pipeline("image-classification", model=str(finished))
    for row in rows[::9]:
        expected = {entry["label"]: entry["score"] for entry in classify(row.name)}
        for i, label in model.config.id2label.items():
            assert row.probabilities[i] == pytest.approx(expected[label], abs=1e-6)


def test_unreadable_photos_are_listed_and_stop_nothing(finished, photo_folder, tmp_path):
    whole = (photo_folder / "None" / "000.jpg").read_bytes()
    (photo_folder / "None" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photo_folder / "None" / "empty.jpg").write_bytes(b"")
    (photo_folder / "None" / "text.png").write_text("no photo")
    rows, _ = predictions(finished, photo_folder, batch_size=4)
    broken = {row.name.rsplit("/", 1)[1]: row.reason for row in rows if row.probabilities is None}
    assert broken.keys() == {"cut.jpg", "empty.jpg", "text.png"}
    assert len(rows) == 51
    written = write_rows(tmp_path / "out.csv", rows, ["None", "Roadwork"])
    assert (written.good, len(written.broken)) == (48, 3)
    with open(tmp_path / "out.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["file", "label", "p_None", "p_Roadwork", "error"]
    assert len(table) == 51
    for row in table:
        assert bool(row["error"]) == (row["label"] == "")
        if row["label"]:
            assert float(row["p_None"]) + float(row["p_Roadwork"]) == pytest.approx(1, abs=2e-6)


def test_json_lines_hold_the_same_as_csv(finished, photo_folder, tmp_path):
    rows, _ = predictions(finished, photo_folder)
    write_rows(tmp_path / "out.jsonl", rows, ["None", "Roadwork"])
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [row.name for row in rows]
    assert lines[0]["probabilities"].keys() == {"None", "Roadwork"}


def test_the_decision_is_that_of_a_pipeline_and_the_probabilities_are_calibrated(finished, photo_folder, tmp_path):
    """A threshold of 0.2 moved to 0.5: `pipeline` shows the moved scores, `predict` the probability before."""
    from transformers import pipeline

    model, processor = load_classifier(str(finished))
    plain = {row.name: row.probabilities[1] for row in predictions(finished, photo_folder)[0]}
    middle = float(np.median(list(plain.values())))
    shift = float(np.log((1 - middle) / middle))
    decision = {"positive": 1, "threshold": middle, "prior_bias": [0.0, 0.0], "threshold_bias": [0.0, shift]}
    decision["abstain_band"] = sorted(plain.values())[10:14:3]  # strictly between: the 11th and the 14th photo's
    model.set_calibration(1.7, [0.2, -0.1 + shift], decision=decision)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    rows, loaded = predictions(tmp_path, photo_folder)
    assert loaded.config.decision == decision
    classify = pipeline("image-classification", model=str(tmp_path))
    for row in rows:
        assert row.probabilities[1] == pytest.approx(plain[row.name], abs=1e-6)
        assert row.asks == (decision["abstain_band"][0] < row.probabilities[1] < decision["abstain_band"][1])
        if abs(row.probabilities[1] - middle) > 1e-6:
            assert row.decision == int(plain[row.name] > middle)
    for row in rows[::9]:
        if abs(row.probabilities[1] - middle) > 1e-6:
            assert classify(row.name)[0]["label"] == ("None", "Roadwork")[row.decision]
    written = write_rows(tmp_path / "out.csv", rows, ["None", "Roadwork"], decision)
    differing = [row for row in rows if (row.probabilities[1] > 0.5) != (row.decision == 1)]
    assert written.differing == len(differing) > 0
    assert 1 <= written.asking <= 4
    with open(tmp_path / "out.csv", newline="") as file:
        table = {row["file"]: row for row in csv.DictReader(file)}
    assert list(next(iter(table.values()))) == ["file", "label", "p_None", "p_Roadwork", "answer", "note", "error"]
    noted = [name for name, row in table.items() if "decided by threshold" in row["note"]]
    assert noted == [row.name for row in differing]
    answers = {row.name: "abstain" if row.asks else ("None", "Roadwork")[row.decision] for row in rows}
    assert {name: row["answer"] for name, row in table.items()} == answers
    assert sum(answer == "abstain" for answer in answers.values()) == written.asking
    write_rows(tmp_path / "out.jsonl", rows, ["None", "Roadwork"], decision)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines if "decided by" in line.get("note", "")] == noted
    assert {line["file"]: line["answer"] for line in lines} == answers


def test_an_interrupted_file_is_not_left_behind(tmp_path):
    def fail():
        yield from ()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(tmp_path / "out.csv", fail(), ["a", "b"])
    assert not list(tmp_path.iterdir())


def test_weights_stored_in_half_precision_are_used_in_single(finished, tmp_path):
    model, processor = load_classifier(str(finished))
    model.half().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, _ = load_classifier(str(tmp_path))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


class TestFindPhotos:
    def test_folder_glob_and_file(self, photo_folder):
        assert len(find_photos(str(photo_folder))[0]) == 48
        assert len(find_photos(f"{photo_folder}/None/*.jpg")[0]) == 24
        assert len(find_photos(f"{photo_folder}/**/00*.jpg")[0]) == 20
        assert find_photos(f"{photo_folder}/None/000.jpg")[0] == [f"{photo_folder}/None/000.jpg"]

    def test_data_sets(self, photo_folder, tmp_path):
        paths = sorted(str(p) for p in photo_folder.rglob("*.jpg"))[:5]
        rows = Dataset.from_dict({"image": paths, "id": list("abcde")}).cast_column("image", ImageFeature())
        rows.save_to_disk(str(tmp_path / "disk"))
        names, photos = find_photos(str(tmp_path / "disk"))
        assert names == list("abcde")
        assert len(photos) == 5
        assert photos[4]["bytes"] or photos[4]["path"]
        DatasetDict(train=rows, test=rows).save_to_disk(str(tmp_path / "dict"))
        assert find_photos(str(tmp_path / "dict"))[0][:2] == ["train/a", "train/b"]
        embedded = rows.map(lambda row: row)
        embedded.to_parquet(str(tmp_path / "photos.parquet"))
        assert len(find_photos(str(tmp_path / "photos.parquet"))[0]) == 5

    @pytest.mark.parametrize("name", ["./nowhere", "nowhere.jpg", "a/b/c", "nothing-*.jpg"])
    def test_nothing_there(self, name):
        with pytest.raises(UserError):
            find_photos(name)

    def test_a_folder_without_photos(self, tmp_path):
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(UserError, match="no photos"):
            find_photos(str(tmp_path))

    def test_a_missing_column_is_named_with_those_that_are_there(self, tmp_path):
        Dataset.from_dict({"picture": ["a"], "label": [0]}).to_parquet(str(tmp_path / "x.parquet"))
        with pytest.raises(UserError, match="picture, label"):
            find_photos(str(tmp_path / "x.parquet"))


def test_turned_photos_are_seen_upright(finished, tmp_path):
    rng = np.random.default_rng(0)
    upright = Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "a.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)
    rows, _ = predictions(finished, tmp_path)
    np.testing.assert_allclose(rows[0].probabilities, rows[1].probabilities, atol=1e-6)


def test_pandas_keeps_the_class_none_as_the_printed_line_says(finished, photo_folder, tmp_path):
    """Quoting does not help there: pandas takes the word for a missing value with and without."""
    rows, _ = predictions(finished, photo_folder)
    output = tmp_path / "out.csv"
    write_rows(output, rows, ["None", "Roadwork"])
    line = missing_line(output, ["None", "Roadwork"])
    assert "pandas.read_csv('out.csv', keep_default_na=False)" in line
    assert missing_line(output, ["road", "works"]) is None
    assert missing_line(tmp_path / "out.jsonl", ["None", "Roadwork"]) is None
    pandas = pytest.importorskip("pandas")
    quoted = tmp_path / "quoted.csv"
    quoted.write_text("".join('"' + line.replace(",", '","') + '"\n' for line in output.read_text().splitlines()))
    for path in (output, quoted):
        assert pandas.read_csv(path)["label"].isna().any()
        labels = pandas.read_csv(path, keep_default_na=False)["label"].tolist()
        assert labels == [("None", "Roadwork")[row.decision] for row in rows]
    odd = [word for word in MISSING if not pandas.isna(pandas.read_csv(io.StringIO(f"a,b\n{word},1\n"))["a"][0])]
    assert not odd


def test_photos_that_a_client_sees_otherwise_are_counted(finished, tmp_path):
    deep = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.new("RGBA", (64, 64), (200, 10, 10, 60)).save(tmp_path / "transparent.png")
    Image.new("RGBA", (64, 64), (200, 10, 10, 255)).save(tmp_path / "opaque.png")
    Image.new("RGB", (64, 64), "green").save(tmp_path / "plain.png")
    rows, _ = predictions(finished, tmp_path)
    told = [
        write_rows(tmp_path / f"out.{kind}", rows, ["None", "Roadwork"]).client.notes() for kind in ("csv", "jsonl")
    ]
    assert told[0] == told[1]
    assert [note.split(" photos ")[0] for note in told[0]] == ["1 of 4", "1 of 4"]
    assert "deep.png" in told[0][0]
    assert "transparent.png" in told[0][1]
