import json

import pytest
from PIL import Image

from posegeom_models.cli import main
from posegeom_models.demo import DemoOptions, run_demo
from posegeom_models.fitting import Recipe, Stage

QUICK = Recipe(
    starts=2,
    survivors=2,
    jolts=1,
    search=Stage(16, 2.0, 3, 0.1),
    refine=Stage(16, 2.0, 3, 0.1),
    settle=Stage(16, 2.0, 3, 0.1),
    polish=(Stage(16, 2.0, 2, 0.1),),
    redraw=(Stage(16, 0.2, 2, 0.05),),
)


@pytest.fixture
def no_motion_data(monkeypatch, tmp_path):
    monkeypatch.setenv("POSEGEOM_DATA", str(tmp_path / "nothing here"))


@pytest.mark.parametrize("views", [1, 2])
def test_the_demo_writes_its_pictures_and_numbers(tmp_path, capsys, no_motion_data, views):
    run_demo(DemoOptions(frames=2, views=views, out=tmp_path / "out"), QUICK)
    said = capsys.readouterr().out
    assert "built-in walk" in said
    assert ("up to 2^n poses" in said) == (views == 1)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results["fitted"]["pose"]) == 2
    assert ("repaired" in results) == (views == 2)
    with Image.open(tmp_path / "out" / "panel.png") as panel:
        assert panel.size[0] > 300
    with Image.open(tmp_path / "out" / "fit.gif") as animation:
        assert animation.n_frames > 3
        assert animation.size == (92 + 2 * 128, (2 * views + 1) * 128)


def test_the_demo_reads_real_motion(tmp_path, motion_data, capsys):
    run_demo(DemoOptions(motion=motion_data / "raw" / "01_01.amc", frames=2, out=tmp_path, noise=False), QUICK)
    assert "real motion, 01_01.amc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["demo", "--motion", "nowhere.bvh"], "nowhere.bvh"),
        (["demo", "--views", "9"], "views must be 1 to 4, got 9"),
        (["demo", "--frames", "0"], "frames must be at least 1, got 0"),
        (["demo", "--frames", "100000"], "fewer than the 100000"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(arguments, complaint, capsys, no_motion_data, tmp_path):
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert complaint in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_a_text_file_is_no_motion(tmp_path, capsys):
    path = tmp_path / "letter.bvh"
    path.write_text("Dear sir or madam,\n")
    assert main(["demo", "--motion", str(path)]) == 2
    assert "letter.bvh:1" in capsys.readouterr().err


def test_an_output_folder_that_is_a_file_is_said_before_the_work(tmp_path, capsys, no_motion_data):
    path = tmp_path / "out"
    path.write_text("")
    assert main(["demo", "--out", str(path)]) == 2
    assert "out" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("posegeom_models.demo.run_demo", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "posegeom: interrupted\n"


@pytest.mark.parametrize("said", ["No module named 'av'", "videos needs the package av: pip install av"])
def test_a_package_that_is_not_there_is_one_sentence_with_what_to_install(monkeypatch, capsys, said):
    def lacking(options):
        raise ModuleNotFoundError(said)

    monkeypatch.setattr("posegeom_models.demo.run_demo", lacking)
    assert main(["demo"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"posegeom: {said}")
    assert err.count("pip install") == err.count("\n") == 1


def test_info_names_versions_and_devices(capsys):
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    for word in ("posegeom", "torch", "triton", "threads", "backends"):
        assert word in said
