"""Installing into a checkout of OpenGait, and taking it away again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from plugin.install import main
from plugin.opengait.checkout import CheckoutError, check_checkout
from plugin.opengait.shim import SHIM

from .conftest import environment, tree

# The surface of OpenGait, as its sources have it.
SOURCES = {
    "opengait/main.py": """
def initialization(cfgs, training): ...
def run_model(cfgs, training): ...
""",
    "opengait/modeling/base_model.py": """
class MetaModel: ...
class BaseModel(MetaModel):
    def __init__(self, cfgs, training): ...
    def get_backbone(self, backbone_cfg): ...
    def build_network(self, model_cfg): ...
    def init_parameters(self): ...
    def get_loader(self, data_cfg, train=True): ...
    def get_optimizer(self, optimizer_cfg): ...
    def get_scheduler(self, scheduler_cfg): ...
    def save_ckpt(self, iteration): ...
    def _load_ckpt(self, save_name): ...
    def resume_ckpt(self, restore_hint): ...
    def inputs_pretreament(self, inputs): ...
    def train_step(self, loss_sum): ...
    def inference(self, rank): ...
    @staticmethod
    def run_train(model): ...
    @staticmethod
    def run_test(model): ...
""",
    "opengait/modeling/modules.py": """
class HorizontalPoolingPyramid():
    def __init__(self, bin_num=None): ...
    def __call__(self, x): ...
class PackSequenceWrapper:
    def __init__(self, pooling_func): ...
    def forward(self, seqs, seqL, dim=2, options={}): ...
class SeparateFCs:
    def __init__(self, parts_num, in_channels, out_channels, norm=False): ...
class SeparateBNNecks:
    def __init__(self, parts_num, in_channels, class_num, norm=True, parallel_BN1d=True): ...
""",
    "opengait/modeling/losses/triplet.py": """
class TripletLoss:
    def __init__(self, margin, loss_term_weight=1.0): ...
""",
    "opengait/modeling/losses/ce.py": """
class CrossEntropyLoss:
    def __init__(self, scale=16, label_smooth=True, eps=0.1, loss_term_weight=1.0, log_accuracy=False): ...
""",
    "opengait/data/dataset.py": "class DataSet:\n    def __init__(self, data_cfg, training): ...\n",
    "opengait/data/transform.py": "def get_transform(trf_cfg=None): ...\n",
    "opengait/data/sampler.py": """
class TripletSampler:
    def __init__(self, dataset, batch_size, batch_shuffle=False): ...
class InferenceSampler:
    def __init__(self, dataset, batch_size): ...
""",
    "opengait/evaluation/evaluator.py": "def evaluate_Gait3D(data, dataset, metric='euc'): ...\n",
    "opengait/utils/common.py": """
