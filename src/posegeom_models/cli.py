"""The command line: `posegeom demo`, `posegeom info`."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence


def _info() -> None:
    """Print versions, backends and devices."""
    import importlib.util
    from importlib.metadata import PackageNotFoundError, version

    import torch

    import posegeom

    print(f"posegeom     {posegeom.__version__}")
    print(f"python       {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in ("torch", "torchvision", "triton", "numpy", "scipy"):
        try:
            print(f"{package:<12} {version(package)}")
        except PackageNotFoundError:
            print(f"{package:<12} not installed")
    print(f"cpu          {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            print(f"cuda:{device:<7} {torch.cuda.get_device_name(device)}")
    else:
        print("cuda         no device")
    triton = "installed" if importlib.util.find_spec("triton") else "not installed"
    print(f"backends     torch; triton {triton}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (0, 2 for bad input, 130 after Ctrl-C)."""
    try:
        from jsonargparse import ArgumentParser
    except ImportError:
        print("posegeom: the command line needs the extra packages: pip install 'posegeom[models]'", file=sys.stderr)
        return 2
    import posegeom
    from posegeom_models.demo import DemoOptions, run_demo

    parser = ArgumentParser(
        prog="posegeom",
        description="Differentiable operators for articulated pose.",
        version=posegeom.__version__,
    )
    commands = parser.add_subcommands(required=True, dest="command")
    demo = ArgumentParser(description="Recover pose and cameras from pictures of real motion.")
    demo.add_class_arguments(DemoOptions, None)
    commands.add_subcommand("demo", demo, help="fit pose and cameras to pictures of real motion")
    commands.add_subcommand("info", ArgumentParser(description=_info.__doc__), help="versions, backends and devices")
    try:
        chosen = parser.parse_args(arguments)
        if chosen.command == "info":
            _info()
        else:
            values = chosen.demo.as_dict()
            values.pop("config", None)
            run_demo(DemoOptions(**values))
    except KeyboardInterrupt:
        print("posegeom: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"posegeom: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
