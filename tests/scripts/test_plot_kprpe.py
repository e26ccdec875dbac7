"""plot_kprpe.py from its command line: files of weights, images, keypoints and sequences in, pictures out."""

import importlib.util
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from common.rpe import KeypointRPE, pictures
from common.rpe.pictures import bias_map
from common.runtime.arrays import save_array
from common.runtime.checkpoint import save_checkpoint
from common.runtime.settings import merge, to_mapping
from plugin.runtime.host import MODELS
from plugin.runtime.settings import load_gait_settings

ROOT = Path(__file__).parents[2]
TINY = {"channels": [4, 8], "layers": [1, 1, 2, 1], "embed_dim": 8, "num_heads": [2, 4]}


spec = importlib.util.spec_from_file_location("plot_kprpe", ROOT / "scripts" / "plot_kprpe.py")
plot_kprpe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plot_kprpe)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are written, which they still are."""
    caught, write = [], pictures.write_figure
    monkeypatch.setattr(pictures, "write_figure", lambda figure, path: (caught.append(figure), write(figure, path)))
    return caught


def panels(figure):
    return [axes for axes in figure.axes if len(axes.images) == 2]


def marks(axes, marker):
    (line,) = [line for line in axes.lines if line.get_marker() == marker]
    return line.get_xydata()


@pytest.fixture
def faces(tmp_path, rng):
    """Two images of different sizes, their five points, and weights in the authors' names; returns the KP-RPE."""
    rpe = KeypointRPE(num_keypoints=5, num_heads=2, num_layers=8).requires_grad_(False)
    torch.nn.init.normal_(rpe.weight, generator=rng)
    state = {f"net.keypoint_linear.{name}": value for name, value in rpe.state_dict().items()}
    state |= {f"net.blocks.{number}.norm1.weight": torch.ones(4) for number in range(8)}
    torch.save(state | {"net.pos_embed": torch.zeros(1, 49, 4)}, tmp_path / "model.pt")
    for name, size in (("a.png", (112, 112)), ("b.png", (80, 100))):
        cv2.imwrite(str(tmp_path / name), np.full((*size, 3), 128, np.uint8))
    points = "image,x0,y0,x1,y1,x2,y2,x3,y3,x4,y4\n"
    points += "b.png,10,20,30.5,20,20,30,12,40,28,40\nother.png,,,,,,,,,,\na.png,38,52,74,52,56,72,42,92,71,92\n"
    (tmp_path / "points.csv").write_text(points)
    return rpe


def run(*arguments: str, images=("a.png",)) -> int:
    base = ["images", "--weights", "model.pt", "--image", *images, "--keypoints", "points.csv", "--out", "out.png"]
    return plot_kprpe.main([*base, *arguments])


@pytest.fixture(autouse=True)
def _stay(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_one_image_is_drawn_by_depth(faces, figures, capsys):
    assert run("--query", "0,6", "3,3", "--head", "1") == 0
    assert "KP-RPE of 8 layers, 2 heads and 5 keypoints, on 7 x 7 patches" in capsys.readouterr().out
    axes = panels(figures[0])
    assert [one.get_title() for one in axes][:5] == [f"layer {layer}" for layer in (0, 1, 3, 5, 7)]
    pixels = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [71, 92]])
    np.testing.assert_allclose(marks(axes[0], "o"), pixels + 0.5)  # axes count from the image's corner
    biases = faces(torch.tensor((pixels + 0.5) / 112)[None].float(), (7, 7))
    np.testing.assert_allclose(axes[4].images[1].get_array(), bias_map(biases[7][0], (7, 7), (0, 6), 1), atol=1e-5)
    height, width, _ = cv2.imread("out.png").shape
    assert 500 < height < 900 < width < 1800


