"""Builds and installs the mesh: `pip install .` generates the protobuf stubs and drives CMake for the C++ part.

The C++ part needs the system packages that `scripts/setup` names (nghttp2, protozero, http-parser, OpenSSL, zlib,
nlohmann-json, rapidjson).
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


class GenerateStubs(build_py):
    """Writes serving/_proto/*_pb2* into the build before the package's files are collected."""

    def run(self) -> None:
        super().run()
        sys.path.insert(0, str(ROOT / "scripts"))
        import generate_proto

        if generate_proto.generate(Path(self.build_lib).resolve()) != 0:
            raise SystemExit("setup.py: protoc could not generate the stubs of proto/*.proto")


class CMakeBuild(build_ext):
    """Builds libmesh_actor.so, the native modules and the OpenVINO backend into the package."""

    def build_extension(self, ext: Extension) -> None:
        if ext.name != "serving._native":
            super().build_extension(ext)
            return
        package = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve()
        options = [
            f"-DMESH_OUTPUT_DIR={package}",
            f"-DPython3_EXECUTABLE={sys.executable}",
            "-DMESH_BUILD_TESTS=OFF",
            f"-DCMAKE_BUILD_TYPE={os.environ.get('MESH_BUILD_TYPE', 'RelWithDebInfo')}",
        ]
        try:
            subprocess.run(["cmake", "-S", str(ROOT), "-B", str(build), *options], check=True)
            subprocess.run(["cmake", "--build", str(build), "--parallel", str(os.cpu_count() or 1)], check=True)
        except FileNotFoundError:
            raise SystemExit(
                "setup.py: cmake is not installed; run scripts/setup, which installs what is needed"
            ) from None
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"setup.py: {' '.join(error.cmd[:2])} failed; see its output above") from None


setup(
    name="serving-mesh",
    version=runpy.run_path(str(ROOT / "serving" / "version.py"))["VERSION"],
    description="An online serving mesh on Ray: C++ deployment actors with an embedded Triton, discovery in etcd",
    python_requires=">=3.10,<3.13",  # the Triton package needs numpy 1.x, which has no newer Python
    packages=find_packages(include=["serving*", "keeper*"]),
    package_data={"serving": ["py.typed", "*.pyi"]},
    ext_modules=[Extension("serving._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "build_py": GenerateStubs},
    install_requires=requirements("runtime.txt"),
    extras_require={"dev": requirements("dev.txt"), "iceberg": ["pyiceberg"]},
    entry_points={"console_scripts": ["mesh=serving.cli:main"]},
)