def get_valid_args(obj, input_args, free_keys=[]): ...
def config_loader(path): ...
""",
    "opengait/modeling/models/__init__.py": "",
    "opengait/modeling/backbones/__init__.py": "",
    "configs/default.yaml": "",
    "datasets/Gait3D/Gait3D.json": "{}",
}


@pytest.fixture
def fake(tmp_path) -> Path:
    """A folder with the surface of OpenGait and nothing behind it."""
    root = tmp_path / "OpenGait"
    for name, text in SOURCES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def run(root, *more):
    return main(["--opengait", str(root), *more])


def test_install_twice_and_uninstall(fake, capsys):
    before = tree(fake)
    assert run(fake) == 0
    installed = tree(fake)
    assert set(installed) - set(before) == {SHIM.as_posix()}
    assert {name: installed[name] for name in before} == before
    assert run(fake) == 0
    assert tree(fake) == installed
    assert "nothing changed" in capsys.readouterr().out
    compiled = fake / SHIM.parent / "__pycache__" / f"{SHIM.stem}.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.touch()
    assert run(fake, "--uninstall") == 0
    assert tree(fake) == before
    assert run(fake, "--uninstall") == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_an_older_shim_is_renewed(fake):
    assert run(fake) == 0
    wanted = (fake / SHIM).read_text()
    (fake / SHIM).write_text(wanted.replace("_PLUGIN = ", "_PLUGIN = '/elsewhere' or "))
    assert run(fake) == 0
    assert (fake / SHIM).read_text() == wanted


def test_a_file_of_somebody_else_is_left_alone(fake, capsys):
    (fake / SHIM).write_text("class Mine: ...\n")
    for more in ([], ["--uninstall"]):
        assert run(fake, *more) == 2
        assert "not written by the plugin" in capsys.readouterr().err
    assert (fake / SHIM).read_text() == "class Mine: ...\n"


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("opengait/modeling/base_model.py", "def _load_ckpt", "def load_ckpt", r"BaseModel\._load_ckpt is missing"),
        (
            "opengait/modeling/base_model.py",
            "def inputs_pretreament(self, inputs)",
            "def inputs_pretreament(self, inputs, device)",
            r"inputs_pretreament takes \(self, inputs, device\), expected \(self, inputs\)",
        ),
        ("opengait/modeling/modules.py", "class SeparateFCs", "class FCs", "class SeparateFCs is missing"),
        ("opengait/data/transform.py", "def get_transform", "def make", "get_transform is missing"),
        ("opengait/main.py", "def run_model(cfgs, training): ...", "def run_model(cfgs", r"main\.py cannot be read"),
    ],
)
def test_another_version_is_refused_with_the_difference(fake, name, old, new, said):
    path = fake / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    before = tree(fake)
    with pytest.raises(CheckoutError, match=said):
        check_checkout(fake)
    assert run(fake) == 2
    assert tree(fake) == before


def test_every_difference_is_listed(fake):
    (fake / "configs" / "default.yaml").unlink()
    (fake / "opengait" / "data" / "sampler.py").write_text("")
    with pytest.raises(CheckoutError) as error:
        check_checkout(fake)
    for said in ("configs/default.yaml is missing", "class TripletSampler is missing", "class InferenceSampler"):
        assert said in str(error.value)


def test_what_is_not_opengait_is_refused(tmp_path, capsys):
    (tmp_path / "notes.txt").touch()
    assert run(tmp_path) == 2
    assert "not a checkout of OpenGait: expected opengait/main.py in it, found notes.txt" in capsys.readouterr().err
    assert run(tmp_path / "nowhere") == 2
    assert "no such folder" in capsys.readouterr().err
    assert run(tmp_path, "--uninstall") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_real_checkout_is_accepted(checkout):
    check_checkout(checkout)


def test_opengaits_own_command_line(checkout, data, runs, tmp_path):
    """Installed into a copy: main.py trains and tests the YAML, and after --uninstall does not know the model."""
    root = tmp_path / "OpenGait"
    for part in ("opengait", "configs"):
        shutil.copytree(checkout / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "datasets" / "Gait3D").mkdir(parents=True)
    shutil.copy(data / "partition.json", root / "datasets" / "Gait3D" / "Gait3D.json")
    before = tree(root)
    assert run(root) == 0
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(runs.tiny("swingait2d_kprpe", data)))

    done = opengait_main(root, runs, config, "train")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Iteration 00003" in done.stderr
    saved = root / "output" / "tiny" / "SwinGait2D" / "swingait2d_kprpe" / "checkpoints" / "swingait2d_kprpe-00003.pt"
    assert saved.is_file()
    done = opengait_main(root, runs, config, "test", "--iter", "3", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "scalar/test_accuracy/mINP" in done.stderr

    assert run(root, "--uninstall") == 0
    ours = {name for name in tree(root) if "__pycache__" not in name and not name.startswith("output/")}
    assert ours == set(before)
    assert not [name for name in tree(root) if "kprpe" in name and not name.startswith("output/")]
    done = opengait_main(root, runs, config, "train")
    assert done.returncode != 0
    assert "SwinGait2D" in done.stderr


def opengait_main(root, runs, config, phase, *more, processes=1):
    """OpenGait's main program, started as its README says: by torchrun, also for one process."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    harness = str(Path(runs.__file__).with_name("opengait_cpu.py"))
    command = [*start, harness, "opengait/main.py", "--cfgs", str(config), "--phase", phase, *more]
    return subprocess.run(
        command, cwd=root, env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