def test_several_images_are_drawn_for_one_layer(faces, figures):
    assert run("--layer", "5", "--grid", "4", "5", "--scale", "panel", images=("a.png", "b.png")) == 0
    axes = panels(figures[0])
    assert [one.get_title() for one in axes][:2] == ["a.png", "b.png"]
    np.testing.assert_allclose(marks(axes[1], "o")[1], [31, 20.5])
    points = torch.tensor([[10, 20], [30.5, 20], [20, 30], [12, 40], [28, 40]])
    biases = faces(((points + 0.5) / torch.tensor([100, 80]))[None], (4, 5))
    np.testing.assert_allclose(axes[1].images[1].get_array(), bias_map(biases[5][0], (4, 5), (1, 1)), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "images", "message"),
    [
        (["--weights", "none.pt"], ["a.png"], "none.pt"),
        (["--keypoints", "none.csv"], ["a.png"], "none.csv"),
        ([], ["none.png"], "none.png: no such image"),
        ([], ["points.csv"], "points.csv: not an image that can be read"),
        ([], ["c.png"], "points.csv: no keypoints of c.png; it has b.png, other.png, a.png"),
        ([], ["a.png", "a.png"], "images are told apart by their file names, got a.png, a.png"),
        ([], ["a.png", "b.png"], "several images are drawn for one layer: give --layer with one number"),
        (["--layer", "1", "2"], ["a.png", "b.png"], "give --layer with one number"),
        (["--layer", "8"], ["a.png"], "layer must be 0 to 7, got 8"),
        (["--head", "2"], ["a.png"], "head must be 0 to 1, got 2"),
        (["--query", "7,0"], ["a.png"], "query must be (row, col) within a grid of 7 x 7, got (7, 0)"),
        (["--num-heads", "3"], ["a.png"], "model.pt: net.keypoint_linear.weight has 784 rows for 49 buckets"),
        (["--extra-tokens", "1"], ["a.png"], "model.pt: no pos_embed of a square of patches to go by, give --grid"),
        (["--out", "out.txt"], ["a.png"], "out.txt: a picture's suffix must be one of"),
    ],
)
def test_wrong_input_ends_with_one_line_and_no_file(faces, tmp_path, capsys, arguments, images, message):
    cv2.imwrite("c.png", np.zeros((8, 8), np.uint8))
    before = sorted(os.listdir(tmp_path))
    assert run(*arguments, images=images) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the header must be image,x0,y0,x1,y1,..., found no line"),
        ("idx,x0,y0\na.png,1,2\n", "the header must be image,x0,y0,x1,y1,..., found idx,x0,y0"),
        ("image,y0,x0\na.png,1,2\n", "the header must be"),
        ("image,x0,y0,x1\na.png,1,2,3\n", "the header must be"),
        ("image,x0,y0\n", "no keypoints of a.png; it has no rows"),
        ("image,x0,y0\na.png,1\n", "line 2: expected 2 finite numbers, found 1"),
        ("image,x0,y0\nb.png,x\na.png,1,two\n", "line 3: could not convert string to float: 'two'"),
        ("image,x0,y0\na.png,nan,2\n", "line 2: expected 2 finite numbers, found nan,2"),
        ("image,x0,y0\na.png,1,2\n\na.png,1,2\n", "line 4: image a.png comes twice"),
        ("image,x0,y0\na.png,1,2\n", "no KP-RPE of 1 keypoints and 49 buckets"),
    ],
)
def test_wrong_keypoint_files(faces, tmp_path, capsys, content, message):
    (tmp_path / "points.csv").write_text(content)
    assert run() == 2
    assert message in capsys.readouterr().err


def test_an_untrained_kprpe_is_an_error(faces, capsys):
    state = {name: torch.zeros_like(value) for name, value in torch.load("model.pt").items()}
    torch.save(state, "model.pt")
    assert run() == 2
    assert "all biases are zero: this KP-RPE is untrained" in capsys.readouterr().err


def test_queries_are_pairs_of_numbers(faces, capsys):
    for query in ("3", "1,2,3", "a,b", "-1,2"):
        with pytest.raises(SystemExit):
            run(f"--query={query}")
        assert "expected ROW,COL such as 7,3" in capsys.readouterr().err


class Gait:
    """A tiny trained run: its YAML, checkpoint and one sequence."""

    def __init__(self, folder: Path, grid: str, rng: torch.Generator) -> None:
        self.folder, self.sequence = folder, folder / "0001" / "camid0_videoid1" / "seq0"
        content = yaml.safe_load((ROOT / "configs" / "demo" / "swingait2d_kprpe.yaml").read_text())
        content = merge(
            content, {"model_cfg": {"backbone_cfg": TINY | {"keypoint_grid": grid}, "SeparateFCs": {"in_channels": 16}}}
        )
        (folder / "run.yaml").write_text(yaml.safe_dump(content))
        settings = load_gait_settings(folder / "run.yaml")
        self.model = MODELS["SwinGait2D"](to_mapping(settings), False, None)
        self.encodings = [part for part in self.model.Backbone.modules() if isinstance(part, KeypointRPE)]
        for encoding in self.encodings:
            torch.nn.init.normal_(encoding.requires_grad_(False).weight, generator=rng)
        checkpoints = folder / "output" / "walkers" / "SwinGait2D" / "SwinGait2D_KPRPE" / "checkpoints"
        save_checkpoint(checkpoints / "SwinGait2D_KPRPE-00007.pt", {"model": self.model.state_dict(), "iteration": 7})
        self.sequence.mkdir(parents=True)
        numbers = np.random.default_rng(0)
        self.joints = np.empty((4, 17, 3), np.float32)
        self.joints[..., 0], self.joints[..., 1] = numbers.uniform(15, 48, (4, 17)), numbers.uniform(0, 63, (4, 17))
        self.joints[..., 2] = numbers.choice([0.0, 0.05, 0.4, 0.9], (4, 17))
        save_array(self.sequence / "0-silhouettes.pkl", np.full((4, 64, 64), 255, np.uint8))
        save_array(self.sequence / "1-keypoints.pkl", self.joints)

    def run(self, *arguments: str) -> int:
        base = ["gait", "--cfgs", "run.yaml", "--iter", "7", "--sequence", str(self.sequence), "--out", "out.png"]
        return plot_kprpe.main([*base, *arguments])

    def points(self, frames: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Fractions of the 64 x 44 in the middle of the silhouettes, and visibilities, by the config's words."""
        x, y, confidence = torch.from_numpy(self.joints[frames]).unbind(-1)
        return torch.stack([(x - 10 + 0.5) / 44, (y + 0.5) / 64], -1), confidence * (confidence >= 0.1)


@pytest.mark.parametrize("grid", ["window", "image"])
def test_gait_frames_show_what_the_network_is_given(tmp_path, figures, rng, grid):
    gait = Gait(tmp_path, grid, rng)
    assert gait.run("--frame", "3", "0", "--layer", "1", "--head", "1", "--query", "7,5", "0,0") == 0
    points, visibility = gait.points([3, 0])
    window = pictures.Window((3, 5), (1, 2))
    stage = gait.encodings[0]
    if grid == "window":
        biases = stage(points, (3, 5), visibility)
    else:
        biases = stage(points, (15, 10), visibility, [pictures.Window((3, 5)), window])
    axes = panels(figures[0])
    assert [one.get_title() for one in axes][:2] == ["frame 3", "frame 0"]
    for number, one in enumerate(axes):
        drawn = np.ma.filled(one.images[1].get_array(), np.nan)
        query = ((7, 5), (0, 0))[number // 2]
        np.testing.assert_allclose(drawn, bias_map(biases[1][number % 2], (15, 10), query, 1, window), atol=1e-4)
        shown = visibility[number % 2] > 0
        expected = np.where(shown[:, None], points[number % 2] * torch.tensor([44, 64]), np.nan)
        np.testing.assert_allclose(marks(one, "o"), expected, rtol=1e-4)
    assert cv2.imread("out.png") is not None


def test_one_gait_frame_is_drawn_by_depth_through_both_stages(tmp_path, figures, rng):
    gait = Gait(tmp_path, "window", rng)
    assert gait.run() == 0
    axes = panels(figures[0])
    assert [one.get_title() for one in axes][:3] == ["layer 0", "layer 1", "layer 2"]
    points, visibility = gait.points([2])  # of four, the middle
    for layer, bias in enumerate(
        [*gait.encodings[0](points, (3, 5), visibility), *gait.encodings[1](points, (3, 5), visibility)]
    ):
        window = pictures.Window((3, 5), (1, 2) if layer == 1 else (0, 0))
        drawn = np.ma.filled(axes[layer].images[1].get_array(), np.nan)
        np.testing.assert_allclose(drawn, bias_map(bias[0], (15, 10), (3, 2), 0, window), atol=1e-4)


def test_wrong_gait_input(tmp_path, capsys, rng):
    gait = Gait(tmp_path, "window", rng)
    plain = yaml.safe_load((tmp_path / "run.yaml").read_text())
    plain["model_cfg"]["backbone_cfg"]["position_bias"] = "table"
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(plain))
    torch.save({"model": {"a": torch.zeros(1)}}, "other.pt")
    cases = {
        ("--frame", "4"): "--frame must be 0 to 3, got [4]",
        ("--iter", "8"): "SwinGait2D_KPRPE-00008.pt: no such checkpoint; beside it: SwinGait2D_KPRPE-00007.pt",
        ("--sequence", "nowhere"): "nowhere",
        ("--cfgs", "plain.yaml"): "plain.yaml: model_cfg.backbone_cfg.position_bias must be kprpe, found table",
        ("--head", "2"): "head must be 0 to 1, got 2",
    }
    for arguments, message in cases.items():
        assert gait.run(*arguments) == 2
        assert message in capsys.readouterr().err
    base = ["gait", "--cfgs", "run.yaml", "--sequence", str(gait.sequence), "--out", "out.png"]
    assert plot_kprpe.main([*base, "--weights", "other.pt"]) == 2
    assert "other.pt: does not fit the model" in capsys.readouterr().err
    save_array(gait.sequence / "1-keypoints.pkl", gait.joints[:3])
    assert gait.run() == 2
    assert f"{gait.sequence}: keypoints must have shape [4, 17, 3]" in capsys.readouterr().err
    assert not Path("out.png").exists()
